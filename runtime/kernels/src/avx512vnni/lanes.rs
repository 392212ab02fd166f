//! Sixteen f32 in one 512-bit register.

use crate::lanes::impl_lanes;
use core::arch::x86_64::__m512;

impl_lanes!(Avx512Lanes, __m512, 4 x 4);

impl Avx512Lanes {
    /// The lanes of a register, which only the tier's code can have.
    #[inline(always)]
    pub(super) const fn of(v: __m512) -> Self {
        Self(v)
    }
}

/// Safe functions with the tier's target features.
mod ops {
    use core::arch::x86_64::*;

    type V = __m512;

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
    pub(super) fn splat(x: f32) -> V {
        _mm512_set1_ps(x)
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
    pub(super) fn load(x: &[f32; 16]) -> V {
        // SAFETY: 64 readable bytes; the load takes any alignment.
        unsafe { _mm512_loadu_ps(x.as_ptr()) }
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
    pub(super) fn from_le_f32(x: &[u8; 64]) -> V {
        // SAFETY: 64 readable bytes; the load takes any alignment.
        unsafe { _mm512_loadu_ps(x.as_ptr().cast()) }
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
    fn load32(x: &[u8; 32]) -> __m256i {
        // SAFETY: 32 readable bytes; the load takes any alignment.
        unsafe { _mm256_loadu_si256(x.as_ptr().cast()) }
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
    pub(super) fn from_f16(x: &[u8; 32]) -> V {
        _mm512_cvtph_ps(load32(x))
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
    pub(super) fn from_bf16(x: &[u8; 32]) -> V {
        _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(load32(x))))
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
    pub(super) fn from_i8(x: &[u8; 16]) -> V {
        // SAFETY: 16 readable bytes; the load takes any alignment.
        let x = unsafe { _mm_loadu_si128(x.as_ptr().cast()) };
        _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(x))
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
    pub(super) fn store(v: V, x: &mut [f32; 16]) {
        // SAFETY: 64 writable bytes; the store takes any alignment.
        unsafe { _mm512_storeu_ps(x.as_mut_ptr(), v) }
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
    pub(super) fn to_f16(v: V) -> [u8; 32] {
        let h = _mm512_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(v);
        let mut out = [0; 32];
        // SAFETY: 32 writable bytes; the store takes any alignment.
        unsafe { _mm256_storeu_si256(out.as_mut_ptr().cast(), h) };
        out
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
    pub(super) fn low_bytes(v: V) -> [i8; 16] {
        let b = _mm512_cvtepi32_epi8(_mm512_castps_si512(v));
        let mut out = [0; 16];
        // SAFETY: 16 writable bytes; the store takes any alignment.
        unsafe { _mm_storeu_si128(out.as_mut_ptr().cast(), b) };
        out
    }

    /// Two operands.
    macro_rules! two {
        ($($name:ident $op:ident),*) => {$(
            #[inline]
            #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
            pub(super) fn $name(a: V, b: V) -> V {
                $op(a, b)
            }
        )*};
    }
    two!(add _mm512_add_ps, sub _mm512_sub_ps, mul _mm512_mul_ps, div _mm512_div_ps, max _mm512_max_ps, min _mm512_min_ps);

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
    pub(super) fn fma(a: V, b: V, c: V) -> V {
        _mm512_fmadd_ps(a, b, c)
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
    pub(super) fn pow2(a: V) -> V {
        let n = _mm512_slli_epi32::<23>(_mm512_castps_si512(a));
        _mm512_castsi512_ps(_mm512_add_epi32(n, _mm512_set1_epi32(127 << 23)))
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
    pub(super) fn zero_if_lt(a: V, b: V, x: V) -> V {
        _mm512_maskz_mov_ps(_mm512_cmp_ps_mask::<_CMP_NLT_UQ>(a, b), x)
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
    pub(super) fn reduce_add(v: V) -> f32 {
        let v = _mm256_add_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps::<1>(v));
        let v = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps::<1>(v));
        let v = _mm_add_ps(v, _mm_movehl_ps(v, v));
        _mm_cvtss_f32(_mm_add_ss(v, _mm_movehdup_ps(v)))
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
    pub(super) fn reduce_max(v: V) -> f32 {
        let v = _mm256_max_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps::<1>(v));
        let v = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps::<1>(v));
        let v = _mm_max_ps(v, _mm_movehl_ps(v, v));
        _mm_cvtss_f32(_mm_max_ss(v, _mm_movehdup_ps(v)))
    }
}
