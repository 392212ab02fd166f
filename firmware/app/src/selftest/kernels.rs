//! Kernels against `scalar`, bit by bit, on numbers from a seed: sizes below, at and above blocks and tiles, and tails.
//!
//! What `bourn-kernels`' own conformance tests do at length on a host, in stack memory and seconds.

use bourn_format::layout::{LINEAR, padded_cols, row_bytes, tile_bytes};
use bourn_format::{Dtype, Screen};
use bourn_kernels::conformance::{FITTED, Random, SHAPE};
use bourn_kernels::scalar::TABLE as SCALAR;
use bourn_kernels::{Attend, Block, Kernels, KvDtype, KvView, KvViewMut, Q8RowMut, Q8Rows, ScreenTables, ScreenTiles, Tiles};

/// A test of one kernel.
pub(super) type Test = fn(&'static Kernels) -> bool;

/// All of them.
pub(super) const TESTS: [(&str, Test); 17] = [
    ("mul_quantized_q4", |k| mul_quantized(k, Dtype::Q4)),
    ("mul_quantized_q4m", |k| mul_quantized(k, Dtype::Q4M)),
    ("mul_quantized_q8", |k| mul_quantized(k, Dtype::Q8)),
    ("mul_rows_q8r", mul_rows),
    ("mul_float_f32", |k| mul_float(k, Dtype::F32)),
    ("mul_float_f16", |k| mul_float(k, Dtype::F16)),
    ("mul_float_bf16", |k| mul_float(k, Dtype::Bf16)),
    ("quantize", quantize),
    ("rms_norm", rms_norm),
    ("rope", rope),
    ("add", |k| pointwise(|t, a, b| (t.add)(a, b), k)),
    ("silu_mul", |k| pointwise(|t, a, b| (t.silu_mul)(a, b), k)),
    ("gelu_mul", |k| pointwise(|t, a, b| (t.gelu_mul)(a, b), k)),
    ("softcap", |k| pointwise(|t, a, _| (t.softcap)(a, 30.0), k)),
    ("attend", attend),
    ("screen", screen),
    ("argmax_max_sum_exp", logits),
];

const COLS: [usize; 5] = [31, 32, 65, 96, 128];
const MOST_COLS: usize = 128;
/// Vectors at once: decoding, tails, more than a prefill tile.
const VECTORS: [usize; 4] = [1, 2, 5, 9];
const MOST: usize = 9;
const TILES: usize = 2;
const LENGTHS: [usize; 8] = [1, 7, 16, 17, 33, 64, 127, 200];
const MOST_LENGTH: usize = 200;

fn same(a: &[f32], b: &[f32]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.to_bits() == b.to_bits() || (a.is_nan() && b.is_nan()))
}

/// Quantized vectors.
struct Activations {
    q: [i8; MOST * MOST_COLS],
    scale: [f32; MOST * MOST_COLS / 32],
    sum: [i32; MOST * MOST_COLS / 32],
    n: usize,
    padded: usize,
}

impl Activations {
    fn new(k: &Kernels, r: &mut Random, n: usize, cols: usize) -> Self {
        let padded = padded_cols(cols);
        let groups = padded / 32;
        let mut out =
            Self { q: [99; MOST * MOST_COLS], scale: [9.0; MOST * MOST_COLS / 32], sum: [9; MOST * MOST_COLS / 32], n, padded };
        for t in 0..n {
            let x: [f32; MOST_COLS] = r.array(3.0);
            let mut row = Q8RowMut {
                q: &mut out.q[t * padded..][..padded],
                scale: &mut out.scale[t * groups..][..groups],
                sum: &mut out.sum[t * groups..][..groups],
            };
            (k.quantize)(&x[..cols], &mut row);
        }
        out
    }

    fn view(&self) -> Q8Rows<'_> {
        let (n, groups) = (self.n * self.padded, self.n * self.padded / 32);
        Q8Rows { n: self.n, q: &self.q[..n], scale: &self.scale[..groups], sum: &self.sum[..groups] }
    }
}

fn mul_quantized(k: &'static Kernels, dtype: Dtype) -> bool {
    let mut r = Random::new(1);
    COLS.iter().all(|&cols| {
        VECTORS.iter().all(|&n| {
            let mut bytes = [0; TILES * 2 * 1088];
            let bytes = &mut bytes[..TILES * tile_bytes(dtype, cols)];
            r.tiles(dtype, bytes);
            let x = Activations::new(&SCALAR, &mut r, n, cols);
            [LINEAR, FITTED].iter().all(|&table| {
                let w = Tiles { dtype, bytes, cols, table };
                let run = |k: &Kernels| {
                    let mut y = [7.0; MOST * TILES * 16];
                    (k.mul_quantized)(&w, &x.view(), &mut Block::new(&mut y, n, TILES * 16, TILES * 16));
                    y
                };
                same(&run(k), &run(&SCALAR))
            })
        })
    })
}

fn mul_rows(k: &'static Kernels) -> bool {
    let mut r = Random::new(2);
    const ROWS: usize = 5;
    COLS.iter().all(|&cols| {
        let mut bytes = [0; ROWS * row_bytes(MOST_COLS)];
        let bytes = &mut bytes[..ROWS * row_bytes(cols)];
        for row in bytes.chunks_exact_mut(row_bytes(cols)) {
            let scales = padded_cols(cols) / 32 * 2;
            row[..scales].chunks_exact_mut(2).for_each(|s| s.copy_from_slice(&r.half()));
            row[scales..scales + cols].iter_mut().for_each(|b| *b = r.next() as u8);
        }
        let x = Activations::new(&SCALAR, &mut r, 1, cols);
        let w = Tiles { dtype: Dtype::Q8R, bytes, cols, table: LINEAR };
        let run = |k: &Kernels| {
            let mut y = [7.0; ROWS];
            (k.mul_rows)(&w, &x.view(), &mut Block::new(&mut y, 1, ROWS, ROWS));
            y
        };
        same(&run(k), &run(&SCALAR))
    })
}

fn mul_float(k: &'static Kernels, dtype: Dtype) -> bool {
    let mut r = Random::new(3);
    [1, 4, 5, 63].iter().all(|&cols| {
        let mut bytes = [0; TILES * 63 * 64];
        let bytes = &mut bytes[..TILES * tile_bytes(dtype, cols)];
        r.tiles(dtype, bytes);
        VECTORS.iter().all(|&n| {
            let stride = cols + 3;
            let x: [f32; MOST * 66] = r.array(1.0);
            let w = Tiles { dtype, bytes, cols, table: LINEAR };
            let run = |k: &Kernels| {
                let mut y = [7.0; MOST * TILES * 16];
                (k.mul_float)(&w, &x[..n * stride], stride, &mut Block::new(&mut y, n, TILES * 16, TILES * 16));
                y
            };
            same(&run(k), &run(&SCALAR))
        })
    })
}

fn quantize(k: &'static Kernels) -> bool {
    COLS.iter().all(|&cols| {
        let make = |k: &Kernels| Activations::new(k, &mut Random::new(4 + cols as u64), 3, cols);
        let (a, b) = (make(k), make(&SCALAR));
        a.q == b.q && a.sum == b.sum && same(&a.scale, &b.scale)
    })
}

fn rms_norm(k: &'static Kernels) -> bool {
    let mut r = Random::new(5);
    LENGTHS.iter().all(|&n| {
        let x: [f32; MOST_LENGTH] = r.array(4.0);
        let mut w = [0; 4 * MOST_LENGTH];
        w.chunks_exact_mut(4).for_each(|w| w.copy_from_slice(&r.unit().to_le_bytes()));
        [&w[..4 * n], &[]].iter().all(|w| {
            let run = |k: &Kernels| {
                let mut y = [7.0; MOST_LENGTH];
                (k.rms_norm)(&x[..n], w, 1e-5, &mut y[..n]);
                y
            };
            same(&run(k), &run(&SCALAR))
        })
    })
}

fn rope(k: &'static Kernels) -> bool {
    let mut r = Random::new(6);
    [(2, 1), (26, 13), (64, 32), (64, 16), (128, 64)].iter().all(|&(head_dim, half)| {
        let x: [f32; 3 * MOST_COLS] = r.array(2.0);
        let (cos, sin): ([f32; 64], [f32; 64]) = (r.array(1.0), r.array(1.0));
        let run = |k: &Kernels| {
            let mut x = x;
            (k.rope)(&mut x[..3 * head_dim], head_dim, &cos[..half], &sin[..half], 0.125);
            x
        };
        same(&run(k), &run(&SCALAR))
    })
}

/// A kernel that changes its first vector.
fn pointwise(f: fn(&Kernels, &mut [f32], &[f32]), k: &'static Kernels) -> bool {
    let mut r = Random::new(7);
    LENGTHS.iter().all(|&n| {
        [1e-6, 1.0, 20.0, 1e4].iter().all(|&scale| {
            let (x, other): ([f32; MOST_LENGTH], [f32; MOST_LENGTH]) = (r.array(scale), r.array(2.0));
            let run = |k: &Kernels| {
                let mut x = x;
                f(k, &mut x[..n], &other[..n]);
                x
            };
            same(&run(k), &run(&SCALAR))
        })
    })
}

fn attend(k: &'static Kernels) -> bool {
    const SLOTS: usize = 128;
    const DIM: usize = 16;
    const HEADS: usize = 3;
    const N: usize = 3;
    let cases = [(0, usize::MAX, 0.0), (5, usize::MAX, 0.0), (62, usize::MAX, 50.0), (100, 40, 0.0), (300, 64, 0.0)];
    [KvDtype::F32, KvDtype::F16, KvDtype::I8].iter().all(|&dtype| {
        cases.iter().enumerate().all(|(seed, &(pos, window, softcap))| {
            let run = |t: &Kernels| {
                let mut r = Random::new(8 + seed as u64);
                let (mut keys, mut values) = ([0xff; SLOTS * DIM * 4], [0xff; SLOTS * DIM * 4]);
                let (mut k_scale, mut v_scale) = ([f32::NAN; SLOTS], [f32::NAN; SLOTS]);
                let bytes = SLOTS * DIM * [4, 2, 1][dtype as usize];
                let scales = if dtype == KvDtype::I8 { SLOTS } else { 0 };
                for position in 0..pos + N {
                    let (key, value): ([f32; DIM], [f32; DIM]) = (r.array(2.0), r.array(2.0));
                    let mut view = KvViewMut {
                        dtype,
                        slots: SLOTS,
                        head_dim: DIM,
                        k: &mut keys[..bytes],
                        v: &mut values[..bytes],
                        k_scale: &mut k_scale[..scales],
                        v_scale: &mut v_scale[..scales],
                    };
                    (t.kv_store)(&mut view, position % SLOTS, &key, &value);
                }
                let view = KvView {
                    dtype,
                    slots: SLOTS,
                    head_dim: DIM,
                    k: &keys[..bytes],
                    v: &values[..bytes],
                    k_scale: &k_scale[..scales],
                    v_scale: &v_scale[..scales],
                };
                let q: [f32; N * HEADS * DIM] = r.array(1.5);
                let asked = Attend { q: &q, q_stride: HEADS * DIM, n_heads: HEADS, pos, window, softcap };
                let mut out = [7.0; N * HEADS * DIM];
                (t.attend)(&view, &asked, &mut Block::new(&mut out, N, HEADS * DIM, HEADS * DIM));
                out
            };
            same(&run(k), &run(&SCALAR))
        })
    })
}

fn screen(k: &'static Kernels) -> bool {
    const SUBS: usize = 4;
    const WIDE: usize = 2;
    const DIMS: usize = 8;
    let mut r = Random::new(9);
    let mut section = [0; 32 + 4 * SUBS];
    let words = [SUBS as u32, WIDE as u32, 64, 16, 8f32.to_bits(), 0, 0, 0];
    section.chunks_exact_mut(4).zip(words).for_each(|(to, word)| to.copy_from_slice(&word.to_le_bytes()));
    for sub in section[32..].chunks_exact_mut(4) {
        sub[..2].copy_from_slice(&(r.next() as u16 % 56).to_le_bytes());
        sub[2..].copy_from_slice(&(DIMS as u16).to_le_bytes());
    }
    let Ok(screen) = Screen::new_checked(&section, &SHAPE) else { return false };
    let mut books = [0; 4 * SUBS * DIMS * 16];
    books.chunks_exact_mut(4).for_each(|b| b.copy_from_slice(&r.unit().to_le_bytes()));
    let y: [f32; 64] = r.array(2.0);
    let mut codes = [0; 3 * SUBS / 2 * 16];
    codes.iter_mut().for_each(|c| *c = r.next() as u8);
    let mut bias = [0; 3 * 16 * 2];
    bias.chunks_exact_mut(2).for_each(|b| b.copy_from_slice(&r.half()));
    let run = |k: &Kernels| {
        let (mut values, mut low, mut high) = ([9.0; 16 * SUBS], [9; 16 * SUBS], [9; 16 * WIDE]);
        let (lsb, base) = (k.screen_tables)(&screen, &books, &y, &mut values, &mut low, &mut high);
        let mut scores = [7.0; 48];
        let tables = ScreenTables { low: &low, high: &high, lsb, base };
        (k.screen_scores)(&ScreenTiles { codes: &codes, bias: &bias, n_subs: SUBS }, &tables, &mut scores);
        (scores, low, high)
    };
    let (a, b) = (run(k), run(&SCALAR));
    same(&a.0, &b.0) && a.1 == b.1 && a.2 == b.2
}

fn logits(k: &'static Kernels) -> bool {
    let mut r = Random::new(10);
    LENGTHS.iter().all(|&n| {
        let mut x: [f32; MOST_LENGTH] = r.array(20.0);
        let at = r.next() as usize % n;
        x[at] = [f32::NAN, f32::NEG_INFINITY, 30.0][n % 3];
        let (a, b) = ((k.max_sum_exp)(&x[..n]), (SCALAR.max_sum_exp)(&x[..n]));
        (k.argmax)(&x[..n]) == (SCALAR.argmax)(&x[..n])
            && (k.count_at_least)(&x[..n], 1.0) == (SCALAR.count_at_least)(&x[..n], 1.0)
            && same(&[a.0, a.1], &[b.0, b.1])
    })
}
