//! Look-ups by VPSHUFB: two tiles of 16 rows a vector. Pairs of looked-up bytes are added as they are, two rows to a 16-bit lane,
//! and the odd rows once more alone: what they have put into the even rows' sums is taken out at the end.

use super::lanes::Avx2Lanes;
use crate::generic::screen::{LookUp, TILES};
use core::arch::x86_64::*;

/// How far ahead of use codes are fetched: a page or so hides the latency of memory.
const AHEAD: usize = 4096;

impl LookUp for Avx2Lanes {
    #[inline(always)]
    fn sums(tiles: [&[[u8; 16]]; TILES], tables: &[[[u8; 16]; 2]]) -> [[u16; 16]; TILES] {
        // SAFETY: AVX2, as every caller is reached through the tier's token.
        unsafe { sums(tiles, tables) }
    }
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn sums(tiles: [&[[u8; 16]]; TILES], tables: &[[[u8; 16]; 2]]) -> [[u16; 16]; TILES] {
    let nibble = _mm256_set1_epi8(15);
    let (mut both, mut odd) = ([_mm256_setzero_si256(); 2], [_mm256_setzero_si256(); 2]);
    let [a, b, c, d] = tiles;
    let mut ahead = a.as_ptr().cast::<u8>().wrapping_add(AHEAD);
    for ((((pair, a), b), c), d) in tables.iter().zip(a).zip(b).zip(c).zip(d) {
        // Four tiles lie side by side and are read at the same pace: a line of all of them for every 16 bytes of each.
        _mm_prefetch::<_MM_HINT_T0>(ahead.cast());
        ahead = ahead.wrapping_add(64);
        let low = _mm256_broadcastsi128_si256(load(&pair[0]));
        let high = _mm256_broadcastsi128_si256(load(&pair[1]));
        for (i, codes) in [[a, b], [c, d]].into_iter().enumerate() {
            let codes = _mm256_set_m128i(load(codes[1]), load(codes[0]));
            let first = _mm256_shuffle_epi8(low, _mm256_and_si256(codes, nibble));
            let second = _mm256_shuffle_epi8(high, _mm256_and_si256(_mm256_srli_epi16::<4>(codes), nibble));
            let two = _mm256_add_epi8(first, second);
            both[i] = _mm256_add_epi16(both[i], two);
            odd[i] = _mm256_add_epi16(odd[i], _mm256_srli_epi16::<8>(two));
        }
    }
    let mut out = [[0; 16]; TILES];
    for (i, out) in out.as_chunks_mut::<2>().0.iter_mut().enumerate() {
        let even = _mm256_sub_epi16(both[i], _mm256_slli_epi16::<8>(odd[i]));
        let (first, second) = (_mm256_unpacklo_epi16(even, odd[i]), _mm256_unpackhi_epi16(even, odd[i]));
        store(_mm256_permute2x128_si256::<0x20>(first, second), &mut out[0]);
        store(_mm256_permute2x128_si256::<0x31>(first, second), &mut out[1]);
    }
    out
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn load(x: &[u8; 16]) -> __m128i {
    // SAFETY: 16 readable bytes; the load takes any alignment.
    unsafe { _mm_loadu_si128(x.as_ptr().cast()) }
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn store(v: __m256i, x: &mut [u16; 16]) {
    // SAFETY: 32 writable bytes; the store takes any alignment.
    unsafe { _mm256_storeu_si256(x.as_mut_ptr().cast(), v) }
}
