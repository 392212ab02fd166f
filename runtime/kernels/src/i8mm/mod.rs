//! AArch64 with SMMLA: cores of Armv8.6 and some before (Neoverse N2 and V1, Cortex-A510 and A710 and later).
//!
//! SMMLA multiplies matrices with matrices, so it helps with many vectors; one vector is multiplied as on the `dotprod` tier.

mod prefill;

use crate::dotprod;
use crate::neon::levels::Levels;
use crate::neon::mul_quantized::Tier;
use crate::neon::token::Token;
use crate::rows::Block;
use crate::table::{Q8Rows, Tiles};
use crate::tier::tier;
use bourn_format::layout::TILE_ROWS;
#[cfg(feature = "std")]
use std::arch::is_aarch64_feature_detected;

tier!(
    /// Proof that the CPU has Advanced SIMD, its dot products and its products of int8 matrices.
    I8mm, "i8mm", like: crate::neon::TABLE, features: "neon,dotprod,i8mm", each: ["neon", "dotprod", "i8mm"],
    detected: is_aarch64_feature_detected,
    mul_quantized: super::mul_quantized
);

impl Tier for prefill::Smmla {
    #[inline(always)]
    unsafe fn one<const N: usize>(levels: Levels<'_>, tile: &[[u8; N]], x: Token<'_>, y: &mut [f32; TILE_ROWS]) {
        // SAFETY: the caller's promise, which includes SDOT, is this one's.
        unsafe { dotprod::one(levels, tile, x, y) }
    }
}

/// See [`crate::table::Kernels::mul_quantized`].
///
/// # Panics
/// If a slice has another length than stated.
#[target_feature(enable = "neon,dotprod,i8mm")]
fn mul_quantized(w: &Tiles<'_>, x: &Q8Rows<'_>, y: &mut Block<'_>) {
    dotprod::all::<prefill::Smmla>(w, x, y);
}
