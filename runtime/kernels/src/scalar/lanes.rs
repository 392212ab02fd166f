//! Sixteen f32 in an array: what the operations of [`Lanes`] mean.

use crate::lanes::Lanes;
use half::{bf16, f16};

/// An array of 16.
#[derive(Clone, Copy)]
pub(crate) struct Scalar([f32; 16]);

impl Scalar {
    #[inline(always)]
    fn zip(self, b: Self, f: impl Fn(f32, f32) -> f32) -> Self {
        Self(core::array::from_fn(|i| f(self.0[i], b.0[i])))
    }

    /// Lane `i` with lane `i + 8`, then 4, 2, 1.
    #[inline(always)]
    fn halves(self, f: impl Fn(f32, f32) -> f32) -> f32 {
        let mut a = self.0;
        for h in [8, 4, 2, 1] {
            for i in 0..h {
                a[i] = f(a[i], a[i + h]);
            }
        }
        a[0]
    }
}

#[inline(always)]
fn max(a: f32, b: f32) -> f32 {
    if a > b { a } else { b }
}

#[inline(always)]
fn two<const N: usize>(x: &[u8; N], i: usize) -> [u8; 2] {
    [x[2 * i], x[2 * i + 1]]
}

impl Lanes for Scalar {
    const QUERIES: usize = 1;
    const VECTORS: usize = 1;

    fn splat(x: f32) -> Self {
        Self([x; 16])
    }
    fn load(x: &[f32; 16]) -> Self {
        Self(*x)
    }
    fn from_le_f32(x: &[u8; 64]) -> Self {
        let (x, _) = x.as_chunks::<4>();
        Self(core::array::from_fn(|i| f32::from_le_bytes(x[i])))
    }
    #[inline(never)]
    fn from_f16(x: &[u8; 32]) -> Self {
        Self(core::array::from_fn(|i| f16::from_le_bytes(two(x, i)).to_f32_const()))
    }
    fn from_bf16(x: &[u8; 32]) -> Self {
        Self(core::array::from_fn(|i| bf16::from_le_bytes(two(x, i)).to_f32_const()))
    }
    fn from_i8(x: &[u8; 16]) -> Self {
        Self(x.map(|x| f32::from(x as i8)))
    }
    fn store(self, x: &mut [f32; 16]) {
        *x = self.0;
    }
    #[inline(never)]
    fn to_f16(self) -> [u8; 32] {
        let mut out = [0; 32];
        for (o, x) in out.as_chunks_mut::<2>().0.iter_mut().zip(self.0) {
            *o = f16::from_f32_const(x).to_le_bytes();
        }
        out
    }
    fn low_bytes(self) -> [i8; 16] {
        self.0.map(|x| x.to_bits() as i8)
    }
    fn add(self, b: Self) -> Self {
        self.zip(b, |a, b| a + b)
    }
    fn sub(self, b: Self) -> Self {
        self.zip(b, |a, b| a - b)
    }
    fn mul(self, b: Self) -> Self {
        self.zip(b, |a, b| a * b)
    }
    fn div(self, b: Self) -> Self {
        self.zip(b, |a, b| a / b)
    }
    #[inline(never)] // Long where the CPU has no such instruction.
    fn fma(self, b: Self, c: Self) -> Self {
        Self(core::array::from_fn(|i| libm::fmaf(self.0[i], b.0[i], c.0[i])))
    }
    fn max(self, b: Self) -> Self {
        self.zip(b, max)
    }
    fn min(self, b: Self) -> Self {
        self.zip(b, |a, b| if a < b { a } else { b })
    }
    fn pow2(self) -> Self {
        Self(self.0.map(|a| f32::from_bits((a.to_bits() << 23).wrapping_add(127 << 23))))
    }
    fn zero_if_lt(self, b: Self, x: Self) -> Self {
        Self(core::array::from_fn(|i| if self.0[i] < b.0[i] { 0.0 } else { x.0[i] }))
    }
    fn reduce_add(self) -> f32 {
        self.halves(|a, b| a + b)
    }
    fn reduce_max(self) -> f32 {
        self.halves(max)
    }
}
