//! The coarse look at every row of a screened head: tables of 16 bytes, looked up by codes of 4 bits, summed in 16 bits.
//!
//! All sums are whole numbers, so every tier gets the same ones; floats come in only at the two ends.

use crate::lanes::{Lanes, ROUNDER, first, first_mut};
use crate::table::{ScreenTables, ScreenTiles};
use bourn_format::Screen;
use bourn_format::layout::{Dtype, TILE_ROWS, tile_bytes};

/// Largest value of a narrow table: two of them still fit a byte together with [`ZERO`] twice.
const NARROW: f32 = 63.0;
/// Largest value of a wide table, `64·63 + 31`.
const WIDE: f32 = 4063.0;
/// The byte that stands for 0.
const ZERO: u8 = 63;
/// Tiles that share one read of the tables.
pub(crate) const TILES: usize = 4;

/// Look-ups in tables of 16 bytes, for four tiles of rows side by side.
pub(crate) trait LookUp: Lanes {
    /// `out[k][row] = Σ_p low(p)[code & 15] + high(p)[code >> 4]`, `code = tiles[k][p][row]`, `(low, high) = tables[p]`: modulo 2^16.
    fn sums(tiles: [&[[u8; 16]]; TILES], tables: &[[[u8; 16]; 2]]) -> [[u16; TILE_ROWS]; TILES];
}

/// See [`crate::table::Kernels::screen_tables`].
///
/// # Panics
/// If a slice has another length than stated.
#[inline(always)]
pub(crate) fn tables<L: Lanes>(
    screen: &Screen<'_>,
    books: &[u8],
    y: &[f32],
    values: &mut [f32],
    low: &mut [u8],
    high: &mut [u8],
) -> (f32, f32) {
    let (n, n_wide) = (screen.n_subs(), screen.n_wide());
    assert!(books.len() == 4 * screen.book_values() && y.len() >= screen.dims());
    assert!(values.len() == 16 * n && low.len() == 16 * n && high.len() == 16 * n_wide);
    let zero = L::splat(0.0);
    let (mut base, mut narrow, mut wide) = (0.0f32, 0.0f32, 0.0f32);
    let mut at = 0;
    for (i, sub) in screen.subs().enumerate() {
        let mut v = zero;
        let mut d = 0;
        while d < sub.n {
            v = L::from_le_f32(first(&books[at..])).fma(L::splat(y[sub.first + d]), v);
            at += 64;
            d += 1;
        }
        let (most, least) = (v.reduce_max(), -zero.sub(v).reduce_max());
        let middle = 0.5 * (most + least);
        let half = most - middle;
        base += middle;
        if i < n_wide {
            wide = if half > wide { half } else { wide };
        } else {
            narrow = if half > narrow { half } else { narrow };
        }
        v.sub(L::splat(middle)).store(first_mut(&mut values[16 * i..]));
    }
    let (a, b) = (narrow / NARROW, wide / WIDE);
    let lsb = if a > b { a } else { b };
    let inverse = L::splat(if lsb > 1e-30 { 1.0 / lsb } else { 0.0 });
    let rounder = L::splat(ROUNDER);
    let mut i = 0;
    while i < n {
        let v = L::load(first(&values[16 * i..])).mul(inverse);
        let low: &mut [u8; 16] = first_mut(&mut low[16 * i..]);
        if i < n_wide {
            let v = v.min(L::splat(WIDE)).max(L::splat(-WIDE)).add(rounder).sub(rounder);
            let top = v.fma(L::splat(1.0 / 64.0), rounder);
            let rest = top.sub(rounder).fma(L::splat(-64.0), v);
            *first_mut(&mut high[16 * i..]) = lifted(top.low_bytes());
            *low = lifted(rest.add(rounder).low_bytes());
        } else {
            *low = lifted(v.min(L::splat(NARROW)).max(L::splat(-NARROW)).add(rounder).low_bytes());
        }
        i += 1;
    }
    (lsb, base)
}

/// Signed values as bytes that are not.
#[inline(always)]
fn lifted(x: [i8; 16]) -> [u8; 16] {
    let mut out = [0; 16];
    let mut i = 0;
    while i < 16 {
        out[i] = (x[i] as u8).wrapping_add(ZERO);
        i += 1;
    }
    out
}

/// See [`crate::table::Kernels::screen_scores`].
///
/// # Panics
/// If a slice has another length than stated.
#[inline(always)]
pub(crate) fn scores<L: LookUp>(w: &ScreenTiles<'_>, t: &ScreenTables<'_>, y: &mut [f32]) {
    let tile = tile_bytes(Dtype::U4, w.n_subs);
    let n = y.len() / TILE_ROWS;
    assert!(w.n_subs > 0 && w.n_subs.is_multiple_of(2) && y.len() == n * TILE_ROWS);
    assert!(w.codes.len() == n * tile && w.bias.len() == 2 * y.len());
    assert!(t.low.len() == 16 * w.n_subs && t.high.len().is_multiple_of(32) && t.high.len() <= t.low.len());
    let low = t.low.as_chunks().0.as_chunks().0;
    let high = t.high.as_chunks().0.as_chunks().0;
    let (codes, _) = w.codes.as_chunks::<16>();
    let (biases, _) = w.bias.as_chunks::<32>();
    let (ys, _) = y.as_chunks_mut::<TILE_ROWS>();
    // What the lifted tables add to every row's sums.
    let excess = i32::from(ZERO) * (w.n_subs as i32 + 64 * (t.high.len() / 16) as i32);
    let (lsb, base) = (L::splat(t.lsb), L::splat(t.base));
    let vectors = w.n_subs / 2;
    let mut start = 0;
    while start < n {
        let mut tiles: [&[[u8; 16]]; TILES] = [&[]; TILES];
        let mut k = 0;
        while k < TILES {
            // After the last tile the last one again: counted, not kept.
            let i = if start + k < n { start + k } else { n - 1 };
            tiles[k] = &codes[i * vectors..(i + 1) * vectors];
            k += 1;
        }
        let small = L::sums(tiles, low);
        let large = if high.is_empty() { [[0; TILE_ROWS]; TILES] } else { L::sums(tiles, high) };
        let mut k = 0;
        while k < TILES && start + k < n {
            let mut sum = [0.0; TILE_ROWS];
            let mut row = 0;
            while row < TILE_ROWS {
                sum[row] = (i32::from(small[k][row]) + 64 * i32::from(large[k][row]) - excess) as f32;
                row += 1;
            }
            let bias = L::from_f16(&biases[start + k]).add(base);
            L::load(&sum).fma(lsb, bias).store(&mut ys[start + k]);
            k += 1;
        }
        start += TILES;
    }
}
