//! Numbers as the image and the CPU have them, made of what every GPU has: f32 and whole numbers of 32 bits.

use cubecl_core as cubecl;
use cubecl_core::prelude::*;

/// The f32 of the half with these 16 bits; subnormal halves too, which some GPUs' own conversions flush.
#[cube]
pub fn half_to_f32(h: u32) -> f32 {
    let size = h & 0x7fffu32;
    let small = f32::cast_from(size) * 5.960_464_5e-8f32;
    let bits = select(size >= 0x7c00u32, (size << 13u32) + 0x7000_0000u32, (size << 13u32) + 0x3800_0000u32);
    let value = select(size < 0x400u32, small, f32::reinterpret(bits));
    select((h & 0x8000u32) != 0u32, -value, value)
}

/// The half in the lower (`which` 0) or upper (1) 16 bits of a word.
#[cube]
pub fn half_of(word: u32, which: u32) -> f32 {
    half_to_f32((word >> (which * 16u32)) & 0xffffu32)
}

/// The bits of the half nearest to `x`, half to even, too large to infinity.
#[cube]
pub fn f32_to_half(x: f32) -> u32 {
    let bits = u32::reinterpret(x);
    let size = bits & 0x7fff_ffffu32;
    let normal = (size - 0x3800_0000u32 + 0xfffu32 + ((size >> 13u32) & 1u32)) >> 13u32;
    // Half a unit has the weight of a subnormal half's last bit in its own last bit.
    let small = u32::reinterpret(f32::reinterpret(size) + 0.5f32) - 0x3f00_0000u32;
    let large = select(size > 0x7f80_0000u32, 0x7e00u32, 0x7c00u32);
    let value = select(size < 0x3880_0000u32, small, normal);
    let value = select(size >= 0x4780_0000u32, large, value);
    value | ((bits >> 16u32) & 0x8000u32)
}

/// A product that is rounded before it is added to another: WGSL lets a device fuse what is written as a product and a sum.
#[cube]
pub fn product(a: f32, b: f32) -> f32 {
    fma(a, b, 0.0f32)
}

/// `e^a` by the steps of `bourn_kernels`: 0 below −87, `e^88.37` above.
#[cube]
pub fn exp(a: f32) -> f32 {
    let x = max(min(a, 88.37f32), -87.0f32);
    // The product is rounded before it becomes a whole number: where that has led across the middle, one step back.
    let n = f32::round(x * core::f32::consts::LOG2_E);
    let rest = fma(x, core::f32::consts::LOG2_E, -n);
    let n = select(rest > 0.5f32, n + 1.0f32, select(rest < -0.5f32, n - 1.0f32, n));
    let r = fma(n, -0.693_359_4f32, x);
    let r = fma(n, 2.121_944_4e-4f32, r);
    let p = fma(1.987_569_1e-4f32, r, 1.398_2e-3f32);
    let p = fma(p, r, 8.333_452e-3f32);
    let p = fma(p, r, 4.166_579_6e-2f32);
    let p = fma(p, r, 1.666_666_5e-1f32);
    let p = fma(p, r, 0.5f32);
    let y = fma(p, r * r, r) + 1.0f32;
    let power = f32::reinterpret(u32::reinterpret(i32::cast_from(n) + 127i32) << 23u32);
    select(a < -87.0f32, 0.0f32, y * power)
}

/// `c·tanh(x/c)`.
#[cube]
pub fn softcap(x: f32, #[comptime] c_bits: u32) -> f32 {
    let c = f32::from_bits(c_bits);
    let a = x / c;
    c * (1.0f32 - 2.0f32 / (exp(a + a) + 1.0f32))
}
