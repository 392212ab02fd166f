//! Several tokens in one pass with the logits after each: what speculative decoding verifies drafts with.

use super::{Engine, Session};
use crate::Error;
use bourn_format::Image;
use bourn_kernels::Kernels;

impl Session<'_> {
    /// Reads `tokens` in one pass over the weights and computes the logits after each, for [`Self::logits`].
    ///
    /// Their bits are those that one token at a time would give. Tokens that turn out wrong are taken back with
    /// [`Self::rewind`], which always reaches every position of the pass.
    ///
    /// # Errors
    /// [`Error::Option`] when there are more tokens than [`Self::verify_limit`], else as [`Self::prefill`]; the position is
    /// then unchanged.
    pub fn verify(&mut self, engine: &mut Engine<'_>, tokens: &[u32]) -> Result<(), Error> {
        self.check(engine.image, tokens)?;
        let most = self.verify_limit();
        if tokens.len() > most {
            return Err(Error::Option { what: "tokens to verify", need: most as u64, found: tokens.len() as u64 });
        }
        self.forward(engine, tokens)?;
        self.head(engine, 0, tokens.len())
    }

    /// Most tokens of one [`Self::verify`]: they fit one prefill block, and each has its row of logits.
    pub fn verify_limit(&self) -> usize {
        self.plan.block.min(self.plan.logit_rows)
    }

    /// Logits `[vocab]` after token `row` of the last [`Self::verify`]; row 0 after [`Self::prefill`] is the last token's.
    ///
    /// # Errors
    /// [`Error::NotFinite`] when none is finite; [`Error::Option`] when there is no such row.
    pub fn logits(&mut self, kernels: &Kernels, image: &Image<'_>, row: usize) -> Result<&mut [f32], Error> {
        let (rows, vocab) = (self.rows, image.shape().vocab as usize);
        if row >= rows {
            return Err(Error::Option { what: "row of logits", need: rows.saturating_sub(1) as u64, found: row as u64 });
        }
        let logits = &mut self.buffers.logits[row * self.plan.vocab_rows..][..vocab];
        let best = logits.get((kernels.argmax)(logits)).copied();
        if !best.is_some_and(f32::is_finite) {
            return Err(Error::NotFinite { position: (self.position + row).saturating_sub(rows) as u64 });
        }
        Ok(logits)
    }
}
