//! Safe functions with the tier's target features, of a few instructions each: what the generic parts of the kernels are made of.

use crate::lanes::first;
use core::arch::aarch64::*;

#[inline]
#[target_feature(enable = "neon")]
pub(crate) fn load16(x: &[u8; 16]) -> uint8x16_t {
    // SAFETY: 16 readable bytes.
    unsafe { vld1q_u8(x.as_ptr()) }
}

/// The first 16 bytes of each.
#[inline]
#[target_feature(enable = "neon")]
pub(crate) fn bytes(a: &[u8], b: &[u8]) -> [int8x16_t; 2] {
    [vreinterpretq_s8_u8(load16(first(a))), vreinterpretq_s8_u8(load16(first(b)))]
}

/// The low and the high nibbles of 16 bytes.
#[inline]
#[target_feature(enable = "neon")]
pub(crate) fn nibbles(x: &[u8]) -> [int8x16_t; 2] {
    let x = load16(first(x));
    [vreinterpretq_s8_u8(vandq_u8(x, vdupq_n_u8(15))), vreinterpretq_s8_u8(vshrq_n_u8::<4>(x))]
}

/// `table[x]`.
#[inline]
#[target_feature(enable = "neon")]
pub(crate) fn look_up(table: uint8x16_t, x: [int8x16_t; 2]) -> [int8x16_t; 2] {
    let one = |x| vreinterpretq_s8_u8(vqtbl1q_u8(table, vreinterpretq_u8_s8(x)));
    [one(x[0]), one(x[1])]
}

#[inline]
#[target_feature(enable = "neon")]
pub(crate) fn splat(x: f32) -> float32x4_t {
    vdupq_n_f32(x)
}

/// The first four binary16.
#[inline]
#[target_feature(enable = "neon")]
pub(crate) fn halves(x: &[u8]) -> float32x4_t {
    let x: &[u8; 8] = first(x);
    // SAFETY: 8 readable bytes.
    let x = unsafe { vld1_u8(x.as_ptr()) };
    vcvt_f32_f16(vreinterpret_f16_u8(x))
}

/// `acc + dot · (s_w · s_x)`, the product of scales and the sum rounded.
#[inline]
#[target_feature(enable = "neon")]
pub(crate) fn scaled(acc: float32x4_t, dot: int32x4_t, s_w: float32x4_t, s_x: f32) -> float32x4_t {
    vfmaq_f32(acc, vcvtq_f32_s32(dot), vmulq_n_f32(s_w, s_x))
}

/// `acc + m · x`, rounded once.
#[inline]
#[target_feature(enable = "neon")]
pub(crate) fn add_scaled(acc: float32x4_t, m: float32x4_t, x: f32) -> float32x4_t {
    vfmaq_n_f32(acc, m, x)
}

#[inline]
#[target_feature(enable = "neon")]
pub(crate) fn store4(v: float32x4_t, y: &mut [f32; 4]) {
    // SAFETY: 16 writable bytes.
    unsafe { vst1q_f32(y.as_mut_ptr(), v) }
}

/// Asks for the cache line at `x`, wherever that is: no access, so no fault.
#[inline(always)]
pub(crate) fn prefetch(x: *const u8) {
    // SAFETY: PRFM changes no register, gives the program nothing to see and never faults.
    unsafe { core::arch::asm!("prfm pldl1strm, [{}]", in(reg) x, options(nomem, nostack, preserves_flags)) }
}
