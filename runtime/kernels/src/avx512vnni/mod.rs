//! x86-64 with AVX-512 and VNNI: servers since 2019, desktops with Zen 4 and later.

mod lanes;
mod mul_quantized;
mod rows;
mod screen;

use crate::tier::tier;
use lanes::Avx512Lanes;
#[cfg(feature = "std")]
use std::is_x86_feature_detected;

tier!(
    /// Proof that the CPU has AVX-512 F, BW, DQ, VL and VNNI.
    Avx512Vnni, "avx512vnni", Avx512Lanes, features: "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni",
    each: ["avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512vnni"],
    detected: is_x86_feature_detected,
    mul_quantized: crate::avx512vnni::mul_quantized::mul_quantized
);
