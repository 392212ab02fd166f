//! Inputs from a seed, and the comparison.

use bourn_format::Dtype;
use bourn_format::layout::{LINEAR, padded_cols, tile_bytes};
pub use bourn_kernels::conformance::{FITTED, Random};
use bourn_kernels::{Kernels, Q8RowMut, Q8Rows, Tiles, available, by_name};

/// More of them.
pub trait Floats {
    /// `n` in −scale..scale.
    fn floats(&mut self, n: usize, scale: f32) -> Vec<f32>;
}

impl Floats for Random {
    fn floats(&mut self, n: usize, scale: f32) -> Vec<f32> {
        (0..n).map(|_| self.unit() * scale).collect()
    }
}

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
        let mut bytes = vec![0; tiles * tile_bytes(dtype, cols)];
        r.tiles(dtype, &mut bytes);
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
