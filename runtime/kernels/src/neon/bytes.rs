//! Matrix of signed bytes times vectors without dot instructions: a 16-bit lane holds two products, `|sum| ≤ 128·127·2 = 32 512`.
//!
//! Four vectors at a time, four rows at a time, so that loaded weights serve them all; one is `decode_bytes`.

use super::mul_quantized::Q8;
use super::token::Token;
use super::{NeonLanes, decode_bytes};
use crate::lanes::{Lanes, first_mut};
use crate::rows::Block;
use crate::table::Q8Rows;
use bourn_format::layout::{BLOCK_COLS, GROUP, TILE_ROWS};
use core::arch::aarch64::*;

/// All tiles times all vectors.
#[target_feature(enable = "neon")]
pub(super) fn tiles(w: &[u8], x: &Q8Rows<'_>, y: &mut Block<'_>) {
    let (w, _) = w.as_chunks::<Q8>();
    if x.n == 0 {
        return;
    }
    let blocks = x.q.len() / x.n / BLOCK_COLS;
    for (i, tile) in w.chunks_exact(blocks).enumerate() {
        let mut t = 0;
        while x.n - t >= 4 {
            some::<4>(tile, x, t, y, i * TILE_ROWS);
            t += 4;
        }
        while t < x.n {
            decode_bytes::tile(tile, Token::of(x, t, blocks), first_mut(&mut y.row(t)[i * TILE_ROWS..]));
            t += 1;
        }
    }
}

/// One tile times `T` vectors from `t0`.
#[target_feature(enable = "neon")]
fn some<const T: usize>(tile: &[[u8; Q8]], x: &Q8Rows<'_>, t0: usize, y: &mut Block<'_>, row: usize) {
    let xs: [Token<'_>; T] = core::array::from_fn(|t| Token::of(x, t0 + t, tile.len()));
    let mut sums = [NeonLanes::splat(0.0); T];
    for (b, block) in tile.iter().enumerate() {
        let (block, _) = block.as_chunks::<16>();
        for g in 0..2 {
            let mut dots = [[vdupq_n_s32(0); 4]; T];
            for quad in 0..4 {
                let mut acc = [[vdupq_n_s32(0); 2]; T];
                for p in 0..4 {
                    let word = |k: usize| load(&block[4 + 32 * g + 4 * (2 * p + k) + quad]);
                    let (v, w) = (word(0), word(1));
                    for (acc, x) in acc.iter_mut().zip(&xs) {
                        let [x, z] = [words(&x.q[b][g], 2 * p), words(&x.q[b][g], 2 * p + 1)];
                        let low = vmlal_s8(vmull_s8(vget_low_s8(v), vget_low_s8(x)), vget_low_s8(w), vget_low_s8(z));
                        let high = vmlal_high_s8(vmull_high_s8(v, x), w, z);
                        *acc = [vpadalq_s16(acc[0], low), vpadalq_s16(acc[1], high)];
                    }
                }
                for (dots, acc) in dots.iter_mut().zip(acc) {
                    dots[quad] = vpaddq_s32(acc[0], acc[1]);
                }
            }
            let s_w = NeonLanes::from_f16_halves(&block[2 * g], &block[2 * g + 1]);
            for ((sum, dots), x) in sums.iter_mut().zip(dots).zip(&xs) {
                *sum = NeonLanes::from_i32(dots).fma(s_w.mul(NeonLanes::splat(x.scale[b][g])), *sum);
            }
        }
    }
    for (t, sum) in sums.iter().enumerate() {
        sum.store(first_mut(&mut y.row(t0 + t)[row..]));
    }
}

#[inline]
#[target_feature(enable = "neon")]
fn load(x: &[u8; 16]) -> int8x16_t {
    // SAFETY: 16 readable bytes.
    vreinterpretq_s8_u8(unsafe { vld1q_u8(x.as_ptr()) })
}

/// Word `at` of a group in every lane.
#[inline]
#[target_feature(enable = "neon")]
fn words(q: &[i8; GROUP], at: usize) -> int8x16_t {
    let word = q.as_chunks::<4>().0[at].map(|x| x as u8);
    vreinterpretq_s8_s32(vdupq_n_s32(i32::from_le_bytes(word)))
}
