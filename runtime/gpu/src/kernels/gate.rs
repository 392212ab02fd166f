//! The gated activation and its int8 form.

use super::float::exp;
use super::norm::{Spec, UNITS, write};
use cubecl_core as cubecl;
use cubecl_core::prelude::*;

/// `silu(a)·b` or `gelu_tanh(a)·b`.
#[cube]
fn gated(a: f32, b: f32, #[comptime] gelu: bool) -> f32 {
    if comptime!(gelu) {
        let u = fma(a * a * a, 0.044_715f32, a);
        a / (1.0f32 + exp(u * -1.595_769f32)) * b
    } else {
        a / (1.0f32 + exp(-a)) * b
    }
}

/// `act(gate)·up` of `x`: `[T, stride]`, where `up` begins `up_at` after `gate`; outputs as `add_norm`'s.
#[cube(launch_unchecked)]
pub fn gate(
    x: &[f32],
    q: &mut [u32],
    scales: &mut [f32],
    float: &mut [f32],
    #[comptime] spec: Spec,
    #[comptime] up_at: u32,
    #[comptime] gelu: bool,
) {
    let t = CUBE_POS_Y;
    let col = CUBE_POS_X * UNITS + UNIT_POS_X;
    let mut tops = Shared::<[f32]>::new_slice(UNITS as usize);
    let mut sums = Shared::<[f32]>::new_slice(UNITS as usize);
    let at = t * comptime!(spec.stride) + min(col, comptime!(spec.cols - 1));
    let value = gated(x[at as usize], x[(at + up_at) as usize], gelu);
    write(value, col, t, q, scales, float, &mut tops, &mut sums, spec);
}
