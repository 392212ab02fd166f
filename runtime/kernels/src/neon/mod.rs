//! AArch64 with Advanced SIMD and nothing else: Cortex-A53, A57, A72 (Pi 3, Zero 2 W, Pi 4, Jetson Nano).
//!
//! No dot products, no fp16 arithmetic, no atomics of Armv8.1.

mod bytes;
mod decode;
mod decode_bytes;
mod lanes;
pub(crate) mod levels;
pub(crate) mod mul_quantized;
pub(crate) mod prefill;
mod screen;
mod stretch;
pub(crate) mod token;

use crate::generic::rows::RowDots;
use crate::tier::tier;
pub(crate) use lanes::NeonLanes;
#[cfg(feature = "std")]
use std::arch::is_aarch64_feature_detected;

impl RowDots for NeonLanes {}

tier!(
    /// Proof that the CPU has Advanced SIMD, as every AArch64 target with hard floats promises.
    Neon, "neon", NeonLanes, features: "neon", each: ["neon"],
    detected: is_aarch64_feature_detected,
    mul_quantized: super::mul_quantized::mul_quantized
);
