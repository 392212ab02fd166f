//! A checkpoint opened as the float oracle: ids in, logits and statistics out.

use std::sync::Arc;

use crate::model::Model;
use crate::moments::Statistics;
use crate::tap::Tap;
use crate::{Error, load};
use bourn_checkpoint::{Checkpoint, ModelSpec};
use burn::tensor::{Device, Tensor};

/// An open model.
#[derive(Debug)]
pub struct Reference {
    model: Model,
    context: usize,
}

impl Reference {
    /// Loads every tensor onto the device as f32.
    ///
    /// # Errors
    /// [`Error::Load`] when the checkpoint's tensors do not fill the model.
    pub fn open(checkpoint: &Arc<Checkpoint>, device: &Device) -> Result<Self, Error> {
        Self::open_rounded(checkpoint, device, |value| value)
    }

    /// As [`Self::open`], with the values of matrices passed through `round`: the model with its matrices stored in fewer bits.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn open_rounded(checkpoint: &Arc<Checkpoint>, device: &Device, round: fn(f32) -> f32) -> Result<Self, Error> {
        Ok(Self { model: load::load(checkpoint, device, round)?, context: 0 })
    }

    /// Computes as a session of `context` positions would, however short the text: rope tables are chosen by it (longrope).
    pub fn set_context(&mut self, context: usize) {
        self.context = context;
    }

    /// Sizes and constants.
    pub fn spec(&self) -> &ModelSpec {
        &self.model.spec
    }

    /// The modules.
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// Logits `[n, vocab]`, row-major, after every token of `ids`.
    ///
    /// # Errors
    /// [`Error::Empty`], [`Error::Token`], [`Error::Context`], [`Error::Read`].
    pub fn logits(&self, ids: &[u32]) -> Result<Vec<f32>, Error> {
        values(self.forward(ids, &mut ())?)
    }

    /// As [`Self::logits`], on the device, with `tap` looking in.
    ///
    /// # Errors
    /// [`Error::Empty`], [`Error::Token`], [`Error::Context`].
    pub fn forward(&self, ids: &[u32], tap: &mut dyn Tap) -> Result<Tensor<2>, Error> {
        let spec = self.spec();
        if ids.is_empty() {
            return Err(Error::Empty);
        }
        if let Some(&id) = ids.iter().find(|&&id| id >= spec.vocab) {
            return Err(Error::Token { id, vocab: spec.vocab });
        }
        if ids.len() > spec.max_context as usize {
            return Err(Error::Context { need: ids.len() as u64, have: u64::from(spec.max_context) });
        }
        Ok(self.model.forward(ids, self.context.max(ids.len()), tap))
    }

    /// The residual stream `[n, hidden]` before the first layer and after each: `n_layers + 1` of them.
    ///
    /// # Errors
    /// As [`Self::logits`].
    pub fn residuals(&self, ids: &[u32]) -> Result<Vec<Vec<f32>>, Error> {
        struct Residuals(Vec<Tensor<2>>);
        impl Tap for Residuals {
            fn residual(&mut self, _: usize, x: &Tensor<2>) {
                self.0.push(x.clone());
            }
        }
        let mut residuals = Residuals(Vec::new());
        self.forward(ids, &mut residuals)?;
        residuals.0.into_iter().map(values).collect()
    }

    /// Adds what every matrix is fed by this text to `statistics`.
    ///
    /// # Errors
    /// As [`Self::logits`].
    pub fn observe(&self, ids: &[u32], statistics: &mut Statistics) -> Result<(), Error> {
        self.forward(ids, statistics)?;
        statistics.checked()
    }

    /// The `n` likeliest tokens one after another. Each step computes the whole text anew.
    ///
    /// # Errors
    /// As [`Self::logits`].
    pub fn greedy(&self, ids: &[u32], n: usize) -> Result<Vec<u32>, Error> {
        let mut text = ids.to_vec();
        for _ in 0..n {
            let logits = self.forward(&text, &mut ())?;
            let last = values(logits.narrow(0, text.len() - 1, 1))?;
            // The first of equals.
            let best = last.iter().enumerate().fold(0, |best, (i, &x)| if x > last[best] { i } else { best });
            text.push(best as u32);
        }
        Ok(text.split_off(ids.len()))
    }
}

/// A tensor's values in row-major order.
pub(crate) fn values<const D: usize>(tensor: Tensor<D>) -> Result<Vec<f32>, Error> {
    let data = tensor.try_into_data().map_err(|error| Error::Read { reason: format!("{error:?}") })?;
    data.try_into_vec::<f32>().map_err(|error| Error::Read { reason: format!("{error:?}") })
}
