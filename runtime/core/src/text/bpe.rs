//! Byte-pair merging of one piece: of all neighbours the pair of lowest rank merges first, of equals the leftmost.

use crate::Error;
use bourn_format::tokenizer::Tables;

/// Scratch for a symbol: its id, neighbours and rank, and two places in the queue.
pub(super) const BYTES_PER_SYMBOL: usize = 4 * WORDS;
const WORDS: usize = 8;
/// Up to this many symbols are searched from end to end for each merge.
const FEW: usize = 32;
const NO: u32 = u32::MAX;

/// Gives the ids of a piece to `out`. `scratch`: 8 words a byte are always enough.
pub(super) fn encode(tables: &Tables, piece: &str, scratch: &mut [u32], out: &mut dyn FnMut(u32)) -> Result<(), Error> {
    if let Some(id) = tables.piece(piece.as_bytes()) {
        out(id);
        return Ok(());
    }
    if piece.len() <= FEW {
        let mut few = [0; FEW];
        let n = symbols(tables, piece, &mut few)?;
        let n = merge_few(tables, &mut few, n);
        few.iter().take(n).for_each(|&id| out(id));
        return Ok(());
    }
    let n = symbols(tables, piece, scratch)?;
    let have = scratch.len();
    let scratch = n.checked_mul(WORDS).and_then(|words| scratch.get_mut(..words)).ok_or(short(n, have))?;
    let (ids, rest) = scratch.split_at_mut(n);
    merge_many(tables, ids, rest);
    ids.iter().filter(|&&id| id != NO).for_each(|&id| out(id));
    Ok(())
}

fn short(symbols: usize, words: usize) -> Error {
    Error::Workspace { need: (symbols as u64).saturating_mul(BYTES_PER_SYMBOL as u64), have: 4 * words as u64 }
}

/// Writes the smallest tokens of a piece to the front of `ids`: its bytes, or its characters where those are tokens.
fn symbols(tables: &Tables, piece: &str, ids: &mut [u32]) -> Result<usize, Error> {
    let words = ids.len();
    let mut n = 0;
    let mut push = |id: u32| {
        *ids.get_mut(n).ok_or(short(piece.len(), words))? = id;
        n += 1;
        Ok::<(), Error>(())
    };
    // Unknowns wait: more of them may join.
    let mut unknown: Option<u32> = None;
    if tables.byte_fallback() {
        for (i, c) in piece.char_indices() {
            let bytes = piece.as_bytes().get(i..i + c.len_utf8()).unwrap_or_default();
            if let Some(id) = tables.piece(bytes) {
                unknown.take().map_or(Ok(()), &mut push)?;
                push(id)?;
            } else if bytes.iter().all(|&b| tables.byte(b).is_some()) {
                bytes.iter().filter_map(|&b| tables.byte(b)).try_for_each(&mut push)?;
            } else if let Some(id) = tables.unknown()
                && let Some(waiting) = unknown.replace(id).filter(|_| !tables.fuse_unknown())
            {
                push(waiting)?;
            }
        }
    } else {
        for &byte in piece.as_bytes() {
            if let Some(id) = tables.byte(byte) {
                unknown.take().map_or(Ok(()), &mut push)?;
                push(id)?;
            } else if let Some(id) = tables.unknown()
                && let Some(waiting) = unknown.replace(id).filter(|_| !tables.fuse_unknown())
            {
                push(waiting)?;
            }
        }
    }
    unknown.take().map_or(Ok(()), &mut push)?;
    Ok(n)
}

/// Merges the first `n` of `ids` in place; returns how many are left.
fn merge_few(tables: &Tables, ids: &mut [u32; FEW], mut n: usize) -> usize {
    let mut ranks = [NO; FEW];
    let mut merged = [NO; FEW];
    let look = |left: u32, right: u32| tables.merge(left, right).map_or((NO, NO), |m| (m.rank, m.id));
    n = n.min(FEW);
    for i in 1..n {
        (ranks[i - 1], merged[i - 1]) = look(ids[i - 1], ids[i]);
    }
    while n > 1 {
        let (mut at, mut rank) = (0, NO);
        for (i, &r) in ranks[..n - 1].iter().enumerate() {
            if r < rank {
                (at, rank) = (i, r);
            }
        }
        if rank == NO {
            break;
        }
        ids[at] = merged[at];
        n -= 1;
        ids.copy_within(at + 2..n + 1, at + 1);
        if at + 1 < n {
            ranks.copy_within(at + 2..n, at + 1);
            merged.copy_within(at + 2..n, at + 1);
            (ranks[at], merged[at]) = look(ids[at], ids[at + 1]);
        }
        if at > 0 {
            (ranks[at - 1], merged[at - 1]) = look(ids[at - 1], ids[at]);
        }
    }
    n
}

/// Merges `ids` in place with a queue of pairs; ids that are merged away become [`NO`]. `rest`: 7 words an id.
fn merge_many(tables: &Tables, ids: &mut [u32], rest: &mut [u32]) {
    let n = ids.len();
    let (previous, rest) = rest.split_at_mut(n);
    let (next, rest) = rest.split_at_mut(n);
    let (ranks, rest) = rest.split_at_mut(n);
    let mut queue = Queue { entries: rest.as_chunks_mut::<2>().0, len: 0 };
    for i in 0..n {
        previous[i] = (i as u32).wrapping_sub(1);
        next[i] = if i + 1 < n { i as u32 + 1 } else { NO };
        ranks[i] = NO;
        if let Some(merge) = ids.get(i + 1).and_then(|&right| tables.merge(ids[i], right)) {
            ranks[i] = merge.rank;
            queue.push(merge.rank, i as u32);
        }
    }
    while let Some((rank, at)) = queue.pop() {
        let i = at as usize;
        // A pair that has changed since it was queued has another rank, or none.
        if ranks[i] != rank || ids[i] == NO || next[i] == NO {
            continue;
        }
        let right = next[i] as usize;
        let Some(merge) = tables.merge(ids[i], ids[right]) else { continue };
        ids[i] = merge.id;
        ids[right] = NO;
        ranks[right] = NO;
        next[i] = next[right];
        ranks[i] = NO;
        if next[i] != NO {
            let after = next[i] as usize;
            previous[after] = at;
            if let Some(merge) = tables.merge(ids[i], ids[after]) {
                ranks[i] = merge.rank;
                queue.push(merge.rank, at);
            }
        }
        if previous[i] != NO {
            let before = previous[i] as usize;
            ranks[before] = NO;
            if let Some(merge) = tables.merge(ids[before], ids[i]) {
                ranks[before] = merge.rank;
                queue.push(merge.rank, before as u32);
            }
        }
    }
}

/// Pairs of rank and position, the least first.
struct Queue<'s> {
    entries: &'s mut [[u32; 2]],
    len: usize,
}

impl Queue<'_> {
    fn push(&mut self, rank: u32, at: u32) {
        // n − 1 pairs at first, then at most two for each of n − 1 merges that took one: below 2 n, the room there is.
        if self.len == self.entries.len() {
            return;
        }
        let mut i = self.len;
        self.len += 1;
        while i > 0 {
            let parent = (i - 1) / 2;
            if self.entries[parent] <= [rank, at] {
                break;
            }
            self.entries[i] = self.entries[parent];
            i = parent;
        }
        self.entries[i] = [rank, at];
    }

    fn pop(&mut self) -> Option<(u32, u32)> {
        if self.len == 0 {
            return None;
        }
        let [rank, at] = self.entries[0];
        self.len -= 1;
        let last = self.entries[self.len];
        let mut i = 0;
        loop {
            let mut child = 2 * i + 1;
            if child >= self.len {
                break;
            }
            if child + 1 < self.len && self.entries[child + 1] < self.entries[child] {
                child += 1;
            }
            if last <= self.entries[child] {
                break;
            }
            self.entries[i] = self.entries[child];
            i = child;
        }
        self.entries[i] = last;
        Some((rank, at))
    }
}
