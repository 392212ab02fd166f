//! Dots of bytes without dot instructions: products of 16 bits, added up in 16 bits as long as they fit.

use super::mul_quantized::{Dot, Tier};
use core::arch::aarch64::{int8x16_t, int16x8_t, int32x4_t};

/// The tier's ways to multiply.
pub(super) struct Widen;

impl Tier for Widen {
    type Levels = Narrow;
    type Bytes = Wide;
}

/// Levels within ±31: an i16 lane holds the eight products it gets in a group, `|sum| ≤ 31·127·8 = 31 496`.
/// Codes 0..=15 fit likewise.
pub(super) struct Narrow;

impl Dot for Narrow {
    /// Word `p` in all four lanes of vector `p`.
    type X = [int8x16_t; 8];
    /// Two rows a vector.
    type Acc = [int16x8_t; 2];

    #[inline(always)]
    fn activations(q: &[i8; 32]) -> Self::X {
        // SAFETY: NEON, as every caller is reached through the tier's token.
        unsafe { ops::words(q) }
    }

    #[inline(always)]
    fn start(_bias: i32) -> Self::Acc {
        // SAFETY: as above.
        unsafe { ops::zeros() }
    }

    #[inline(always)]
    fn step<const P: usize>(acc: Self::Acc, w: [int8x16_t; 2], x: &Self::X) -> Self::Acc {
        // SAFETY: as above.
        unsafe { ops::narrow(acc, w, x[P], x[P + 4]) }
    }

    #[inline(always)]
    fn finish(acc: Self::Acc, bias: i32) -> int32x4_t {
        // SAFETY: as above.
        unsafe { ops::rows_of_narrow(acc, bias) }
    }
}

/// Any signed bytes times activations within ±127: an i16 lane holds two products, `|sum| ≤ 128·127·2 = 32 512`.
pub(super) struct Wide;

impl Dot for Wide {
    type X = [int8x16_t; 8];
    /// Two rows a vector.
    type Acc = [int32x4_t; 2];

    #[inline(always)]
    fn activations(q: &[i8; 32]) -> Self::X {
        Narrow::activations(q)
    }

    #[inline(always)]
    fn start(_bias: i32) -> Self::Acc {
        // SAFETY: NEON, as every caller is reached through the tier's token.
        unsafe { ops::wide_zeros() }
    }

    #[inline(always)]
    fn step<const P: usize>(acc: Self::Acc, w: [int8x16_t; 2], x: &Self::X) -> Self::Acc {
        // SAFETY: as above.
        unsafe { ops::wide(acc, w, x[P], x[P + 4]) }
    }

    #[inline(always)]
    fn finish(acc: Self::Acc, bias: i32) -> int32x4_t {
        // SAFETY: as above.
        unsafe { ops::rows_of_wide(acc, bias) }
    }
}

/// Safe functions with the tier's target features.
mod ops {
    use core::arch::aarch64::*;

    #[inline]
    #[target_feature(enable = "neon")]
    pub(super) fn words(q: &[i8; 32]) -> [int8x16_t; 8] {
        let q = q.as_ptr();
        // SAFETY: the first 16 of 32 readable bytes; LD4R takes any alignment.
        let a = unsafe { vld4q_dup_s32(q.cast()) };
        // SAFETY: within the 32 bytes.
        let q = unsafe { q.add(16) };
        // SAFETY: the last 16 of 32 readable bytes.
        let b = unsafe { vld4q_dup_s32(q.cast()) };
        [a.0, a.1, a.2, a.3, b.0, b.1, b.2, b.3].map(|x| vreinterpretq_s8_s32(x))
    }

    #[inline]
    #[target_feature(enable = "neon")]
    pub(super) fn zeros() -> [int16x8_t; 2] {
        [vdupq_n_s16(0); 2]
    }

    #[inline]
    #[target_feature(enable = "neon")]
    pub(super) fn wide_zeros() -> [int32x4_t; 2] {
        [vdupq_n_s32(0); 2]
    }

    /// Products of rows 0, 1 and of rows 2, 3 onto `acc`.
    #[inline]
    #[target_feature(enable = "neon")]
    pub(super) fn narrow(acc: [int16x8_t; 2], w: [int8x16_t; 2], x0: int8x16_t, x1: int8x16_t) -> [int16x8_t; 2] {
        let low = vmlal_s8(acc[0], vget_low_s8(w[0]), vget_low_s8(x0));
        let high = vmlal_high_s8(acc[1], w[0], x0);
        [vmlal_s8(low, vget_low_s8(w[1]), vget_low_s8(x1)), vmlal_high_s8(high, w[1], x1)]
    }

    #[inline]
    #[target_feature(enable = "neon")]
    pub(super) fn rows_of_narrow(acc: [int16x8_t; 2], bias: i32) -> int32x4_t {
        vaddq_s32(vpaddq_s32(vpaddlq_s16(acc[0]), vpaddlq_s16(acc[1])), vdupq_n_s32(bias))
    }

    #[inline]
    #[target_feature(enable = "neon")]
    pub(super) fn wide(acc: [int32x4_t; 2], w: [int8x16_t; 2], x0: int8x16_t, x1: int8x16_t) -> [int32x4_t; 2] {
        let [low, high] = narrow(zeros(), w, x0, x1);
        [vpadalq_s16(acc[0], low), vpadalq_s16(acc[1], high)]
    }

    #[inline]
    #[target_feature(enable = "neon")]
    pub(super) fn rows_of_wide(acc: [int32x4_t; 2], bias: i32) -> int32x4_t {
        vaddq_s32(vpaddq_s32(acc[0], acc[1]), vdupq_n_s32(bias))
    }
}
