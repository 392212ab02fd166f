//! Added tokens cut out of text: leftmost, then longest.

use super::is_normalized;
use crate::Error;
use bourn_format::tokenizer::{Tables, added};

/// What takes the text between added tokens.
type Plain<'f> = &'f mut dyn FnMut(&str, &mut dyn FnMut(u32)) -> Result<(), Error>;

/// Finds the added tokens of one kind: those matched as they stand, or those matched in normalized text.
#[derive(Clone, Copy, Debug)]
pub(super) struct Matcher<'a> {
    tables: Tables<'a>,
    normalized: bool,
    /// Bytes that an added token of this kind begins with.
    first: [u64; 4],
}

impl<'a> Matcher<'a> {
    pub(super) fn new(tables: Tables<'a>, normalized: bool) -> Self {
        let mut first = [0; 4];
        for i in 0..tables.n_added() {
            let token = tables.added(i);
            if let Some(&b) = token.text.first().filter(|_| is_normalized(token.flags) == normalized) {
                first[usize::from(b >> 6)] |= 1 << (b & 63);
            }
        }
        Self { tables, normalized, first }
    }

    pub(super) fn any(&self) -> bool {
        self.first != [0; 4]
    }

    fn begins(&self, byte: u8) -> bool {
        self.first[usize::from(byte >> 6)] >> (byte & 63) & 1 != 0
    }

    /// The longest token that `text` begins with: its number.
    fn longest(&self, text: &[u8]) -> Option<usize> {
        let (mut low, mut high) = (0, self.tables.n_added());
        let mut best = None;
        for (depth, &byte) in text.iter().enumerate() {
            // All of low..high begin with text[..depth]; those as short as that come first.
            let at = |i: usize| self.tables.added(i).text.get(depth).map_or(0, |&b| u16::from(b) + 1);
            low = partition(low, high, |i| at(i) < u16::from(byte) + 1);
            high = partition(low, high, |i| at(i) <= u16::from(byte) + 1);
            if low == high {
                break;
            }
            let token = self.tables.added(low);
            if token.text.len() == depth + 1 && is_normalized(token.flags) == self.normalized {
                best = Some(low);
            }
        }
        best
    }

    /// Gives the ids of added tokens to `out` and the text between them to `plain`, in order.
    pub(super) fn split(&self, text: &str, specials: bool, out: &mut dyn FnMut(u32), plain: Plain) -> Result<(), Error> {
        let bytes = text.as_bytes();
        let (mut done, mut at) = (0, 0);
        while at < bytes.len() {
            if !self.begins(bytes[at]) {
                at += 1;
                continue;
            }
            let Some(token) = self.longest(&bytes[at..]).map(|i| self.tables.added(i)) else {
                at += 1;
                continue;
            };
            let (mut start, mut stop) = (at, at + token.text.len());
            at = stop;
            if token.flags & added::SPECIAL != 0 && !specials {
                continue;
            }
            if token.flags & added::LSTRIP != 0 {
                start = text.get(..start).map_or(start, |s| s.trim_end().len()).max(done);
            }
            if token.flags & added::RSTRIP != 0 {
                stop += text.get(stop..).map_or(0, |s| s.len() - s.trim_start().len());
            }
            if done < start {
                plain(text.get(done..start).unwrap_or_default(), out)?;
            }
            out(token.id);
            done = stop;
        }
        if done < bytes.len() {
            plain(text.get(done..).unwrap_or_default(), out)?;
        }
        Ok(())
    }
}

/// First of `low..high` that is not `before`.
fn partition(mut low: usize, mut high: usize, before: impl Fn(usize) -> bool) -> usize {
    while low < high {
        let middle = low + (high - low) / 2;
        if before(middle) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    low
}
