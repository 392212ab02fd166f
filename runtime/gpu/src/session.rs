//! One text being read and written on the GPU: the same calls as the core's session. Modules in path order: `inputs`, `answers`; `profile`.

use crate::compile::Pipelines;
use crate::program::{Program, Recorder};
use crate::record::{Decoder, LANES};
use crate::screen::ScreenBuffers;
use crate::select::{MAX_BEST, Selection};
use crate::tune::Choices;
use crate::weights::Weights;
use crate::{Device, Error};
use bourn_core::{Candidate, HeadMode, KvDtype, WeightStream};
use bourn_format::{Image, layout};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

mod answers;
mod inputs;
mod profile;

pub use profile::KernelTime;

/// What a session is made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GpuOptions {
    /// Positions.
    pub context: usize,
    /// Tokens that prefill takes in one submission; a multiple of 16.
    pub block: usize,
    /// Element type of the KV cache: f32 or f16.
    pub kv: KvDtype,
    /// Which rows of a screened head are read.
    pub head: HeadMode,
}

impl Default for GpuOptions {
    fn default() -> Self {
        Self { context: 4096, block: 64, kv: KvDtype::F16, head: HeadMode::Screened }
    }
}

/// What passes took on the host.
#[derive(Clone, Copy, Debug, Default)]
pub struct GpuStats {
    /// Tokens computed one at a time.
    pub tokens: u64,
    /// Time from the call to the submission, over all of them: what the host works.
    pub host: Duration,
    /// Dispatches for one token.
    pub dispatches: usize,
    /// Bytes of weights that a token reads: of a screened head with as many candidates as there were on average, or, before the
    /// first, as there may be.
    pub bytes_per_token: u64,
    /// Candidates of a screened head on average; 0 of any other.
    pub candidates: f64,
    /// Bytes of weights on the device.
    pub weight_bytes: u64,
    /// Bytes of cache and buffers on the device.
    pub session_bytes: u64,
}

/// A session's memory on the device.
#[derive(Debug)]
pub(crate) struct Buffers {
    pub residual: wgpu::Buffer,
    pub last: wgpu::Buffer,
    pub qkv: wgpu::Buffer,
    pub attended: wgpu::Buffer,
    pub projected: wgpu::Buffer,
    pub ffn: wgpu::Buffer,
    pub codes: wgpu::Buffer,
    pub scales: wgpu::Buffer,
    pub float: wgpu::Buffer,
    pub step: wgpu::Buffer,
    /// Logits of a block's tokens.
    pub rows: wgpu::Buffer,
    pub select: Selection,
    pub screen: Option<ScreenBuffers>,
    pub back: wgpu::Buffer,
    pub kv: Vec<wgpu::Buffer>,
    pub vocab_rows: usize,
    pub bytes: u64,
}

/// A model on a device: weights and pipelines, shared by its sessions.
#[derive(Debug)]
pub struct GpuModel {
    device: Device,
    weights: Weights,
    pipelines: Mutex<Pipelines>,
    choices: Mutex<Choices>,
}

impl GpuModel {
    /// Writes the image's weights to the device.
    ///
    /// # Errors
    /// [`Error`].
    pub fn new(device: Device, image: &Image<'_>, stream: &mut dyn WeightStream) -> Result<Self, Error> {
        let weights = Weights::upload(&device, image, stream)?;
        Ok(Self { device, weights, pipelines: Mutex::default(), choices: Mutex::default() })
    }

    /// The device.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Bytes of weights on the device.
    pub fn weight_bytes(&self) -> u64 {
        self.weights.bytes()
    }

    /// Sessions opened from now on share out products by these choices, where they say something.
    pub fn set_choices(&self, choices: Choices) {
        *self.choices.lock().unwrap_or_else(PoisonError::into_inner) = choices;
    }

    pub(crate) fn choices(&self) -> Choices {
        self.choices.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn weights(&self) -> &Weights {
        &self.weights
    }

    pub(crate) fn pipelines(&self) -> &Mutex<Pipelines> {
        &self.pipelines
    }

    /// Buffers that hold weights.
    pub fn weight_buffers(&self) -> usize {
        self.weights.n_buffers()
    }
}

/// Which logits the last pass has left on the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Left {
    Nothing,
    /// The last token's, with the best of them.
    One,
    /// Those of so many tokens.
    Rows(usize),
}

/// One text on the GPU.
#[derive(Debug)]
pub struct GpuSession {
    model: Arc<GpuModel>,
    options: GpuOptions,
    buffers: Buffers,
    token: Program,
    block: Program,
    last: Program,
    head: Program,
    heads: Program,
    few: Program,
    ropes: [usize; 2],
    position: usize,
    left: Left,
    logits: Vec<f32>,
    few_best: Vec<Candidate>,
    /// Bytes of a candidate's exact row; 0 where the head is read whole.
    row_bytes: u64,
    /// Candidates so far, and tokens that had them.
    candidates: (u64, u64),
    residual: Vec<f32>,
    step: Vec<u32>,
    stats: GpuStats,
}

impl GpuSession {
    /// A session at position 0.
    ///
    /// # Errors
    /// [`Error::Core`] when an option is outside what the image allows, [`Error::OutOfMemory`], [`Error::BindingTooLarge`].
    pub fn new(model: Arc<GpuModel>, image: &Image<'_>, options: &GpuOptions) -> Result<Self, Error> {
        let s = image.shape();
        let limit = |what, need: usize, found: usize| {
            Err(Error::Core(bourn_core::Error::Option { what, need: need as u64, found: found as u64 }))
        };
        if options.context == 0 || options.context > s.max_context as usize {
            return limit("context", s.max_context as usize, options.context);
        }
        if options.kv == KvDtype::I8 {
            return Err(Error::Unsupported { what: "KV cache of i8", instead: "--kv f16 or f32" });
        }
        let options = GpuOptions { block: options.block.clamp(1, 1024).next_multiple_of(LANES as usize), ..*options };
        let device = &model.device;
        let buffers = Buffers::new(device, &model.weights, image, &options)?;
        let mut pipelines = model.pipelines.lock().unwrap_or_else(PoisonError::into_inner);
        let recorder = Recorder::new(device, &mut pipelines, &model.weights, model.choices());
        let mut decoder = Decoder { recorder, image, options, b: &buffers };
        let token = decoder.layers(1)?;
        let block = decoder.layers(LANES)?;
        let last = decoder.last_norm()?;
        let head = decoder.head()?;
        let heads = decoder.all_heads()?;
        let few = decoder.few_best()?;
        let screen = decoder.screen().copied();
        drop(decoder);
        drop(pipelines);
        let choose = |sliding: bool| {
            let ropes = image.ropes().enumerate();
            let fit = ropes.filter(|(_, r)| r.sliding == sliding && r.min_context as usize <= options.context);
            fit.max_by_key(|(_, r)| r.min_context).map_or(0, |(i, _)| i)
        };
        let row_bytes = screen.map_or(0, |_| layout::row_bytes(s.hidden as usize) as u64);
        let stats = GpuStats {
            dispatches: token.steps().len() + head.steps().len(),
            bytes_per_token: token.bytes() + head.bytes(),
            candidates: screen.map_or(0.0, |s| s.candidates() as f64),
            weight_bytes: model.weights.bytes(),
            session_bytes: buffers.bytes,
            ..GpuStats::default()
        };
        let (hidden, pairs) = (s.hidden as usize, s.rotary_dim as usize / 2);
        Ok(Self {
            options,
            buffers,
            token,
            block,
            last,
            head,
            heads,
            few,
            ropes: [choose(false), choose(true)],
            position: 0,
            left: Left::Nothing,
            logits: vec![0.0; s.vocab as usize],
            few_best: Vec::with_capacity(MAX_BEST),
            row_bytes,
            candidates: (0, 0),
            residual: vec![0.0; options.block * hidden],
            step: vec![0; 4 + options.block + 4 * options.block * pairs],
            stats,
            model,
        })
    }

    /// The model.
    pub fn model(&self) -> &Arc<GpuModel> {
        &self.model
    }

    /// Tokens in the cache.
    pub fn position(&self) -> usize {
        self.position
    }

    /// Positions in all.
    pub fn context(&self) -> usize {
        self.options.context
    }

    /// What passes took so far.
    pub fn stats(&self) -> GpuStats {
        let (found, tokens) = self.candidates;
        let candidates = if tokens == 0 { self.stats.candidates } else { found as f64 / tokens as f64 };
        let exact = (candidates * self.row_bytes as f64) as u64;
        GpuStats { candidates, bytes_per_token: self.stats.bytes_per_token + exact, ..self.stats }
    }

    /// Bytes on the device besides weights.
    pub fn bytes(&self) -> u64 {
        self.buffers.bytes
    }

    /// Forgets every token from position `to` on. All layers keep all positions, so any can be returned to.
    ///
    /// # Errors
    /// [`Error::Core`] when `to` is ahead.
    pub fn rewind(&mut self, to: usize) -> Result<(), Error> {
        if to > self.position {
            return Err(bourn_core::Error::Rewind { to: to as u64, oldest: 0 }.into());
        }
        self.position = to;
        Ok(())
    }

    fn check(&self, image: &Image<'_>, tokens: &[u32]) -> Result<(), Error> {
        let vocab = image.shape().vocab;
        if tokens.is_empty() {
            return Err(bourn_core::Error::Empty.into());
        }
        if let Some(&id) = tokens.iter().find(|&&id| id >= vocab) {
            return Err(bourn_core::Error::Token { id, vocab }.into());
        }
        let need = self.position + tokens.len();
        if need > self.options.context {
            return Err(bourn_core::Error::ContextFull { need: need as u64, context: self.options.context as u64 }.into());
        }
        Ok(())
    }

    /// Reads `tokens`; the logits after the last are left on the device, for [`Self::best`] and [`Self::logits`].
    ///
    /// # Errors
    /// [`Error`]; the position is then unchanged for the block that failed.
    pub fn prefill(&mut self, image: &Image<'_>, stream: &mut dyn WeightStream, tokens: &[u32]) -> Result<(), Error> {
        self.check(image, tokens)?;
        let blocks = tokens.len().div_ceil(self.options.block);
        for (i, block) in tokens.chunks(self.options.block).enumerate() {
            let start = Instant::now();
            self.inputs(image, stream, block)?;
            let mut encoder = self.encoder();
            let (layers, is_last) = (if block.len() == 1 { &self.token } else { &self.block }, i + 1 == blocks);
            match (is_last, block.len()) {
                (true, 1) => self.encode(&mut encoder, &[(layers, 1), (&self.head, 1)]),
                (false, n) => self.encode(&mut encoder, &[(layers, n)]),
                (true, n) => {
                    self.encode(&mut encoder, &[(layers, n)]);
                    self.take_last(&mut encoder, image, n - 1);
                    self.encode(&mut encoder, &[(&self.last, 1), (&self.head, 1)]);
                }
            }
            if is_last {
                encoder.copy_buffer_to_buffer(&self.buffers.select.best, 0, &self.buffers.back, 0, 16);
            }
            self.submit(encoder)?;
            if block.len() == 1 {
                self.stats.tokens += 1;
                self.stats.host += start.elapsed();
            }
            if block.len() > 1 {
                // A block is done when the call returns: what it took is known, and inputs do not pile up.
                self.model.device.wait()?;
            }
            self.position += block.len();
        }
        self.left = Left::One;
        Ok(())
    }

    /// Reads `tokens`, at most [`Self::verify_limit`], in one pass; the logits after each are left for [`Self::logits`].
    ///
    /// # Errors
    /// [`Error`]; the position is then unchanged.
    pub fn verify(&mut self, image: &Image<'_>, stream: &mut dyn WeightStream, tokens: &[u32]) -> Result<(), Error> {
        if tokens.len() == 1 {
            return self.prefill(image, stream, tokens);
        }
        self.check(image, tokens)?;
        let most = self.verify_limit();
        if tokens.len() > most {
            let (need, found) = (most as u64, tokens.len() as u64);
            return Err(bourn_core::Error::Option { what: "tokens to verify", need, found }.into());
        }
        self.inputs(image, stream, tokens)?;
        let mut encoder = self.encoder();
        self.encode(&mut encoder, &[(&self.block, tokens.len())]);
        if self.buffers.screen.is_none() {
            self.encode(&mut encoder, &[(&self.heads, tokens.len())]);
        } else {
            for t in 0..tokens.len() {
                self.take_last(&mut encoder, image, t);
                self.encode(&mut encoder, &[(&self.last, 1), (&self.head, 1)]);
                let bytes = 4 * self.buffers.vocab_rows as u64;
                encoder.copy_buffer_to_buffer(&self.buffers.select.row, 0, &self.buffers.rows, t as u64 * bytes, bytes);
            }
        }
        self.submit(encoder)?;
        self.position += tokens.len();
        self.left = Left::Rows(tokens.len());
        Ok(())
    }

    /// Encodes programs, one after another, each for so many tokens.
    fn encode(&self, encoder: &mut wgpu::CommandEncoder, programs: &[(&Program, usize)]) {
        let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
        for (program, tokens) in programs {
            program.encode(&mut pass, *tokens as u32);
        }
    }

    /// Copies the residual stream of token `t` of a block to where the last token's is looked for.
    fn take_last(&self, encoder: &mut wgpu::CommandEncoder, image: &Image<'_>, t: usize) {
        let row = 4 * u64::from(image.shape().hidden);
        encoder.copy_buffer_to_buffer(&self.buffers.residual, t as u64 * row, &self.buffers.last, 0, row);
    }

    /// Most tokens of one [`Self::verify`].
    pub fn verify_limit(&self) -> usize {
        LANES as usize
    }

    /// Reads `tokens` and calls `sink(position, logits)` after each.
    ///
    /// # Errors
    /// [`Error`].
    pub fn logits_of_all(
        &mut self,
        image: &Image<'_>,
        stream: &mut dyn WeightStream,
        tokens: &[u32],
        sink: &mut dyn FnMut(usize, &[f32]),
    ) -> Result<(), Error> {
        self.check(image, tokens)?;
        for block in tokens.chunks(self.verify_limit()) {
            let start = self.position;
            self.verify(image, stream, block)?;
            for row in 0..block.len() {
                self.fetch(image, row)?;
                sink(start + row, &self.logits);
            }
        }
        Ok(())
    }

    fn encoder(&self) -> wgpu::CommandEncoder {
        self.model.device.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default())
    }

    fn submit(&self, encoder: wgpu::CommandEncoder) -> Result<(), Error> {
        self.model.device.queue.submit([encoder.finish()]);
        self.model.device.check()
    }
}
