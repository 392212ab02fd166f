//! Quantized matrix times vectors: what goes to which loop, for every tier that has NEON.
//!
//! One vector, or up to three: 16 rows at a time, every weight read once, in order. More: blocked (`prefill`).

use super::levels::Levels;
use super::prefill::{self, Multiply, WORTH_IT};
use super::token::Token;
use super::{bytes, decode, stretch};
use crate::lanes::first_mut;
use crate::rows::Block;
use crate::scalar::check;
use crate::table::{Q8Rows, Tiles};
use bourn_format::Dtype;
use bourn_format::layout::{BLOCK_COLS, TILE_ROWS, block_bytes};

/// Bytes of a block of each type.
pub(crate) const Q4: usize = block_bytes(Dtype::Q4);
pub(crate) const Q4M: usize = block_bytes(Dtype::Q4M);
pub(crate) const Q8: usize = block_bytes(Dtype::Q8);

/// How a tier multiplies: one vector, and by [`Multiply`] many.
pub(crate) trait Tier: Multiply {
    /// `y = tile · x`.
    ///
    /// # Safety
    /// The CPU has the tier's instructions.
    unsafe fn one<const N: usize>(levels: Levels<'_>, tile: &[[u8; N]], x: Token<'_>, y: &mut [f32; TILE_ROWS]);
}

impl Tier for stretch::Smlal {
    #[inline(always)]
    unsafe fn one<const N: usize>(levels: Levels<'_>, tile: &[[u8; N]], x: Token<'_>, y: &mut [f32; TILE_ROWS]) {
        if levels.are_consecutive() {
            // SAFETY: the caller promises NEON.
            unsafe { decode::tile::<false, N>(levels, tile, x, y) }
        } else {
            // SAFETY: as above.
            unsafe { decode::tile::<true, N>(levels, tile, x, y) }
        }
    }
}

/// See [`crate::table::Kernels::mul_quantized`].
///
/// # Panics
/// If a slice has another length than stated.
#[target_feature(enable = "neon")]
pub(super) fn mul_quantized(w: &Tiles<'_>, x: &Q8Rows<'_>, y: &mut Block<'_>) {
    check(w, x, y);
    let levels = Levels { table: &w.table };
    match w.dtype {
        Dtype::Q4 => tiles::<stretch::Smlal, Q4>(levels, w.bytes, x, y),
        Dtype::Q4M => tiles::<stretch::Smlal, Q4M>(levels, w.bytes, x, y),
        _ => bytes::tiles(w.bytes, x, y),
    }
}

/// All tiles times all vectors.
#[target_feature(enable = "neon")]
pub(crate) fn tiles<T: Tier, const N: usize>(levels: Levels<'_>, w: &[u8], x: &Q8Rows<'_>, y: &mut Block<'_>) {
    let (w, _) = w.as_chunks::<N>();
    if x.n == 0 {
        return;
    }
    let blocks = x.q.len() / x.n / BLOCK_COLS;
    let most = prefill::most_tokens(2 * blocks);
    let mut t = 0;
    while most >= WORTH_IT && x.n - t >= WORTH_IT {
        let n = most.min(x.n - t);
        // What is left over goes one by one, if that is less work.
        let n = if n % prefill::TOKENS < WORTH_IT { n / prefill::TOKENS * prefill::TOKENS } else { n };
        prefill::tiles::<T, N>(levels, w, x, (t, n), y);
        t += n;
    }
    if t < x.n {
        for (i, tile) in w.chunks_exact(blocks).enumerate() {
            for t in t..x.n {
                let y = first_mut(&mut y.row(t)[i * TILE_ROWS..]);
                // SAFETY: the tier's kernel calls this, behind its token.
                unsafe { T::one::<N>(levels, tile, Token::of(x, t, blocks), y) }
            }
        }
    }
}
