//! Inputs from a seed, and the comparison.

use bourn_format::Dtype;
use bourn_format::layout::{LINEAR, block_bytes, padded_cols, tile_bytes};
use bourn_kernels::{Kernels, Q8RowMut, Q8Rows, Tiles, available, by_name};
use half::f16;

/// xorshift64*.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    /// In −1..1.
    pub fn unit(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1 << 23) as f32 - 1.0
    }

    pub fn floats(&mut self, n: usize, scale: f32) -> Vec<f32> {
        (0..n).map(|_| self.unit() * scale).collect()
    }
}

/// A fitted table: levels at both ends of what is allowed.
pub const FITTED: [i8; 16] = [-31, -22, -16, -12, -9, -6, -3, -1, 1, 3, 6, 9, 13, 17, 23, 31];

pub fn scalar() -> &'static Kernels {
    by_name("scalar").expect("scalar is always there")
}

/// Every tier but scalar.
pub fn others() -> impl Iterator<Item = &'static Kernels> {
    available().filter(|k| k.isa != "scalar")
}

/// Same bits, or both NaN.
#[track_caller]
pub fn assert_same(isa: &str, what: &str, got: &[f32], want: &[f32]) {
    assert_eq!(got.len(), want.len());
    for (i, (g, w)) in got.iter().zip(want).enumerate() {
        assert!(
            g.to_bits() == w.to_bits() || (g.is_nan() && w.is_nan()),
            "{what}/{isa}: element {i} of {} is {g:e}, scalar says {w:e}",
            want.len()
        );
    }
}

/// Owned tiles.
pub struct Matrix {
    pub dtype: Dtype,
    pub cols: usize,
    pub table: [i8; 16],
    pub bytes: Vec<u8>,
}

impl Matrix {
    pub fn random(r: &mut Random, dtype: Dtype, tiles: usize, cols: usize) -> Self {
        let mut bytes: Vec<u8> = (0..tiles * tile_bytes(dtype, cols)).map(|_| r.next() as u8).collect();
        if dtype.is_quantized() {
            let header = if dtype == Dtype::Q4M { 128 } else { 64 };
            for block in bytes.chunks_exact_mut(block_bytes(dtype)) {
                for s in block[..header].chunks_exact_mut(2) {
                    s.copy_from_slice(&f16::from_f32(r.unit() * 0.1).to_le_bytes());
                }
            }
        } else if dtype == Dtype::F32 {
            bytes.chunks_exact_mut(4).for_each(|b| b.copy_from_slice(&r.unit().to_le_bytes()));
        } else {
            // Any sign and mantissa, exponents around 1.
            let (keep, one) = if dtype == Dtype::F16 { (0x83ff, 0x3800) } else { (0x807f, 0x3f00) };
            bytes.chunks_exact_mut(2).for_each(|b| {
                let bits = (u16::from_le_bytes([b[0], b[1]]) & keep) | one;
                b.copy_from_slice(&bits.to_le_bytes());
            });
        }
        let table = if r.next().is_multiple_of(2) { LINEAR } else { FITTED };
        Self { dtype, cols, table, bytes }
    }

    pub fn view(&self) -> Tiles<'_> {
        Tiles { dtype: self.dtype, bytes: &self.bytes, cols: self.cols, table: self.table }
    }
}

/// Owned int8 activations.
pub struct Activations {
    pub n: usize,
    pub q: Vec<i8>,
    pub scale: Vec<f32>,
    pub sum: Vec<i32>,
}

impl Activations {
    /// `n` vectors of `cols` elements, quantized by `k`.
    pub fn quantize(k: &Kernels, x: &[f32], cols: usize) -> Self {
        let (n, padded) = (x.len() / cols, padded_cols(cols));
        let groups = padded / 32;
        let mut out = Self { n, q: vec![99; n * padded], scale: vec![9.0; n * groups], sum: vec![9; n * groups] };
        for t in 0..n {
            let mut row = Q8RowMut {
                q: &mut out.q[t * padded..][..padded],
                scale: &mut out.scale[t * groups..][..groups],
                sum: &mut out.sum[t * groups..][..groups],
            };
            (k.quantize)(&x[t * cols..][..cols], &mut row);
        }
        out
    }

    /// Every element `value(i)`, scales and sums to match.
    pub fn constant(n: usize, cols: usize, value: impl Fn(usize) -> i8) -> Self {
        let padded = padded_cols(cols);
        let mut q: Vec<i8> = (0..n * padded).map(&value).collect();
        for row in q.chunks_exact_mut(padded) {
            row[cols..].fill(0);
        }
        let sum: Vec<i32> = q.chunks_exact(32).map(|g| g.iter().map(|&q| i32::from(q)).sum()).collect();
        Self { n, scale: vec![0.5; sum.len()], q, sum }
    }

    pub fn view(&self) -> Q8Rows<'_> {
        Q8Rows { n: self.n, q: &self.q, scale: &self.scale, sum: &self.sum }
    }

    /// Vector `t` alone.
    pub fn one(&self, t: usize) -> Q8Rows<'_> {
        let (p, g) = (self.q.len() / self.n, self.sum.len() / self.n);
        Q8Rows { n: 1, q: &self.q[t * p..][..p], scale: &self.scale[t * g..][..g], sum: &self.sum[t * g..][..g] }
    }
}
