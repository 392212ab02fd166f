//! AArch64 with SDOT: Cortex-A55, A76 and later (Pi 5, RK3588, Jetson Orin).

pub(crate) mod decode;
pub(crate) mod prefill;

use crate::neon::levels::Levels;
use crate::neon::mul_quantized::{Q4, Q4M, Q8, Tier, tiles};
use crate::neon::token::Token;
use crate::rows::Block;
use crate::scalar::check;
use crate::table::{Q8Rows, Tiles};
use crate::tier::tier;
use bourn_format::Dtype;
use bourn_format::layout::TILE_ROWS;
#[cfg(feature = "std")]
use std::arch::is_aarch64_feature_detected;

tier!(
    /// Proof that the CPU has Advanced SIMD and its dot products.
    Dotprod, "dotprod", like: crate::neon::TABLE, features: "neon,dotprod", each: ["neon", "dotprod"],
    detected: is_aarch64_feature_detected,
    mul_quantized: super::mul_quantized
);

/// One vector, as every tier with SDOT multiplies it.
///
/// # Safety
/// The CPU has SDOT.
#[inline(always)]
pub(crate) unsafe fn one<const N: usize>(levels: Levels<'_>, tile: &[[u8; N]], x: Token<'_>, y: &mut [f32; TILE_ROWS]) {
    if N == Q8 {
        // SAFETY: the caller promises SDOT.
        unsafe { decode::tile::<{ decode::BYTES }, N>(levels, tile, x, y) }
    } else if levels.are_consecutive() {
        // SAFETY: as above.
        unsafe { decode::tile::<{ decode::CONSECUTIVE }, N>(levels, tile, x, y) }
    } else {
        // SAFETY: as above.
        unsafe { decode::tile::<{ decode::LOOK_UP }, N>(levels, tile, x, y) }
    }
}

impl Tier for prefill::Sdot {
    #[inline(always)]
    unsafe fn one<const N: usize>(levels: Levels<'_>, tile: &[[u8; N]], x: Token<'_>, y: &mut [f32; TILE_ROWS]) {
        // SAFETY: the caller's promise is this one's.
        unsafe { one(levels, tile, x, y) }
    }
}

/// See [`crate::table::Kernels::mul_quantized`].
///
/// # Panics
/// If a slice has another length than stated.
#[target_feature(enable = "neon,dotprod")]
fn mul_quantized(w: &Tiles<'_>, x: &Q8Rows<'_>, y: &mut Block<'_>) {
    all::<prefill::Sdot>(w, x, y);
}

/// The same with a tier's own way to multiply many vectors.
#[target_feature(enable = "neon,dotprod")]
pub(crate) fn all<T: Tier>(w: &Tiles<'_>, x: &Q8Rows<'_>, y: &mut Block<'_>) {
    check(w, x, y);
    let levels = Levels { table: &w.table };
    match w.dtype {
        Dtype::Q4 => tiles::<T, Q4>(levels, w.bytes, x, y),
        Dtype::Q4M => tiles::<T, Q4M>(levels, w.bytes, x, y),
        _ => tiles::<T, Q8>(levels, w.bytes, x, y),
    }
}
