//! Float rows → tiles of the image (FORMAT.md §4). One file per element type.
//!
//! A tile is computed from its own rows and nothing else, in one order: the bytes do not depend on who computes it.

mod exact;
mod float;
mod q4;
mod q8;

pub(crate) use exact::{Blocks, transfer};
pub use q4::{FITTED, Levels};

use bourn_format::Dtype;
use bourn_format::layout::{self, GROUP, TILE_ROWS};

/// How a matrix becomes 4-bit or 8-bit. A method decides codes and scales; the layout is the same for all.
///
/// 4-bit and 8-bit sources that the image can hold as they are (Q4_0, Q4_1) are transferred, not quantized, by every method.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Method {
    /// Round to nearest; for 4 bits with a search for the scale that minimises the squared error of each group.
    #[default]
    Rtn,
}

impl Method {
    /// The name on the command line and in the provenance.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Rtn => "rtn",
        }
    }
}

/// Squared error of a piece of a tensor and its squared weights: `Σ (x − x̂)²`, `Σ x²`.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Loss {
    pub error: f64,
    pub energy: f64,
}

impl Loss {
    pub(crate) fn add(&mut self, other: Self) {
        self.error += other.error;
        self.energy += other.energy;
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
    pub method: Method,
    /// Level table of a Q4 tensor.
    pub levels: &'a Levels,
    /// Weight of each column's squared error; `None` = 1. The seam for activation statistics.
    pub importance: Option<&'a [f32]>,
}

/// One tile: `x` is `[n, cols]` with `n ≤ 16`, `out` is the tile's bytes, all zero on entry.
pub(crate) fn tile(recipe: &Recipe<'_>, x: &[f32], cols: usize, out: &mut [u8]) -> Result<Loss, DoesNotFit> {
    debug_assert!(x.len() <= TILE_ROWS * cols && out.len() == layout::tile_bytes(recipe.dtype, cols));
    for (row, values) in x.chunks_exact(cols).enumerate() {
        if let Some(&found) = values.iter().find(|v| !v.is_finite()) {
            return Err(DoesNotFit { row, found });
        }
    }
    match (recipe.dtype, recipe.method) {
        (Dtype::F32, _) => Ok(float::f32_tile(x, cols, out)),
        (Dtype::F16, _) => float::f16_tile(x, cols, out),
        (Dtype::Bf16, _) => float::bf16_tile(x, cols, out),
        (Dtype::Q8 | Dtype::Q8R, Method::Rtn) => q8::tile(recipe.dtype, x, cols, out),
        (Dtype::U4, _) => Ok(Loss::default()),
        // A Q4M tensor is only ever transferred; quantizing to it would be Q4 with a minimum of 0.
        (Dtype::Q4 | Dtype::Q4M, Method::Rtn) => q4::tile(recipe, x, cols, out),
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
