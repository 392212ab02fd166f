//! Checkpoint → parameters, through burn-store: each tensor is de-quantized when its module takes it, one at a time.

use std::sync::Arc;

use crate::Error;
use crate::model::{Model, parameter};
use bourn_checkpoint::{Checkpoint, TensorInfo};
use burn::tensor::{DType, Device, Shape, TensorData};
use burn_store::{ModuleSnapshot, bridge, burn_pack};

/// The model with the checkpoint's values as f32, those of matrices passed through `round`.
///
/// # Errors
/// [`Error::Load`] when a parameter finds no tensor, a tensor no parameter, or one cannot be read.
pub(crate) fn load(checkpoint: &Arc<Checkpoint>, device: &Device, round: fn(f32) -> f32) -> Result<Model, Error> {
    let mut model = Model::init(checkpoint, device);
    let tensors = checkpoint.tensors().iter().map(|tensor| deferred(checkpoint, tensor, round)).collect();
    let result = model.apply(tensors, None, None, false);
    let complaint = match (result.errors.first(), result.missing.first(), result.unused.first()) {
        (Some(error), ..) => Some(error.to_string()),
        (_, Some((parameter, _)), _) => Some(format!("no tensor for {parameter}")),
        (.., Some(tensor)) => Some(format!("no parameter for {tensor}")),
        _ => None,
    };
    complaint.map_or(Ok(model), |reason| Err(Error::Load { reason }))
}

/// A tensor that is read from the mapped file when burn-store asks for it.
fn deferred(checkpoint: &Arc<Checkpoint>, tensor: &TensorInfo, round: fn(f32) -> f32) -> burn_pack::Tensor {
    let shape = if tensor.role.is_vector() { Shape::new([tensor.cols]) } else { Shape::new([tensor.rows, tensor.cols]) };
    let (checkpoint, tensor, declared) = (Arc::clone(checkpoint), tensor.clone(), shape.clone());
    bridge::deferred(parameter(tensor.role, tensor.layer), DType::F32, shape, None, move || {
        let mut values = vec![0.0f32; tensor.rows * tensor.cols];
        let read = checkpoint.rows_f32(&tensor, 0..tensor.rows, &mut values);
        read.map_err(|error| burn_pack::Error::IoError(error.to_string()))?;
        if !tensor.role.is_vector() {
            values.iter_mut().for_each(|value| *value = round(*value));
        }
        Ok(TensorData::new(values, declared.clone()))
    })
}
