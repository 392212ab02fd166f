//! The seam between a session and what computes its tokens: the CPU, or a GPU.

use crate::Error;
use bourn_core::{Candidate, Engine};
use bourn_format::Image;
use bourn_host::OwnedSession;
use bourn_kernels::Kernels;
use std::fmt::Debug;

/// What reads tokens and leaves logits: the CPU's session, or a GPU's.
pub(crate) trait Decoder: Debug {
    /// Tokens in the cache.
    fn position(&self) -> usize;
    /// Positions in all.
    fn context(&self) -> usize;
    /// Bytes of KV cache and buffers.
    fn bytes(&self) -> usize;
    /// Forgets every token from position `to` on.
    fn rewind(&mut self, image: &Image<'_>, to: usize) -> Result<(), Error>;
    /// Reads `tokens`; row 0 of the logits is then the last one's.
    fn read(&mut self, engine: &mut Engine<'_>, tokens: &[u32]) -> Result<(), Error>;
    /// Reads `tokens` in one pass; each has a row of logits.
    fn verify(&mut self, engine: &mut Engine<'_>, tokens: &[u32]) -> Result<(), Error>;
    /// Most tokens of one `verify`.
    fn verify_limit(&self) -> usize;
    /// Logits after token `row` of the last pass.
    fn logits(&mut self, kernels: &Kernels, image: &Image<'_>, row: usize) -> Result<&mut [f32], Error>;
    /// The most likely token after a pass that left one row; `None` where it takes all logits to find it.
    fn best(&mut self, image: &Image<'_>) -> Option<Result<u32, Error>>;
    /// The `n` best logits after such a pass, best first; `None` where it takes all logits to find them.
    fn few_best(&mut self, image: &Image<'_>, n: usize) -> Result<Option<&mut [Candidate]>, Error>;
    /// Reads `tokens` and shows the logits after each.
    fn logits_of_all(
        &mut self,
        engine: &mut Engine<'_>,
        tokens: &[u32],
        sink: &mut dyn FnMut(usize, &[f32]),
    ) -> Result<(), Error>;
    /// The session whose KV state a prompt cache takes and gives.
    fn state(&self) -> Result<&OwnedSession, Error>;
    /// The same, to be written.
    fn state_mut(&mut self) -> Result<&mut OwnedSession, Error>;
    /// What a GPU has done.
    #[cfg(feature = "gpu")]
    fn gpu_stats(&self) -> Option<bourn_gpu::GpuStats> {
        None
    }
    /// Reads `token` and times each of a GPU's kernels.
    #[cfg(feature = "gpu")]
    fn gpu_profile(&mut self, engine: &mut Engine<'_>, token: u32) -> Result<Option<Vec<bourn_gpu::KernelTime>>, Error> {
        self.read(engine, &[token]).map(|()| None)
    }
}

impl Decoder for OwnedSession {
    fn position(&self) -> usize {
        self.position()
    }

    fn context(&self) -> usize {
        self.context()
    }

    fn bytes(&self) -> usize {
        self.workspace_bytes()
    }

    fn rewind(&mut self, image: &Image<'_>, to: usize) -> Result<(), Error> {
        Ok(self.rewind(image, to)?)
    }

    fn read(&mut self, engine: &mut Engine<'_>, tokens: &[u32]) -> Result<(), Error> {
        Ok(self.prefill(engine, tokens).map(|_| ())?)
    }

    fn verify(&mut self, engine: &mut Engine<'_>, tokens: &[u32]) -> Result<(), Error> {
        Ok(self.verify(engine, tokens)?)
    }

    fn verify_limit(&self) -> usize {
        self.verify_limit()
    }

    fn logits(&mut self, kernels: &Kernels, image: &Image<'_>, row: usize) -> Result<&mut [f32], Error> {
        Ok(self.logits(kernels, image, row)?)
    }

    fn best(&mut self, _: &Image<'_>) -> Option<Result<u32, Error>> {
        None
    }

    fn few_best(&mut self, _: &Image<'_>, _: usize) -> Result<Option<&mut [Candidate]>, Error> {
        Ok(None)
    }

    fn logits_of_all(
        &mut self,
        engine: &mut Engine<'_>,
        tokens: &[u32],
        sink: &mut dyn FnMut(usize, &[f32]),
    ) -> Result<(), Error> {
        Ok(self.logits_of_all(engine, tokens, sink)?)
    }

    fn state(&self) -> Result<&OwnedSession, Error> {
        Ok(self)
    }

    fn state_mut(&mut self) -> Result<&mut OwnedSession, Error> {
        Ok(self)
    }
}

#[cfg(feature = "gpu")]
impl Decoder for bourn_gpu::GpuSession {
    fn position(&self) -> usize {
        self.position()
    }

    fn context(&self) -> usize {
        self.context()
    }

    fn bytes(&self) -> usize {
        self.bytes() as usize
    }

    fn rewind(&mut self, _: &Image<'_>, to: usize) -> Result<(), Error> {
        Ok(self.rewind(to)?)
    }

    fn read(&mut self, engine: &mut Engine<'_>, tokens: &[u32]) -> Result<(), Error> {
        Ok(self.prefill(engine.image, engine.stream, tokens)?)
    }

    fn verify(&mut self, engine: &mut Engine<'_>, tokens: &[u32]) -> Result<(), Error> {
        Ok(self.verify(engine.image, engine.stream, tokens)?)
    }

    fn verify_limit(&self) -> usize {
        self.verify_limit()
    }

    fn logits(&mut self, _: &Kernels, image: &Image<'_>, row: usize) -> Result<&mut [f32], Error> {
        Ok(self.logits(image, row)?)
    }

    fn best(&mut self, image: &Image<'_>) -> Option<Result<u32, Error>> {
        Some(self.best(image).map_err(Error::from))
    }

    fn few_best(&mut self, image: &Image<'_>, n: usize) -> Result<Option<&mut [Candidate]>, Error> {
        Ok(self.few_best(image, n)?)
    }

    fn logits_of_all(
        &mut self,
        engine: &mut Engine<'_>,
        tokens: &[u32],
        sink: &mut dyn FnMut(usize, &[f32]),
    ) -> Result<(), Error> {
        Ok(self.logits_of_all(engine.image, engine.stream, tokens, sink)?)
    }

    fn state(&self) -> Result<&OwnedSession, Error> {
        Err(no_prompt_cache())
    }

    fn state_mut(&mut self) -> Result<&mut OwnedSession, Error> {
        Err(no_prompt_cache())
    }

    fn gpu_stats(&self) -> Option<bourn_gpu::GpuStats> {
        Some(self.stats())
    }

    fn gpu_profile(&mut self, engine: &mut Engine<'_>, token: u32) -> Result<Option<Vec<bourn_gpu::KernelTime>>, Error> {
        Ok(Some(self.profile(engine.image, engine.stream, token)?))
    }
}

#[cfg(feature = "gpu")]
fn no_prompt_cache() -> Error {
    bourn_gpu::Error::Unsupported { what: "prompt cache", instead: "--device cpu" }.into()
}
