//! Matrix times many vectors, [`TOKENS`] at a time: a weight is unpacked once and meets the activations of all of them.
//!
//! A workgroup takes a tile of 16 rows, 16 units a row each; `splits` sets of them share its groups.

use super::TOKENS;
use super::float::half_of;
use super::tiles::{Spec, fill, float_at, levels_of, matrix_of, number, tile_at};
use bourn_format::Dtype;
use cubecl_core as cubecl;
use cubecl_core::prelude::*;

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

/// Four words from `first` on, `step` apart.
#[cube]
fn four(w: &[u32], first: u32, #[comptime] step: u32) -> Vector<u32, Const<4>> {
    let mut out = Vector::<u32, Const<4>>::new(0u32);
    #[unroll]
    for p in 0..4usize {
        out.insert(p, w[(first + comptime!(step * p as u32)) as usize]);
    }
    out
}

/// A row's group of signed bytes from `codes` on: of its columns the first 16 and the others.
#[cube]
fn weights_of(
    w: &[u32],
    codes: u32,
    table: &Shared<[u32]>,
    #[comptime] spec: Spec,
) -> (Vector<u32, Const<4>>, Vector<u32, Const<4>>) {
    if comptime!(spec.is_four_bits()) {
        let words = four(w, codes, 16u32);
        (levels_of(words, table, 0u32, spec.levels), levels_of(words, table, 4u32, spec.levels))
    } else {
        let step = comptime!(if matches!(spec.dtype, Dtype::Q8R) { 1u32 } else { 16 });
        (four(w, codes, step), four(w, codes + comptime!(4 * step), step))
    }
}

/// `matvec` for [`TOKENS`] tokens at a time: `x` is bytes `[groups][2][TOKENS]` vectors, `scales` `[groups][2][TOKENS]`; `n` is in
/// `step[1]`.
///
/// Units that share a row compute the dots of a group each; then each of the first 64 units adds up a row of four tokens.
#[cube(launch_unchecked)]
pub fn matmul(
    w: &[u32],
    x: &[Vector<u32, Const<4>>],
    scales: &[Vector<f32, Const<4>>],
    params: &[u32],
    step: &[u32],
    y: &mut [f32],
    #[comptime] spec: Spec,
) {
    let (row, split) = (UNIT_POS_X % 16u32, UNIT_POS_X / 16u32);
    let splits = comptime!(spec.splits);
    let mut table = Shared::<[u32]>::new_slice(comptime!(spec.table_words()));
    let mut dots = Shared::<[Vector<f32, Const<4>>]>::new_slice(comptime!(64 * spec.splits as usize));
    let mut factors = Shared::<[f32]>::new_slice(comptime!(16 * spec.splits as usize));
    let mut minima = Shared::<[f32]>::new_slice(comptime!(if spec.has_minima() { 16 * spec.splits as usize } else { 1 }));
    let wanted = CUBE_POS_X + CUBE_POS_Y * CUBE_COUNT_X;
    let tile = min(wanted, params[0] - 1u32);
    let at = matrix_of(params, tile, spec);
    if comptime!(spec.has_table()) {
        fill(&mut table, params, at, comptime!(16 * spec.splits));
    }
    let base = tile_at(params, at, tile, spec);
    let groups = comptime!(spec.steps());
    let block = CUBE_POS_Z * groups;
    let mut acc = Vector::<f32, Const<4>>::new(0.0f32);
    let mut first = 0u32;
    while first < groups {
        let g = first + split;
        if g < groups {
            let (low, high) = weights_of(w, codes_at(base, row, g, spec), &table, spec);
            let of_x = (block + g) * comptime!(2 * TOKENS);
            // Not unrolled: V3D's compiler takes a minute for 16 tokens in one piece.
            for v in 0..4u32 {
                let mut four = Vector::<f32, Const<4>>::new(0.0f32);
                #[unroll]
                for j in 0..4usize {
                    let at = of_x + 4u32 * v + comptime!(j as u32);
                    let dot = Vector::dot(low, x[at as usize]) + Vector::dot(high, x[(at + TOKENS) as usize]);
                    four.insert(j, number(dot, spec));
                }
                dots[(UNIT_POS_X * 4u32 + v) as usize] = four;
            }
            factors[UNIT_POS_X as usize] = scale_of(w, base, row, g, spec);
            if comptime!(spec.has_minima()) {
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
                if comptime!(spec.has_minima()) {
                    acc = fma(Vector::new(minima[at as usize]), scales[(of_x + 4u32) as usize], acc);
                }
            }
            // Here, not behind the loop: see `norm::add_squares`.
            if first + splits >= groups {
                let out = params[(at + 4u32) as usize] + (tile - params[at as usize]) * 16u32 + row;
                let n = select(wanted < params[0], step[1] - CUBE_POS_Z * TOKENS, 0u32);
                #[unroll]
                for j in 0..4usize {
                    let t = v * 4u32 + comptime!(j as u32);
                    if t < n {
                        y[((CUBE_POS_Z * TOKENS + t) * comptime!(spec.stride) + out) as usize] = acc.extract(j);
                    }
                }
            }
        }
        sync_cube();
        first += splits;
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
