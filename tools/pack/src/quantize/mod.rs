//! Float rows → tiles of the image (FORMAT.md §4). One file per element type.
//!
//! A tile is computed from its own rows and nothing else, in one order: the bytes do not depend on who computes it.

mod exact;
mod feedback;
mod float;
mod q4;
mod q8;

pub(crate) use exact::{Blocks, transfer};
pub use q4::{FITTED, Levels};

use crate::calibrate::Factor;
use bourn_format::Dtype;
use bourn_format::layout::{self, GROUP, TILE_ROWS};
use bourn_kernels::Kernels;

/// How a matrix becomes 4-bit or 8-bit. A method decides codes and scales; the layout is the same for all.
///
/// 4-bit and 8-bit sources that the image can hold as they are (Q4_0, Q4_1) are transferred, not quantized, by every method.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Method {
    /// Round to nearest; for 4 bits with a search for the scale that minimises the squared error of each group.
    Rtn,
    /// Error feedback: a calibration run shows what inputs the matrices meet; weights are rounded one after the other, each to what
    /// makes good the errors of those before it, and scales are searched for the least error of the matrix's output.
    #[default]
    Gptq,
}

impl Method {
    /// The name on the command line and in the provenance.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Rtn => "rtn",
            Self::Gptq => "gptq",
        }
    }
}

/// What a piece of a tensor lost.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Loss {
    /// `Σ (x − x̂)²`.
    pub error: f64,
    /// `Σ x²`.
    pub energy: f64,
    /// Mean square of what the outputs are off on the calibration text, summed over rows; 0 without calibration.
    pub output_error: f64,
    /// Mean square of the outputs, summed over rows.
    pub output_energy: f64,
}

impl Loss {
    pub(crate) fn add(&mut self, other: Self) {
        self.error += other.error;
        self.energy += other.energy;
        self.output_error += other.output_error;
        self.output_energy += other.output_energy;
    }
}

/// A weight that the element type cannot hold: row within the tile, value.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct DoesNotFit {
    pub row: usize,
    pub found: f32,
}

/// What a tile is made with.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Recipe<'a> {
    pub dtype: Dtype,
    /// Level table of a Q4 tensor.
    pub levels: &'a Levels,
    /// For Q4: what errors cost and how they are made good; `None`: round to nearest.
    pub feedback: Option<Feedback<'a>>,
}

/// Error feedback for the columns of a matrix.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Feedback<'a> {
    pub factor: &'a Factor,
    /// Whose float products are used; all tiers give the same bits.
    pub kernels: &'static Kernels,
}

/// One tile: `x` is `[n, cols]` with `n ≤ 16`, `out` is the tile's bytes, all zero on entry.
pub(crate) fn tile(recipe: &Recipe<'_>, x: &[f32], cols: usize, out: &mut [u8]) -> Result<Loss, DoesNotFit> {
    debug_assert!(x.len() <= TILE_ROWS * cols && out.len() == layout::tile_bytes(recipe.dtype, cols));
    for (row, values) in x.chunks_exact(cols).enumerate() {
        if let Some(&found) = values.iter().find(|v| !v.is_finite()) {
            return Err(DoesNotFit { row, found });
        }
    }
    match (recipe.dtype, recipe.feedback) {
        (Dtype::F32, _) => Ok(float::f32_tile(x, cols, out)),
        (Dtype::F16, _) => float::f16_tile(x, cols, out),
        (Dtype::Bf16, _) => float::bf16_tile(x, cols, out),
        (Dtype::Q8 | Dtype::Q8R, _) => q8::tile(recipe.dtype, x, cols, out),
        (Dtype::U4, _) => Ok(Loss::default()),
        // A Q4M tensor is only ever transferred; quantizing to it would be Q4 with a minimum of 0.
        (Dtype::Q4 | Dtype::Q4M, None) => q4::tile(recipe.levels, x, cols, out),
        (Dtype::Q4 | Dtype::Q4M, Some(feedback)) => feedback::tile(recipe.levels, &feedback, x, cols, out),
    }
}

/// Group `group` of a row as 32 values, zeros after the last column.
fn group_of(row: &[f32], group: usize) -> [f32; GROUP] {
    let part = &row[group * GROUP..((group + 1) * GROUP).min(row.len())];
    let mut out = [0.0; GROUP];
    out[..part.len()].copy_from_slice(part);
    out
}

/// `Σ f(i)` over a group in four running sums: an order that vectors can follow.
#[inline(always)]
fn sum_of(f: impl Fn(usize) -> f32) -> f32 {
    let mut lanes = [0.0f32; 4];
    for i in 0..GROUP / 4 {
        for (lane, sum) in lanes.iter_mut().enumerate() {
            *sum += f(4 * i + lane);
        }
    }
    let [a, b, c, d] = lanes;
    (a + b) + (c + d)
}

/// `max |x|` of a group.
fn max_abs(x: &[f32; GROUP]) -> f32 {
    x.iter().fold(0.0, |m, v| if v.abs() > m { v.abs() } else { m })
}
