//! int4 and int8 × int8: a tile's sixteen rows are the 32-bit lanes of two registers; VPMADDUBSW multiplies four columns of
//! eight rows and adds them in pairs, in 16 bits.
//!
//! VPMADDUBSW takes its first operand unsigned. Q4 levels go in as `t + 32` and the lane ends with `−32·Σx`: a pair of
//! products is at most 63·127·2 = 16 002, so two pairs still fit 16 bits. Q8 goes in as `|w|`, its sign moved to `x`:
//! a pair is at most 128·127·2 = 32 512. All is whole numbers: exact.

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
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn mul_quantized(w: &Tiles<'_>, x: &Q8Rows<'_>, y: &mut Block<'_>) {
    let x = Groups::new_checked(w, x, y);
    match w.dtype {
        Dtype::Q4 => tiles::<Q4>(w, &x, y),
        Dtype::Q4M => tiles::<Q4M>(w, &x, y),
        _ => tiles::<Q8>(w, &x, y),
    }
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn tiles<const D: u8>(w: &Tiles<'_>, x: &Groups<'_>, y: &mut Block<'_>) {
    let table = _mm256_broadcastsi128_si256(load16(&lifted(&w.table)));
    for (tile, bytes) in w.bytes.chunks_exact(x.blocks() * block_bytes(w.dtype)).enumerate() {
        if x.n() == 1 {
            decode::<D>(bytes, table, x, &mut y.row(0)[tile * TILE_ROWS..][..TILE_ROWS]);
        } else {
            for t0 in (0..x.n()).step_by(TOKENS) {
                prefill::<D>(bytes, table, x, y, tile, t0);
            }
        }
    }
}

/// One tile times one vector.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn decode<const D: u8>(tile: &[u8], table: __m256i, x: &Groups<'_>, y: &mut [f32]) {
    let mut acc = [_mm256_setzero_ps(); 2];
    for (b, block) in tile.chunks_exact(bytes_of::<D>()).enumerate() {
        fetch_ahead(block);
        for g in 0..2 {
            // SAFETY: vector 0 of 1; as many blocks in a tile as in a vector: `tiles` cut them so.
            let x = unsafe { x.get(0, 2 * b + g) };
            acc[0] = Weights::unpack::<D>(block, g, 0, table).mul::<D>(x, acc[0]);
            acc[1] = Weights::unpack::<D>(block, g, 1, table).mul::<D>(x, acc[1]);
        }
    }
    for (half, acc) in acc.into_iter().enumerate() {
        store(acc, &mut y[8 * half..]);
    }
}

/// One tile times up to [`TOKENS`] vectors from `t0` on.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn prefill<const D: u8>(tile: &[u8], table: __m256i, x: &Groups<'_>, y: &mut Block<'_>, tile_index: usize, t0: usize) {
    let n = (x.n() - t0).min(TOKENS);
    let mut sums = [[0.0; 16]; TOKENS];
    for (b, block) in tile.chunks_exact(bytes_of::<D>()).enumerate() {
        for g in 0..2 {
            for half in 0..2 {
                let w = Weights::unpack::<D>(block, g, half, table);
                for (t, sum) in sums[..n].iter_mut().enumerate() {
                    // SAFETY: `t0 + t < x.n()`; as many blocks in a tile as in a vector: `tiles` cut them so.
                    let x = unsafe { x.get(t0 + t, 2 * b + g) };
                    let sum = &mut sum[8 * half..];
                    let acc = w.mul::<D>(x, load(sum));
                    store(acc, sum);
                }
            }
        }
    }
    for (t, sum) in sums[..n].iter().enumerate() {
        y.row(t0 + t)[tile_index * TILE_ROWS..][..TILE_ROWS].copy_from_slice(sum);
    }
}

/// A group of eight rows: levels word by word (unsigned for Q4, signed for Q8), scale and minimum.
struct Weights {
    levels: [__m256i; 8],
    scale: __m256,
    min: __m256,
}

impl Weights {
    /// Rows `8·half..8·half + 8` of group `g`.
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    fn unpack<const D: u8>(block: &[u8], g: usize, half: usize, table: __m256i) -> Self {
        let block = &block[..bytes_of::<D>()];
        let scale = _mm256_cvtph_ps(load16(first(&block[32 * g + 16 * half..])));
        let min = if D == Q4M { _mm256_cvtph_ps(load16(first(&block[64 + 32 * g + 16 * half..]))) } else { _mm256_setzero_ps() };
        let mut levels = [_mm256_setzero_si256(); 8];
        if D == Q8 {
            let (words, _) = block[64 + 512 * g..].as_chunks::<32>();
            for p in 0..8 {
                levels[p] = load32(&words[2 * p + half]);
            }
        } else {
            let header = if D == Q4M { 128 } else { 64 };
            let (words, _) = block[header + 256 * g..].as_chunks::<32>();
            let nibble = _mm256_set1_epi8(15);
            for p in 0..4 {
                let codes = load32(&words[2 * p + half]);
                let high = _mm256_srli_epi16::<4>(codes);
                levels[p] = _mm256_shuffle_epi8(table, _mm256_and_si256(codes, nibble));
                levels[4 + p] = _mm256_shuffle_epi8(table, _mm256_and_si256(high, nibble));
            }
        }
        Self { levels, scale, min }
    }

    /// `acc + dot · (scale · s_x) [+ min · (s_x · Σx)]`.
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    fn mul<const D: u8>(&self, x: Group<'_>, acc: __m256) -> __m256 {
        let sum = _mm256_set1_epi32(x.sum);
        let ones = _mm256_set1_epi16(1);
        let mut dot =
            if D == Q8 { _mm256_setzero_si256() } else { _mm256_sub_epi32(_mm256_setzero_si256(), _mm256_slli_epi32::<5>(sum)) };
        for p in 0..4 {
            let (a, b) = (self.pairs::<D>(x, 2 * p), self.pairs::<D>(x, 2 * p + 1));
            if D == Q8 {
                dot = _mm256_add_epi32(dot, _mm256_madd_epi16(a, ones));
                dot = _mm256_add_epi32(dot, _mm256_madd_epi16(b, ones));
            } else {
                dot = _mm256_add_epi32(dot, _mm256_madd_epi16(_mm256_add_epi16(a, b), ones));
            }
        }
        let s_x = _mm256_set1_ps(x.scale);
        let acc = _mm256_fmadd_ps(_mm256_cvtepi32_ps(dot), _mm256_mul_ps(self.scale, s_x), acc);
        if D == Q4M { _mm256_fmadd_ps(self.min, _mm256_mul_ps(s_x, _mm256_cvtepi32_ps(sum)), acc) } else { acc }
    }

    /// Products of word `p`, added in pairs.
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    fn pairs<const D: u8>(&self, x: Group<'_>, p: usize) -> __m256i {
        let q = _mm256_set1_epi32(i32::from_le_bytes(x.q[p]));
        let w = self.levels[p];
        if D == Q8 { _mm256_maddubs_epi16(_mm256_abs_epi8(w), _mm256_sign_epi8(q, w)) } else { _mm256_maddubs_epi16(w, q) }
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
#[target_feature(enable = "avx2,fma,f16c")]
fn fetch_ahead(block: &[u8]) {
    for line in (0..block.len()).step_by(64) {
        let address = block.as_ptr().wrapping_add(AHEAD + line);
        _mm_prefetch::<_MM_HINT_T0>(address.cast());
    }
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn load16(x: &[u8; 16]) -> __m128i {
    // SAFETY: 16 readable bytes; the load takes any alignment.
    unsafe { _mm_loadu_si128(x.as_ptr().cast()) }
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn load32(x: &[u8; 32]) -> __m256i {
    // SAFETY: 32 readable bytes; the load takes any alignment.
    unsafe { _mm256_loadu_si256(x.as_ptr().cast()) }
}

/// The first eight elements.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn load(x: &[f32]) -> __m256 {
    let x: &[f32; 8] = first(x);
    // SAFETY: 32 readable bytes; the load takes any alignment.
    unsafe { _mm256_loadu_ps(x.as_ptr()) }
}

/// To the first eight elements.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn store(v: __m256, x: &mut [f32]) {
    let x: &mut [f32; 8] = first_mut(x);
    // SAFETY: 32 writable bytes; the store takes any alignment.
    unsafe { _mm256_storeu_ps(x.as_mut_ptr(), v) }
}
