//! One text being read and written on the GPU: the same calls as the core's session.

use crate::compile::Pipelines;
use crate::program::{Program, Recorder};
use crate::record::{Decoder, LANES};
use crate::weights::Weights;
use crate::{Device, Error};
use bourn_core::{KvDtype, WeightStream};
use bourn_format::{Image, Role, layout};
use bourn_kernels::table::Tiles;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// What a session is made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GpuOptions {
    /// Positions.
    pub context: usize,
    /// Tokens that prefill takes in one submission; a multiple of 16.
    pub block: usize,
    /// Element type of the KV cache: f32 or f16.
    pub kv: KvDtype,
    /// Sets of 16 units that share a row's columns when one token is computed.
    pub splits: u32,
}

impl Default for GpuOptions {
    fn default() -> Self {
        Self { context: 4096, block: 64, kv: KvDtype::F16, splits: 8 }
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
    /// Bytes of weights that a token reads.
    pub bytes_per_token: u64,
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
    pub logits: wgpu::Buffer,
    pub spans: wgpu::Buffer,
    pub best: wgpu::Buffer,
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
}

impl GpuModel {
    /// Writes the image's weights to the device.
    ///
    /// # Errors
    /// [`Error`].
    pub fn new(device: Device, image: &Image<'_>, stream: &mut dyn WeightStream) -> Result<Self, Error> {
        let weights = Weights::upload(&device, image, stream)?;
        Ok(Self { device, weights, pipelines: Mutex::default() })
    }

    /// The device.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Bytes of weights on the device.
    pub fn weight_bytes(&self) -> u64 {
        self.weights.bytes()
    }

    /// Buffers that hold weights.
    pub fn weight_buffers(&self) -> usize {
        self.weights.n_buffers()
    }
}

/// What a row of logits is, until the next pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Left {
    Nothing,
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
    ropes: [usize; 2],
    position: usize,
    left: Left,
    logits: Vec<f32>,
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
        let buffers = Buffers::new(device, image, &options)?;
        let mut pipelines = model.pipelines.lock().unwrap_or_else(PoisonError::into_inner);
        let recorder = Recorder::new(device, &mut pipelines, &model.weights);
        let mut decoder = Decoder { recorder, image, options, b: &buffers };
        let token = decoder.layers(1)?;
        let block = decoder.layers(LANES)?;
        let last = decoder.last_norm()?;
        let head = decoder.head(1)?;
        let heads = decoder.head(LANES)?;
        drop(decoder);
        drop(pipelines);
        let choose = |sliding: bool| {
            let ropes = image.ropes().enumerate();
            let fit = ropes.filter(|(_, r)| r.sliding == sliding && r.min_context as usize <= options.context);
            fit.max_by_key(|(_, r)| r.min_context).map_or(0, |(i, _)| i)
        };
        let stats = GpuStats {
            dispatches: token.len() + head.len(),
            bytes_per_token: token.bytes() + head.bytes(),
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
            ropes: [choose(false), choose(true)],
            position: 0,
            left: Left::Nothing,
            logits: vec![0.0; s.vocab as usize],
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
        self.stats
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
            {
                let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
                if block.len() == 1 {
                    self.token.encode(&mut pass, 1);
                } else {
                    self.block.encode(&mut pass, block.len() as u32);
                }
            }
            if i + 1 == blocks {
                if block.len() > 1 {
                    let row = 4 * u64::from(image.shape().hidden);
                    let at = (block.len() as u64 - 1) * row;
                    encoder.copy_buffer_to_buffer(&self.buffers.residual, at, &self.buffers.last, 0, row);
                }
                let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
                if block.len() > 1 {
                    self.last.encode(&mut pass, 1);
                }
                self.head.encode(&mut pass, 1);
                drop(pass);
                encoder.copy_buffer_to_buffer(&self.buffers.best, 0, &self.buffers.back, 0, 16);
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
        self.left = Left::Rows(1);
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
        {
            let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
            self.block.encode(&mut pass, tokens.len() as u32);
            self.heads.encode(&mut pass, tokens.len() as u32);
        }
        self.submit(encoder)?;
        self.position += tokens.len();
        self.left = Left::Rows(tokens.len());
        Ok(())
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

    /// The most likely token after the last pass: only its id and logit leave the device.
    ///
    /// # Errors
    /// [`Error::Core`] when no logit is a number; [`Error::DeviceLost`] and the like.
    pub fn best(&mut self, image: &Image<'_>) -> Result<u32, Error> {
        if self.left != Left::Rows(1) {
            return Err(bourn_core::Error::Option { what: "row of logits", need: 0, found: 0 }.into());
        }
        let device = &self.model.device;
        let (value, id) = device.read(&self.buffers.back, 8, |bytes| {
            let word = |i: usize| bytes.get(4 * i..4 * i + 4).map_or(0, |b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]));
            (f32::from_bits(word(0)), word(1))
        })?;
        if value <= -3.3e38 || !value.is_finite() || id >= image.shape().vocab {
            return Err(bourn_core::Error::NotFinite { position: (self.position - 1) as u64 }.into());
        }
        Ok(id)
    }

    /// Logits `[vocab]` after token `row` of the last pass.
    ///
    /// # Errors
    /// [`Error::Core`] when none is finite or there is no such row; [`Error::DeviceLost`] and the like.
    pub fn logits(&mut self, image: &Image<'_>, row: usize) -> Result<&mut [f32], Error> {
        let rows = if let Left::Rows(n) = self.left { n } else { 0 };
        if row >= rows {
            let (need, found) = (rows.saturating_sub(1) as u64, row as u64);
            return Err(bourn_core::Error::Option { what: "row of logits", need, found }.into());
        }
        self.fetch(image, row)?;
        let best = self.logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        if !best.is_finite() {
            return Err(bourn_core::Error::NotFinite { position: (self.position + row).saturating_sub(rows) as u64 }.into());
        }
        Ok(&mut self.logits)
    }

    /// Copies a row of logits to the host.
    fn fetch(&mut self, image: &Image<'_>, row: usize) -> Result<(), Error> {
        let bytes = 4 * self.logits.len() as u64;
        let at = 4 * (row * self.buffers.vocab_rows) as u64;
        let mut encoder = self.encoder();
        encoder.copy_buffer_to_buffer(&self.buffers.logits, at, &self.buffers.back, 16, bytes);
        self.submit(encoder)?;
        let logits = &mut self.logits;
        self.model.device.read(&self.buffers.back, 16 + bytes, |bytes| {
            bytemuck::cast_slice_mut::<f32, u8>(logits).copy_from_slice(&bytes[16..]);
        })?;
        let cap = image.shape().final_softcap;
        if cap != 0.0 {
            (bourn_kernels::best().softcap)(&mut self.logits, cap);
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

    /// Writes what a pass begins with: embeddings and the tables of its positions, made as the CPU makes them.
    fn inputs(&mut self, image: &Image<'_>, stream: &mut dyn WeightStream, tokens: &[u32]) -> Result<(), Error> {
        let s = image.shape();
        let hidden = s.hidden as usize;
        for (&token, x) in tokens.iter().zip(self.residual.chunks_mut(hidden)) {
            let row = token as usize;
            let part = image.parts(Role::Embed).find(|t| row < t.first_row + t.rows);
            let part = part.ok_or(bourn_core::Error::Token { id: token, vocab: s.vocab })?;
            let tile_bytes = layout::tile_bytes(part.dtype, part.cols);
            let (tile, in_tile) = ((row - part.first_row) / layout::TILE_ROWS, (row - part.first_row) % layout::TILE_ROWS);
            let bytes = stream.read(part.offset + (tile * tile_bytes) as u64, tile_bytes)?;
            bourn_kernels::row_f32(&Tiles { dtype: part.dtype, bytes, cols: part.cols, table: part.table }, in_tile, x);
            if s.embed_scale != 1.0 {
                x.iter_mut().for_each(|v| *v *= s.embed_scale);
            }
        }
        let (block, pairs) = (self.options.block, s.rotary_dim as usize / 2);
        self.step[0] = self.position as u32;
        self.step[1] = tokens.len() as u32;
        for (t, scale) in self.step[4..4 + block].iter_mut().enumerate().take(tokens.len()) {
            *scale = (s.attn_scale * temperature(s, self.position + t)).to_bits();
        }
        let tables = self.step[4 + block..].chunks_mut((2 * block * pairs).max(1));
        for (&rope, table) in self.ropes.iter().zip(tables) {
            let Some(rope) = image.ropes().nth(rope) else { continue };
            let (cos, sin) = table.split_at_mut(block * pairs);
            for t in 0..tokens.len() {
                let position = (self.position + t) as f32;
                for i in 0..pairs {
                    let angle = position * rope.inv_freq(i);
                    cos[t * pairs + i] = (libm::cosf(angle) * rope.factor).to_bits();
                    sin[t * pairs + i] = (libm::sinf(angle) * rope.factor).to_bits();
                }
            }
        }
        let queue = &self.model.device.queue;
        queue.write_buffer(&self.buffers.residual, 0, bytemuck::cast_slice(&self.residual[..tokens.len() * hidden]));
        queue.write_buffer(&self.buffers.step, 0, bytemuck::cast_slice(&self.step));
        Ok(())
    }
}

/// `1 + β·ln(1 + ⌊position/context⌋)`: Ministral 3's query scale; 1 for everyone else.
fn temperature(s: &bourn_format::Shape, position: usize) -> f32 {
    if s.attn_temperature_beta == 0.0 {
        return 1.0;
    }
    let stretch = (position / s.attn_temperature_context as usize) as f32;
    1.0 + s.attn_temperature_beta * libm::logf(1.0 + stretch)
}
