//! Stored codes to signed bytes: 16 of them, 4 rows × 4 consecutive columns, are one vector.

use crate::neon::ops;
use bourn_format::Dtype;
use bourn_format::layout::block_bytes;
use core::arch::aarch64::{int8x16_t, uint8x16_t};

/// A quantized type as the kernel reads it.
pub(crate) trait Codes: Copy {
    /// Bytes of a block.
    const BLOCK: usize;
    /// Whether groups have minima.
    const MINIMA: bool;
    /// What every byte that [`Self::words`] gives is too large by.
    const EXCESS: i32;

    /// Columns `4·P ..` and `16 + 4·P ..` of group `g`, four rows from row `4·quad`.
    fn words<const P: usize>(self, block: &[u8], g: usize, quad: usize) -> [int8x16_t; 2];
}

/// [`Dtype::Q8`].
#[derive(Clone, Copy)]
pub(crate) struct Bytes;

impl Codes for Bytes {
    const BLOCK: usize = block_bytes(Dtype::Q8);
    const MINIMA: bool = false;
    const EXCESS: i32 = 0;

    #[inline(always)]
    fn words<const P: usize>(self, block: &[u8], g: usize, quad: usize) -> [int8x16_t; 2] {
        let codes = &block[64 + 512 * g + 64 * P + 16 * quad..];
        // SAFETY: NEON, as every caller is reached through a tier's token.
        unsafe { ops::bytes(codes, &codes[256..]) }
    }
}

/// [`Dtype::Q4`] and, with `MIN`, [`Dtype::Q4M`], of any table.
#[derive(Clone, Copy)]
pub(crate) struct Levels<const MIN: bool>(pub(crate) uint8x16_t);

impl<const MIN: bool> Codes for Levels<MIN> {
    const BLOCK: usize = Linear::<MIN>::BLOCK;
    const MINIMA: bool = MIN;
    const EXCESS: i32 = 0;

    #[inline(always)]
    fn words<const P: usize>(self, block: &[u8], g: usize, quad: usize) -> [int8x16_t; 2] {
        let nibbles = Linear::<MIN>.words::<P>(block, g, quad);
        // SAFETY: NEON, as every caller is reached through a tier's token.
        unsafe { ops::look_up(self.0, nibbles) }
    }
}

/// The same of the linear table: codes as they are, which is 8 more than their levels.
#[derive(Clone, Copy)]
pub(crate) struct Linear<const MIN: bool>;

impl<const MIN: bool> Codes for Linear<MIN> {
    const BLOCK: usize = block_bytes(if MIN { Dtype::Q4M } else { Dtype::Q4 });
    const MINIMA: bool = MIN;
    const EXCESS: i32 = 8;

    #[inline(always)]
    fn words<const P: usize>(self, block: &[u8], g: usize, quad: usize) -> [int8x16_t; 2] {
        let header = if MIN { 128 } else { 64 };
        // SAFETY: NEON, as every caller is reached through a tier's token.
        unsafe { ops::nibbles(&block[header + 256 * g + 64 * P + 16 * quad..]) }
    }
}
