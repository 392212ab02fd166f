//! AArch64 with SDOT: Cortex-A55, A76 and later (Pi 5, RK3588, Jetson Orin).

mod sdot;

use crate::neon::{NeonLanes, mul_quantized};
use crate::tier::tier;
#[cfg(feature = "std")]
use std::arch::is_aarch64_feature_detected;

tier!(
    /// Proof that the CPU has Advanced SIMD and its dot products.
    Dotprod, "dotprod", NeonLanes, features: "neon,dotprod", each: ["neon", "dotprod"],
    detected: is_aarch64_feature_detected,
    mul_quantized: mul_quantized::mul_quantized::<sdot::Sdot>
);
