//! Dots of signed bytes: `dot` of two vectors of four words, for CubeCL, is that of their 16 signed bytes each.
//!
//! GPUs have an instruction for four such products, and WGSL a function, `dot4I8Packed`. CubeCL's WGSL does without: its `dp4a` becomes some
//! thirty operations. No kernel here has a use for the dot product of whole words, so its name is taken.

use crate::compile::Shader;

/// What stands in for `dot`.
const BYTES: &str = "
fn dot_of_bytes(a: vec4<u32>, b: vec4<u32>) -> u32 {
    let low = dot4I8Packed(a.x, b.x) + dot4I8Packed(a.y, b.y);
    let high = dot4I8Packed(a.z, b.z) + dot4I8Packed(a.w, b.w);
    return bitcast<u32>(low + high);
}
";

/// Makes every `dot` of a shader one of bytes.
pub(crate) fn apply(shader: &mut Shader) {
    if shader.text.contains("dot(") {
        shader.text = shader.text.replace("dot(", "dot_of_bytes(") + BYTES;
    }
}
