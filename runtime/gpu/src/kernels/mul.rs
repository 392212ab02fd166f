//! Matrix times vectors, straight from the image's layout (FORMAT.md §4): 16 rows are 16 neighbouring units.
//!
//! A workgroup takes one tile of 16 rows; `splits` sets of 16 units share its groups of 32 columns. Activations come in the CPU's int8
//! form, as floats that are whole numbers: sums of products of levels and such numbers stay below 2²⁴, so floats hold them exactly, in
//! any order, fused or not. Only the sum over groups is rounded, and one unit adds it up in the order of FORMAT.md §4: a GPU whose fused
//! multiply-add is fused gives the CPU's bits.

use super::TOKENS;
use super::float::{half_of, signed_byte};
use bourn_format::Dtype;
use cubecl_core as cubecl;
use cubecl_core::prelude::*;

/// Words of `params` before the first matrix.
pub const HEADER_WORDS: u32 = 4;
/// Words of `params` for a matrix: first tile, first word, tiles of a part, words from part to part, first row of the output, four
/// words of levels, and zeros.
pub const MATRIX_WORDS: u32 = 12;

/// A product's shape.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Spec {
    /// Type of the matrices.
    pub dtype: Dtype,
    /// Columns.
    pub cols: u32,
    /// Sets of 16 units that share the columns; of float types 4, as the CPU has four running sums.
    pub splits: u32,
    /// Matrices one after another in the output.
    pub matrices: u32,
    /// Elements between tokens of the output; 0 where there is one token.
    pub stride: u32,
}

impl Spec {
    /// Groups of 32 columns, or columns of a float type.
    const fn steps(&self) -> u32 {
        if self.dtype.is_quantized() { self.cols.div_ceil(64) * 2 } else { self.cols }
    }

    /// Words of a tile.
    const fn tile_words(&self) -> u32 {
        (bourn_format::layout::tile_bytes(self.dtype, self.cols as usize) / 4) as u32
    }

    const fn is_four_bits(&self) -> bool {
        matches!(self.dtype, Dtype::Q4 | Dtype::Q4M)
    }
}

/// Where the params of the matrix with tile `tile` begin.
#[cube]
fn matrix_of(params: &[u32], tile: u32, #[comptime] spec: Spec) -> u32 {
    let mut at = 4u32;
    #[unroll]
    for m in 1..comptime!(spec.matrices) {
        let next = comptime!(HEADER_WORDS + m * MATRIX_WORDS);
        if tile >= params[next as usize] {
            at = u32::cast_from(next);
        }
    }
    at
}

/// The first word of tile `tile`.
#[cube]
fn tile_at(params: &[u32], at: u32, tile: u32, #[comptime] spec: Spec) -> u32 {
    let tile = tile - params[at as usize];
    let in_part = params[(at + 2u32) as usize];
    let part = tile / in_part;
    params[(at + 1u32) as usize] + part * params[(at + 3u32) as usize] + (tile - part * in_part) * comptime!(spec.tile_words())
}

/// Level `i` of the table of 16 signed bytes at `params[at]`.
#[cube]
fn level(params: &[u32], at: u32, i: u32) -> f32 {
    let word = params[(at + 5u32 + i / 4u32) as usize];
    f32::cast_from(i32::reinterpret(word << (24u32 - (i % 4u32) * 8u32)) >> 24i32)
}

/// Words from the beginning of a block or row to the codes of group `g` (`half`: 0 or 1, its place in the block).
#[cube]
fn codes_at(base: u32, row: u32, g: u32, #[comptime] spec: Spec) -> u32 {
    let half = g % 2u32;
    match comptime!(spec.dtype) {
        Dtype::Q4 => base + (g / 2u32) * 144u32 + 16u32 + half * 64u32 + row,
        Dtype::Q4M => base + (g / 2u32) * 160u32 + 32u32 + half * 64u32 + row,
        Dtype::Q8 => base + (g / 2u32) * 272u32 + 16u32 + half * 128u32 + row,
        _ => base + row * comptime!(spec.tile_words() / 16) + comptime!(spec.steps() / 2) + g * 8u32,
    }
}

/// Scale of group `g`.
#[cube]
fn scale_of(w: &[u32], base: u32, row: u32, g: u32, #[comptime] spec: Spec) -> f32 {
    if comptime!(matches!(spec.dtype, Dtype::Q8R)) {
        half_of(w[(base + row * comptime!(spec.tile_words() / 16) + g / 2u32) as usize], g % 2u32)
    } else {
        let block = comptime!((bourn_format::layout::block_bytes(spec.dtype) / 4) as u32);
        half_of(w[(base + (g / 2u32) * block + (g % 2u32) * 8u32 + row / 2u32) as usize], row % 2u32)
    }
}

/// Minimum of group `g` of q4m.
#[cube]
fn minimum_of(w: &[u32], base: u32, row: u32, g: u32) -> f32 {
    half_of(w[(base + (g / 2u32) * 160u32 + 16u32 + (g % 2u32) * 8u32 + row / 2u32) as usize], row % 2u32)
}

/// The product of a row's group `g` of signed bytes with the activations: eight words from `codes` on, `step` apart.
#[cube]
pub fn q8_dot(w: &[u32], codes: u32, #[comptime] step: u32, x: &[Vector<f32, Const<4>>], g: u32) -> f32 {
    let mut dot = 0.0f32;
    #[unroll]
    for p in 0..8u32 {
        let word = w[(codes + comptime!(step * p)) as usize];
        let v = x[(g * 8u32 + p) as usize];
        #[unroll]
        for j in 0..4usize {
            dot += signed_byte(word, comptime!(j as u32)) * v.extract(j);
        }
    }
    dot
}

/// `y = W·x` of one token, quantized types. `x`: codes by fours; `scales`: `[groups][2]`; `params`: tiles in all, then the matrices.
#[cube(launch_unchecked)]
pub fn matvec(w: &[u32], x: &[Vector<f32, Const<4>>], scales: &[f32], params: &[u32], y: &mut [f32], #[comptime] spec: Spec) {
    let (row, split) = (UNIT_POS_X % 16u32, UNIT_POS_X / 16u32);
    let splits = comptime!(spec.splits);
    let mut levels = Shared::<[f32]>::new_slice(16usize);
    let mut dots = Shared::<[f32]>::new_slice(comptime!(16 * spec.splits as usize));
    let mut factors = Shared::<[f32]>::new_slice(comptime!(16 * spec.splits as usize));
    let mut minima = Shared::<[f32]>::new_slice(comptime!(16 * spec.splits as usize));
    let wanted = CUBE_POS_X + CUBE_POS_Y * CUBE_COUNT_X;
    let tile = min(wanted, params[0] - 1u32);
    let at = matrix_of(params, tile, spec);
    if comptime!(spec.is_four_bits()) {
        if UNIT_POS_X < 16u32 {
            levels[UNIT_POS_X as usize] = level(params, at, UNIT_POS_X);
        }
        sync_cube();
    }
    let base = tile_at(params, at, tile, spec);
    let groups = comptime!(spec.steps());
    let mut acc = 0.0f32;
    let mut first = 0u32;
    while first < groups {
        let g = first + split;
        if g < groups {
            let codes = codes_at(base, row, g, spec);
            let mut dot = 0.0f32;
            if comptime!(spec.is_four_bits()) {
                #[unroll]
                for p in 0..4u32 {
                    let word = w[(codes + comptime!(16 * p)) as usize];
                    let lo = x[(g * 8u32 + p) as usize];
                    let hi = x[(g * 8u32 + comptime!(4 + p)) as usize];
                    #[unroll]
                    for j in 0..4usize {
                        let shift = comptime!(8 * j as u32);
                        dot += levels[((word >> shift) & 15u32) as usize] * lo.extract(j);
                        dot += levels[((word >> comptime!(shift + 4)) & 15u32) as usize] * hi.extract(j);
                    }
                }
            } else {
                dot = q8_dot(w, codes, comptime!(if matches!(spec.dtype, Dtype::Q8R) { 1u32 } else { 16 }), x, g);
            }
            dots[UNIT_POS_X as usize] = dot;
            factors[UNIT_POS_X as usize] = scale_of(w, base, row, g, spec) * scales[(2u32 * g) as usize];
            if comptime!(matches!(spec.dtype, Dtype::Q4M)) {
                minima[UNIT_POS_X as usize] = minimum_of(w, base, row, g);
            }
        }
        sync_cube();
        if split == 0u32 {
            for s in 0..min(splits, groups - first) {
                let at = s * 16u32 + row;
                acc = fma(dots[at as usize], factors[at as usize], acc);
                if comptime!(matches!(spec.dtype, Dtype::Q4M)) {
                    acc = fma(minima[at as usize], scales[(2u32 * (first + s) + 1u32) as usize], acc);
                }
            }
        }
        sync_cube();
        first += splits;
    }
    if split == 0u32 && wanted < params[0] {
        y[(params[(at + 4u32) as usize] + (tile - params[at as usize]) * 16u32 + row) as usize] = acc;
    }
}

/// `y = W·x` of one token, float types. `x`: `[cols]`.
#[cube(launch_unchecked)]
pub fn matvec_float(w: &[u32], x: &[f32], params: &[u32], y: &mut [f32], #[comptime] spec: Spec) {
    let (row, split) = (UNIT_POS_X % 16u32, UNIT_POS_X / 16u32);
    let mut sums = Shared::<[f32]>::new_slice(64usize);
    let wanted = CUBE_POS_X + CUBE_POS_Y * CUBE_COUNT_X;
    let tile = min(wanted, params[0] - 1u32);
    let at = matrix_of(params, tile, spec);
    let base = tile_at(params, at, tile, spec);
    let mut acc = 0.0f32;
    let mut c = split;
    while c < comptime!(spec.steps()) {
        acc = fma(float_at(w, base, row, c, spec), x[c as usize], acc);
        c += 4u32;
    }
    sums[UNIT_POS_X as usize] = acc;
    sync_cube();
    if split == 0u32 && wanted < params[0] {
        let pair = acc + sums[(16u32 + row) as usize];
        let other = sums[(32u32 + row) as usize] + sums[(48u32 + row) as usize];
        let total = pair + other;
        y[(params[(at + 4u32) as usize] + (tile - params[at as usize]) * 16u32 + row) as usize] = total;
    }
}

/// The element of a float tile.
#[cube]
fn float_at(w: &[u32], base: u32, row: u32, col: u32, #[comptime] spec: Spec) -> f32 {
    match comptime!(spec.dtype) {
        Dtype::F32 => f32::reinterpret(w[(base + col * 16u32 + row) as usize]),
        Dtype::F16 => half_of(w[(base + col * 8u32 + row / 2u32) as usize], row % 2u32),
        _ => f32::reinterpret(((w[(base + col * 8u32 + row / 2u32) as usize] >> ((row % 2u32) * 16u32)) & 0xffffu32) << 16u32),
    }
}

/// `matvec` for [`TOKENS`] tokens at a time: `x` is codes `[cols][TOKENS]`, `scales` `[groups][2][TOKENS]`; `n` is in `step[1]`.
///
/// Units that share a row compute the dots of a group each; then each of the first 64 units adds up a row of four tokens.
#[cube(launch_unchecked)]
pub fn matmul(
    w: &[u32],
    x: &[Vector<f32, Const<4>>],
    scales: &[Vector<f32, Const<4>>],
    params: &[u32],
    step: &[u32],
    y: &mut [f32],
    #[comptime] spec: Spec,
) {
    let (row, split) = (UNIT_POS_X % 16u32, UNIT_POS_X / 16u32);
    let splits = comptime!(spec.splits);
    let mut levels = Shared::<[f32]>::new_slice(16usize);
    let mut dots = Shared::<[Vector<f32, Const<4>>]>::new_slice(comptime!(64 * spec.splits as usize));
    let mut factors = Shared::<[f32]>::new_slice(comptime!(16 * spec.splits as usize));
    let mut minima = Shared::<[f32]>::new_slice(comptime!(16 * spec.splits as usize));
    let wanted = CUBE_POS_X + CUBE_POS_Y * CUBE_COUNT_X;
    let tile = min(wanted, params[0] - 1u32);
    let at = matrix_of(params, tile, spec);
    if comptime!(spec.is_four_bits()) {
        if UNIT_POS_X < 16u32 {
            levels[UNIT_POS_X as usize] = level(params, at, UNIT_POS_X);
        }
        sync_cube();
    }
    let base = tile_at(params, at, tile, spec);
    let groups = comptime!(spec.steps());
    let block = CUBE_POS_Z * groups;
    let mut acc = Vector::<f32, Const<4>>::new(0.0f32);
    let mut dot = Array::<Vector<f32, Const<4>>>::new(4usize);
    let mut first = 0u32;
    while first < groups {
        let g = first + split;
        if g < groups {
            let codes = codes_at(base, row, g, spec);
            let col = (block + g) * 32u32;
            #[unroll]
            for v in 0..4usize {
                dot[v] = Vector::new(0.0f32);
            }
            if comptime!(spec.is_four_bits()) {
                #[unroll]
                for p in 0..4u32 {
                    let word = w[(codes + comptime!(16 * p)) as usize];
                    #[unroll]
                    for j in 0..4u32 {
                        let lo = Vector::new(levels[((word >> comptime!(8 * j)) & 15u32) as usize]);
                        let hi = Vector::new(levels[((word >> comptime!(8 * j + 4)) & 15u32) as usize]);
                        #[unroll]
                        for v in 0..4usize {
                            let at = (col + comptime!(4 * p + j)) * 4u32 + comptime!(v as u32);
                            dot[v] += lo * x[at as usize];
                            dot[v] += hi * x[(at + 64u32) as usize];
                        }
                    }
                }
            } else {
                #[unroll]
                for p in 0..8u32 {
                    let step = comptime!(if matches!(spec.dtype, Dtype::Q8R) { p } else { 16 * p });
                    let word = w[(codes + step) as usize];
                    #[unroll]
                    for j in 0..4u32 {
                        let weight = Vector::new(signed_byte(word, j));
                        #[unroll]
                        for v in 0..4usize {
                            let at = (col + comptime!(4 * p + j)) * 4u32 + comptime!(v as u32);
                            dot[v] += weight * x[at as usize];
                        }
                    }
                }
            }
            #[unroll]
            for v in 0..4usize {
                dots[(UNIT_POS_X * 4u32 + comptime!(v as u32)) as usize] = dot[v];
            }
            factors[UNIT_POS_X as usize] = scale_of(w, base, row, g, spec);
            if comptime!(matches!(spec.dtype, Dtype::Q4M)) {
                minima[UNIT_POS_X as usize] = minimum_of(w, base, row, g);
            }
        }
        sync_cube();
        if UNIT_POS_X < 64u32 {
            let (row, v) = (UNIT_POS_X / 4u32, UNIT_POS_X % 4u32);
            for s in 0..min(splits, groups - first) {
                let at = s * 16u32 + row;
                let of_x = (block + first + s) * 8u32 + v;
                let factor = Vector::new(factors[at as usize]) * scales[of_x as usize];
                acc = fma(dots[(at * 4u32 + v) as usize], factor, acc);
                if comptime!(matches!(spec.dtype, Dtype::Q4M)) {
                    acc = fma(Vector::new(minima[at as usize]), scales[(of_x + 4u32) as usize], acc);
                }
            }
        }
        sync_cube();
        first += splits;
    }
    let out = params[(at + 4u32) as usize] + (tile - params[at as usize]) * 16u32;
    let n = select(wanted < params[0], step[1] - CUBE_POS_Z * TOKENS, 0u32);
    if UNIT_POS_X < 64u32 {
        #[unroll]
        for j in 0..4usize {
            let t = (UNIT_POS_X % 4u32) * 4u32 + comptime!(j as u32);
            if t < n {
                let at = (CUBE_POS_Z * TOKENS + t) * comptime!(spec.stride) + out + UNIT_POS_X / 4u32;
                y[at as usize] = acc.extract(j);
            }
        }
    }
}

/// `matvec_float` for [`TOKENS`] tokens at a time: `x` is `[cols][TOKENS]`.
#[cube(launch_unchecked)]
pub fn matmul_float(w: &[u32], x: &[Vector<f32, Const<4>>], params: &[u32], step: &[u32], y: &mut [f32], #[comptime] spec: Spec) {
    let (row, split) = (UNIT_POS_X % 16u32, UNIT_POS_X / 16u32);
    let mut sums = Shared::<[Vector<f32, Const<4>>]>::new_slice(256usize);
    let wanted = CUBE_POS_X + CUBE_POS_Y * CUBE_COUNT_X;
    let tile = min(wanted, params[0] - 1u32);
    let at = matrix_of(params, tile, spec);
    let base = tile_at(params, at, tile, spec);
    let mut acc = Array::<Vector<f32, Const<4>>>::new(4usize);
    let mut c = split;
    while c < comptime!(spec.steps()) {
        let weight = Vector::new(float_at(w, base, row, c, spec));
        #[unroll]
        for v in 0..4usize {
            let at = (CUBE_POS_Z * comptime!(spec.cols) + c) * 4u32 + comptime!(v as u32);
            acc[v] = fma(weight, x[at as usize], acc[v]);
        }
        c += 4u32;
    }
    let out = params[(at + 4u32) as usize] + (tile - params[at as usize]) * 16u32;
    let n = select(wanted < params[0], step[1] - CUBE_POS_Z * TOKENS, 0u32);
    #[unroll]
    for v in 0..4usize {
        sums[(UNIT_POS_X * 4u32 + comptime!(v as u32)) as usize] = acc[v];
    }
    sync_cube();
    // Unit: a row and four tokens.
    let at = row * 4u32 + split;
    let pair = sums[at as usize] + sums[(at + 64u32) as usize];
    let other = sums[(at + 128u32) as usize] + sums[(at + 192u32) as usize];
    let total = pair + other;
    #[unroll]
    for j in 0..4usize {
        let t = split * 4u32 + comptime!(j as u32);
        if t < n {
            y[((CUBE_POS_Z * TOKENS + t) * comptime!(spec.stride) + out + row) as usize] = total.extract(j);
        }
    }
}
