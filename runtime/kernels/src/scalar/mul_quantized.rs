//! `y[t][r] = Σ_g (Σ_{c in g} level(r, c)·q[t][c]) · (s(r, g)·s_x[t][g])  [+ m(r, g)·(s_x[t][g]·Σ q[t])]`.

use crate::rows::Block;
use crate::table::{Q8Rows, Tiles};
use bourn_format::Dtype;
use bourn_format::layout::{BLOCK_COLS, GROUP, TILE_ROWS, block_bytes, padded_cols, tile_bytes};
use half::f16;

/// Refuses slices of other lengths than the table says; gives the blocks of a tile.
///
/// # Panics
/// If a slice has another length than stated.
pub(crate) fn check(w: &Tiles<'_>, x: &Q8Rows<'_>, y: &Block<'_>) -> usize {
    // Far beyond any image, and far below where a product of lengths would wrap: the tiers read unchecked after this.
    assert!(w.cols <= 1 << 24 && x.n <= 1 << 24);
    let (bytes, padded) = (tile_bytes(w.dtype, w.cols), padded_cols(w.cols));
    assert!(w.dtype.is_quantized() && w.dtype != Dtype::Q8R, "mul_quantized takes quantized tiles, not {}", w.dtype.name());
    assert!(w.cols > 0 && w.bytes.len() * TILE_ROWS == y.len() * bytes && y.len().is_multiple_of(TILE_ROWS));
    assert!(y.n() == x.n && x.q.len() == x.n * padded);
    assert!(x.scale.len() == x.n * (padded / GROUP) && x.sum.len() == x.scale.len());
    padded / BLOCK_COLS
}

/// 16 levels of a group for one column of words: `[row][column]`.
type Levels = [[i8; GROUP]; TILE_ROWS];

/// The levels of group `g` of a block, scales not applied.
pub(crate) fn levels(w: &Tiles<'_>, block: &[u8], g: usize) -> Levels {
    let mut t = [[0; GROUP]; TILE_ROWS];
    let codes = match w.dtype {
        Dtype::Q4 => &block[64 + 256 * g..],
        Dtype::Q4M => &block[128 + 256 * g..],
        _ => &block[64 + 512 * g..],
    };
    for (row, t) in t.iter_mut().enumerate() {
        if w.dtype == Dtype::Q8 {
            for (c, t) in t.iter_mut().enumerate() {
                *t = codes[(c / 4) * 64 + row * 4 + c % 4] as i8;
            }
        } else {
            for c in 0..16 {
                let code = codes[(c / 4) * 64 + row * 4 + c % 4];
                t[c] = w.table[usize::from(code & 15)];
                t[16 + c] = w.table[usize::from(code >> 4)];
            }
        }
    }
    t
}

/// The f16 at `at + 2·row`.
pub(crate) fn half_at(block: &[u8], at: usize, row: usize) -> f32 {
    f16::from_le_bytes([block[at + 2 * row], block[at + 2 * row + 1]]).to_f32_const()
}

/// See [`crate::table::Kernels::mul_quantized`].
///
/// # Panics
/// If a slice has another length than stated.
pub fn mul_quantized(w: &Tiles<'_>, x: &Q8Rows<'_>, y: &mut Block<'_>) {
    let blocks = check(w, x, y);
    let bytes = block_bytes(w.dtype);
    for (tile, w_tile) in w.bytes.chunks_exact(blocks * bytes).enumerate() {
        for t in 0..x.n {
            y.row(t)[tile * TILE_ROWS..][..TILE_ROWS].fill(0.0);
        }
        for (b, block) in w_tile.chunks_exact(bytes).enumerate() {
            for g in 0..2 {
                let levels = levels(w, block, g);
                for t in 0..x.n {
                    let i = t * 2 * blocks + 2 * b + g;
                    let (q, s_x, sum) = (&x.q[i * GROUP..][..GROUP], x.scale[i], x.sum[i] as f32);
                    let y = &mut y.row(t)[tile * TILE_ROWS..][..TILE_ROWS];
                    for (row, (y, levels)) in y.iter_mut().zip(&levels).enumerate() {
                        let dot: i32 = levels.iter().zip(q).map(|(&w, &x)| i32::from(w) * i32::from(x)).sum();
                        *y = libm::fmaf(dot as f32, half_at(block, 32 * g, row) * s_x, *y);
                        if w.dtype == Dtype::Q4M {
                            *y = libm::fmaf(half_at(block, 64 + 32 * g, row), s_x * sum, *y);
                        }
                    }
                }
            }
        }
    }
}
