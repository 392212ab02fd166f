//! Sixteen f32 in four 128-bit registers.

use crate::lanes::impl_lanes;
use core::arch::aarch64::{float32x4_t, int32x4_t};

impl_lanes!(NeonLanes, [float32x4_t; 4], 4 x 1);

impl NeonLanes {
    /// Lanes from binary16, exact.
    #[inline(always)]
    pub(crate) fn from_f16_halves(a: &[u8; 16], b: &[u8; 16]) -> Self {
        // SAFETY: as for the methods of `Lanes`.
        Self(unsafe { ops::from_f16_halves(a, b) })
    }

    /// Lanes from whole numbers, rounded.
    #[inline(always)]
    pub(crate) fn from_i32(x: [int32x4_t; 4]) -> Self {
        // SAFETY: as for the methods of `Lanes`.
        Self(unsafe { ops::from_i32(x) })
    }
}

/// Safe functions with the tier's target features.
mod ops {
    use super::float32x4_t;
    use core::arch::aarch64::*;

    type V = [float32x4_t; 4];

    #[inline]
    #[target_feature(enable = "neon")]
    pub(super) fn splat(x: f32) -> V {
        [vdupq_n_f32(x); 4]
    }

    #[inline]
    #[target_feature(enable = "neon")]
    fn load4(x: &[f32; 4]) -> float32x4_t {
        // SAFETY: 16 readable bytes.
        unsafe { vld1q_f32(x.as_ptr()) }
    }

    #[inline]
    #[target_feature(enable = "neon")]
    fn load16(x: &[u8; 16]) -> uint8x16_t {
        // SAFETY: 16 readable bytes.
        unsafe { vld1q_u8(x.as_ptr()) }
    }

    #[inline]
    #[target_feature(enable = "neon")]
    fn store16(v: uint8x16_t, x: &mut [u8; 16]) {
        // SAFETY: 16 writable bytes.
        unsafe { vst1q_u8(x.as_mut_ptr(), v) }
    }

    #[inline]
    #[target_feature(enable = "neon")]
    pub(super) fn load(x: &[f32; 16]) -> V {
        let (x, _) = x.as_chunks::<4>();
        [load4(&x[0]), load4(&x[1]), load4(&x[2]), load4(&x[3])]
    }

    #[inline]
    #[target_feature(enable = "neon")]
    pub(super) fn from_le_f32(x: &[u8; 64]) -> V {
        let (x, _) = x.as_chunks::<16>();
        let four = |i: usize| vreinterpretq_f32_u8(load16(&x[i]));
        [four(0), four(1), four(2), four(3)]
    }

    #[inline]
    #[target_feature(enable = "neon")]
    pub(super) fn from_f16(x: &[u8; 32]) -> V {
        let (x, _) = x.as_chunks::<16>();
        from_f16_halves(&x[0], &x[1])
    }

    #[inline]
    #[target_feature(enable = "neon")]
    pub(super) fn from_f16_halves(a: &[u8; 16], b: &[u8; 16]) -> V {
        let (a, b) = (vreinterpretq_f16_u8(load16(a)), vreinterpretq_f16_u8(load16(b)));
        [vcvt_f32_f16(vget_low_f16(a)), vcvt_high_f32_f16(a), vcvt_f32_f16(vget_low_f16(b)), vcvt_high_f32_f16(b)]
    }

    #[inline]
    #[target_feature(enable = "neon")]
    pub(super) fn from_bf16(x: &[u8; 32]) -> V {
        let (x, _) = x.as_chunks::<16>();
        let (a, b) = (vreinterpretq_u16_u8(load16(&x[0])), vreinterpretq_u16_u8(load16(&x[1])));
        let low = |x| vreinterpretq_f32_u32(vshll_n_u16::<16>(vget_low_u16(x)));
        let high = |x| vreinterpretq_f32_u32(vshll_high_n_u16::<16>(x));
        [low(a), high(a), low(b), high(b)]
    }

    #[inline]
    #[target_feature(enable = "neon")]
    pub(super) fn from_i8(x: &[u8; 16]) -> V {
        let x = vreinterpretq_s8_u8(load16(x));
        let (a, b) = (vmovl_s8(vget_low_s8(x)), vmovl_high_s8(x));
        let low = |x| vcvtq_f32_s32(vmovl_s16(vget_low_s16(x)));
        let high = |x| vcvtq_f32_s32(vmovl_high_s16(x));
        [low(a), high(a), low(b), high(b)]
    }

    #[inline]
    #[target_feature(enable = "neon")]
    pub(super) fn from_i32(x: [int32x4_t; 4]) -> V {
        [vcvtq_f32_s32(x[0]), vcvtq_f32_s32(x[1]), vcvtq_f32_s32(x[2]), vcvtq_f32_s32(x[3])]
    }

    #[inline]
    #[target_feature(enable = "neon")]
    pub(super) fn store(v: V, x: &mut [f32; 16]) {
        let (x, _) = x.as_chunks_mut::<4>();
        for (x, v) in x.iter_mut().zip(v) {
            // SAFETY: 16 writable bytes.
            unsafe { vst1q_f32(x.as_mut_ptr(), v) }
        }
    }

    #[inline]
    #[target_feature(enable = "neon")]
    pub(super) fn to_f16(v: V) -> [u8; 32] {
        let pair = |a, b| vreinterpretq_u8_f16(vcvt_high_f16_f32(vcvt_f16_f32(a), b));
        let mut out = [0; 32];
        let (o, _) = out.as_chunks_mut::<16>();
        store16(pair(v[0], v[1]), &mut o[0]);
        store16(pair(v[2], v[3]), &mut o[1]);
        out
    }

    #[inline]
    #[target_feature(enable = "neon")]
    pub(super) fn low_bytes(v: V) -> [i8; 16] {
        // The even elements of two vectors are the low halves of their lanes.
        let halves = |a, b| vreinterpretq_u8_u16(vuzp1q_u16(vreinterpretq_u16_f32(a), vreinterpretq_u16_f32(b)));
        let mut out = [0; 16];
        store16(vuzp1q_u8(halves(v[0], v[1]), halves(v[2], v[3])), &mut out);
        out.map(|x| x as i8)
    }

    /// Four of `$op` on two operands.
    macro_rules! two {
        ($($name:ident $op:ident),*) => {$(
            #[inline]
            #[target_feature(enable = "neon")]
            pub(super) fn $name(a: V, b: V) -> V {
                [$op(a[0], b[0]), $op(a[1], b[1]), $op(a[2], b[2]), $op(a[3], b[3])]
            }
        )*};
    }
    two!(add vaddq_f32, sub vsubq_f32, mul vmulq_f32, div vdivq_f32, max greater, min less);

    /// FMAX and FMAXNM treat NaN and −0 otherwise than [`crate::lanes::Lanes::max`].
    #[inline]
    #[target_feature(enable = "neon")]
    fn greater(a: float32x4_t, b: float32x4_t) -> float32x4_t {
        vbslq_f32(vcgtq_f32(a, b), a, b)
    }

    #[inline]
    #[target_feature(enable = "neon")]
    fn less(a: float32x4_t, b: float32x4_t) -> float32x4_t {
        vbslq_f32(vcltq_f32(a, b), a, b)
    }

    #[inline]
    #[target_feature(enable = "neon")]
    pub(super) fn fma(a: V, b: V, c: V) -> V {
        let one = |i: usize| vfmaq_f32(c[i], a[i], b[i]);
        [one(0), one(1), one(2), one(3)]
    }

    #[inline]
    #[target_feature(enable = "neon")]
    pub(super) fn pow2(a: V) -> V {
        let one = |a| {
            let n = vshlq_n_u32::<23>(vreinterpretq_u32_f32(a));
            vreinterpretq_f32_u32(vaddq_u32(n, vdupq_n_u32(127 << 23)))
        };
        [one(a[0]), one(a[1]), one(a[2]), one(a[3])]
    }

    #[inline]
    #[target_feature(enable = "neon")]
    pub(super) fn zero_if_lt(a: V, b: V, x: V) -> V {
        let one = |i: usize| vreinterpretq_f32_u32(vbicq_u32(vreinterpretq_u32_f32(x[i]), vcltq_f32(a[i], b[i])));
        [one(0), one(1), one(2), one(3)]
    }

    #[inline]
    #[target_feature(enable = "neon")]
    pub(super) fn reduce_add(v: V) -> f32 {
        let v = vaddq_f32(vaddq_f32(v[0], v[2]), vaddq_f32(v[1], v[3]));
        let v = vadd_f32(vget_low_f32(v), vget_high_f32(v));
        vget_lane_f32::<0>(v) + vget_lane_f32::<1>(v)
    }

    #[inline]
    #[target_feature(enable = "neon")]
    pub(super) fn reduce_max(v: V) -> f32 {
        let v = greater(greater(v[0], v[2]), greater(v[1], v[3]));
        let (a, b) = (vget_low_f32(v), vget_high_f32(v));
        let v = vbsl_f32(vcgt_f32(a, b), a, b);
        let (a, b) = (vget_lane_f32::<0>(v), vget_lane_f32::<1>(v));
        if a > b { a } else { b }
    }
}
