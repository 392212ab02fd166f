//! The little linear algebra that fitting needs, in one order of operations, so that every machine gets the same bits.

use nalgebra::{DMatrix, SymmetricEigen};

/// Rows and columns of a product that are summed at once, in registers.
const TILE: (usize, usize) = (4, 8);

/// A symmetric matrix `[n, n]`, row-major, summed in f64.
#[derive(Clone, Debug)]
pub(crate) struct Symmetric {
    pub n: usize,
    pub values: Vec<f64>,
}

impl Symmetric {
    pub(crate) fn zeros(n: usize) -> Self {
        Self { n, values: vec![0.0; n * n] }
    }

    /// `+=` a part of the sum.
    pub(crate) fn add(&mut self, gram: &[f32]) {
        for (sum, g) in self.values.iter_mut().zip(gram) {
            *sum += f64::from(*g);
        }
    }

    /// Eigenvalues in falling order, and the vectors as rows `[n, n]`; each vector's largest component is positive.
    pub(crate) fn eigen(&self) -> (Vec<f64>, Vec<f64>) {
        let n = self.n;
        let eigen = SymmetricEigen::new(DMatrix::from_fn(n, n, |i, j| 0.5 * (self.values[i * n + j] + self.values[j * n + i])));
        let mut order: Vec<usize> = (0..n).collect();
        order.sort_by(|&a, &b| eigen.eigenvalues[b].total_cmp(&eigen.eigenvalues[a]).then(a.cmp(&b)));
        let mut vectors = Vec::with_capacity(n * n);
        for &i in &order {
            let column = eigen.eigenvectors.column(i);
            let largest = column.iter().fold(0.0f64, |m, v| if v.abs() > m.abs() { *v } else { m });
            let sign = if largest < 0.0 { -1.0 } else { 1.0 };
            vectors.extend(column.iter().map(|v| sign * v));
        }
        (order.iter().map(|&i| eigen.eigenvalues[i]).collect(), vectors)
    }

    /// `−= x·xᵀ`.
    pub(crate) fn take_square(&mut self, x: &[f64]) {
        for (row, a) in self.values.chunks_exact_mut(self.n).zip(x) {
            row.iter_mut().zip(x).for_each(|(v, b)| *v -= a * b);
        }
    }

    /// `S·x`.
    pub(crate) fn times(&self, x: &[f64]) -> Vec<f64> {
        self.values.chunks_exact(self.n).map(|row| row.iter().zip(x).map(|(a, b)| a * b).sum()).collect()
    }

    /// `V·f(λ)·Vᵀ` of eigenvalues and vectors.
    pub(crate) fn composed((values, vectors): &(Vec<f64>, Vec<f64>), f: impl Fn(f64) -> f64) -> Self {
        let n = values.len();
        let mut out = Self::zeros(n);
        for (value, v) in values.iter().zip(vectors.chunks_exact(n)) {
            let scale = f(*value);
            for (row, a) in out.values.chunks_exact_mut(n).zip(v) {
                let a = scale * a;
                row.iter_mut().zip(v).for_each(|(sum, b)| *sum += a * b);
            }
        }
        out
    }

    /// `A·S·A` with another symmetric `A`.
    pub(crate) fn between(&self, a: &Self) -> Self {
        let left = product(&a.values, &self.values, self.n);
        Self { n: self.n, values: product(&left, &a.values, self.n) }
    }
}

/// `a·b` of square matrices `[n, n]`.
pub(crate) fn product(a: &[f64], b: &[f64], n: usize) -> Vec<f64> {
    let mut out = vec![0.0; n * n];
    for (row, a) in out.chunks_exact_mut(n).zip(a.chunks_exact(n)) {
        for (a, b) in a.iter().zip(b.chunks_exact(n)) {
            row.iter_mut().zip(b).for_each(|(sum, b)| *sum += a * b);
        }
    }
    out
}

/// Column-major panels of a matrix `[k, n]`, `WIDTH` columns side by side, padded with zeros.
#[derive(Clone, Debug)]
pub(crate) struct Panels<const WIDTH: usize> {
    panels: Vec<[f32; WIDTH]>,
    k: usize,
    n: usize,
}

impl<const WIDTH: usize> Panels<WIDTH> {
    /// Of rows `x [k, n]`, row `r` times `scale(r)`.
    pub(crate) fn of_rows(x: &[f32], n: usize, scale: impl Fn(usize) -> f32) -> Self {
        let k = x.len() / n.max(1);
        let mut panels = vec![[0.0; WIDTH]; n.div_ceil(WIDTH) * k];
        for (r, row) in x.chunks_exact(n).enumerate() {
            for (p, part) in row.chunks(WIDTH).enumerate() {
                for (to, from) in panels[p * k + r].iter_mut().zip(part) {
                    *to = scale(r) * from;
                }
            }
        }
        Self { panels, k, n }
    }

    /// Of the transpose of `x [n, k]`.
    pub(crate) fn of_columns(x: &[f32], k: usize) -> Self {
        let n = x.len() / k.max(1);
        let mut panels = vec![[0.0; WIDTH]; n.div_ceil(WIDTH) * k];
        for (i, row) in x.chunks_exact(k).enumerate() {
            for (r, v) in row.iter().enumerate() {
                panels[i / WIDTH * k + r][i % WIDTH] = *v;
            }
        }
        Self { panels, k, n }
    }
}

/// `aᵀ·b`, `[a.n, b.n]` row-major, each element summed over `k` in rising order.
pub(crate) fn multiply(a: &Panels<{ TILE.0 }>, b: &Panels<{ TILE.1 }>, out: &mut [f32]) {
    let (k, n) = (a.k, b.n);
    debug_assert!(k == b.k && out.len() == a.n * n);
    for (j, b) in b.panels.chunks_exact(k.max(1)).enumerate() {
        for (i, a) in a.panels.chunks_exact(k.max(1)).enumerate() {
            let mut acc = [[0.0f32; TILE.1]; TILE.0];
            for (a, b) in a.iter().zip(b) {
                for (acc, a) in acc.iter_mut().zip(a) {
                    for (acc, b) in acc.iter_mut().zip(b) {
                        *acc += a * b;
                    }
                }
            }
            for (row, acc) in out.chunks_exact_mut(n).skip(i * TILE.0).zip(acc) {
                let width = TILE.1.min(n - j * TILE.1);
                row[j * TILE.1..][..width].copy_from_slice(&acc[..width]);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(n: usize, seed: u64) -> Vec<f32> {
        let mut state = seed;
        let mut next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 40) as f32 / (1 << 23) as f32 - 1.0
        };
        (0..n).map(|_| next()).collect()
    }

    #[test]
    fn multiplies() {
        for (k, m, n) in [(1, 1, 1), (3, 4, 8), (7, 5, 9), (20, 13, 17)] {
            let (a, b) = (numbers(k * m, 1), numbers(k * n, 2));
            let mut out = vec![0.0; m * n];
            multiply(&Panels::of_rows(&a, m, |_| 1.0), &Panels::of_rows(&b, n, |_| 1.0), &mut out);
            let mut transposed = vec![0.0; m * k];
            (0..k).for_each(|r| (0..m).for_each(|i| transposed[i * k + r] = a[r * m + i]));
            let mut again = vec![0.0; m * n];
            multiply(&Panels::of_columns(&transposed, k), &Panels::of_rows(&b, n, |_| 1.0), &mut again);
            assert_eq!(out, again);
            for i in 0..m {
                for j in 0..n {
                    let want: f64 = (0..k).map(|r| f64::from(a[r * m + i]) * f64::from(b[r * n + j])).sum();
                    assert!((f64::from(out[i * n + j]) - want).abs() < 1e-5);
                }
            }
        }
    }

    #[test]
    fn a_root_times_itself_is_the_matrix() {
        let n = 12;
        let x = numbers(40 * n, 3);
        let mut gram = vec![0.0; n * n];
        multiply(&Panels::of_rows(&x, n, |_| 1.0), &Panels::of_rows(&x, n, |_| 1.0), &mut gram);
        let mut s = Symmetric::zeros(n);
        s.add(&gram);
        let root = Symmetric::composed(&s.eigen(), f64::sqrt);
        let square = product(&root.values, &root.values, n);
        assert!(square.iter().zip(&s.values).all(|(a, b)| (a - b).abs() < 1e-4));
        let (values, _) = s.eigen();
        assert!(values.windows(2).all(|w| w[0] >= w[1]));
    }
}
