//! What stands between two products: residual sum, norms, the int8 form of activations.

use super::float::product;
use cubecl_core as cubecl;
use cubecl_core::prelude::*;

/// Invocations of a workgroup here: eight groups of 32 columns at a time.
pub const UNITS: u32 = 256;

/// What `add_norm` and `quantize` do, and in which shape.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Spec {
    /// Length of a vector.
    pub cols: u32,
    /// Tokens side by side in the output.
    pub lanes: u32,
    /// Elements between tokens of the input.
    pub stride: u32,
    /// The residual stream takes a product's output first.
    pub adds: bool,
    /// That output has a bias.
    pub bias: bool,
    /// That output is normed before it is added.
    pub post: bool,
    /// The int8 form is wanted.
    pub int8: bool,
    /// The float form is wanted.
    pub float: bool,
    /// Bits of the norms' epsilon.
    pub eps: u32,
}

/// Adds the squares of `room`'s `n` numbers (a multiple of 16) to the sums that units hold as the CPU's lanes do: number `c` to unit
/// `c mod 16`, in rising order.
///
/// All units add, though the first 16 are enough: what is set under a condition and used under the same one behind a barrier keeps Mesa's
/// compiler for V3D busy for ever, once the loop between is unrolled (25.0).
#[cube]
pub fn add_squares(sum: f32, room: &Shared<[f32]>, #[comptime] n: u32) -> f32 {
    let mut sum = sum;
    for i in 0..comptime!(n / 16) {
        let x = room[(i * 16u32 + UNIT_POS_X % 16u32) as usize];
        sum = fma(x, x, sum);
    }
    sum
}

/// The sum of what the first 16 units hold, added by halves, to every unit. All units take part; `room` may be in use before.
#[cube]
pub fn sum_of_16(sum: f32, room: &mut Shared<[f32]>) -> f32 {
    sync_cube();
    if UNIT_POS_X < 16u32 {
        room[UNIT_POS_X as usize] = sum;
    }
    sync_cube();
    #[unroll]
    for i in 0..4u32 {
        let step = comptime!(8u32 >> i);
        if UNIT_POS_X < step {
            let other = room[(UNIT_POS_X + step) as usize];
            room[UNIT_POS_X as usize] += other;
        }
        sync_cube();
    }
    let total = room[0];
    sync_cube();
    total
}

/// The largest of each 32 neighbouring units' numbers, and their sum: both to every one of them.
#[cube]
fn group_max_sum(x: f32, y: f32, tops: &mut Shared<[f32]>, sums: &mut Shared<[f32]>) -> (f32, f32) {
    let unit = UNIT_POS_X;
    tops[unit as usize] = x;
    sums[unit as usize] = y;
    sync_cube();
    #[unroll]
    for i in 0..5u32 {
        let step = comptime!(16u32 >> i);
        if unit % 32u32 < step {
            let top = tops[(unit + step) as usize];
            let sum = sums[(unit + step) as usize];
            tops[unit as usize] = max(tops[unit as usize], top);
            sums[unit as usize] += sum;
        }
        sync_cube();
    }
    let first = (unit / 32u32) * 32u32;
    let top = tops[first as usize];
    let sum = sums[first as usize];
    sync_cube();
    (top, sum)
}

/// Writes `value`, element `col` of token `t`, as int8 in groups of 32 and as it is; behind the last column zeros, whatever `value` is.
/// All units take part.
#[cube]
pub fn write(
    value: f32,
    col: u32,
    t: u32,
    q: &mut [u32],
    scales: &mut [f32],
    float: &mut [f32],
    tops: &mut Shared<[f32]>,
    sums: &mut Shared<[f32]>,
    #[comptime] spec: Spec,
) {
    let cols = comptime!(spec.cols);
    let padded = comptime!(spec.cols.div_ceil(64) * 64);
    let lanes = comptime!(spec.lanes);
    let (block, lane) = (t / lanes, t % lanes);
    if comptime!(spec.float) {
        if col < cols {
            float[((block * cols + col) * lanes + lane) as usize] = value;
        }
    }
    if comptime!(spec.int8) {
        let value = select(col < cols, value, 0.0f32);
        let (top, _) = group_max_sum(f32::abs(value), 0.0f32, tops, sums);
        let zeros = top < 1e-30f32;
        let factor = select(zeros, 0.0f32, 127.0f32 / top);
        let code = f32::round(value * factor);
        let (_, sum) = group_max_sum(0.0f32, code, tops, sums);
        let unit = UNIT_POS_X as usize;
        sums[unit] = code;
        sync_cube();
        if col < padded {
            if col % 4u32 == 0u32 {
                let mut word = byte(sums[unit]);
                #[unroll]
                for j in 1..4u32 {
                    word |= byte(sums[unit + comptime!(j as usize)]) << comptime!(8 * j);
                }
                q[(((block * comptime!(padded / 16) + col / 16u32) * lanes + lane) * 4u32 + (col % 16u32) / 4u32) as usize] =
                    word;
            }
            if col % 32u32 == 0u32 {
                let scale = select(zeros, 0.0f32, top / 127.0f32);
                let at = (block * comptime!(padded / 32) + col / 32u32) * 2u32 * lanes + lane;
                scales[at as usize] = scale;
                scales[(at + lanes) as usize] = scale * sum;
            }
        }
        sync_cube();
    }
}

/// A whole number as a signed byte.
#[cube]
fn byte(x: f32) -> u32 {
    u32::reinterpret(i32::cast_from(x)) & 255u32
}

/// `residual += norm(projected + bias)·post;  h = norm(residual)·weight`, and the int8 form of `h`: one workgroup a token.
///
/// `vectors` holds norms and biases; `params` where they begin in it: bias, post, weight. `residual`: `[T, cols]`; `projected`:
/// `[T, stride]`. Outputs: codes, signed bytes `[padded cols / 16][L][16]`, four to a word; scales `[groups][2][L]`: the scale, and the
/// scale times the group's sum; floats `[cols][L]`.
#[cube(launch_unchecked)]
pub fn add_norm(
    residual: &mut [f32],
    projected: &[f32],
    vectors: &[f32],
    params: &[u32],
    q: &mut [u32],
    scales: &mut [f32],
    float: &mut [f32],
    #[comptime] spec: Spec,
) {
    let t = CUBE_POS_X;
    let cols = comptime!(spec.cols);
    let steps = comptime!(spec.cols.div_ceil(64) * 64);
    let steps = comptime!(steps.div_ceil(UNITS));
    let mut tops = Shared::<[f32]>::new_slice(UNITS as usize);
    let mut sums = Shared::<[f32]>::new_slice(UNITS as usize);
    let eps = f32::from_bits(comptime!(spec.eps));
    if comptime!(spec.adds) {
        let mut factor = 1.0f32;
        if comptime!(spec.post) {
            let mut squares = 0.0f32;
            for i in 0..steps {
                let col = i * UNITS + UNIT_POS_X;
                let mut x = 0.0f32;
                if col < cols {
                    x = projected[(t * comptime!(spec.stride) + col) as usize];
                    if comptime!(spec.bias) {
                        x += vectors[(params[0] + col) as usize];
                    }
                }
                tops[UNIT_POS_X as usize] = x;
                sync_cube();
                squares = add_squares(squares, &tops, UNITS);
                sync_cube();
            }
            factor = 1.0f32 / f32::sqrt(sum_of_16(squares, &mut tops) / f32::cast_from(cols) + eps);
        }
        for i in 0..steps {
            let col = i * UNITS + UNIT_POS_X;
            if col < cols {
                let mut x = projected[(t * comptime!(spec.stride) + col) as usize];
                if comptime!(spec.bias) {
                    x += vectors[(params[0] + col) as usize];
                }
                if comptime!(spec.post) {
                    x = product(x * factor, vectors[(params[1] + col) as usize]);
                }
                residual[(t * cols + col) as usize] += x;
            }
        }
    }
    let mut squares = 0.0f32;
    for i in 0..steps {
        let col = i * UNITS + UNIT_POS_X;
        let mut x = 0.0f32;
        if col < cols {
            x = residual[(t * cols + col) as usize];
        }
        tops[UNIT_POS_X as usize] = x;
        sync_cube();
        squares = add_squares(squares, &tops, UNITS);
        sync_cube();
    }
    let factor = 1.0f32 / f32::sqrt(sum_of_16(squares, &mut tops) / f32::cast_from(cols) + eps);
    for i in 0..steps {
        let col = i * UNITS + UNIT_POS_X;
        let at = min(col, cols - 1u32);
        let value = residual[(t * cols + at) as usize] * factor * vectors[(params[2] + at) as usize];
        write(value, col, t, q, scales, float, &mut tops, &mut sums, spec);
    }
}

/// The int8 form (and the float form in lanes) of `x`: `[T, stride]`; 256 columns of a token to a workgroup.
#[cube(launch_unchecked)]
pub fn quantize(x: &[f32], q: &mut [u32], scales: &mut [f32], float: &mut [f32], #[comptime] spec: Spec) {
    let t = CUBE_POS_Y;
    let col = CUBE_POS_X * UNITS + UNIT_POS_X;
    let mut tops = Shared::<[f32]>::new_slice(UNITS as usize);
    let mut sums = Shared::<[f32]>::new_slice(UNITS as usize);
    let value = x[(t * comptime!(spec.stride) + min(col, comptime!(spec.cols - 1))) as usize];
    write(value, col, t, q, scales, float, &mut tops, &mut sums, spec);
}
