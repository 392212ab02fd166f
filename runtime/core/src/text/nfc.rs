//! Unicode's canonical composition (NFC) from the image's tables.
//!
//! Source: Unicode Standard Annex 15; Hangul by its formula (The Unicode Standard, 3.12).

use crate::Error;
use bourn_format::tokenizer::{Tables, class};

/// Writes the normal form of `text` to the front of `scratch` and returns its length, or nothing when `text` is normal.
///
/// Characters that neither combine nor compose backwards are copied; only the stretches between two such characters
/// are taken apart.
pub(super) fn normalize(tables: &Tables, text: &str, scratch: &mut [u8]) -> Result<Option<usize>, Error> {
    let inert = |c: char| c.is_ascii() || tables.class(u32::from(c)) & class::NFC_CHECK == 0;
    let (mut copied, mut written) = (0, 0);
    while let Some((first, _)) = rest(text, copied).char_indices().find(|&(_, c)| !inert(c)) {
        let active = copied + first;
        // The character before may compose with what follows.
        let start =
            rest(text, copied).get(..first).and_then(|s| s.char_indices().next_back()).map_or(active, |(i, _)| copied + i);
        let end = rest(text, active).char_indices().find(|&(_, c)| inert(c)).map_or(text.len(), |(i, _)| active + i);
        written = append(scratch, written, text.get(copied..start).unwrap_or_default())?;
        written = stretch(tables, text.get(start..end).unwrap_or_default(), scratch, written)?;
        copied = end;
    }
    if copied == 0 {
        return Ok(None);
    }
    append(scratch, written, rest(text, copied)).map(Some)
}

fn rest(text: &str, at: usize) -> &str {
    text.get(at..).unwrap_or_default()
}

fn append(scratch: &mut [u8], at: usize, text: &str) -> Result<usize, Error> {
    let (need, have) = (at + text.len(), scratch.len());
    scratch.get_mut(at..need).ok_or(Error::Workspace { need: need as u64, have: have as u64 })?.copy_from_slice(text.as_bytes());
    Ok(need)
}

/// Normalizes one stretch to `scratch[at..]`; returns the end of what was written.
fn stretch(tables: &Tables, text: &str, scratch: &mut [u8], at: usize) -> Result<usize, Error> {
    let have = scratch.len();
    let short = |chars: usize| Error::Workspace { need: (at + 4 * chars) as u64, have: have as u64 };
    let chars = scratch.get_mut(at..).unwrap_or_default().as_chunks_mut::<4>().0;
    let mut n = 0;
    let mut push = |c: char| {
        *chars.get_mut(n).ok_or(short(n + 1))? = u32::from(c).to_le_bytes();
        n += 1;
        Ok::<(), Error>(())
    };
    for c in text.chars() {
        match Hangul::split(c) {
            Some(jamo) => jamo.into_iter().flatten().try_for_each(&mut push)?,
            None if tables.class(u32::from(c)) & class::DECOMPOSES != 0 => tables.decomposition(c).try_for_each(&mut push)?,
            None => push(c)?,
        }
    }
    let chars = chars.get_mut(..n).unwrap_or_default();
    order(tables, chars);
    let n = compose(tables, chars);
    // A character takes at most the four bytes that its number took.
    let mut end = at;
    for i in 0..n {
        let mut buffer = [0; 4];
        let number = scratch.get(at + 4 * i..at + 4 * i + 4).and_then(|b| b.try_into().ok()).map_or(0, u32::from_le_bytes);
        let bytes = char::from_u32(number).unwrap_or(char::REPLACEMENT_CHARACTER).encode_utf8(&mut buffer).as_bytes();
        if let Some(place) = scratch.get_mut(end..end + bytes.len()) {
            place.copy_from_slice(bytes);
        }
        end += bytes.len();
    }
    Ok(end)
}

fn get(chars: &[[u8; 4]], i: usize) -> char {
    chars.get(i).and_then(|b| char::from_u32(u32::from_le_bytes(*b))).unwrap_or(char::REPLACEMENT_CHARACTER)
}

fn combining(tables: &Tables, c: char) -> u8 {
    if tables.class(u32::from(c)) & class::COMBINES == 0 { 0 } else { tables.combining(c) }
}

/// Sorts every run of combining characters by class, equals staying in order.
fn order(tables: &Tables, chars: &mut [[u8; 4]]) {
    let mut start = 0;
    while start < chars.len() {
        if combining(tables, get(chars, start)) == 0 {
            start += 1;
            continue;
        }
        let mut end = start;
        let mut sorted = true;
        let mut last = 0;
        while end < chars.len() {
            let class = combining(tables, get(chars, end));
            if class == 0 {
                break;
            }
            sorted &= last <= class;
            last = class;
            end += 1;
        }
        if !sorted && let Some(run) = chars.get_mut(start..end) {
            sort_run(tables, run);
        }
        start = end;
    }
}

/// A stable sort without room to spare: short runs by insertion, long ones by halves.
fn sort_run(tables: &Tables, run: &mut [[u8; 4]]) {
    if run.len() <= 32 {
        for i in 1..run.len() {
            let moving = combining(tables, get(run, i));
            let at = run[..i].iter().rposition(|b| combining_of(tables, b) <= moving).map_or(0, |p| p + 1);
            run[at..=i].rotate_right(1);
        }
        return;
    }
    let middle = run.len() / 2;
    let (left, right) = run.split_at_mut(middle);
    sort_run(tables, left);
    sort_run(tables, right);
    merge_runs(tables, run, middle);
}

fn combining_of(tables: &Tables, b: &[u8; 4]) -> u8 {
    combining(tables, char::from_u32(u32::from_le_bytes(*b)).unwrap_or(char::REPLACEMENT_CHARACTER))
}

/// Merges two sorted neighbours `run[..middle]` and `run[middle..]`, stably, by rotation.
fn merge_runs(tables: &Tables, run: &mut [[u8; 4]], middle: usize) {
    if middle == 0 || middle == run.len() {
        return;
    }
    if run.len() == 2 {
        if combining_of(tables, &run[0]) > combining_of(tables, &run[1]) {
            run.swap(0, 1);
        }
        return;
    }
    let (left, right) = if middle >= run.len() - middle {
        let left = middle / 2;
        let pivot = combining_of(tables, &run[left]);
        (left, middle + run[middle..].partition_point(|b| combining_of(tables, b) < pivot))
    } else {
        let right = middle + (run.len() - middle) / 2;
        let pivot = combining_of(tables, &run[right]);
        (run[..middle].partition_point(|b| combining_of(tables, b) <= pivot), right)
    };
    run[left..right].rotate_left(middle - left);
    let between = left + (right - middle);
    let (a, b) = run.split_at_mut(between);
    merge_runs(tables, a, left);
    merge_runs(tables, b, right - between);
}

/// Composes in place; returns how many characters are left.
fn compose(tables: &Tables, chars: &mut [[u8; 4]]) -> usize {
    let mut starter: Option<usize> = None;
    let mut last_class = 0;
    let mut n = 0;
    for i in 0..chars.len() {
        let c = get(chars, i);
        let class = combining(tables, c);
        if let Some(s) = starter {
            // Blocked when something of the same or a higher class, or another starter, stands between.
            let adjacent = s + 1 == n;
            if adjacent || (last_class < class && last_class != 0) {
                let first = get(chars, s);
                if let Some(composite) = Hangul::join(first, c).or_else(|| tables.composition(first, c)) {
                    chars[s] = u32::from(composite).to_le_bytes();
                    continue;
                }
            }
        }
        if class == 0 {
            starter = Some(n);
        }
        last_class = class;
        chars[n] = u32::from(c).to_le_bytes();
        n += 1;
    }
    n
}

struct Hangul;

impl Hangul {
    const S: u32 = 0xac00;
    const L: u32 = 0x1100;
    const V: u32 = 0x1161;
    const T: u32 = 0x11a7;
    const N_L: u32 = 19;
    const N_V: u32 = 21;
    const N_T: u32 = 28;

    fn split(c: char) -> Option<[Option<char>; 3]> {
        let s = u32::from(c).checked_sub(Self::S).filter(|&s| s < Self::N_L * Self::N_V * Self::N_T)?;
        let t = s % Self::N_T;
        Some([
            char::from_u32(Self::L + s / (Self::N_V * Self::N_T)),
            char::from_u32(Self::V + s % (Self::N_V * Self::N_T) / Self::N_T),
            if t == 0 { None } else { char::from_u32(Self::T + t) },
        ])
    }

    fn join(first: char, second: char) -> Option<char> {
        let (a, b) = (u32::from(first), u32::from(second));
        let within = |x: u32, base: u32, n: u32| x.checked_sub(base).filter(|&i| i < n);
        if let (Some(l), Some(v)) = (within(a, Self::L, Self::N_L), within(b, Self::V, Self::N_V)) {
            return char::from_u32(Self::S + (l * Self::N_V + v) * Self::N_T);
        }
        let s = within(a, Self::S, Self::N_L * Self::N_V * Self::N_T).filter(|s| s % Self::N_T == 0)?;
        let t = within(b, Self::T, Self::N_T).filter(|&t| t > 0)?;
        char::from_u32(Self::S + s + t)
    }
}
