//! The kernels, in CubeCL: written once here, compiled to WGSL by [`crate::compile`] for the shapes of a model.
//!
//! Modules in path order: [`norm`] (residual sum, norm, int8 form) → [`matvec`], [`matmul`] (matrix times one vector, or many) → [`rope`] (biases, head
//! norms, rotation, KV cache) → [`attend`] → [`gate`] (activation) → [`screen`] (a screened head) → [`head`] (the best logit) →
//! [`select`] (the few best); [`tiles`] and [`float`] are what they share.
//!
//! Nothing here needs more than WebGPU guarantees: no half floats, no subgroups, at most 256 invocations and 16 KiB of workgroup
//! memory, 8 buffers. What is stored in halves or bytes is taken apart with whole numbers.
//!
//! Tokens are lanes: a buffer of activations with `L` tokens side by side is `[cols][L]`, or in bytes `[cols / 16][L][16]`, `L` being
//! 1 for decoding and [`TOKENS`] for prefill, so that a weight, unpacked once, meets its `L` activations.

// What CubeCL reads is not quite Rust: it knows no `*=` on elements, no methods on numbers, and joins no conditions of compile time and run time.
#![allow(clippy::assign_op_pattern, clippy::collapsible_if, clippy::manual_is_multiple_of, clippy::too_many_arguments)]

pub mod attend;
pub mod float;
pub mod gate;
pub mod head;
pub mod matmul;
pub mod matvec;
pub mod norm;
pub mod rope;
pub mod screen;
pub mod select;
pub mod tiles;

/// Tokens that a pass of prefill takes at once: they share every weight that is read.
pub const TOKENS: u32 = 16;
