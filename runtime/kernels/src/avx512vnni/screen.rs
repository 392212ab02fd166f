//! Look-ups by VPSHUFB: four tiles of 16 rows a vector. Pairs of looked-up bytes are added as they are, two rows to a 16-bit
//! lane, and the odd rows once more alone: what they have put into the even rows' sums is taken out at the end.

use super::lanes::Avx512Lanes;
use crate::generic::screen::{LookUp, TILES};
use core::arch::x86_64::*;

/// How far ahead of use codes are fetched: a page or so hides the latency of memory.
const AHEAD: usize = 4096;

impl LookUp for Avx512Lanes {
    #[inline(always)]
    fn sums(tiles: [&[[u8; 16]]; TILES], tables: &[[[u8; 16]; 2]]) -> [[u16; 16]; TILES] {
        // SAFETY: AVX-512, as every caller is reached through the tier's token.
        unsafe { sums(tiles, tables) }
    }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn sums(tiles: [&[[u8; 16]]; TILES], tables: &[[[u8; 16]; 2]]) -> [[u16; 16]; TILES] {
    let nibble = _mm512_set1_epi8(15);
    let (mut both, mut odd) = (_mm512_setzero_si512(), _mm512_setzero_si512());
    let [a, b, c, d] = tiles;
    let mut ahead = a.as_ptr().cast::<u8>().wrapping_add(AHEAD);
    for ((((pair, a), b), c), d) in tables.iter().zip(a).zip(b).zip(c).zip(d) {
        // Four tiles lie side by side and are read at the same pace: a line of all of them for every 16 bytes of each.
        _mm_prefetch::<_MM_HINT_T0>(ahead.cast());
        ahead = ahead.wrapping_add(64);
        let low = _mm512_broadcast_i32x4(load(&pair[0]));
        let high = _mm512_broadcast_i32x4(load(&pair[1]));
        let codes = _mm512_castsi128_si512(load(a));
        let codes = _mm512_inserti32x4::<1>(codes, load(b));
        let codes = _mm512_inserti32x4::<2>(codes, load(c));
        let codes = _mm512_inserti32x4::<3>(codes, load(d));
        let first = _mm512_shuffle_epi8(low, _mm512_and_si512(codes, nibble));
        let second = _mm512_shuffle_epi8(high, _mm512_and_si512(_mm512_srli_epi16::<4>(codes), nibble));
        let two = _mm512_add_epi8(first, second);
        both = _mm512_add_epi16(both, two);
        odd = _mm512_add_epi16(odd, _mm512_srli_epi16::<8>(two));
    }
    let even = _mm512_sub_epi16(both, _mm512_slli_epi16::<8>(odd));
    // Rows 0…7 of each tile, then rows 8…15.
    let (first, second) = (_mm512_unpacklo_epi16(even, odd), _mm512_unpackhi_epi16(even, odd));
    let mut halves = [[[0u16; 8]; TILES]; 2];
    store(first, &mut halves[0]);
    store(second, &mut halves[1]);
    let mut out = [[0; 16]; TILES];
    for (k, out) in out.iter_mut().enumerate() {
        out[..8].copy_from_slice(&halves[0][k]);
        out[8..].copy_from_slice(&halves[1][k]);
    }
    out
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn load(x: &[u8; 16]) -> __m128i {
    // SAFETY: 16 readable bytes; the load takes any alignment.
    unsafe { _mm_loadu_si128(x.as_ptr().cast()) }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn store(v: __m512i, x: &mut [[u16; 8]; TILES]) {
    // SAFETY: 64 writable bytes; the store takes any alignment.
    unsafe { _mm512_storeu_si512(x.as_mut_ptr().cast(), v) }
}
