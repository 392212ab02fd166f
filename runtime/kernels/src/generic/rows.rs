//! Rows of a head one by one: 8-bit rows that lie each on its own, so that any of them can be read without its neighbours.

use crate::lanes::{Lanes, first};
use crate::rows::Block;
use crate::table::{Q8Rows, Tiles};
use bourn_format::layout::{Dtype, GROUP, TILE_ROWS, padded_cols, row_bytes};

/// The products of one group of 16 rows.
pub(crate) trait RowDots: Lanes {
    /// `Σ_c w[row·stride + c]·x[c]` in lane `row`: whole numbers below 2²⁴, exact.
    ///
    /// # Panics
    /// If `w` ends before the last row's group does.
    #[inline(always)]
    fn dots(w: &[u8], stride: usize, x: &[i8; GROUP]) -> Self {
        Self::load(&some_dots(w, stride, TILE_ROWS, x))
    }
}

/// The same of the first `rows` rows; 0 for the others.
#[inline(always)]
fn some_dots(w: &[u8], stride: usize, rows: usize, x: &[i8; GROUP]) -> [f32; TILE_ROWS] {
    let mut dots = [0.0; TILE_ROWS];
    let mut row = 0;
    while row < rows {
        dots[row] = dot(first(&w[row * stride..]), x) as f32;
        row += 1;
    }
    dots
}

/// See [`crate::table::Kernels::mul_rows`]: sixteen rows are the lanes, so that a row's sum takes the same steps as in a tile.
///
/// # Panics
/// If a slice has another length than stated.
#[inline(always)]
pub(crate) fn mul_rows<L: RowDots>(w: &Tiles<'_>, x: &Q8Rows<'_>, y: &mut Block<'_>) {
    let (padded, bytes) = (padded_cols(w.cols), row_bytes(w.cols));
    let groups = padded / GROUP;
    assert!(w.dtype as u8 == Dtype::Q8R as u8 && w.cols > 0 && w.bytes.len() == y.len() * bytes);
    assert!(y.n() == x.n && x.q.len() == x.n * padded && x.scale.len() == x.n * groups);
    let n = y.len();
    let mut start = 0;
    while start < n {
        let rows = if n - start < TILE_ROWS { n - start } else { TILE_ROWS };
        let w = &w.bytes[start * bytes..(start + rows) * bytes];
        let mut t = 0;
        while t < x.n {
            let q = x.q[t * padded..(t + 1) * padded].as_chunks::<GROUP>().0;
            let scale = &x.scale[t * groups..(t + 1) * groups];
            let mut acc = L::splat(0.0);
            let mut g = 0;
            while g < groups {
                let mut scales = [0; 2 * TILE_ROWS];
                let mut row = 0;
                while row < rows {
                    let w = &w[row * bytes + 2 * g..];
                    scales[2 * row] = w[0];
                    scales[2 * row + 1] = w[1];
                    row += 1;
                }
                let codes = &w[2 * groups + GROUP * g..];
                let dots =
                    if rows == TILE_ROWS { L::dots(codes, bytes, &q[g]) } else { L::load(&some_dots(codes, bytes, rows, &q[g])) };
                acc = dots.fma(L::from_f16(&scales).mul(L::splat(scale[g])), acc);
                g += 1;
            }
            acc.store_part(&mut y.row(t)[start..start + rows]);
            t += 1;
        }
        start += rows;
    }
}

/// `Σ w·x`, exact.
#[inline(always)]
fn dot(w: &[u8; GROUP], x: &[i8; GROUP]) -> i32 {
    let mut sum = 0;
    let mut i = 0;
    while i < GROUP {
        sum += i32::from(w[i] as i8) * i32::from(x[i]);
        i += 1;
    }
    sum
}
