//! x86-64 with AVX2, FMA and F16C: desktops since 2013.

mod lanes;
mod mul_quantized;
mod screen;

use crate::generic::rows::RowDots;
use crate::tier::tier;
use lanes::Avx2Lanes;
#[cfg(feature = "std")]
use std::is_x86_feature_detected;

impl RowDots for Avx2Lanes {}

tier!(
    /// Proof that the CPU has AVX2, FMA and F16C.
    Avx2, "avx2", Avx2Lanes, features: "avx2,fma,f16c", each: ["avx2", "fma", "f16c"],
    detected: is_x86_feature_detected,
    mul_quantized: crate::avx2::mul_quantized::mul_quantized
);
