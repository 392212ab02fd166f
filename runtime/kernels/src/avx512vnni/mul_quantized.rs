//! int4 and int8 × int8: sixteen rows are the sixteen 32-bit lanes, VPDPBUSD multiplies four columns of each at once.
//!
//! VPDPBUSD takes its first operand unsigned, so a level goes in as `t + 32` (a byte of Q8 as `w + 128`), and the lane
//! starts at `−32·Σx` (`−128·Σx`): exact, all is whole numbers. A group of 32 columns is eight registers of levels; they
//! are unpacked once and used for all tokens.

use crate::groups::{Group, Groups};
use crate::lanes::{first, first_mut};
use crate::rows::Block;
use crate::table::{Q8Rows, Tiles};
use bourn_format::Dtype;
use bourn_format::layout::{TILE_ROWS, block_bytes};
use core::arch::x86_64::*;

const Q4: u8 = Dtype::Q4 as u8;
const Q4M: u8 = Dtype::Q4M as u8;
const Q8: u8 = Dtype::Q8 as u8;

/// Tokens whose sums are kept at a time.
const TOKENS: usize = 64;
/// How far ahead of use weights are fetched: a page or so hides the latency of memory.
const AHEAD: usize = 4096;

/// See [`crate::table::Kernels::mul_quantized`].
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
pub(super) fn mul_quantized(w: &Tiles<'_>, x: &Q8Rows<'_>, y: &mut Block<'_>) {
    let x = Groups::new_checked(w, x, y);
    match w.dtype {
        Dtype::Q4 => tiles::<Q4>(w, &x, y),
        Dtype::Q4M => tiles::<Q4M>(w, &x, y),
        _ => tiles::<Q8>(w, &x, y),
    }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn tiles<const D: u8>(w: &Tiles<'_>, x: &Groups<'_>, y: &mut Block<'_>) {
    let table = _mm512_broadcast_i32x4(load16(&lifted(&w.table)));
    for (tile, bytes) in w.bytes.chunks_exact(x.blocks() * block_bytes(w.dtype)).enumerate() {
        if x.n() == 1 {
            decode::<D>(bytes, table, x, first_mut(&mut y.row(0)[tile * TILE_ROWS..]));
        } else {
            for t0 in (0..x.n()).step_by(TOKENS) {
                prefill::<D>(bytes, table, x, y, tile, t0);
            }
        }
    }
}

/// One tile times one vector.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn decode<const D: u8>(tile: &[u8], table: __m512i, x: &Groups<'_>, y: &mut [f32; 16]) {
    let mut acc = _mm512_setzero_ps();
    for (b, block) in tile.chunks_exact(bytes_of::<D>()).enumerate() {
        fetch_ahead(block);
        for g in 0..2 {
            let w = Weights::unpack::<D>(block, g, table);
            // SAFETY: vector 0 of 1; as many blocks in a tile as in a vector: `tiles` cut them so.
            let x = unsafe { x.get(0, 2 * b + g) };
            acc = w.mul::<D>(x, acc);
        }
    }
    store(acc, y);
}

/// One tile times up to [`TOKENS`] vectors from `t0` on.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn prefill<const D: u8>(tile: &[u8], table: __m512i, x: &Groups<'_>, y: &mut Block<'_>, tile_index: usize, t0: usize) {
    let n = (x.n() - t0).min(TOKENS);
    let mut sums = [[0.0; 16]; TOKENS];
    for (b, block) in tile.chunks_exact(bytes_of::<D>()).enumerate() {
        for g in 0..2 {
            let w = Weights::unpack::<D>(block, g, table);
            for (t, sum) in sums[..n].iter_mut().enumerate() {
                // SAFETY: `t0 + t < x.n()`; as many blocks in a tile as in a vector: `tiles` cut them so.
                let x = unsafe { x.get(t0 + t, 2 * b + g) };
                let acc = w.mul::<D>(x, load(sum));
                store(acc, sum);
            }
        }
    }
    for (t, sum) in sums[..n].iter().enumerate() {
        y.row(t0 + t)[tile_index * TILE_ROWS..][..TILE_ROWS].copy_from_slice(sum);
    }
}

/// A group of 16 rows: unsigned levels, word by word, scale and minimum.
struct Weights {
    levels: [__m512i; 8],
    scale: __m512,
    min: __m512,
}

impl Weights {
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
    fn unpack<const D: u8>(block: &[u8], g: usize, table: __m512i) -> Self {
        let block = &block[..bytes_of::<D>()];
        let scale = halves(first(&block[32 * g..]));
        let min = if D == Q4M { halves(first(&block[64 + 32 * g..])) } else { _mm512_setzero_ps() };
        let mut levels = [_mm512_setzero_si512(); 8];
        if D == Q8 {
            let (words, _) = block[64 + 512 * g..].as_chunks::<64>();
            for p in 0..8 {
                levels[p] = _mm512_xor_si512(load64(&words[p]), _mm512_set1_epi8(-128));
            }
        } else {
            let header = if D == Q4M { 128 } else { 64 };
            let (words, _) = block[header + 256 * g..].as_chunks::<64>();
            let nibble = _mm512_set1_epi8(15);
            for p in 0..4 {
                let codes = load64(&words[p]);
                let high = _mm512_srli_epi16::<4>(codes);
                levels[p] = _mm512_shuffle_epi8(table, _mm512_and_si512(codes, nibble));
                levels[4 + p] = _mm512_shuffle_epi8(table, _mm512_and_si512(high, nibble));
            }
        }
        Self { levels, scale, min }
    }

    /// `acc + dot · (scale · s_x) [+ min · (s_x · Σx)]`.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
    fn mul<const D: u8>(&self, x: Group<'_>, acc: __m512) -> __m512 {
        let sum = _mm512_set1_epi32(x.sum);
        let lift = if D == Q8 { _mm512_slli_epi32::<7>(sum) } else { _mm512_slli_epi32::<5>(sum) };
        let mut dot = _mm512_sub_epi32(_mm512_setzero_si512(), lift);
        for p in 0..8 {
            dot = _mm512_dpbusd_epi32(dot, self.levels[p], _mm512_set1_epi32(i32::from_le_bytes(x.q[p])));
        }
        let s_x = _mm512_set1_ps(x.scale);
        let acc = _mm512_fmadd_ps(_mm512_cvtepi32_ps(dot), _mm512_mul_ps(self.scale, s_x), acc);
        if D == Q4M { _mm512_fmadd_ps(self.min, _mm512_mul_ps(s_x, _mm512_cvtepi32_ps(sum)), acc) } else { acc }
    }
}

/// `t + 32`, unsigned.
fn lifted(table: &[i8; 16]) -> [u8; 16] {
    table.map(|t| t.wrapping_add(32) as u8)
}

/// Bytes of a block of type `D`.
const fn bytes_of<const D: u8>() -> usize {
    block_bytes(match D {
        Q4 => Dtype::Q4,
        Q4M => Dtype::Q4M,
        _ => Dtype::Q8,
    })
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn fetch_ahead(block: &[u8]) {
    for line in (0..block.len()).step_by(64) {
        let address = block.as_ptr().wrapping_add(AHEAD + line);
        _mm_prefetch::<_MM_HINT_T0>(address.cast());
    }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn load16(x: &[u8; 16]) -> __m128i {
    // SAFETY: 16 readable bytes; the load takes any alignment.
    unsafe { _mm_loadu_si128(x.as_ptr().cast()) }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn load64(x: &[u8; 64]) -> __m512i {
    // SAFETY: 64 readable bytes; the load takes any alignment.
    unsafe { _mm512_loadu_si512(x.as_ptr().cast()) }
}

/// Sixteen f16.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn halves(x: &[u8; 32]) -> __m512 {
    // SAFETY: 32 readable bytes; the load takes any alignment.
    let h = unsafe { _mm256_loadu_si256(x.as_ptr().cast()) };
    _mm512_cvtph_ps(h)
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn load(x: &[f32; 16]) -> __m512 {
    // SAFETY: 64 readable bytes; the load takes any alignment.
    unsafe { _mm512_loadu_ps(x.as_ptr()) }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn store(v: __m512, x: &mut [f32; 16]) {
    // SAFETY: 64 writable bytes; the store takes any alignment.
    unsafe { _mm512_storeu_ps(x.as_mut_ptr(), v) }
}
