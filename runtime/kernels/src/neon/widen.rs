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

    /// The first step ignores it.
    #[inline(always)]
    fn start(_bias: int32x4_t) -> Self::Acc {
        // SAFETY: as above.
        unsafe { ops::zeros() }
    }

    #[inline(always)]
    fn step<const P: usize>(acc: Self::Acc, w: [int8x16_t; 2], x: &Self::X) -> Self::Acc {
        if P == 0 {
            // SAFETY: as above.
            return unsafe { ops::products(w, x[0], x[4]) };
        }
        // SAFETY: as above.
        unsafe { ops::more_products(acc, w, x[P], x[P + 4]) }
    }

    #[inline(always)]
    fn finish(acc: Self::Acc, bias: int32x4_t) -> int32x4_t {
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

    /// The first step ignores it.
    #[inline(always)]
    fn start(_bias: int32x4_t) -> Self::Acc {
        // SAFETY: NEON, as every caller is reached through the tier's token.
        unsafe { ops::wide_zeros() }
    }

    #[inline(always)]
    fn step<const P: usize>(acc: Self::Acc, w: [int8x16_t; 2], x: &Self::X) -> Self::Acc {
        // SAFETY: as above.
        let products = unsafe { ops::products(w, x[P], x[P + 4]) };
        if P == 0 {
            // SAFETY: as above.
            return unsafe { ops::neighbours(products) };
        }
        // SAFETY: as above.
        unsafe { ops::more_neighbours(acc, products) }
    }

    #[inline(always)]
    fn finish(acc: Self::Acc, bias: int32x4_t) -> int32x4_t {
        // SAFETY: as above.
        unsafe { ops::rows_of_wide(acc, bias) }
    }
}

/// Safe functions with the tier's target features.
mod ops {
    use core::arch::aarch64::*;
    use core::arch::asm;

    #[inline]
    #[target_feature(enable = "neon")]
    pub(super) fn words(q: &[i8; 32]) -> [int8x16_t; 8] {
        let (q, _) = q.as_chunks::<16>();
        let (a, b) = (load16(&q[0]), load16(&q[1]));
        [
            vdupq_laneq_s32::<0>(a),
            vdupq_laneq_s32::<1>(a),
            vdupq_laneq_s32::<2>(a),
            vdupq_laneq_s32::<3>(a),
            vdupq_laneq_s32::<0>(b),
            vdupq_laneq_s32::<1>(b),
            vdupq_laneq_s32::<2>(b),
            vdupq_laneq_s32::<3>(b),
        ]
        .map(|x| vreinterpretq_s8_s32(x))
    }

    #[inline]
    #[target_feature(enable = "neon")]
    fn load16(x: &[i8; 16]) -> int32x4_t {
        // SAFETY: 16 readable bytes.
        vreinterpretq_s32_s8(unsafe { vld1q_s8(x.as_ptr()) })
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

    /// `$name(acc, a, b)`: one instruction that adds to `acc`.
    ///
    /// The intrinsics are sums to the compiler, which reorders them until everything is alive at once and registers run out.
    macro_rules! accumulate {
        ($($name:ident($acc:ty, $($x:ident: $t:ty),*) $code:literal;)*) => {$(
            #[inline]
            #[target_feature(enable = "neon")]
            fn $name(mut acc: $acc, $($x: $t),*) -> $acc {
                // SAFETY: one instruction, which this function's target features promise; it changes `acc` alone.
                unsafe { asm!($code, acc = inout(vreg) acc, $($x = in(vreg) $x,)* options(pure, nomem, nostack, preserves_flags)) }
                acc
            }
        )*};
    }
    accumulate!(
        smlal(int16x8_t, a: int8x16_t, b: int8x16_t) "smlal {acc:v}.8h, {a:v}.8b, {b:v}.8b";
        smlal2(int16x8_t, a: int8x16_t, b: int8x16_t) "smlal2 {acc:v}.8h, {a:v}.16b, {b:v}.16b";
        sadalp(int32x4_t, a: int16x8_t) "sadalp {acc:v}.4s, {a:v}.8h";
    );

    /// Products of rows 0, 1 and of rows 2, 3.
    #[inline]
    #[target_feature(enable = "neon")]
    pub(super) fn products(w: [int8x16_t; 2], x0: int8x16_t, x1: int8x16_t) -> [int16x8_t; 2] {
        let low = vmull_s8(vget_low_s8(w[0]), vget_low_s8(x0));
        let high = vmull_high_s8(w[0], x0);
        [smlal(low, w[1], x1), smlal2(high, w[1], x1)]
    }

    /// The same, onto `acc`.
    #[inline]
    #[target_feature(enable = "neon")]
    pub(super) fn more_products(acc: [int16x8_t; 2], w: [int8x16_t; 2], x0: int8x16_t, x1: int8x16_t) -> [int16x8_t; 2] {
        let [low, high] = [smlal(acc[0], w[0], x0), smlal2(acc[1], w[0], x0)];
        [smlal(low, w[1], x1), smlal2(high, w[1], x1)]
    }

    /// Sums of neighbours. The intrinsic `vpaddq_s32` is a pattern to the compiler, which finds two instructions for it.
    #[inline]
    #[target_feature(enable = "neon")]
    fn pairs(a: int32x4_t, b: int32x4_t) -> int32x4_t {
        let sums;
        // SAFETY: one instruction, which this function's target features promise; it changes `sums` alone.
        unsafe {
            asm!(
                "addp {sums:v}.4s, {a:v}.4s, {b:v}.4s",
                sums = lateout(vreg) sums,
                a = in(vreg) a,
                b = in(vreg) b,
                options(pure, nomem, nostack, preserves_flags)
            );
        }
        sums
    }

    #[inline]
    #[target_feature(enable = "neon")]
    pub(super) fn rows_of_narrow(acc: [int16x8_t; 2], bias: int32x4_t) -> int32x4_t {
        let [a, b] = neighbours(acc);
        vaddq_s32(pairs(a, b), bias)
    }

    #[inline]
    #[target_feature(enable = "neon")]
    pub(super) fn neighbours(products: [int16x8_t; 2]) -> [int32x4_t; 2] {
        [vpaddlq_s16(products[0]), vpaddlq_s16(products[1])]
    }

    #[inline]
    #[target_feature(enable = "neon")]
    pub(super) fn more_neighbours(acc: [int32x4_t; 2], products: [int16x8_t; 2]) -> [int32x4_t; 2] {
        [sadalp(acc[0], products[0]), sadalp(acc[1], products[1])]
    }

    #[inline]
    #[target_feature(enable = "neon")]
    pub(super) fn rows_of_wide(acc: [int32x4_t; 2], bias: int32x4_t) -> int32x4_t {
        vaddq_s32(pairs(acc[0], acc[1]), bias)
    }
}
