//! Which matrices of the layers get 8 bits where the rest get 4.
//!
//! Not all weights are worth the same: one of the values' projection goes into every output of a group of heads. Measured on
//! Gemma-3-270M (mean KL against the float model, all matrices by error feedback): 8-bit values and keys take a quarter off for 3 %
//! more bytes, the other roles less than a tenth of that per byte (docs/quality.md).

use crate::Options;
use crate::plan::{Source, is_rounded};
use bourn_format::Role;
use std::ops::RangeInclusive;

/// What the layers may weigh, in bits per weight with scales: all in 4 to all in 8 bits.
pub(crate) const BITS: RangeInclusive<f64> = 4.5..=8.5;
/// Bits of a weight in 4 and in 8 bits, with its share of the scale.
const NARROW: f64 = 4.5;
const WIDE: f64 = 8.5;
/// Largest part of the layers' weights that is taken by role alone.
const LITTLE: f64 = 0.08;

/// Matrices of the layers that are packed in 8 bits: indices of sources in the checkpoint.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Wide(Vec<usize>);

impl Wide {
    pub(crate) fn contains(&self, source: &Source) -> bool {
        self.0.contains(&source.index)
    }

    /// The projections of values, then those of keys, while they are at most [`LITTLE`] of what is rounded.
    pub(crate) fn by_role(sources: &[Source], options: &Options) -> Self {
        let rounded: Vec<&Source> = sources.iter().filter(|s| is_rounded(s, options)).collect();
        let weights = |sources: &[&Source]| sources.iter().map(|s| s.rows * s.cols).sum::<usize>() as f64;
        let all = weights(&rounded);
        let (mut wide, mut taken) = (Self::default(), 0.0);
        for role in [Role::Wv, Role::Wk] {
            let more: Vec<&Source> = rounded.iter().filter(|s| s.role == role).copied().collect();
            taken += weights(&more);
            if taken > LITTLE * all {
                break;
            }
            wide.0.extend(more.iter().map(|s| s.index));
        }
        wide
    }

    /// Within `bits` per weight of the layers, the matrices whose 4 bits cost most per byte; `costs` has (source, divergence).
    pub(crate) fn bought(costs: &[(usize, f64)], sources: &[Source], options: &Options, bits: f64) -> Self {
        let rounded: Vec<&Source> = sources.iter().filter(|s| is_rounded(s, options)).collect();
        let weights: f64 = rounded.iter().map(|s| (s.rows * s.cols) as f64).sum();
        let mut left = (bits - NARROW) * weights;
        let cost = |s: &Source| costs.iter().find(|(index, _)| *index == s.index).map_or(0.0, |(_, cost)| *cost);
        let mut by_worth: Vec<(f64, &Source)> = rounded.iter().map(|s| (cost(s) / (s.rows * s.cols) as f64, *s)).collect();
        by_worth.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.index.cmp(&b.1.index)));
        let mut wide = Self::default();
        for (worth, source) in by_worth {
            let price = (WIDE - NARROW) * (source.rows * source.cols) as f64;
            if worth > 0.0 && price <= left * (1.0 + 1e-9) {
                left -= price;
                wide.0.push(source.index);
            }
        }
        wide
    }
}
