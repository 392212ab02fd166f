//! Q4 with error feedback: each weight is rounded to what makes good the errors of the weights before it, as far as the inputs that
//! the matrix will meet let it (`calibrate/factor.rs` has the formula).
//!
//! The scale of a group is searched with the feedback inside the group: of the scales tried, the one with the least `Σ D_k·η_k²`. Rows
//! are lanes.

use super::{DoesNotFit, Feedback, Loss, q4};
use crate::calibrate::Span;
use bourn_format::Dtype;
use bourn_format::layout::{GROUP, TILE_ROWS};
use bourn_kernels::rows::Block;
use bourn_kernels::table::Tiles;
use half::f16;

/// One number per row of a tile.
type Lane = [f32; TILE_ROWS];

/// Rounds of refining the best scale found.
const REFINED: usize = 2;

/// A group while it is quantized.
struct Group<'a> {
    levels: &'a q4::Levels,
    /// `w_k`.
    weights: &'a [Lane; GROUP],
    /// `w_k + Σ e_j·U[j][k]` over the columns before the group.
    target: [Lane; GROUP],
    /// `U` within the group: `[k][j]`.
    unit: [[f32; GROUP]; GROUP],
    /// `D`.
    cost: [f32; GROUP],
}

/// What a choice of scales gives.
#[derive(Clone, Copy)]
struct Choice {
    scale: Lane,
    /// `Σ D·η²`.
    loss: Lane,
    /// `Σ D·v·t` and `Σ D·t²` of the values rounded: what the best scale for these levels follows from.
    along: Lane,
    square: Lane,
}

impl Group<'_> {
    /// Rounds all rows with these scales; `keep` gets the level and the code of each column.
    fn round(&self, scale: Lane, keep: Option<&mut [(Lane, [u8; TILE_ROWS]); GROUP]>) -> Choice {
        let inverse = scale.map(|s| if s == 0.0 { 0.0 } else { 1.0 / s });
        let mut out = Choice { scale, loss: [0.0; TILE_ROWS], along: [0.0; TILE_ROWS], square: [0.0; TILE_ROWS] };
        let mut levels = [[0.0f32; TILE_ROWS]; GROUP];
        let mut errors = [[0.0f32; TILE_ROWS]; GROUP];
        for k in 0..GROUP {
            let mut back = [0.0f32; TILE_ROWS];
            for (e, u) in errors.iter().zip(&self.unit[k]).take(k) {
                for (b, e) in back.iter_mut().zip(e) {
                    *b += e * u;
                }
            }
            let (mut y, mut value) = ([0.0f32; TILE_ROWS], [0.0f32; TILE_ROWS]);
            for r in 0..TILE_ROWS {
                value[r] = self.target[k][r] + back[r];
                y[r] = value[r] * inverse[r];
            }
            levels[k] = self.levels.nearest_of(&y);
            let (level, d) = (&levels[k], self.cost[k]);
            for r in 0..TILE_ROWS {
                let rounded = scale[r] * level[r];
                let eta = value[r] - rounded;
                errors[k][r] = self.weights[k][r] - rounded;
                out.loss[r] += d * eta * eta;
                out.along[r] += d * value[r] * level[r];
                out.square[r] += d * level[r] * level[r];
            }
        }
        if let Some(keep) = keep {
            for (keep, level) in keep.iter_mut().zip(&levels) {
                *keep = (*level, self.levels.codes_of(level));
            }
        }
        out
    }

    /// The best scales found, row by row.
    fn search(&self) -> Choice {
        let mut max = [0.0f32; TILE_ROWS];
        for row in &self.target {
            for (m, v) in max.iter_mut().zip(row) {
                *m = if v.abs() > *m { v.abs() } else { *m };
            }
        }
        let end = self.levels.end();
        let mut best = self.round([0.0; TILE_ROWS], None);
        for reach in q4::REACH {
            for sign in [1.0, -1.0] {
                best.take_better(&self.round(max.map(|m| q4::round_f16(sign * m / (end * reach))), None));
            }
        }
        for _ in 0..REFINED {
            let mut scale = [0.0; TILE_ROWS];
            for (s, (along, square)) in scale.iter_mut().zip(best.along.iter().zip(&best.square)) {
                *s = q4::round_f16(if *square > 0.0 { along / square } else { 0.0 });
            }
            best.take_better(&self.round(scale, None));
        }
        best
    }
}

impl Choice {
    /// Takes the rows in which `other` loses less.
    fn take_better(&mut self, other: &Self) {
        for r in 0..TILE_ROWS {
            let better = other.loss[r] < self.loss[r] && other.scale[r].is_finite();
            let choose = |mine: &mut f32, others: f32| *mine = if better { others } else { *mine };
            choose(&mut self.scale[r], other.scale[r]);
            choose(&mut self.loss[r], other.loss[r]);
            choose(&mut self.along[r], other.along[r]);
            choose(&mut self.square[r], other.square[r]);
        }
    }
}

/// One tile; `x [n, cols]`, `n ≤ 16`.
pub(super) fn tile(
    levels: &q4::Levels,
    feedback: &Feedback<'_>,
    x: &[f32],
    cols: usize,
    out: &mut [u8],
) -> Result<Loss, DoesNotFit> {
    let rows = x.len() / cols;
    let mut loss = Loss::default();
    for span in &feedback.factor.spans {
        // The span's weights, and their errors as they come to be: columns of 16 rows, as floats and as float tiles.
        let mut weights = vec![[0.0f32; TILE_ROWS]; span.len];
        for (r, row) in x.chunks_exact(cols).enumerate() {
            for (w, v) in weights.iter_mut().zip(&row[span.start..]) {
                w[r] = *v;
            }
        }
        let (mut weight_tiles, mut error_tiles) = (Vec::with_capacity(span.len * 64), Vec::with_capacity(span.len * 64));
        for (first, weights) in (0..span.len).step_by(GROUP).zip(weights.as_chunks::<GROUP>().0) {
            let (back, plain) = (earlier(span, &error_tiles, first, feedback), earlier(span, &weight_tiles, first, feedback));
            let mut group = Group { levels, weights, target: *weights, unit: [[0.0; GROUP]; GROUP], cost: [0.0; GROUP] };
            for (k, back) in back.iter().enumerate() {
                group.target[k].iter_mut().zip(back).for_each(|(v, b)| *v += b);
                group.unit[k][..k].copy_from_slice(&span.unit[(first + k) * span.len + first..][..k]);
                group.cost[k] = span.cost[first + k];
            }
            let chosen = group.search();
            let mut rounded = [([0.0; TILE_ROWS], [0; TILE_ROWS]); GROUP];
            group.round(chosen.scale, Some(&mut rounded));
            for (w, (level, _)) in weights.iter().zip(&rounded) {
                let error: Lane = std::array::from_fn(|r| w[r] - chosen.scale[r] * level[r]);
                error_tiles.extend(error.iter().flat_map(|v| v.to_le_bytes()));
                weight_tiles.extend(w.iter().flat_map(|v| v.to_le_bytes()));
                for (e, w) in error.iter().zip(w).take(rows) {
                    loss.add(Loss { error: f64::from(e * e), energy: f64::from(w * w), ..Loss::default() });
                }
            }
            for r in 0..rows {
                let scale = f16::from_f32(chosen.scale[r]);
                let most = weights.iter().fold(0.0f32, |most, w| if w[r].abs() > most { w[r].abs() } else { most });
                if !chosen.loss[r].is_finite() || (chosen.scale[r] == 0.0 && most >= 1.0) {
                    return Err(DoesNotFit { row: r, found: most });
                }
                let mut codes: [u8; GROUP] = std::array::from_fn(|k| rounded[k].1[r]);
                // Columns that do not exist have code 0, and so have groups without a scale.
                let there = if chosen.scale[r] == 0.0 { 0 } else { cols.saturating_sub(span.start + first).min(GROUP) };
                codes[there..].fill(0);
                q4::put(r, (span.start + first) / GROUP, scale, &codes, out);
                loss.output_error += f64::from(chosen.loss[r]);
            }
            loss.output_energy += group.energy(plain, rows);
        }
    }
    Ok(loss)
}

impl Group<'_> {
    /// `Σ D_k·(Σ_j w_j·U[j][k])²` of the weights themselves; `plain` has the sums over the columns before the group.
    fn energy(&self, plain: [Lane; GROUP], rows: usize) -> f64 {
        let mut energy = 0.0;
        for (k, mut sum) in plain.into_iter().enumerate() {
            for (w, u) in self.weights.iter().zip(&self.unit[k]).take(k) {
                sum.iter_mut().zip(w).for_each(|(v, w)| *v += u * w);
            }
            let whole = sum.iter().zip(&self.weights[k]).take(rows).map(|(v, w)| f64::from((v + w) * (v + w)));
            energy += f64::from(self.cost[k]) * whole.sum::<f64>();
        }
        energy
    }
}

/// `Σ_{j<first} v_j·U[j][first + k]` for the columns of a group: the kernels' float product with `v` as float tiles.
fn earlier(span: &Span, tiles: &[u8], first: usize, feedback: &Feedback<'_>) -> [Lane; GROUP] {
    let mut out = [[0.0; TILE_ROWS]; GROUP];
    if first > 0 {
        let w = Tiles { dtype: Dtype::F32, bytes: tiles, cols: first, table: [0; 16] };
        let x = &span.unit[first * span.len..(first + GROUP) * span.len];
        (feedback.kernels.mul_float)(&w, x, span.len, &mut Block::new(out.as_flattened_mut(), GROUP, TILE_ROWS, TILE_ROWS));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::calibrate::{Moments, factors};
    use crate::quantize::{Levels, Recipe, tile};
    use bourn_format::layout::tile_bytes;
    use bourn_kernels::OneCore;

    fn numbers(n: usize, seed: u64) -> Vec<f32> {
        let mut state = seed;
        let mut next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 40) as f32 / (1 << 23) as f32 - 1.0
        };
        (0..n).map(|_| next()).collect()
    }

    /// Inputs whose columns hang together and differ in size.
    fn inputs(n: usize, cols: usize) -> Vec<f32> {
        let (noise, common) = (numbers(n * cols, 5), numbers(4 * n, 6));
        let value = |i: usize| {
            let (t, c) = (i / cols, i % cols);
            (0.4 * noise[i] + common[4 * t + c % 4]) * (1.0 + (c % 7) as f32)
        };
        (0..n * cols).map(value).collect()
    }

    /// `Σ_rows |x·(w − ŵ)ᵀ|² / n`, and of the weights themselves.
    fn output_error(x: &[f32], w: &[f32], tile: &[u8], cols: usize) -> (f64, f64) {
        let tiles = Tiles { dtype: Dtype::Q4, bytes: tile, cols, table: Levels::fitted().table() };
        let (mut error, mut energy) = (0.0, 0.0);
        for (row, w) in w.chunks_exact(cols).enumerate() {
            let mut back = vec![0.0; cols];
            bourn_kernels::row_f32(&tiles, row, &mut back);
            for x in x.chunks_exact(cols) {
                let dot = |v: &[f32]| v.iter().zip(x).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
                let y = dot(w);
                error += (y - dot(&back)).powi(2);
                energy += y * y;
            }
        }
        let n = (x.len() / cols) as f64;
        (error / n, energy / n)
    }

    #[test]
    fn outputs_are_nearer_than_by_rounding_to_nearest() {
        for (rows, cols) in [(16, 96), (7, 50), (16, 160)] {
            let (x, w) = (inputs(600, cols), numbers(rows * cols, 9));
            let mut moments = Moments::new(cols);
            moments.add(&x, bourn_kernels::best(), &OneCore);
            let factors = factors(&[moments], 1);
            let levels = Levels::fitted();
            let kernels = bourn_kernels::best();
            let nearest = Recipe { dtype: Dtype::Q4, levels: &levels, feedback: None };
            let fed = Recipe { feedback: Some(Feedback { factor: &factors[0], kernels }), ..nearest };
            let (mut a, mut b) = (vec![0; tile_bytes(Dtype::Q4, cols)], vec![0; tile_bytes(Dtype::Q4, cols)]);
            tile(&nearest, &w, cols, &mut a).unwrap();
            let loss = tile(&fed, &w, cols, &mut b).unwrap();
            let (plain, energy) = output_error(&x, &w, &a, cols);
            let (better, _) = output_error(&x, &w, &b, cols);
            assert!(better < 0.5 * plain, "{cols}: {better} of {plain}");
            // What is reported holds a hundredth of the mean square on the diagonal besides.
            assert!((loss.output_error / better - 1.0).abs() < 0.2, "{cols}: {} for {better}", loss.output_error);
            assert!((loss.output_energy / energy - 1.0).abs() < 0.1, "{cols}: {} for {energy}", loss.output_energy);
        }
    }

    #[test]
    fn every_tier_makes_the_same_bytes() {
        let cols = 128;
        let (x, w) = (inputs(300, cols), numbers(16 * cols, 3));
        let made = |kernels: &'static bourn_kernels::Kernels| {
            let mut moments = Moments::new(cols);
            moments.add(&x, kernels, &OneCore);
            let factors = factors(&[moments], 1);
            let recipe =
                Recipe { dtype: Dtype::Q4, levels: &Levels::fitted(), feedback: Some(Feedback { factor: &factors[0], kernels }) };
            let mut out = vec![0; tile_bytes(Dtype::Q4, cols)];
            tile(&recipe, &w, cols, &mut out).unwrap();
            out
        };
        let scalar = made(bourn_kernels::by_name("scalar").unwrap());
        assert!(scalar == made(bourn_kernels::best()));
    }

    #[test]
    fn weights_that_do_not_fit_are_named() {
        let cols = 64;
        let mut moments = Moments::new(cols);
        moments.add(&inputs(100, cols), bourn_kernels::best(), &OneCore);
        let factors = factors(&[moments], 1);
        let feedback = Some(Feedback { factor: &factors[0], kernels: bourn_kernels::best() });
        let recipe = Recipe { dtype: Dtype::Q4, levels: &Levels::fitted(), feedback };
        let mut w = numbers(16 * cols, 4);
        w[3 * cols + 40] = 1e30;
        let error = tile(&recipe, &w, cols, &mut vec![0; tile_bytes(Dtype::Q4, cols)]).unwrap_err();
        assert_eq!((error.row, error.found), (3, 1e30));
    }
}
