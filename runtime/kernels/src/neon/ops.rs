//! Safe functions with the tier's target features, of a few instructions each: what the generic parts of the kernels are made of.

use super::codes::Codes;
use core::arch::aarch64::*;

#[inline]
#[target_feature(enable = "neon")]
pub(crate) fn load16(x: &[u8; 16]) -> uint8x16_t {
    // SAFETY: 16 readable bytes.
    unsafe { vld1q_u8(x.as_ptr()) }
}

/// Two times 16 bytes.
#[inline]
#[target_feature(enable = "neon")]
pub(crate) fn bytes(a: &[u8; 16], b: &[u8; 16]) -> [int8x16_t; 2] {
    [vreinterpretq_s8_u8(load16(a)), vreinterpretq_s8_u8(load16(b))]
}

/// The low and the high nibbles of 16 bytes.
#[inline]
#[target_feature(enable = "neon")]
pub(crate) fn nibbles(x: &[u8; 16]) -> [int8x16_t; 2] {
    let x = load16(x);
    [vreinterpretq_s8_u8(vandq_u8(x, vdupq_n_u8(15))), vreinterpretq_s8_u8(vshrq_n_u8::<4>(x))]
}

/// `table[x]`.
#[inline]
#[target_feature(enable = "neon")]
pub(crate) fn look_up(table: uint8x16_t, x: [int8x16_t; 2]) -> [int8x16_t; 2] {
    let one = |x| vreinterpretq_s8_u8(vqtbl1q_u8(table, vreinterpretq_u8_s8(x)));
    [one(x[0]), one(x[1])]
}

/// What to add to a dot of [`Codes::words`] with activations that sum up to `sum`.
#[inline]
#[target_feature(enable = "neon")]
pub(crate) fn bias<C: Codes<N>, const N: usize>(sum: i32) -> int32x4_t {
    vmulq_n_s32(vdupq_n_s32(sum), -C::EXCESS)
}

#[inline]
#[target_feature(enable = "neon")]
pub(crate) fn splat(x: f32) -> float32x4_t {
    vdupq_n_f32(x)
}

/// Four binary16, the first or the second.
#[inline]
#[target_feature(enable = "neon")]
pub(crate) fn halves(x: &[u8; 16], which: usize) -> float32x4_t {
    let x: &[u8; 8] = &x.as_chunks().0[which];
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

/// Keeps loads on their side: the compiler otherwise brings so many forward that it runs out of registers.
#[inline(always)]
pub(crate) fn keep_order() {
    // SAFETY: no instruction.
    unsafe { core::arch::asm!("", options(nomem, nostack, preserves_flags)) }
}
