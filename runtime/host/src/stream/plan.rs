//! Which weights stay in memory under a RAM budget and which are streamed: a pure function of the image and the options.
//!
//! ```text
//! budget ≥ program + head + workspace + sampler + tiles + ring + pinned
//! ```
//!
//! The decoder reads its segments in one cycle, over and over. Of a cyclic scan that does not fit, a cache that evicts what
//! was used longest ago hits nothing; a fixed set hits its share every time. So a fixed set of whole segments is *pinned*,
//! the rest goes through a *ring* that the reader fills ahead of use. The pinned ones lie evenly spread in the cycle: while
//! the decoder computes with them, the reader goes on, and the ring need not be longer for it.

use crate::Error;
use bourn_core::{Candidate, KvDtype, Options, workspace_bytes};
use bourn_format::{Image, PAGE, Role, SegmentKind, layout};

/// Resident bytes of the program itself: text and data that run, heap, stacks, page tables. Measured (docs/streaming.md).
pub const PROGRAM_BYTES: u64 = 11 << 20;
/// Segments up to this size, and up to a 256th of all, are always pinned: norms and other small tensors.
const SMALL: u64 = 64 << 10;
/// Tiles of the embedding that are kept.
pub(crate) const N_TILES: usize = 16;
/// Smallest context that is chosen when none is given, and the step of larger ones.
const CONTEXT_STEP: usize = 64;
/// Largest context that is chosen when none is given.
const DEFAULT_CONTEXT: usize = 4096;
/// Smallest block of prefill that is chosen, and the step of larger ones.
const BLOCK_STEP: usize = 16;
/// Block of prefill where nothing is streamed.
const RESIDENT_BLOCK: usize = 64;
/// Largest block of prefill that is chosen where every block reads the file.
const STREAMED_BLOCK: usize = 512;
/// What the ring holds beyond two of the largest segments: what a device delivers while a token is drawn.
const RING_SLACK: u64 = 2 << 20;

/// What a plan is made for.
#[derive(Clone, Copy, Debug)]
pub struct RamOptions {
    /// Bytes of resident memory, all told.
    pub budget: u64,
    /// Positions; `None`: as many as a quarter of the budget holds, at most 4096.
    pub context: Option<usize>,
    /// Tokens that prefill takes at once; `None`: as many as an eighth of the budget holds, at most 512.
    pub prefill_block: Option<usize>,
    /// Type of the KV cache.
    pub kv: KvDtype,
    /// Positions whose logits are computed together.
    pub logit_rows: usize,
    /// Positions that sliding layers keep beyond their window.
    pub retain: usize,
    /// Resident bytes of the program, at least [`PROGRAM_BYTES`] for `bourn` itself.
    pub program_bytes: u64,
    /// Bytes of a page of memory.
    pub page: u64,
    /// All rows of a screened head are read for every token.
    pub whole_head: bool,
}

impl RamOptions {
    /// A budget, all else as it is chosen by default for `image`.
    pub fn new(budget: u64, kv: KvDtype) -> Self {
        Self {
            budget,
            context: None,
            prefill_block: None,
            kv,
            logit_rows: 1,
            retain: 0,
            program_bytes: PROGRAM_BYTES,
            page: 4096,
            whole_head: false,
        }
    }
}

/// What lies where under a budget. Bytes are of whole memory pages.
#[derive(Clone, Debug, PartialEq)]
pub struct RamPlan {
    /// The budget.
    pub budget: u64,
    /// Positions.
    pub context: usize,
    /// Tokens that prefill takes at once.
    pub prefill_block: usize,
    /// Positions whose logits are computed together.
    pub logit_rows: usize,
    /// Program text, heap, stacks, page tables.
    pub program_bytes: u64,
    /// The head of the image: tensor tables, page sums, tokenizer.
    pub head_bytes: u64,
    /// KV cache, activations, logits.
    pub workspace_bytes: u64,
    /// Candidates of the sampler and the tokens of the text.
    pub sampler_bytes: u64,
    /// Bytes kept for each tile of the embedding that was read, of which there are 16.
    pub tile_bytes: u64,
    /// The ring; 0 if nothing is streamed.
    pub ring_bytes: u64,
    /// Segments in memory, in the order of the image.
    pub pinned: Vec<usize>,
    /// Their bytes.
    pub pinned_bytes: u64,
    /// Segments that are read anew for every token, in reading order.
    pub streamed: Vec<usize>,
    /// Their bytes.
    pub streamed_bytes: u64,
    /// Bytes that a token's candidates of a screened head cost besides, expected at most: each of its rows is read with the page it
    /// lies on, `n` rows spread evenly over `N` pages lie on `N·(1 − e^(−n/N))` of them, and in truth they cluster.
    pub row_bytes: u64,
    /// All rows of a screened head are in the cycle.
    pub whole_head: bool,
}

/// The segments that the decoder reads for every token, in order: all but those of an untied embedding and of a screened
/// head, of which it reads single rows.
pub(crate) fn cycle(image: &Image<'_>, whole_head: bool) -> Vec<usize> {
    let by_rows = |kind| match kind {
        SegmentKind::Embed => true,
        SegmentKind::Head => image.screen().is_some() && !whole_head,
        SegmentKind::Screen | SegmentKind::ScreenCodes => whole_head,
        _ => false,
    };
    (0..image.n_segments()).filter(|&i| !by_rows(image.segment(i).kind) && image.segment(i).bytes > 0).collect()
}

impl RamPlan {
    /// The plan for `image` within `options.budget`.
    ///
    /// # Errors
    /// [`Error::Ram`] with the smallest budget that works; [`Error::Core`] when an option is outside what the image allows.
    pub fn new(image: &Image<'_>, options: &RamOptions) -> Result<Self, Error> {
        let sizes = Sizes::new(image, options);
        let max_context = image.shape().max_context as usize;
        let step = |n: usize, step: usize, most: usize| (n * step).min(most);

        // What must be there in any case: the smallest context and block that the options leave open.
        let least_context = options.context.unwrap_or(CONTEXT_STEP.min(max_context));
        let least_block = options.prefill_block.unwrap_or(BLOCK_STEP).min(least_context.max(1));
        let least = sizes.fixed(least_context)? + sizes.workspace(least_context, least_block)?;
        let resident = options.prefill_block.unwrap_or(RESIDENT_BLOCK).min(least_context.max(1));
        let need = (least + sizes.small + sizes.least_ring)
            .min(least - sizes.workspace(least_context, least_block)? + sizes.workspace(least_context, resident)? + sizes.all);
        if need > options.budget {
            return Err(Error::Ram { need, have: options.budget });
        }

        // A quarter of the budget for the context, if it is not given.
        let context = match options.context {
            Some(context) => context,
            None => {
                let most = DEFAULT_CONTEXT.min(max_context);
                largest(most.div_ceil(CONTEXT_STEP), |n| {
                    let context = step(n, CONTEXT_STEP, most);
                    let workspace = sizes.workspace(context, options.prefill_block.unwrap_or(BLOCK_STEP).min(context))?;
                    let in_all = sizes.fixed(context)? + workspace + sizes.small + sizes.least_ring;
                    Ok(workspace <= options.budget / 4 && in_all <= options.budget)
                })
                .map(|n| step(n, CONTEXT_STEP, most))?
            }
        };
        // Nothing streamed, if that is possible: no ring, and a block as it is best for the caches.
        let block = options.prefill_block.unwrap_or(RESIDENT_BLOCK).min(context.max(1));
        let everything = sizes.fixed(context)? + sizes.workspace(context, block)? + sizes.all;
        if everything <= options.budget {
            return sizes.plan(context, block, 0, options.budget - (everything - sizes.all));
        }
        // An eighth for the block: every block of a prompt reads the file once.
        let block = match options.prefill_block {
            Some(block) => block.min(context),
            None => {
                let most = STREAMED_BLOCK.min(context);
                let least = sizes.workspace(context, BLOCK_STEP.min(most))?;
                largest(most.div_ceil(BLOCK_STEP), |n| {
                    let workspace = sizes.workspace(context, step(n, BLOCK_STEP, most))?;
                    let in_all = sizes.fixed(context)? + workspace + sizes.small + sizes.least_ring;
                    Ok(workspace - least <= options.budget / 8 && in_all <= options.budget)
                })
                .map(|n| step(n, BLOCK_STEP, most))?
            }
        };
        let free = options.budget.saturating_sub(sizes.fixed(context)? + sizes.workspace(context, block)?);
        // A sixth for the ring, between two and four of the largest segments.
        let wanted = (options.budget / 6).min(4 * sizes.largest).max(sizes.least_ring);
        let ring = wanted.min(free.saturating_sub(sizes.small)).max(sizes.least_ring);
        // Pages of the file: rounded only here, so that more memory never leaves less room.
        sizes.plan(context, block, ring / PAGE as u64 * PAGE as u64, free.saturating_sub(ring))
    }

    /// Bytes of all tiles that are kept.
    pub fn tiles_bytes(&self) -> u64 {
        self.tile_bytes * N_TILES as u64
    }

    /// Everything together: at most the budget.
    pub fn total_bytes(&self) -> u64 {
        self.program_bytes
            + self.head_bytes
            + self.workspace_bytes
            + self.sampler_bytes
            + self.tiles_bytes()
            + self.ring_bytes
            + self.pinned_bytes
    }

    /// What every token costs the device.
    pub fn bytes_per_token(&self) -> u64 {
        self.streamed_bytes + self.row_bytes
    }

    /// Tokens per second when `bytes_per_second` come from the device: `bytes_per_second ÷ bytes_per_token`; `None` if
    /// nothing is streamed.
    pub fn tokens_per_second(&self, bytes_per_second: f64) -> Option<f64> {
        (self.bytes_per_token() > 0).then(|| bytes_per_second / self.bytes_per_token() as f64)
    }
}

/// The largest `n` of `1..=most` for which `fits` holds, which it does up to some `n`; 1 if for none.
fn largest(most: usize, mut fits: impl FnMut(usize) -> Result<bool, Error>) -> Result<usize, Error> {
    let (mut good, mut bad) = (1, most.max(1) + 1);
    while bad - good > 1 {
        let middle = good + (bad - good) / 2;
        if fits(middle)? {
            good = middle;
        } else {
            bad = middle;
        }
    }
    Ok(good)
}

/// Indices `0..n` in an order of which every beginning is spread evenly: bits reversed, as van der Corput has it.
fn spread(n: usize) -> Vec<usize> {
    let bits = n.next_power_of_two().trailing_zeros();
    let reversed = |i: usize| if bits == 0 { 0 } else { i.reverse_bits() >> (usize::BITS - bits) };
    (0..n.next_power_of_two()).map(reversed).filter(|&i| i < n).collect()
}

/// Sizes that the options do not change.
struct Sizes<'a> {
    image: &'a Image<'a>,
    options: &'a RamOptions,
    cycle: Vec<usize>,
    /// All segments of the cycle.
    all: u64,
    /// Size up to which a segment is small.
    small_segment: u64,
    /// The small ones.
    small: u64,
    largest: u64,
    least_ring: u64,
    tile: u64,
}

impl<'a> Sizes<'a> {
    fn new(image: &'a Image<'a>, options: &'a RamOptions) -> Self {
        let cycle = cycle(image, options.whole_head);
        let page = PAGE as u64;
        let bytes = |i: &usize| image.segment(*i).bytes;
        let largest = cycle.iter().map(bytes).max().unwrap_or(0);
        let tile = image.parts(Role::Embed).map(|t| layout::tile_bytes(t.dtype, t.cols)).max().unwrap_or(0) as u64;
        let all: u64 = cycle.iter().map(bytes).sum();
        let small = SMALL.min(all / 256);
        Self {
            image,
            options,
            all,
            small_segment: small,
            small: cycle.iter().map(bytes).filter(|&b| b <= small).sum(),
            largest,
            least_ring: 2 * largest + RING_SLACK.min(largest / 2 / page * page),
            // A tile may begin and end within a page.
            tile: tile.div_ceil(page) * page + page,
            cycle,
        }
    }

    fn pages(&self, bytes: u64) -> u64 {
        bytes.div_ceil(self.options.page) * self.options.page
    }

    fn workspace(&self, context: usize, prefill_block: usize) -> Result<u64, Error> {
        let RamOptions { kv, logit_rows, retain, .. } = *self.options;
        let core = Options { context, prefill_block, kv, logit_rows, retain };
        workspace_bytes(self.image, &core).map(|n| self.pages(n as u64)).map_err(Error::Core)
    }

    fn sampler(&self, context: usize) -> u64 {
        let candidates = self.image.shape().vocab as usize * size_of::<Candidate>();
        self.pages(candidates as u64) + self.pages(4 * (context as u64 + 1))
    }

    /// All but workspace, ring and pinned segments.
    fn fixed(&self, context: usize) -> Result<u64, Error> {
        let head = self.pages(self.image.superblock().head_bytes);
        Ok(self.options.program_bytes + head + self.sampler(context) + self.tile * N_TILES as u64)
    }

    /// Bytes of the pages on which the candidates of a screened head lie, those in memory left out.
    fn row_bytes(&self, pinned: &[usize]) -> u64 {
        let Some(screen) = self.image.screen().filter(|_| !self.options.whole_head) else { return 0 };
        let heads = (0..self.image.n_segments()).filter(|&i| self.image.segment(i).kind == SegmentKind::Head);
        let (mut all, mut read) = (0, 0);
        for i in heads {
            let bytes = self.image.segment(i).bytes;
            all += bytes;
            read += if pinned.contains(&i) { 0 } else { bytes };
        }
        let pages = (read / PAGE as u64) as f64;
        if pages == 0.0 {
            return 0;
        }
        // A row that crosses into the next page takes that too.
        let crossing = 1.0 + layout::row_bytes(self.image.shape().hidden as usize) as f64 / PAGE as f64;
        let rows = screen.candidates() as f64 * crossing * read as f64 / all as f64;
        (pages * (1.0 - (-rows / pages).exp())).ceil() as u64 * PAGE as u64
    }

    /// The plan that pins at most `room` bytes.
    fn plan(&self, context: usize, prefill_block: usize, ring_bytes: u64, room: u64) -> Result<RamPlan, Error> {
        let bytes = |i: usize| self.image.segment(self.cycle[i]).bytes;
        let small: Vec<usize> = (0..self.cycle.len()).filter(|&i| bytes(i) <= self.small_segment).collect();
        let large: Vec<usize> = (0..self.cycle.len()).filter(|&i| bytes(i) > self.small_segment).collect();
        let mut in_memory = vec![false; self.cycle.len()];
        let mut pinned_bytes = 0;
        // Up to the first that does not fit: what a smaller budget pins, a larger one pins too.
        for i in small.into_iter().chain(spread(large.len()).into_iter().map(|i| large[i])) {
            if pinned_bytes + bytes(i) > room {
                break;
            }
            pinned_bytes += bytes(i);
            in_memory[i] = true;
        }
        let of = |wanted: bool| -> Vec<usize> {
            self.cycle.iter().zip(&in_memory).filter(|&(_, &pinned)| pinned == wanted).map(|(&i, _)| i).collect()
        };
        let (mut pinned, streamed) = (of(true), of(false));
        let streamed_bytes = self.all - pinned_bytes;
        if streamed.is_empty() && self.image.screen().is_some() && !self.options.whole_head {
            // Rows of the head are asked for one by one: what room is left keeps the first ones, the tokens most in use.
            for i in (0..self.image.n_segments()).filter(|&i| self.image.segment(i).kind == SegmentKind::Head) {
                if pinned_bytes + self.image.segment(i).bytes > room {
                    break;
                }
                pinned_bytes += self.image.segment(i).bytes;
                pinned.push(i);
            }
            pinned.sort_unstable();
        }
        let row_bytes = self.row_bytes(&pinned);
        Ok(RamPlan {
            budget: self.options.budget,
            context,
            prefill_block,
            logit_rows: self.options.logit_rows,
            program_bytes: self.options.program_bytes,
            head_bytes: self.pages(self.image.superblock().head_bytes),
            workspace_bytes: self.workspace(context, prefill_block)?,
            sampler_bytes: self.sampler(context),
            tile_bytes: self.tile,
            ring_bytes: if streamed.is_empty() { 0 } else { ring_bytes },
            pinned,
            pinned_bytes,
            streamed,
            streamed_bytes,
            row_bytes,
            whole_head: self.options.whole_head,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_beginning_of_the_order_is_spread_evenly() {
        assert_eq!(spread(8), [0, 4, 2, 6, 1, 5, 3, 7]);
        assert_eq!(spread(1), [0]);
        assert_eq!(spread(0), [0; 0]);
        for n in 1..70 {
            let mut all = spread(n);
            all.sort_unstable();
            assert!(all.into_iter().eq(0..n), "{n}");
        }
    }

    #[test]
    fn finds_the_largest_that_fits() {
        for most in 1..20 {
            for limit in 0..25 {
                assert_eq!(largest(most, |n| Ok(n <= limit)).unwrap(), limit.clamp(1, most));
            }
        }
    }
}
