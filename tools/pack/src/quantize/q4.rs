//! Q4: `w ≈ s·t[q]` with a table of 16 levels; the scale of each group is the one, of those tried, with the least
//! squared error after rounding to f16.
//!
//! The table need not be symmetric, so scales of both signs are tried: a group whose largest weight is positive may put
//! it on the level 27 or, with a negative scale, on −31.

use super::{DoesNotFit, Loss, group_of, max_abs, sum_of};
use bourn_format::Dtype;
use bourn_format::layout::{GROUP, LINEAR, nibble_offset, scale_offset};
use half::f16;

/// The table for weights that come as floats: fitted to the projections of trained models within ±31, so that eight products
/// with an int8 fit 16 bits. It leaves a fifth less squared error than [`LINEAR`] at the same size.
pub const FITTED: [i8; 16] = [-31, -25, -19, -15, -11, -8, -5, -2, 0, 3, 6, 9, 12, 16, 20, 27];

/// Where the largest weight of a group may fall, relative to the table's outermost levels: below 1 leaves levels unused,
/// above 1 clips.
pub(super) const REACH: [f32; 12] = [0.66, 0.74, 0.80, 0.85, 0.90, 0.94, 0.98, 1.02, 1.06, 1.11, 1.17, 1.25];

/// A table of 16 rising levels, ready for the search.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Levels {
    table: [i8; 16],
    /// Half way between neighbours.
    midpoints: [f32; 15],
    /// From a level to the next.
    steps: [f32; 15],
}

impl Levels {
    /// [`LINEAR`]: −8…7.
    pub fn linear() -> Self {
        Self::of(LINEAR)
    }

    /// [`FITTED`].
    pub fn fitted() -> Self {
        Self::of(FITTED)
    }

    /// Of any table.
    pub(crate) fn of(table: [i8; 16]) -> Self {
        Self {
            table,
            midpoints: core::array::from_fn(|k| (f32::from(table[k]) + f32::from(table[k + 1])) / 2.0),
            steps: core::array::from_fn(|k| f32::from(table[k + 1]) - f32::from(table[k])),
        }
    }

    /// The levels.
    pub const fn table(&self) -> [i8; 16] {
        self.table
    }

    /// The outermost level.
    pub(super) fn end(&self) -> f32 {
        f32::from(self.table[0].unsigned_abs().max(self.table[15].unsigned_abs()))
    }

    /// The level nearest to each `y`: the lowest one and every step whose midpoint lies below.
    #[inline(always)]
    pub(super) fn nearest_of<const N: usize>(&self, y: &[f32; N]) -> [f32; N] {
        let mut out = [f32::from(self.table[0]); N];
        for (midpoint, step) in self.midpoints.iter().zip(&self.steps) {
            for (level, y) in out.iter_mut().zip(y) {
                *level += if y > midpoint { *step } else { 0.0 };
            }
        }
        out
    }

    /// The codes of levels of the table.
    pub(super) fn codes_of<const N: usize>(&self, levels: &[f32; N]) -> [u8; N] {
        levels.map(|v| self.midpoints.iter().map(|midpoint| u8::from(v > *midpoint)).sum())
    }

    /// The level nearest to each `x[i]·inverse`: the lowest one and every step whose midpoint lies below. Without branches, in
    /// the form that compilers turn into vectors.
    fn nearest(&self, x: &[f32; GROUP], inverse: f32, out: &mut [f32; GROUP]) {
        let lowest = f32::from(self.table[0]);
        for i in 0..GROUP {
            let y = x[i] * inverse;
            let mut level = lowest;
            for k in 0..15 {
                level += if y > self.midpoints[k] { self.steps[k] } else { 0.0 };
            }
            out[i] = level;
        }
    }

    /// The index of the level nearest to each `x[i]·inverse`.
    fn codes(&self, x: &[f32; GROUP], inverse: f32) -> [u8; GROUP] {
        x.map(|v| self.midpoints.iter().map(|mid| u8::from(v * inverse > *mid)).sum())
    }
}

pub(super) fn tile(levels: &Levels, x: &[f32], cols: usize, out: &mut [u8]) -> Result<Loss, DoesNotFit> {
    let mut loss = Loss::default();
    for (row, values) in x.chunks_exact(cols).enumerate() {
        for group in 0..cols.div_ceil(GROUP) {
            let x = group_of(values, group);
            let scale = search(&x, levels).ok_or_else(|| DoesNotFit { row, found: max_abs(&x) })?;
            let s = scale.to_f32();
            let energy = f64::from(sum_of(|i| x[i] * x[i]));
            if s == 0.0 {
                loss.add(Loss { error: energy, energy, ..Loss::default() });
                continue;
            }
            let mut level = [0.0; GROUP];
            levels.nearest(&x, 1.0 / s, &mut level);
            let error = f64::from(sum_of(|i| (x[i] - s * level[i]) * (x[i] - s * level[i])));
            loss.add(Loss { error, energy, ..Loss::default() });
            let mut code = levels.codes(&x, 1.0 / s);
            // Columns that do not exist have code 0.
            code[(cols - group * GROUP).min(GROUP)..].fill(0);
            put(row, group, scale, &code, out);
        }
    }
    Ok(loss)
}

/// Writes a group of a row of a tile.
pub(super) fn put(row: usize, group: usize, scale: f16, code: &[u8; GROUP], out: &mut [u8]) {
    let at = scale_offset(Dtype::Q4, row, group * GROUP);
    out[at..at + 2].copy_from_slice(&scale.to_bits().to_le_bytes());
    let (low, high) = code.split_at(16);
    for p in 0..4 {
        let (at, _) = nibble_offset(Dtype::Q4, row, group * GROUP + 4 * p);
        for j in 0..4 {
            out[at + j] = low[4 * p + j] | high[4 * p + j] << 4;
        }
    }
}

/// The scale of least `Σ (x − s·t)²` among those tried; `None` if f16 has no number so large.
///
/// Each candidate rounds the group to levels, then takes the scale that fits these levels best (`Σxt / Σt²`), rounded to f16;
/// the winner is refined the same way until it stays.
fn search(x: &[f32; GROUP], levels: &Levels) -> Option<f16> {
    let max = max_abs(x);
    if max == 0.0 {
        return Some(f16::ZERO);
    }
    let energy = sum_of(|i| x[i] * x[i]);
    let (mut best, mut least) = (0.0f32, energy);
    let end = levels.end() / max;
    let tried = fit(
        x,
        levels,
        &core::array::from_fn::<_, { 2 * REACH.len() }, _>(|i| {
            if i < REACH.len() { end * REACH[i] } else { -end * REACH[i - REACH.len()] }
        }),
    );
    for (xt, tt) in tried {
        keep(xt, tt, energy, &mut best, &mut least);
    }
    for _ in 0..4 {
        let [(xt, tt)] = if best == 0.0 { break } else { fit(x, levels, &[1.0 / best]) };
        if !keep(xt, tt, energy, &mut best, &mut least) {
            break;
        }
    }
    let scale = f16::from_f32(best);
    // No candidate below the energy: the group is too small for f16 (scale 0 then is the best there is) or too large.
    (scale.is_finite() && (best != 0.0 || max < 1.0)).then_some(scale)
}

/// `Σ x·t` and `Σ t²` with the levels `t` that each inverse scale chooses. The candidates are the lanes.
fn fit<const N: usize>(x: &[f32; GROUP], levels: &Levels, inverse: &[f32; N]) -> [(f32, f32); N] {
    let Levels { table, midpoints, steps } = *levels;
    let lowest = f32::from(table[0]);
    let (mut xt, mut tt) = ([0.0; N], [0.0; N]);
    for x in x {
        for c in 0..N {
            let y = x * inverse[c];
            let mut level = lowest;
            for k in 0..15 {
                level += if y > midpoints[k] { steps[k] } else { 0.0 };
            }
            xt[c] += x * level;
            tt[c] += level * level;
        }
    }
    core::array::from_fn(|c| (xt[c], tt[c]))
}

/// Takes the scale `xt / tt` if its error is the least so far.
fn keep(xt: f32, tt: f32, energy: f32, best: &mut f32, least: &mut f32) -> bool {
    let s = round_f16(if tt > 0.0 { xt / tt } else { 0.0 });
    let error = energy - 2.0 * s * xt + s * s * tt;
    let better = error < *least;
    if better {
        (*best, *least) = (s, error);
    }
    better
}

/// The nearest f16, as f32; infinity where f16 ends.
pub(super) fn round_f16(v: f32) -> f32 {
    let bits = v.to_bits();
    let exponent = (bits >> 23) & 0xff;
    if (113..142).contains(&exponent) {
        // A normal f16 whatever the rounding: round half to even at bit 13.
        return f32::from_bits((bits + 0xfff + (bits >> 13 & 1)) & !0x1fff);
    }
    f16::from_f32(v).to_f32()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_f16_is_the_conversion() {
        for i in 0..2_000_000u32 {
            let v = f32::from_bits(i.wrapping_mul(2_147_483_659).rotate_left(7) ^ i);
            if v.is_finite() {
                assert_eq!(round_f16(v).to_bits(), f16::from_f32(v).to_f32().to_bits(), "{v:e}");
            }
        }
    }
}
