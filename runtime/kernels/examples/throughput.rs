//! What the matrix kernels reach: GB/s of weights for one vector, GMAC/s for 64; every answer is checked against scalar.
//!
//! `cargo run --release -p bourn-kernels --features std --example throughput`

use bourn_format::Dtype;
use bourn_format::layout::{block_bytes, padded_cols, tile_bytes};
use bourn_kernels::{Attend, Block, Kernels, KvDtype, KvView, Q8RowMut, Q8Rows, Tiles, available, by_name};
use std::time::Instant;

/// Seconds of the fastest of several runs.
fn fastest(mut run: impl FnMut()) -> f64 {
    let begin = Instant::now();
    let mut best = f64::MAX;
    let mut runs = 0;
    while runs < 3 || (begin.elapsed().as_secs_f64() < 0.6 && runs < 10_000) {
        let start = Instant::now();
        run();
        best = best.min(start.elapsed().as_secs_f64());
        runs += 1;
    }
    best
}

/// GB/s of reading all of `bytes` and doing nothing else: the roof.
fn read_bandwidth(bytes: &[u8]) -> f64 {
    let seconds = fastest(|| {
        std::hint::black_box(fold(bytes));
    });
    bytes.len() as f64 / seconds / 1e9
}

/// Every byte, folded into one word.
fn fold(bytes: &[u8]) -> u64 {
    let (words, _) = bytes.as_chunks::<8>();
    let mut lanes = [0_u64; 32];
    for words in words.chunks_exact(32) {
        for (lane, word) in lanes.iter_mut().zip(words) {
            *lane ^= u64::from_le_bytes(*word);
        }
    }
    lanes.iter().fold(0, |a, b| a ^ b)
}

/// Quantized activations.
struct Input {
    n: usize,
    q: Vec<i8>,
    scale: Vec<f32>,
    sum: Vec<i32>,
}

impl Input {
    fn new(n: usize, cols: usize) -> Self {
        let (padded, groups) = (padded_cols(cols), padded_cols(cols) / 32);
        let mut x = Self { n, q: vec![0; n * padded], scale: vec![0.0; n * groups], sum: vec![0; n * groups] };
        for t in 0..n {
            let row: Vec<f32> = (0..cols).map(|c| ((t * 31 + c * 17) % 101) as f32 - 50.0).collect();
            let q = &mut x.q[t * padded..][..padded];
            let (scale, sum) = (&mut x.scale[t * groups..][..groups], &mut x.sum[t * groups..][..groups]);
            (scalar().quantize)(&row, &mut Q8RowMut { q, scale, sum });
        }
        x
    }

    fn rows(&self) -> Q8Rows<'_> {
        Q8Rows { n: self.n, q: &self.q, scale: &self.scale, sum: &self.sum }
    }
}

fn scalar() -> &'static Kernels {
    by_name("scalar").expect("scalar is always there")
}

fn weights(dtype: Dtype, rows: usize, cols: usize) -> Vec<u8> {
    let mut seed = 1_u32;
    let mut bytes = vec![0; rows / 16 * tile_bytes(dtype, cols)];
    for b in &mut bytes {
        seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        *b = (seed >> 24) as u8;
    }
    for block in bytes.chunks_exact_mut(block_bytes(dtype)) {
        for s in block[..if dtype == Dtype::Q4M { 128 } else { 64 }].chunks_exact_mut(2) {
            s[1] = s[1] & 0x83 | 0x1c;
        }
    }
    bytes
}

fn matrix(dtype: Dtype, rows: usize, cols: usize, n: usize, roof: f64) {
    let bytes = weights(dtype, rows, cols);
    let table = [-31, -22, -16, -12, -9, -6, -3, -1, 1, 3, 6, 9, 13, 17, 23, 31];
    let w = Tiles { dtype, bytes: &bytes, cols, table };
    let x = Input::new(n, cols);
    let mut want = vec![0.0; n * rows];
    (scalar().mul_quantized)(&w, &x.rows(), &mut Block::new(&mut want, n, rows, rows));
    for k in available().filter(|k| k.isa != "scalar" || bytes.len() * n < 100_000_000) {
        let mut y = vec![0.0; n * rows];
        let seconds = fastest(|| (k.mul_quantized)(&w, &x.rows(), &mut Block::new(&mut y, n, rows, rows)));
        assert!(y.iter().zip(&want).all(|(a, b)| a.to_bits() == b.to_bits()), "{} differs from scalar", k.isa);
        let (gb, gmac) = (bytes.len() as f64 / seconds / 1e9, (rows * cols * n) as f64 / seconds / 1e9);
        println!(
            "mul_{}/{} [{rows}, {cols}] n={n}: {:.3} ms, {gb:.1} GB/s ({:.2} of read), {gmac:.1} GMAC/s",
            dtype.name(),
            k.isa,
            seconds * 1e3,
            gb / roof
        );
    }
}

/// Bytes that `read` and a kernel take in turns: short enough not to be interrupted, all together far larger than the caches.
const PIECE_ROWS: usize = 2048;

/// One vector times a matrix in memory, beside plain reading of the same bytes in the same run: medians over pieces.
fn streamed(dtype: Dtype, rows: usize, cols: usize) {
    let bytes = weights(dtype, rows, cols);
    let x = Input::new(1, cols);
    let piece = PIECE_ROWS / 16 * tile_bytes(dtype, cols);
    for k in available().filter(|k| k.isa != "scalar") {
        let (mut read, mut mul) = (Vec::new(), Vec::new());
        let mut y = vec![0.0; PIECE_ROWS];
        for pass in 0..6 {
            for (i, bytes) in bytes.chunks_exact(piece).enumerate() {
                let start = Instant::now();
                if (i + pass) % 2 == 0 {
                    std::hint::black_box(fold(bytes));
                    read.push(start.elapsed().as_secs_f64());
                } else {
                    let w = Tiles { dtype, bytes, cols, table: [1; 16] };
                    (k.mul_quantized)(&w, &x.rows(), &mut Block::new(&mut y, 1, PIECE_ROWS, PIECE_ROWS));
                    mul.push(start.elapsed().as_secs_f64());
                }
            }
        }
        let rate = |mut seconds: Vec<f64>| {
            seconds.sort_by(f64::total_cmp);
            piece as f64 / seconds[seconds.len() / 2] / 1e9
        };
        let (read, mul) = (rate(read), rate(mul));
        println!(
            "mul_{}/{} [{rows}, {cols}] n=1 from memory: {mul:.1} GB/s, read alone {read:.1} GB/s, ratio {:.2}",
            dtype.name(),
            k.isa,
            mul / read
        );
    }
}

fn attention(n: usize, pos: usize, n_heads: usize, head_dim: usize) {
    let slots = (pos + n).next_multiple_of(64);
    let cache: Vec<u8> = (0..slots * head_dim).flat_map(|i| [(i * 37 % 251) as u8, 0x30 | (i % 7) as u8]).collect();
    let kv = KvView { dtype: KvDtype::F16, slots, head_dim, k: &cache, v: &cache, k_scale: &[], v_scale: &[] };
    let width = n_heads * head_dim;
    let q: Vec<f32> = (0..n * width).map(|i| (i * 29 % 97) as f32 / 97.0 - 0.5).collect();
    let a = Attend { q: &q, q_stride: width, n_heads, pos, window: usize::MAX, softcap: 0.0 };
    let mut want = vec![0.0; n * width];
    (scalar().attend)(&kv, &a, &mut Block::new(&mut want, n, width, width));
    for k in available() {
        let mut out = vec![0.0; n * width];
        let seconds = fastest(|| (k.attend)(&kv, &a, &mut Block::new(&mut out, n, width, width)));
        assert!(out.iter().zip(&want).all(|(a, b)| a.to_bits() == b.to_bits()), "{} differs from scalar", k.isa);
        let macs = (n * n_heads * 2 * head_dim * (pos + n / 2)) as f64;
        println!(
            "attend/{} n={n} pos={pos} heads={n_heads}x{head_dim}: {:.1} us, {:.1} GMAC/s",
            k.isa,
            seconds * 1e6,
            macs / seconds / 1e9
        );
    }
}

fn pointwise(n: usize) {
    let x: Vec<f32> = (0..n).map(|i| (i * 29 % 97) as f32 / 20.0 - 2.0).collect();
    let padded = padded_cols(n);
    for k in available() {
        let mut y = x.clone();
        let silu = fastest(|| (k.silu_mul)(&mut y, &x));
        let norm = fastest(|| (k.rms_norm)(&x, &[], 1e-6, &mut y));
        let (mut q, mut scale, mut sum) = (vec![0; padded], vec![0.0; padded / 32], vec![0; padded / 32]);
        let quantize = fastest(|| (k.quantize)(&x, &mut Q8RowMut { q: &mut q, scale: &mut scale, sum: &mut sum }));
        let exp = fastest(|| {
            std::hint::black_box((k.max_sum_exp)(&x));
        });
        let ns = |s: f64| s * 1e9 / n as f64;
        println!(
            "pointwise/{} [{n}]: ns an element: silu_mul {:.3}, rms_norm {:.3}, quantize {:.3}, max_sum_exp {:.3}",
            k.isa,
            ns(silu),
            ns(norm),
            ns(quantize),
            ns(exp)
        );
    }
}

fn main() {
    let roof = read_bandwidth(&weights(Dtype::Q8, 262_144, 640));
    println!("read: {roof:.1} GB/s, one core");
    for dtype in [Dtype::Q4, Dtype::Q4M, Dtype::Q8] {
        streamed(dtype, 262_144, 640);
    }
    matrix(Dtype::Q8, 262_144, 640, 1, roof);
    matrix(Dtype::Q4, 2048, 640, 1, roof);
    for n in [2, 4, 16, 64] {
        matrix(Dtype::Q4, 1536, 576, n, roof);
    }
    matrix(Dtype::Q4M, 1536, 576, 64, roof);
    matrix(Dtype::Q8, 1536, 576, 64, roof);
    attention(1, 1000, 3, 64);
    attention(16, 1000, 3, 64);
    attention(1, 1000, 4, 256);
    attention(16, 1000, 4, 256);
    pointwise(1536);
}
