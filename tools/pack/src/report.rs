//! What packing did: sizes and errors, tensor by tensor.

use crate::plan::Plan;
use crate::quantize::{Loss, Method};
use bourn_format::{Dtype, Image, Role};

/// One tensor of the checkpoint (parts of an embedding or head summed).
#[derive(Clone, Debug)]
pub struct TensorReport {
    /// Its name in the checkpoint.
    pub name: String,
    /// Its place in the decoder.
    pub role: Role,
    /// Layer, for tensors of layers.
    pub layer: Option<usize>,
    /// Element type in the image.
    pub dtype: Dtype,
    /// Whether codes and scales were taken over as they are.
    pub transferred: bool,
    /// Rows; 1 for a vector.
    pub rows: usize,
    /// Columns.
    pub cols: usize,
    /// Bytes in the image.
    pub bytes: u64,
    /// `Σ(x − x̂)²`.
    pub squared_error: f64,
    /// `Σx²`; 0 for transferred tensors, whose weights were not looked at.
    pub energy: f64,
    /// Mean square of what the matrix's outputs are off on the calibration text, summed over rows; 0 if it was not calibrated.
    pub output_error: f64,
    /// Mean square of its outputs, summed over rows; 0 if it was not calibrated.
    pub output_energy: f64,
}

impl TensorReport {
    /// Relative squared error of the matrix's outputs on the calibration text; `None` if it was not calibrated.
    pub fn relative_output_error(&self) -> Option<f64> {
        (self.output_energy > 0.0).then(|| self.output_error / self.output_energy)
    }

    /// `Σ(x − x̂)² / Σx²`; 0 where nothing was lost.
    pub fn relative_error(&self) -> f64 {
        relative(self.squared_error, self.energy)
    }
}

/// What [`crate::pack`] did.
#[derive(Clone, Debug)]
pub struct Report {
    /// Tensors in the image's order.
    pub tensors: Vec<TensorReport>,
    /// Length of the image.
    pub file_bytes: u64,
    /// Weights in the image.
    pub parameters: u64,
    /// Bytes that decoding one token reads.
    pub bytes_per_token: u64,
    /// How 4-bit matrices were quantized.
    pub method: Method,
}

impl Report {
    pub(crate) fn new(image: &Image<'_>, plan: &Plan, losses: &[Loss], method: Method) -> Self {
        let mut tensors: Vec<TensorReport> = Vec::new();
        for (t, loss) in plan.tensors.iter().zip(losses) {
            let layer = (t.layer != bourn_format::image::NO_LAYER).then_some(usize::from(t.layer));
            match tensors.iter_mut().find(|known| layer.is_none() && known.role == t.role) {
                Some(last) => {
                    last.rows += t.rows.len();
                    last.bytes += t.bytes;
                    last.squared_error += loss.error;
                    last.energy += loss.energy;
                    last.output_error += loss.output_error;
                    last.output_energy += loss.output_energy;
                }
                None => tensors.push(TensorReport {
                    name: t.name.clone(),
                    role: t.role,
                    layer,
                    dtype: t.dtype,
                    transferred: t.transferred,
                    rows: t.rows.len(),
                    cols: t.cols,
                    bytes: t.bytes,
                    squared_error: loss.error,
                    energy: loss.energy,
                    output_error: loss.output_error,
                    output_energy: loss.output_energy,
                }),
            }
        }
        Self {
            tensors,
            file_bytes: image.superblock().file_bytes,
            parameters: image.parameters(),
            bytes_per_token: image.bytes_per_token(),
            method,
        }
    }

    /// `Σ(x − x̂)² / Σx²` over all quantized matrices that are neither embedding nor head.
    pub fn body_error(&self) -> f64 {
        let body = || self.tensors.iter().filter(|t| t.dtype.is_quantized() && !matches!(t.role, Role::Embed | Role::Head));
        relative(body().map(|t| t.squared_error).sum(), body().map(|t| t.energy).sum())
    }
}

fn relative(error: f64, energy: f64) -> f64 {
    if energy > 0.0 { error / energy } else { 0.0 }
}
