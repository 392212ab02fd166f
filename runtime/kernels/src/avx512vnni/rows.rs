//! Products of 16 rows that lie each on its own: VPDPBUSD on two rows a vector, then a tree of sums that leaves a row in each lane.
//!
//! VPDPBUSD takes its first operand unsigned, so a byte of a row goes in as `w + 128`, and every lane starts at `−128·Σx` of its
//! four columns: exact, all is whole numbers.

use super::lanes::Avx512Lanes;
use crate::generic::rows::RowDots;
use crate::lanes::first;
use bourn_format::layout::GROUP;
use core::arch::x86_64::*;

impl RowDots for Avx512Lanes {
    #[inline(always)]
    fn dots(w: &[u8], stride: usize, x: &[i8; GROUP]) -> Self {
        // SAFETY: AVX-512, as every caller is reached through the tier's token.
        Self::of(unsafe { dots(w, stride, x) })
    }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn dots(w: &[u8], stride: usize, x: &[i8; GROUP]) -> __m512 {
    let x = load_signed(x);
    let x = _mm512_inserti64x4::<1>(_mm512_castsi256_si512(x), x);
    let lift = _mm512_set1_epi8(-128);
    let start = _mm512_sub_epi32(_mm512_setzero_si512(), _mm512_dpbusd_epi32(_mm512_setzero_si512(), lift, x));
    // Rows 0…3 with 4…7, rows 8…11 with 12…15.
    let mut quads = [_mm512_setzero_si512(); 2];
    for (half, quad) in quads.iter_mut().enumerate() {
        let mut v = [_mm512_setzero_si512(); 4];
        for (i, v) in v.iter_mut().enumerate() {
            let row = 8 * half + i;
            let (a, b) = (load(first(&w[row * stride..])), load(first(&w[(row + 4) * stride..])));
            let rows = _mm512_inserti64x4::<1>(_mm512_castsi256_si512(a), b);
            *v = _mm512_dpbusd_epi32(start, _mm512_xor_si512(rows, lift), x);
        }
        let [a, b, c, d] = v;
        let ab = _mm512_add_epi32(_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b));
        let cd = _mm512_add_epi32(_mm512_unpacklo_epi32(c, d), _mm512_unpackhi_epi32(c, d));
        *quad = _mm512_add_epi32(_mm512_unpacklo_epi64(ab, cd), _mm512_unpackhi_epi64(ab, cd));
    }
    // Each 128 bits hold four rows' sums over one half of the columns.
    let [low, high] = quads;
    let halves = [_mm512_shuffle_i32x4::<0b10_00_10_00>(low, high), _mm512_shuffle_i32x4::<0b11_01_11_01>(low, high)];
    _mm512_cvtepi32_ps(_mm512_add_epi32(halves[0], halves[1]))
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn load(x: &[u8; GROUP]) -> __m256i {
    // SAFETY: 32 readable bytes; the load takes any alignment.
    unsafe { _mm256_loadu_si256(x.as_ptr().cast()) }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn load_signed(x: &[i8; GROUP]) -> __m256i {
    // SAFETY: 32 readable bytes; the load takes any alignment.
    unsafe { _mm256_loadu_si256(x.as_ptr().cast()) }
}
