//! Dots of bytes by SDOT.

use crate::neon::mul_quantized::{Dot, Tier};
use core::arch::aarch64::{int8x16_t, int32x4_t};

/// The tier's way to multiply.
pub(super) struct Sdot;

impl Tier for Sdot {
    type Levels = Self;
    type Bytes = Self;
}

impl Dot for Sdot {
    /// Word `p` in lane `p mod 4` of vector `p / 4`.
    type X = [int8x16_t; 2];
    /// Row `i` in lane `i`.
    type Acc = int32x4_t;

    #[inline(always)]
    fn activations(q: &[i8; 32]) -> Self::X {
        // SAFETY: NEON, as every caller is reached through the tier's token.
        unsafe { ops::words(q) }
    }

    #[inline(always)]
    fn start(bias: int32x4_t) -> Self::Acc {
        bias
    }

    #[inline(always)]
    fn step<const P: usize>(acc: Self::Acc, w: [int8x16_t; 2], x: &Self::X) -> Self::Acc {
        // SAFETY: SDOT, as every caller is reached through the tier's token.
        let acc = unsafe { ops::sdot::<P>(acc, w[0], x[0]) };
        // SAFETY: as above.
        unsafe { ops::sdot::<P>(acc, w[1], x[1]) }
    }

    #[inline(always)]
    fn finish(acc: Self::Acc, _bias: int32x4_t) -> int32x4_t {
        acc
    }
}

/// Safe functions with the tier's target features.
mod ops {
    use core::arch::aarch64::*;
    use core::arch::asm;

    #[inline]
    #[target_feature(enable = "neon")]
    pub(super) fn words(q: &[i8; 32]) -> [int8x16_t; 2] {
        // SAFETY: 32 readable bytes.
        let x = unsafe { vld1q_s8_x2(q.as_ptr()) };
        [x.0, x.1]
    }

    /// `acc[i] + Σ_j w[4i + j] · x[4·LANE + j]`.
    ///
    /// Source: Arm ARM, SDOT (by element). The intrinsic `vdotq_laneq_s32` is not stable in Rust yet.
    #[inline]
    #[target_feature(enable = "neon,dotprod")]
    pub(super) fn sdot<const LANE: usize>(mut acc: int32x4_t, w: int8x16_t, x: int8x16_t) -> int32x4_t {
        // SAFETY: one instruction, which this function's target features promise; it changes `acc` alone.
        unsafe {
            asm!(
                ".arch_extension dotprod",
                "sdot {acc:v}.4s, {w:v}.16b, {x:v}.4b[{lane}]",
                acc = inout(vreg) acc,
                w = in(vreg) w,
                x = in(vreg) x,
                lane = const LANE,
                options(pure, nomem, nostack, preserves_flags)
            );
        }
        acc
    }
}
