//! `y = W·x` for float tiles: the `--weights f32 | f16 | bf16` path.

use super::elem::{Bf16, Elem, F16, F32};
use crate::lanes::{Lanes, first_mut};
use crate::rows::Block;
use crate::table::Tiles;
use bourn_format::Dtype;
use bourn_format::layout::{TILE_ROWS, tile_bytes};

/// See [`crate::table::Kernels::mul_float`].
#[inline(always)]
pub(crate) fn mul_float<L: Lanes>(w: &Tiles<'_>, x: &[f32], x_stride: usize, y: &mut Block<'_>) {
    match w.dtype {
        Dtype::F32 => tiles::<L, F32>(w, x, x_stride, y),
        Dtype::F16 => tiles::<L, F16>(w, x, x_stride, y),
        Dtype::Bf16 => tiles::<L, Bf16>(w, x, x_stride, y),
        other => panic!("mul_float takes float tiles, not {}", other.name()),
    }
}

#[inline(always)]
fn tiles<L: Lanes, E: Elem>(w: &Tiles<'_>, x: &[f32], x_stride: usize, y: &mut Block<'_>) {
    let bytes = tile_bytes(w.dtype, w.cols);
    assert!(w.cols > 0 && w.cols <= x_stride && w.bytes.len() * TILE_ROWS == y.len() * bytes);
    let n = y.n();
    assert!(n == 0 || (n - 1) * x_stride + w.cols <= x.len());
    for (tile, w_tile) in w.bytes.chunks_exact(bytes).enumerate() {
        let mut t = 0;
        while t < n {
            // Four sums a token: a quarter of the registers' worth of tokens.
            if L::QUERIES * L::VECTORS >= 16 && n - t >= 4 {
                tokens::<L, E, 4>(w_tile, w.cols, x, x_stride, y, tile, t);
                t += 4;
            } else if L::QUERIES * L::VECTORS >= 6 && n - t >= 2 {
                tokens::<L, E, 2>(w_tile, w.cols, x, x_stride, y, tile, t);
                t += 2;
            } else {
                tokens::<L, E, 1>(w_tile, w.cols, x, x_stride, y, tile, t);
                t += 1;
            }
        }
    }
}

/// One tile times `T` tokens.
#[inline(always)]
fn tokens<L: Lanes, E: Elem, const T: usize>(
    w: &[u8],
    cols: usize,
    x: &[f32],
    x_stride: usize,
    y: &mut Block<'_>,
    tile: usize,
    t0: usize,
) {
    let mut xs = [x; T];
    for (t, row) in xs.iter_mut().enumerate() {
        *row = &x[(t0 + t) * x_stride..][..cols];
    }
    let mut acc = [[L::splat(0.0); 4]; T];
    let full = cols / 4 * 4;
    let column = 16 * E::BYTES;
    let mut c = 0;
    while c < full {
        for j in 0..4 {
            let wc: L = E::load(&w[(c + j) * column..][..column]);
            for t in 0..T {
                acc[t][j] = wc.fma(L::splat(xs[t][c + j]), acc[t][j]);
            }
        }
        c += 4;
    }
    for j in 0..cols - full {
        let wc: L = E::load(&w[(c + j) * column..][..column]);
        for t in 0..T {
            acc[t][j] = wc.fma(L::splat(xs[t][c + j]), acc[t][j]);
        }
    }
    for (t, a) in acc.iter().enumerate() {
        let sum = a[0].add(a[1]).add(a[2].add(a[3]));
        sum.store(first_mut(&mut y.row(t0 + t)[tile * TILE_ROWS..]));
    }
}
