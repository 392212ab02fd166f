//! The screened head as data: how rows are coded for the coarse look, and how many of them are looked at exactly (FORMAT.md §5).

use crate::bytes::{f32_at, u16_at, u32_at};
use crate::layout;
use crate::{Error, Shape};

/// Bytes of the SCREEN section before its records: n_subs u32, n_wide u32, dims u32, candidates u32, margin f32, 12 B zero.
pub const SCREEN_BYTES: usize = 32;
/// Bytes of a record: first dimension u16, dimensions u16.
pub const SUB_BYTES: usize = 4;
/// Most sub-quantizers: sums of 256 bytes, each of two looked-up values of at most 126, fit 16 bits.
pub const MAX_SUBS: usize = 512;
/// Most dimensions of a sub-quantizer.
pub const MAX_SUB_DIMS: usize = 16;

/// A sub-quantizer: 16 centroids over some consecutive dimensions of the mapped hidden state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sub {
    /// The first dimension.
    pub first: usize,
    /// How many.
    pub n: usize,
}

/// The checked SCREEN section.
///
/// A row's coarse score is `bias + Σ_s book_s[code_s] · y[first_s .. first_s + n_s]` with `y = map · (h − mean)`, `h` the
/// normed hidden state. The rows with the best scores, its *candidates*, get exact logits.
#[derive(Clone, Copy, Debug)]
pub struct Screen<'a> {
    n_subs: u32,
    n_wide: u32,
    dims: u32,
    candidates: u32,
    margin: f32,
    subs: &'a [u8],
}

impl<'a> Screen<'a> {
    /// Reads and checks the section.
    ///
    /// # Errors
    /// [`Error::Truncated`], [`Error::Invalid`].
    pub fn new_checked(b: &'a [u8], shape: &Shape) -> Result<Self, Error> {
        let invalid = |what, found: u32| Err(Error::Invalid { what, found: u64::from(found) });
        let Some(subs) = b.get(SCREEN_BYTES..) else {
            return Err(Error::Truncated { need: SCREEN_BYTES as u64, have: b.len() as u64 });
        };
        let screen = Self {
            n_subs: u32_at(b, 0),
            n_wide: u32_at(b, 4),
            dims: u32_at(b, 8),
            candidates: u32_at(b, 12),
            margin: f32_at(b, 16),
            subs,
        };
        if screen.n_subs == 0 || screen.n_subs as usize > MAX_SUBS || !screen.n_subs.is_multiple_of(2) {
            return invalid("n_subs of the screen", screen.n_subs);
        }
        if screen.n_wide > screen.n_subs || !screen.n_wide.is_multiple_of(2) {
            return invalid("n_wide of the screen", screen.n_wide);
        }
        if screen.dims == 0 || screen.dims > shape.hidden {
            return invalid("dims of the screen", screen.dims);
        }
        if screen.candidates == 0 || screen.candidates > shape.vocab {
            return invalid("candidates of the screen", screen.candidates);
        }
        if !(screen.margin.is_finite() && screen.margin > 0.0) {
            return invalid("margin of the screen", screen.margin.to_bits());
        }
        if subs.len() != screen.n_subs as usize * SUB_BYTES {
            return invalid("screen section length", b.len() as u32);
        }
        for sub in screen.subs() {
            if sub.n == 0 || sub.n > MAX_SUB_DIMS || sub.first + sub.n > screen.dims as usize {
                return invalid("dimensions of a sub-quantizer", (sub.first << 16 | sub.n) as u32);
            }
        }
        Ok(screen)
    }

    /// Sub-quantizers, an even number: each row has as many codes of 4 bits.
    pub const fn n_subs(&self) -> usize {
        self.n_subs as usize
    }

    /// The first of them (an even number) are looked up with 13 bits instead of 7: their range is large.
    pub const fn n_wide(&self) -> usize {
        self.n_wide as usize
    }

    /// Dimensions of the mapped hidden state.
    pub const fn dims(&self) -> usize {
        self.dims as usize
    }

    /// Most rows that get exact logits.
    pub const fn candidates(&self) -> usize {
        self.candidates as usize
    }

    /// Rows whose score is farther than this below the best score are no candidates.
    pub const fn margin(&self) -> f32 {
        self.margin
    }

    /// The sub-quantizers.
    pub fn subs(&self) -> impl Iterator<Item = Sub> + Clone + 'a {
        let subs = self.subs;
        (0..subs.len() / SUB_BYTES).map(move |i| {
            let at = i * SUB_BYTES;
            Sub { first: usize::from(u16_at(subs, at)), n: usize::from(u16_at(subs, at + 2)) }
        })
    }

    /// Values of all books: 16 for each dimension of each sub-quantizer.
    pub fn book_values(&self) -> usize {
        self.subs().map(|s| 16 * s.n).sum()
    }

    /// Most bytes of exact rows that a token reads, for a head of `hidden` columns.
    pub const fn candidate_bytes(&self, hidden: usize) -> usize {
        self.candidates() * layout::row_bytes(hidden)
    }
}
