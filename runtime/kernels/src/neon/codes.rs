//! Stored codes to signed bytes: 16 of them, 4 rows × 4 consecutive columns, are one vector.

use crate::neon::ops;
use core::arch::aarch64::{int8x16_t, uint8x16_t};

/// A quantized type as the kernel reads it: blocks of `N` vectors of 16 bytes.
pub(crate) trait Codes<const N: usize>: Copy {
    /// Whether groups have minima.
    const MINIMA: bool;
    /// What every byte that [`Self::words`] gives is too large by.
    const EXCESS: i32;

    /// Columns `4·P ..` and `16 + 4·P ..` of group `g`, four rows from row `4·quad`.
    fn words<const P: usize>(self, block: &[[u8; 16]; N], g: usize, quad: usize) -> [int8x16_t; 2];
}

/// Vectors of a Q8 block: 4 of scales, 64 of bytes.
pub(crate) const Q8: usize = 68;
/// Vectors of a Q4 block: 4 of scales, 32 of codes.
pub(crate) const Q4: usize = 36;
/// Vectors of a Q4M block: 4 of scales, 4 of minima, 32 of codes.
pub(crate) const Q4M: usize = 40;

/// Signed bytes.
#[derive(Clone, Copy)]
pub(crate) struct Bytes;

impl Codes<Q8> for Bytes {
    const MINIMA: bool = false;
    const EXCESS: i32 = 0;

    #[inline(always)]
    fn words<const P: usize>(self, block: &[[u8; 16]; Q8], g: usize, quad: usize) -> [int8x16_t; 2] {
        let at = 4 + 32 * g + 4 * P + quad;
        // SAFETY: NEON, as every caller is reached through a tier's token.
        unsafe { ops::bytes(&block[at], &block[at + 16]) }
    }
}

/// Nibbles of the linear table: codes as they are, which is 8 more than their levels.
#[derive(Clone, Copy)]
pub(crate) struct Linear;

impl<const N: usize> Codes<N> for Linear {
    const MINIMA: bool = N == Q4M;
    const EXCESS: i32 = 8;

    #[inline(always)]
    fn words<const P: usize>(self, block: &[[u8; 16]; N], g: usize, quad: usize) -> [int8x16_t; 2] {
        // SAFETY: NEON, as every caller is reached through a tier's token.
        unsafe { ops::nibbles(&block[N - 32 + 16 * g + 4 * P + quad]) }
    }
}

/// Nibbles of any table.
#[derive(Clone, Copy)]
pub(crate) struct Levels(pub(crate) uint8x16_t);

impl<const N: usize> Codes<N> for Levels {
    const MINIMA: bool = N == Q4M;
    const EXCESS: i32 = 0;

    #[inline(always)]
    fn words<const P: usize>(self, block: &[[u8; 16]; N], g: usize, quad: usize) -> [int8x16_t; 2] {
        let nibbles = Linear.words::<P>(block, g, quad);
        // SAFETY: NEON, as every caller is reached through a tier's token.
        unsafe { ops::look_up(self.0, nibbles) }
    }
}
