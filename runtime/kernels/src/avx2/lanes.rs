//! Sixteen f32 in two 256-bit registers.

use crate::lanes::impl_lanes;
use core::arch::x86_64::{__m128, __m256};

impl_lanes!(Avx2Lanes, [__m256; 2], 3 x 2);

/// Safe functions with the tier's target features.
mod ops {
    use super::{__m128, __m256};
    use core::arch::x86_64::*;

    type V = [__m256; 2];

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    pub(super) fn splat(x: f32) -> V {
        [_mm256_set1_ps(x); 2]
    }

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    fn load8(x: &[f32; 8]) -> __m256 {
        // SAFETY: 32 readable bytes; the load takes any alignment.
        unsafe { _mm256_loadu_ps(x.as_ptr()) }
    }

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    fn load16(x: &[u8; 16]) -> __m128i {
        // SAFETY: 16 readable bytes; the load takes any alignment.
        unsafe { _mm_loadu_si128(x.as_ptr().cast()) }
    }

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    fn store16(v: __m128i, x: &mut [u8; 16]) {
        // SAFETY: 16 writable bytes; the store takes any alignment.
        unsafe { _mm_storeu_si128(x.as_mut_ptr().cast(), v) }
    }

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    pub(super) fn load(x: &[f32; 16]) -> V {
        let (x, _) = x.as_chunks::<8>();
        [load8(&x[0]), load8(&x[1])]
    }

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    pub(super) fn from_le_f32(x: &[u8; 64]) -> V {
        let (x, _) = x.as_chunks::<16>();
        let pair = |i: usize| _mm256_castsi256_ps(_mm256_set_m128i(load16(&x[i + 1]), load16(&x[i])));
        [pair(0), pair(2)]
    }

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    pub(super) fn from_f16(x: &[u8; 32]) -> V {
        let (x, _) = x.as_chunks::<16>();
        [_mm256_cvtph_ps(load16(&x[0])), _mm256_cvtph_ps(load16(&x[1]))]
    }

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    pub(super) fn from_bf16(x: &[u8; 32]) -> V {
        let (x, _) = x.as_chunks::<16>();
        let wide = |i: usize| _mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(load16(&x[i]))));
        [wide(0), wide(1)]
    }

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    pub(super) fn from_i8(x: &[u8; 16]) -> V {
        let x = load16(x);
        let high = _mm_unpackhi_epi64(x, x);
        [_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(x)), _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(high))]
    }

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    pub(super) fn store(v: V, x: &mut [f32; 16]) {
        let (x, _) = x.as_chunks_mut::<8>();
        for (x, v) in x.iter_mut().zip(v) {
            // SAFETY: 32 writable bytes; the store takes any alignment.
            unsafe { _mm256_storeu_ps(x.as_mut_ptr(), v) }
        }
    }

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    pub(super) fn to_f16(v: V) -> [u8; 32] {
        let mut out = [0; 32];
        let (o, _) = out.as_chunks_mut::<16>();
        store16(_mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(v[0]), &mut o[0]);
        store16(_mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(v[1]), &mut o[1]);
        out
    }

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    pub(super) fn low_bytes(v: V) -> [i8; 16] {
        let byte = _mm256_set1_epi32(255);
        let a = _mm256_and_si256(_mm256_castps_si256(v[0]), byte);
        let b = _mm256_and_si256(_mm256_castps_si256(v[1]), byte);
        // Saturating packs of 0..=255 keep the values; they work within 128-bit halves, which the permutation undoes.
        let words = _mm256_permute4x64_epi64::<0b11_01_10_00>(_mm256_packus_epi32(a, b));
        let bytes = _mm_packus_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256::<1>(words));
        let mut out = [0; 16];
        // SAFETY: 16 writable bytes; the store takes any alignment.
        unsafe { _mm_storeu_si128(out.as_mut_ptr().cast(), bytes) };
        out
    }

    /// Two operands, half by half.
    macro_rules! two {
        ($($name:ident $op:ident),*) => {$(
            #[inline]
            #[target_feature(enable = "avx2,fma,f16c")]
            pub(super) fn $name(a: V, b: V) -> V {
                [$op(a[0], b[0]), $op(a[1], b[1])]
            }
        )*};
    }
    two!(add _mm256_add_ps, sub _mm256_sub_ps, mul _mm256_mul_ps, div _mm256_div_ps, max _mm256_max_ps, min _mm256_min_ps);

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    pub(super) fn fma(a: V, b: V, c: V) -> V {
        [_mm256_fmadd_ps(a[0], b[0], c[0]), _mm256_fmadd_ps(a[1], b[1], c[1])]
    }

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    pub(super) fn pow2(a: V) -> V {
        let one = |a| {
            let n = _mm256_slli_epi32::<23>(_mm256_castps_si256(a));
            _mm256_castsi256_ps(_mm256_add_epi32(n, _mm256_set1_epi32(127 << 23)))
        };
        [one(a[0]), one(a[1])]
    }

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    pub(super) fn zero_if_lt(a: V, b: V, x: V) -> V {
        let one = |i: usize| _mm256_andnot_ps(_mm256_cmp_ps::<_CMP_LT_OQ>(a[i], b[i]), x[i]);
        [one(0), one(1)]
    }

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    fn high(v: __m256) -> __m128 {
        _mm256_extractf128_ps::<1>(v)
    }

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    pub(super) fn reduce_add(v: V) -> f32 {
        let v = _mm256_add_ps(v[0], v[1]);
        let v = _mm_add_ps(_mm256_castps256_ps128(v), high(v));
        let v = _mm_add_ps(v, _mm_movehl_ps(v, v));
        _mm_cvtss_f32(_mm_add_ss(v, _mm_movehdup_ps(v)))
    }

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    pub(super) fn reduce_max(v: V) -> f32 {
        let v = _mm256_max_ps(v[0], v[1]);
        let v = _mm_max_ps(_mm256_castps256_ps128(v), high(v));
        let v = _mm_max_ps(v, _mm_movehl_ps(v, v));
        _mm_cvtss_f32(_mm_max_ss(v, _mm_movehdup_ps(v)))
    }
}
