//! The algorithms, written once over 16 lanes. Everything here is `#[inline(always)]` and free of closures, so that it is
//! compiled inside the tier's functions, with the tier's instructions.
// Register tiles are indexed by query and vector; kernels take what they need one by one, so that all is inlined away.
#![allow(clippy::needless_range_loop, clippy::too_many_arguments)]

pub(crate) mod attend;
pub(crate) mod elem;
pub(crate) mod float;
pub(crate) mod kv;
pub(crate) mod logits;
pub(crate) mod norm;
pub(crate) mod pointwise;
pub(crate) mod quantize;
pub(crate) mod rope;
pub(crate) mod rows;
pub(crate) mod screen;
