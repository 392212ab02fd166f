//! What matrices meet: the inputs of every product, for calibration and for comparing a port with its reference layer by layer.

use super::{Engine, Session};
use crate::Error;

/// Which product of a layer takes an input.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Site {
    /// `norm(x)`, for Wq, Wk and Wv: `[hidden]`.
    Attention,
    /// What attention gives, for Wo: `[n_heads · head_dim]`.
    Output,
    /// `norm(x)`, for the gate and up matrices: `[hidden]`.
    FeedForward,
    /// `act(gate) ⊙ up`, for the down matrix: `[ffn]`.
    Down,
    /// `norm(x)` after the last layer, for the head: `[hidden]`.
    Head,
}

/// One input of a product.
#[derive(Clone, Copy, Debug)]
pub struct Observed<'a> {
    /// Of which product.
    pub site: Site,
    /// Of which layer; the number of layers for [`Site::Head`].
    pub layer: usize,
    /// Position of the token.
    pub position: usize,
    /// The vector, before it is rounded to int8.
    pub values: &'a [f32],
}

/// Who is told of inputs, if anyone is.
pub(super) type Observer<'o> = Option<&'o mut dyn FnMut(Observed<'_>)>;

/// Tells of the first `n` vectors of `x`, `stride` apart, each of `len`.
pub(super) fn tell(observer: &mut Observer<'_>, at: (Site, usize, usize), x: &[f32], stride: usize, len: usize, n: usize) {
    if let Some(observer) = observer {
        let (site, layer, first) = at;
        for (t, values) in x.chunks(stride).take(n).enumerate() {
            observer(Observed { site, layer, position: first + t, values: &values[..len] });
        }
    }
}

impl Session<'_> {
    /// Reads `tokens` and calls `observer` with the input of every product of every layer and of the head, which is not computed.
    /// Blocks come in rising order; in a block, layers; in a layer, sites as they are listed; at a site, positions.
    ///
    /// # Errors
    /// [`Error`].
    pub fn observe(
        &mut self,
        engine: &mut Engine<'_>,
        tokens: &[u32],
        observer: &mut dyn FnMut(Observed<'_>),
    ) -> Result<(), Error> {
        self.check(engine.image, tokens)?;
        for block in tokens.chunks(self.plan.block) {
            let start = self.position;
            self.forward_observed(engine, block, Some(observer))?;
            self.final_norm(engine, 0, block.len())?;
            let (hidden, layer) = (self.plan.hidden, engine.image.n_layers());
            tell(&mut Some(observer), (Site::Head, layer, start), self.buffers.normed, hidden, hidden, block.len());
        }
        Ok(())
    }

    /// Reads `tokens` and calls `sink(position, logits)` after those at whose position `wanted` holds: the head is computed for
    /// no others.
    ///
    /// # Errors
    /// [`Error`].
    pub fn logits_at(
        &mut self,
        engine: &mut Engine<'_>,
        tokens: &[u32],
        wanted: &dyn Fn(usize) -> bool,
        sink: &mut dyn FnMut(usize, &[f32]),
    ) -> Result<(), Error> {
        self.check(engine.image, tokens)?;
        let vocab = engine.image.shape().vocab as usize;
        for block in tokens.chunks(self.plan.block) {
            let start = self.position;
            self.forward(engine, block)?;
            for t in (0..block.len()).filter(|t| wanted(start + t)) {
                self.head(engine, t, 1)?;
                sink(start + t, &self.buffers.logits[..vocab]);
            }
        }
        Ok(())
    }
}
