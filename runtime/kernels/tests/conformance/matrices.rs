//! Matrix times vectors.

use crate::inputs::{Activations, FITTED, Floats, Matrix, Random, assert_same, others, scalar};
use bourn_format::Dtype::{self, Bf16, F16, F32, Q4, Q4M, Q8};
use bourn_format::layout::{block_bytes, tile_bytes};
use bourn_kernels::{Block, Kernels, Q8Rows, Tiles, available, row_f32};
use proptest::prelude::*;

const COLS: [usize; 12] = [1, 5, 31, 32, 33, 63, 64, 65, 96, 128, 200, 576];

/// `y` of `n` vectors, with room between them that must stay untouched.
fn mul(k: &Kernels, w: &Tiles<'_>, x: &Q8Rows<'_>, tiles: usize) -> Vec<f32> {
    let (rows, stride) = (tiles * 16, tiles * 16 + 3);
    let mut y = vec![7.0; x.n * stride];
    (k.mul_quantized)(w, x, &mut Block::new(&mut y, x.n, stride, rows));
    assert!(y.chunks(stride).all(|y| y[rows..] == [7.0; 3]), "{}: wrote past its rows", k.isa);
    y.chunks(stride).flat_map(|y| &y[..rows]).copied().collect()
}

fn mul_float(k: &Kernels, w: &Tiles<'_>, x: &[f32], stride: usize, n: usize, tiles: usize) -> Vec<f32> {
    let mut y = vec![7.0; n * tiles * 16];
    (k.mul_float)(w, x, stride, &mut Block::new(&mut y, n, tiles * 16, tiles * 16));
    y
}

/// The matrix as `[rows][cols]`, by `row_f32`.
fn plain(w: &Matrix) -> Vec<Vec<f32>> {
    let bytes = tile_bytes(w.dtype, w.cols);
    let mut rows = Vec::new();
    for tile in w.bytes.chunks_exact(bytes) {
        for row in 0..16 {
            let mut out = vec![0.0; w.cols];
            row_f32(&Tiles { bytes: tile, ..w.view() }, row, &mut out);
            rows.push(out);
        }
    }
    rows
}

#[test]
fn quantized_products_have_the_bits_of_scalar() {
    let mut r = Random::new(1);
    for dtype in [Q4, Q4M, Q8] {
        for cols in COLS {
            for (n, tiles) in [(1, 1), (1, 3), (2, 1), (3, 2), (7, 1), (20, 2)] {
                let w = Matrix::random(&mut r, dtype, tiles, cols);
                let x = Activations::quantize(scalar(), &r.floats(n * cols, 3.0), cols);
                let want = mul(scalar(), &w.view(), &x.view(), tiles);
                for k in others() {
                    let what = format!("mul_quantized {} {}x{cols} n={n}", dtype.name(), tiles * 16);
                    assert_same(k.isa, &what, &mul(k, &w.view(), &x.view(), tiles), &want);
                }
            }
        }
    }
}

#[test]
fn long_rows_have_the_bits_of_scalar() {
    let mut r = Random::new(7);
    // Rows unpacked in several stretches; vectors taken in several passes; rows too long for that.
    for (dtype, cols, n) in [(Q4, 1600, 21), (Q4M, 1600, 9), (Q4M, 8256, 12), (Q8, 8256, 11), (Q4, 16_448, 4)] {
        let w = Matrix::random(&mut r, dtype, 1, cols);
        let x = Activations::quantize(scalar(), &r.floats(n * cols, 3.0), cols);
        let want = mul(scalar(), &w.view(), &x.view(), 1);
        for k in others() {
            assert_same(
                k.isa,
                &format!("mul_quantized {} 16x{cols} n={n}", dtype.name()),
                &mul(k, &w.view(), &x.view(), 1),
                &want,
            );
        }
    }
}

#[test]
fn prefill_has_the_bits_of_decode() {
    let mut r = Random::new(2);
    for dtype in [Q4, Q4M, Q8] {
        let (tiles, cols) = (2, 200);
        let w = Matrix::random(&mut r, dtype, tiles, cols);
        for n in (1..=20).chain([31, 32, 33, 64, 65]) {
            let x = Activations::quantize(scalar(), &r.floats(n * cols, 1.0), cols);
            for k in available() {
                let all = mul(k, &w.view(), &x.view(), tiles);
                for t in 0..n {
                    let alone = mul(k, &w.view(), &x.one(t), tiles);
                    assert_same(k.isa, &format!("token {t} of {n} alone"), &all[t * 32..][..32], &alone);
                }
            }
        }
    }
}

#[test]
fn float_prefill_has_the_bits_of_decode() {
    let mut r = Random::new(3);
    for dtype in [F32, F16, Bf16] {
        for cols in [1, 2, 3, 4, 5, 63, 64, 130] {
            let (tiles, stride) = (2, cols + 5);
            let w = Matrix::random(&mut r, dtype, tiles, cols);
            for n in 1..=9 {
                let x = r.floats(n * stride, 1.0);
                let want = mul_float(scalar(), &w.view(), &x, stride, n, tiles);
                for k in available() {
                    let got = mul_float(k, &w.view(), &x, stride, n, tiles);
                    assert_same(k.isa, &format!("mul_float {} cols={cols} n={n}", dtype.name()), &got, &want);
                    for t in 0..n {
                        let alone = mul_float(k, &w.view(), &x[t * stride..][..cols], cols, 1, tiles);
                        assert_same(k.isa, &format!("token {t} of {n} alone"), &got[t * 32..][..32], &alone);
                    }
                }
            }
        }
    }
}

/// Sets every code byte of a quantized matrix.
fn fill_codes(w: &mut Matrix, code: u8) {
    let header = if w.dtype == Q4M { 128 } else { 64 };
    for block in w.bytes.chunks_exact_mut(block_bytes(w.dtype)) {
        block[header..].fill(code);
    }
}

#[test]
fn extreme_values_do_not_saturate() {
    let mut r = Random::new(4);
    for dtype in [Q4, Q4M, Q8] {
        // Codes 0 and 15 are −31 and 31; as q8 bytes −128 (never packed, still defined), −127 and 127.
        for code in [0x00, 0xff, 0x0f, 0xf0, 0x80, 0x81, 0x7f] {
            for x in [
                Activations::constant(5, 128, |_| 127),
                Activations::constant(5, 128, |_| -127),
                Activations::constant(5, 128, |i| if i % 2 == 0 { 127 } else { -127 }),
                Activations::constant(5, 128, |_| 0),
            ] {
                let mut w = Matrix::random(&mut r, dtype, 1, 128);
                w.table = FITTED;
                fill_codes(&mut w, code);
                let want = mul(scalar(), &w.view(), &x.view(), 1);
                for k in others() {
                    assert_same(k.isa, &format!("{} code {code:#x}", dtype.name()), &mul(k, &w.view(), &x.view(), 1), &want);
                }
                assert_near(&w, &x, &want);
            }
        }
    }
}

#[test]
fn scales_of_zero_infinity_and_nan_do_not_panic() {
    let mut r = Random::new(5);
    for dtype in [Q4, Q4M, Q8] {
        for bits in [0x0000_u16, 0x8000, 0x7c00, 0xfc00, 0x7e00, 0x0001, 0x7bff] {
            let mut w = Matrix::random(&mut r, dtype, 1, 100);
            let at = r.next() as usize % 32 * 2;
            w.bytes[at..at + 2].copy_from_slice(&bits.to_le_bytes());
            for n in [1, 6] {
                let x = Activations::quantize(scalar(), &r.floats(n * 100, 1.0), 100);
                let want = mul(scalar(), &w.view(), &x.view(), 1);
                for k in others() {
                    assert_same(k.isa, &format!("scale {bits:#x}"), &mul(k, &w.view(), &x.view(), 1), &want);
                }
            }
        }
    }
}

/// `got` against Σ in f64 over `row_f32`'s weights: 1e-5 of the sum of magnitudes.
fn assert_near(w: &Matrix, x: &Activations, got: &[f32]) {
    let rows = plain(w);
    let padded = x.q.len() / x.n;
    for t in 0..x.n {
        for (row, weights) in rows.iter().enumerate() {
            let (mut sum, mut size) = (0.0, 1e-30);
            for (c, &weight) in weights.iter().enumerate() {
                let i = t * padded + c;
                let p = f64::from(weight) * f64::from(x.q[i]) * f64::from(x.scale[i / 32]);
                (sum, size) = (sum + p, size + p.abs());
            }
            let y = f64::from(got[t * rows.len() + row]);
            assert!((y - sum).abs() <= 1e-5 * size, "{}: {y} instead of {sum}", w.dtype.name());
        }
    }
}

#[test]
fn scalar_is_near_the_formula() {
    let mut r = Random::new(6);
    for dtype in [Q4, Q4M, Q8] {
        for cols in COLS {
            let w = Matrix::random(&mut r, dtype, 2, cols);
            let x = Activations::quantize(scalar(), &r.floats(3 * cols, 2.0), cols);
            assert_near(&w, &x, &mul(scalar(), &w.view(), &x.view(), 2));
        }
    }
    for dtype in [F32, F16, Bf16] {
        for cols in COLS {
            let w = Matrix::random(&mut r, dtype, 1, cols);
            let x = r.floats(cols, 2.0);
            let y = mul_float(scalar(), &w.view(), &x, cols, 1, 1);
            for (y, row) in y.iter().zip(plain(&w)) {
                let products = row.iter().zip(&x).map(|(&w, &x)| f64::from(w) * f64::from(x));
                let (sum, size) = products.fold((0.0, 1e-30), |(s, m): (f64, f64), p| (s + p, m + p.abs()));
                assert!((f64::from(*y) - sum).abs() <= 1e-6 * size);
            }
        }
    }
}

fn any_dtype() -> impl Strategy<Value = Dtype> {
    prop_oneof![Just(Q4), Just(Q4M), Just(Q8)]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn any_product_has_the_bits_of_scalar(seed: u64, dtype in any_dtype(), tiles in 1usize..4, cols in 1usize..400, n in 1usize..40) {
        let mut r = Random::new(seed);
        let w = Matrix::random(&mut r, dtype, tiles, cols);
        let x = Activations::quantize(scalar(), &r.floats(n * cols, 5.0), cols);
        let want = mul(scalar(), &w.view(), &x.view(), tiles);
        for k in others() {
            assert_same(k.isa, "mul_quantized", &mul(k, &w.view(), &x.view(), tiles), &want);
        }
    }
}
