//! The screened head: look-ups of codes, and rows read one by one.

use crate::inputs::{Activations, Floats, Matrix, Random, assert_same, others, scalar};
use bourn_format::layout::{byte_offset, row_byte_offset, row_bytes, scale_offset, tile_bytes};
use bourn_format::{Dtype, Screen};
use bourn_kernels::conformance::SHAPE;
use bourn_kernels::{Block, Kernels, ScreenTables, ScreenTiles, Tiles, available, row_f32};
use half::f16;

/// A SCREEN section of `n` sub-quantizers over 64 dimensions.
fn section(r: &mut Random, n: usize, n_wide: usize) -> Vec<u8> {
    let mut b = Vec::new();
    for word in [n as u32, n_wide as u32, 64, 16, 8f32.to_bits(), 0, 0, 0] {
        b.extend_from_slice(&word.to_le_bytes());
    }
    for _ in 0..n {
        let (dims, first) = (1 + r.next() as u16 % 8, r.next() as u16 % 56);
        b.extend_from_slice(&first.to_le_bytes());
        b.extend_from_slice(&dims.to_le_bytes());
    }
    b
}

fn le(x: &[f32]) -> Vec<u8> {
    x.iter().flat_map(|x| x.to_le_bytes()).collect()
}

struct Made {
    low: Vec<u8>,
    high: Vec<u8>,
    lsb: f32,
    base: f32,
    values: Vec<f32>,
}

fn tables(k: &Kernels, screen: &Screen<'_>, books: &[f32], y: &[f32]) -> Made {
    let (n, wide) = (screen.n_subs(), screen.n_wide());
    let mut m = Made { low: vec![9; 16 * n], high: vec![9; 16 * wide], lsb: 0.0, base: 0.0, values: vec![9.0; 16 * n] };
    (m.lsb, m.base) = (k.screen_tables)(screen, &le(books), y, &mut m.values, &mut m.low, &mut m.high);
    m
}

fn scores(k: &Kernels, codes: &[u8], bias: &[u8], n_subs: usize, m: &Made) -> Vec<f32> {
    let mut y = vec![7.0; bias.len() / 2];
    let tables = ScreenTables { low: &m.low, high: &m.high, lsb: m.lsb, base: m.base };
    (k.screen_scores)(&ScreenTiles { codes, bias, n_subs }, &tables, &mut y);
    y
}

#[test]
fn a_screen_has_the_bits_of_scalar_and_is_near_the_formula() {
    let mut r = Random::new(21);
    for (n, wide) in [(2, 0), (2, 2), (4, 2), (178, 12), (512, 0), (512, 512)] {
        for (tiles, size) in [(1, 1.0), (3, 1e-3), (4, 50.0), (5, 1.0), (9, 0.0)] {
            let bytes = section(&mut r, n, wide);
            let screen = Screen::new_checked(&bytes, &SHAPE).unwrap();
            let books = r.floats(screen.book_values(), 1.0);
            let y = r.floats(64, size);
            let codes: Vec<u8> = (0..tiles * tile_bytes(Dtype::U4, n)).map(|_| r.next() as u8).collect();
            let bias: Vec<u8> = r.floats(16 * tiles, 4.0).iter().flat_map(|&x| f16::from_f32(x).to_le_bytes()).collect();
            let made = tables(scalar(), &screen, &books, &y);
            let want = scores(scalar(), &codes, &bias, n, &made);
            for k in others() {
                let m = tables(k, &screen, &books, &y);
                assert!(m.low == made.low && m.high == made.high, "screen_tables/{}: {n} {wide}", k.isa);
                assert_same(k.isa, "screen_tables", &[m.lsb, m.base], &[made.lsb, made.base]);
                assert_same(k.isa, "screen_scores", &scores(k, &codes, &bias, n, &m), &want);
            }
            // Each look-up is off by half a step at most.
            for (row, want) in want.iter().enumerate() {
                let mut sum = f64::from(f16::from_le_bytes([bias[2 * row], bias[2 * row + 1]]).to_f32());
                let mut at = 0;
                for (s, sub) in screen.subs().enumerate() {
                    let byte = codes[row / 16 * n * 8 + s / 2 * 16 + row % 16];
                    let e = usize::from(if s % 2 == 0 { byte & 15 } else { byte >> 4 });
                    for d in 0..sub.n {
                        sum += f64::from(books[at + 16 * d + e]) * f64::from(y[sub.first + d]);
                    }
                    at += 16 * sub.n;
                }
                let bound = n as f64 * (0.501 * f64::from(made.lsb) + 1e-4 * f64::from(size));
                assert!((sum - f64::from(*want)).abs() <= bound + 1e-3, "{n} {wide}: row {row} is {want}, not {sum}");
            }
        }
    }
}

#[test]
fn broken_numbers_make_the_same_tables_everywhere() {
    let mut r = Random::new(22);
    let bytes = section(&mut r, 6, 2);
    let screen = Screen::new_checked(&bytes, &SHAPE).unwrap();
    for broken in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, f32::MAX, 1e-45] {
        let mut books = r.floats(screen.book_values(), 1.0);
        let at = r.next() as usize % books.len();
        books[at] = broken;
        let y = r.floats(64, 3.0);
        let want = tables(scalar(), &screen, &books, &y);
        for k in others() {
            let m = tables(k, &screen, &books, &y);
            assert!(m.low == want.low && m.high == want.high, "{}: {broken}", k.isa);
            assert_same(k.isa, "tables", &[m.lsb, m.base], &[want.lsb, want.base]);
        }
    }
}

/// The rows of a Q8 matrix one after another.
fn by_rows(w: &Matrix, rows: usize) -> Vec<u8> {
    let mut out = vec![0; rows * row_bytes(w.cols)];
    for (r, row) in out.chunks_exact_mut(row_bytes(w.cols)).enumerate() {
        let tile = &w.bytes[r / 16 * tile_bytes(Dtype::Q8, w.cols)..];
        for c in 0..w.cols.next_multiple_of(64) {
            row[row_byte_offset(w.cols, c)] = tile[byte_offset(r % 16, c)];
            let at = scale_offset(Dtype::Q8, r % 16, c);
            row[c / 32 * 2..][..2].copy_from_slice(&tile[at..at + 2]);
        }
    }
    out
}

#[test]
fn rows_have_the_bits_of_tiles() {
    let mut r = Random::new(23);
    for cols in [1, 31, 32, 65, 200, 576, 640] {
        let w = Matrix::random(&mut r, Dtype::Q8, 3, cols);
        let bytes = by_rows(&w, 48);
        for n in [1, 2, 5] {
            let x = Activations::quantize(scalar(), &r.floats(n * cols, 2.0), cols);
            let mut tiled = vec![0.0; n * 48];
            (scalar().mul_quantized)(&w.view(), &x.view(), &mut Block::new(&mut tiled, n, 48, 48));
            for rows in [1, 15, 16, 17, 48] {
                let view = Tiles { dtype: Dtype::Q8R, bytes: &bytes[..rows * row_bytes(cols)], cols, table: [0; 16] };
                for k in available() {
                    let mut y = vec![7.0; n * 50];
                    (k.mul_rows)(&view, &x.view(), &mut Block::new(&mut y, n, 50, rows));
                    for t in 0..n {
                        let what = format!("mul_rows {rows}x{cols} token {t} of {n}");
                        assert_same(k.isa, &what, &y[t * 50..][..rows], &tiled[t * 48..][..rows]);
                        assert!(y[t * 50..][rows..50] == vec![7.0; 50 - rows], "{}: wrote past its rows", k.isa);
                    }
                }
            }
        }
        // An embedding's row is the same out of either.
        let (mut a, mut b) = (vec![0.0; cols], vec![0.0; cols]);
        let tile = tile_bytes(Dtype::Q8R, cols);
        for row in 0..16 {
            row_f32(&Tiles { dtype: Dtype::Q8R, bytes: &bytes[tile..2 * tile], cols, table: [0; 16] }, row, &mut a);
            let tile = tile_bytes(Dtype::Q8, cols);
            row_f32(&Tiles { bytes: &w.bytes[tile..2 * tile], ..w.view() }, row, &mut b);
            assert_eq!(a, b);
        }
    }
}
