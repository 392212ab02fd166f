//! Matrix times one vector.
//!
//! A workgroup takes a tile of 16 rows. Of the tiled types a unit takes four rows of a group, because these lie side by side: one load of 16 bytes has a
//! word of each, and one load of activations meets four rows. `splits` sets of four units share the groups.

use super::float::half_of;
use super::tiles::{Spec, fill, float_at, levels_of, matrix_of, number, tile_at};
use cubecl_core as cubecl;
use cubecl_core::prelude::*;

/// Groups whose dots a unit leaves before they are added up, at most: fewer stops, and loads that need not wait for each other.
const DEPTH: u32 = 4;
/// Groups whose dots a workgroup's memory holds, at most: 12 KiB with factors and minima.
const HELD: u32 = 64;

impl Spec {
    /// Units of a workgroup of [`matvec()`].
    pub const fn units(&self) -> u32 {
        4 * self.splits
    }

    /// Groups of a unit between two stops.
    const fn depth(&self) -> u32 {
        let rounds = self.steps().div_ceil(self.splits);
        let most = if DEPTH < HELD / self.splits { DEPTH } else { HELD / self.splits };
        if rounds < most { rounds } else { most }
    }

    /// Groups between two stops.
    const fn held(&self) -> u32 {
        self.splits * self.depth()
    }

    /// Vectors of a row of codes in a block before those of the first group: scales, and minima.
    const fn header_vectors(&self) -> u32 {
        if self.has_minima() { 8 } else { 4 }
    }

    /// Vectors of a group of four rows.
    const fn vectors(&self) -> u32 {
        if self.is_four_bits() { 4 } else { 8 }
    }
}

/// Of the eight halves in a vector those of four rows: the first four (`second` 0) or the others, in two words.
#[cube]
fn pair(halves: Vector<u32, Const<4>>, second: u32) -> (u32, u32) {
    let low = select(second == 0u32, halves.extract(0usize), halves.extract(2usize));
    let high = select(second == 0u32, halves.extract(1usize), halves.extract(3usize));
    (low, high)
}

/// `y = W·x`, tiled quantized types. `w` by vectors of four words; `x`: signed bytes, `[groups][2]` vectors; `scales`: `[groups][2]`;
/// `params`: tiles in all, then the matrices.
#[cube(launch_unchecked)]
pub fn matvec(
    w: &[Vector<u32, Const<4>>],
    x: &[Vector<u32, Const<4>>],
    scales: &[f32],
    params: &[u32],
    y: &mut [f32],
    #[comptime] spec: Spec,
) {
    let (quad, split) = (UNIT_POS_X % 4u32, UNIT_POS_X / 4u32);
    let held = comptime!(spec.held());
    let mut table = Shared::<[u32]>::new_slice(comptime!(spec.table_words()));
    let mut dots = Shared::<[f32]>::new_slice(comptime!(16 * spec.held() as usize));
    let mut factors = Shared::<[f32]>::new_slice(comptime!(16 * spec.held() as usize));
    let mut minima = Shared::<[f32]>::new_slice(comptime!(if spec.has_minima() { 16 * spec.held() as usize } else { 1 }));
    let wanted = CUBE_POS_X + CUBE_POS_Y * CUBE_COUNT_X;
    let tile = min(wanted, params[0] - 1u32);
    let at = matrix_of(params, tile, spec);
    if comptime!(spec.has_table()) {
        fill(&mut table, params, at, comptime!(spec.units()));
    }
    let base = tile_at(params, at, tile, spec) / 4u32;
    let groups = comptime!(spec.steps());
    let mut words = Array::<Vector<u32, Const<4>>>::new(comptime!(spec.vectors() as usize));
    let mut acc = 0.0f32;
    let mut first = 0u32;
    while first < groups {
        for d in 0..comptime!(spec.depth()) {
            let of_round = d * comptime!(spec.splits) + split;
            let g = first + of_round;
            if g < groups {
                let block = base + (g / 2u32) * comptime!(spec.block_words() / 4);
                let half = g % 2u32;
                let codes = block + comptime!(spec.header_vectors()) + half * comptime!(4 * spec.vectors()) + quad;
                #[unroll]
                for p in 0..comptime!(spec.vectors()) {
                    words[p as usize] = w[(codes + comptime!(4 * p)) as usize];
                }
                let factor = scales[(2u32 * g) as usize];
                let (scale_low, scale_high) = pair(w[(block + half * 2u32 + quad / 2u32) as usize], quad % 2u32);
                let (first_x, second_x) = (x[(2u32 * g) as usize], x[(2u32 * g + 1u32) as usize]);
                let at = of_round * 16u32 + quad * 4u32;
                #[unroll]
                for j in 0..4usize {
                    // Row j's words out of those of four rows.
                    let mut low = Vector::<u32, Const<4>>::new(0u32);
                    let mut high = Vector::<u32, Const<4>>::new(0u32);
                    #[unroll]
                    for p in 0..4usize {
                        low.insert(p, words[p].extract(j));
                        if comptime!(!spec.is_four_bits()) {
                            high.insert(p, words[comptime!((p + 4) % spec.vectors() as usize)].extract(j));
                        }
                    }
                    if comptime!(spec.is_four_bits()) {
                        high = levels_of(low, &table, 4u32, spec.levels);
                        low = levels_of(low, &table, 0u32, spec.levels);
                    }
                    let at = (at + comptime!(j as u32)) as usize;
                    dots[at] = number(Vector::dot(low, first_x) + Vector::dot(high, second_x), spec);
                    let scale = if comptime!(j < 2) { scale_low } else { scale_high };
                    factors[at] = half_of(scale, comptime!(j as u32 % 2).runtime()) * factor;
                }
                if comptime!(spec.has_minima()) {
                    let (low, high) = pair(w[(block + 4u32 + half * 2u32 + quad / 2u32) as usize], quad % 2u32);
                    #[unroll]
                    for j in 0..4u32 {
                        let minimum = if comptime!(j < 2) { low } else { high };
                        minima[(at + j) as usize] = half_of(minimum, comptime!(j % 2).runtime());
                    }
                }
            }
        }
        sync_cube();
        if UNIT_POS_X < 16u32 {
            for s in 0..min(held, groups - first) {
                let at = (s * 16u32 + UNIT_POS_X) as usize;
                acc = fma(dots[at], factors[at], acc);
                if comptime!(spec.has_minima()) {
                    acc = fma(minima[at], scales[(2u32 * (first + s) + 1u32) as usize], acc);
                }
            }
            // Here, not behind the loop: see `norm::add_squares`.
            if first + held >= groups && wanted < params[0] {
                y[(params[(at + 4u32) as usize] + (tile - params[at as usize]) * 16u32 + UNIT_POS_X) as usize] = acc;
            }
        }
        sync_cube();
        first += held;
    }
}

/// The product of a row's group of 32 signed bytes, in eight words from `codes` on, with group `g` of the activations.
#[cube]
pub fn q8_dot(w: &[u32], codes: u32, x: &[Vector<u32, Const<4>>], g: u32) -> f32 {
    let low = Vector::dot(words_from(w, codes), x[(2u32 * g) as usize]);
    let high = Vector::dot(words_from(w, codes + 4u32), x[(2u32 * g + 1u32) as usize]);
    f32::cast_from(i32::reinterpret(low + high))
}

/// Four words from `first` on.
#[cube]
fn words_from(w: &[u32], first: u32) -> Vector<u32, Const<4>> {
    let mut out = Vector::<u32, Const<4>>::new(0u32);
    #[unroll]
    for p in 0..4usize {
        out.insert(p, w[(first + comptime!(p as u32)) as usize]);
    }
    out
}

/// [`matvec()`] of q8r, whose rows lie one after another: 16 units are 16 rows, `splits` sets of them share the groups.
#[cube(launch_unchecked)]
pub fn matvec_rows(
    w: &[u32],
    x: &[Vector<u32, Const<4>>],
    scales: &[f32],
    params: &[u32],
    y: &mut [f32],
    #[comptime] spec: Spec,
) {
    let (row, split) = (UNIT_POS_X % 16u32, UNIT_POS_X / 16u32);
    let mut dots = Shared::<[f32]>::new_slice(comptime!(16 * spec.splits as usize));
    let mut factors = Shared::<[f32]>::new_slice(comptime!(16 * spec.splits as usize));
    let wanted = CUBE_POS_X + CUBE_POS_Y * CUBE_COUNT_X;
    let tile = min(wanted, params[0] - 1u32);
    let at = matrix_of(params, tile, spec);
    let base = tile_at(params, at, tile, spec) + row * comptime!(spec.tile_words() / 16);
    let groups = comptime!(spec.steps());
    let mut acc = 0.0f32;
    let mut first = 0u32;
    while first < groups {
        let g = first + split;
        if g < groups {
            dots[UNIT_POS_X as usize] = q8_dot(w, base + comptime!(spec.steps() / 2) + g * 8u32, x, g);
            factors[UNIT_POS_X as usize] = half_of(w[(base + g / 2u32) as usize], g % 2u32) * scales[(2u32 * g) as usize];
        }
        sync_cube();
        if split == 0u32 {
            for s in 0..min(comptime!(spec.splits), groups - first) {
                let at = (s * 16u32 + row) as usize;
                acc = fma(dots[at], factors[at], acc);
            }
            if first + comptime!(spec.splits) >= groups && wanted < params[0] {
                y[(params[(at + 4u32) as usize] + (tile - params[at as usize]) * 16u32 + row) as usize] = acc;
            }
        }
        sync_cube();
        first += comptime!(spec.splits);
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
