//! The definition: every kernel in plain Rust, always compiled.

mod lanes;
mod mul_quantized;
mod row;
mod screen;

use crate::generic;
use crate::table::Kernels;
use lanes::Scalar;
pub(crate) use mul_quantized::check;
pub use mul_quantized::mul_quantized;
pub use row::row_f32;

impl generic::rows::RowDots for Scalar {}

/// The kernels of every CPU.
pub static TABLE: Kernels = Kernels {
    isa: "scalar",
    mul_quantized,
    mul_rows: generic::rows::mul_rows::<Scalar>,
    mul_float: generic::float::mul_float::<Scalar>,
    quantize: generic::quantize::quantize::<Scalar>,
    rms_norm: generic::norm::rms_norm::<Scalar>,
    rope: generic::rope::rope::<Scalar>,
    add: generic::pointwise::add::<Scalar>,
    silu_mul: generic::pointwise::silu_mul::<Scalar>,
    gelu_mul: generic::pointwise::gelu_mul::<Scalar>,
    softcap: generic::pointwise::softcap::<Scalar>,
    kv_store: generic::kv::kv_store::<Scalar>,
    attend: generic::attend::attend::<Scalar>,
    screen_tables: generic::screen::tables::<Scalar>,
    screen_scores: generic::screen::scores::<Scalar>,
    count_at_least: generic::logits::count_at_least,
    argmax: generic::logits::argmax::<Scalar>,
    max_sum_exp: generic::logits::max_sum_exp::<Scalar>,
};
