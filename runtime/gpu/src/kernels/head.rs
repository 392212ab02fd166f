//! The largest logit, found in two steps.

use cubecl_core as cubecl;
use cubecl_core::prelude::*;

/// Units of a workgroup here.
pub const UNITS: u32 = 256;
/// Logits that a workgroup of the first step looks at.
pub const SPAN: u32 = 2048;

/// Of two values the larger, of equal ones the first; a NaN never wins.
#[cube]
pub fn better(value: f32, index: u32, than: f32, than_index: u32) -> bool {
    value > than || (value == than && index < than_index)
}

/// The best of the workgroup's values and its index, to unit 0.
#[cube]
pub fn best_unit(value: f32, index: u32, values: &mut Shared<[f32]>, indices: &mut Shared<[u32]>) {
    let unit = UNIT_POS_X as usize;
    values[unit] = value;
    indices[unit] = index;
    sync_cube();
    #[unroll]
    for i in 0..8u32 {
        let step = comptime!(128usize >> i);
        if unit < step {
            let (other, other_index) = (values[unit + step], indices[unit + step]);
            if better(other, other_index, values[unit], indices[unit]) {
                values[unit] = other;
                indices[unit] = other_index;
            }
        }
        sync_cube();
    }
}

/// The best of each span of logits: `out[2i]` its bits, `out[2i + 1]` its index. One workgroup a span.
#[cube(launch_unchecked)]
pub fn argmax_spans(x: &[f32], out: &mut [u32], #[comptime] n: u32) {
    let mut values = Shared::<[f32]>::new_slice(UNITS as usize);
    let mut indices = Shared::<[u32]>::new_slice(UNITS as usize);
    let first = CUBE_POS_X * SPAN;
    let mut best = f32::new(-3.4e38f32);
    let mut best_at = first + UNIT_POS_X;
    for i in 0..comptime!(SPAN / UNITS) {
        let at = first + i * UNITS + UNIT_POS_X;
        if at < n {
            let value = x[at as usize];
            if value > best {
                best = value;
                best_at = at;
            }
        }
    }
    best_unit(best, best_at, &mut values, &mut indices);
    if UNIT_POS_X == 0u32 {
        out[(2u32 * CUBE_POS_X) as usize] = u32::reinterpret(values[0]);
        out[(2u32 * CUBE_POS_X + 1u32) as usize] = indices[0];
    }
}

/// The best of the spans: `out[0]` its bits, `out[1]` its index. One workgroup.
#[cube(launch_unchecked)]
pub fn argmax(spans: &[u32], out: &mut [u32], #[comptime] n: u32) {
    let mut values = Shared::<[f32]>::new_slice(UNITS as usize);
    let mut indices = Shared::<[u32]>::new_slice(UNITS as usize);
    let mut best = f32::new(-3.4e38f32);
    let mut best_at = 0xffff_ffffu32;
    for i in 0..comptime!(n.div_ceil(UNITS)) {
        let at = i * UNITS + UNIT_POS_X;
        if at < n {
            let value = f32::reinterpret(spans[(2u32 * at) as usize]);
            let index = spans[(2u32 * at + 1u32) as usize];
            if better(value, index, best, best_at) {
                best = value;
                best_at = index;
            }
        }
    }
    best_unit(best, best_at, &mut values, &mut indices);
    if UNIT_POS_X == 0u32 {
        out[0] = u32::reinterpret(values[0]);
        out[1] = indices[0];
    }
}

/// Workgroups that read memory to measure it.
pub const READ_GROUPS: u32 = 2048;

/// Adds up `each` vectors of 4 words for every unit, neighbours reading neighbouring ones: what reading costs, and nothing else.
#[cube(launch_unchecked)]
pub fn read_all(x: &[Vector<u32, Const<4>>], out: &mut [u32], #[comptime] each: u32) {
    let unit = CUBE_POS_X * UNITS + UNIT_POS_X;
    let mut sum = Vector::<u32, Const<4>>::new(0u32);
    for i in 0..each {
        sum += x[(i * comptime!(READ_GROUPS * UNITS) + unit) as usize];
    }
    out[unit as usize] = sum.extract(0usize) ^ sum.extract(1usize) ^ sum.extract(2usize) ^ sum.extract(3usize);
}
