//! Token → logits: the one decoder of every family, in one sitting.
//!
//! ```text
//! x = embed[token] · embed_scale
//! for each layer:
//!     h = norm(x);  q, k, v = Wq·h, Wk·h, Wv·h (+ biases);  q, k = qk_norm(q, k);  q, k = rope(q, k)
//!     cache k, v;   a = attend(q, cache);   x += post_norm(Wo·a)
//!     h = norm(x);  x += post_norm(Wdown·(act(Wgate·h) ⊙ Wup·h))
//! logits = head · norm(x)
//! ```
//!
//! Norms, biases and the head are there or not as the image's tensors say; nothing here asks which family it is.
//! A token's values do not depend on the tokens it shares a block with, nor on how rows are shared out: every sum has one order.

mod head;
mod observe;
mod snapshot;
mod verify;

pub(crate) use head::GATHER;
pub use head::HeadMode;
pub use observe::{Observed, Site};

use crate::workspace::{Buffers, Options, Plan};
use crate::{Error, WeightStream};
use bourn_format::shape::{Activation, Rope};
use bourn_format::{Dtype, Image, LayerTensors, Role, Segment, Tensor, layout};
use bourn_kernels::rows::{Block, Rows, split};
use bourn_kernels::table::{Attend, Kernels, Q8RowMut, Q8Rows, Tiles};
use observe::{Observer, tell};

/// What computes: an image, its bytes, a tier of kernels, and who shares out the rows.
pub struct Engine<'e> {
    /// The checked head of the image.
    pub image: &'e Image<'e>,
    /// Where weights come from.
    pub stream: &'e mut dyn WeightStream,
    /// The tier.
    pub kernels: &'static Kernels,
    /// Workers for one token.
    pub decode: &'e dyn Rows,
    /// Workers for a block of tokens.
    pub prefill: &'e dyn Rows,
}

/// One text being read and written: its KV cache and the buffers of a forward pass.
#[derive(Debug)]
pub struct Session<'w> {
    plan: Plan,
    buffers: Buffers<'w>,
    position: usize,
    /// Positions below this have been written since the last return to 0, and may have overwritten older ones in a ring.
    written: usize,
    /// Sliding layers have no keys below this: where the session was resumed, the snapshot had none.
    kept_from: usize,
    context: usize,
    /// Rows of logits that the last pass has left.
    rows: usize,
    head_mode: HeadMode,
    /// Index among the image's rope tables for full and sliding layers.
    ropes: [usize; 2],
}

/// Most rows of the output that one piece of work computes: small enough that a slow core never holds a token.
const PIECE_ROWS: usize = 1024;
/// Tokens of one piece of prefill attention.
const PIECE_TOKENS: usize = 8;
/// Largest head the format allows.
const MAX_HEAD_DIM: usize = 512;

impl<'w> Session<'w> {
    /// A session at position 0.
    ///
    /// # Errors
    /// [`Error::Option`], [`Error::Workspace`]; `workspace` needs [`crate::workspace_bytes`] bytes.
    pub fn new(image: &Image<'_>, options: &Options, workspace: &'w mut [u8]) -> Result<Self, Error> {
        let plan = Plan::new(image, options)?;
        let buffers = Buffers::carve(&plan, workspace)?;
        // Of the tables of a kind the one with the largest threshold that the context reaches.
        let choose = |sliding: bool| {
            image
                .ropes()
                .enumerate()
                .filter(|(_, r)| r.sliding == sliding && r.min_context as usize <= options.context)
                .max_by_key(|(_, r)| r.min_context)
                .map_or(0, |(i, _)| i)
        };
        Ok(Self {
            plan,
            buffers,
            position: 0,
            written: 0,
            kept_from: 0,
            context: options.context,
            rows: 0,
            head_mode: HeadMode::default(),
            ropes: [choose(false), choose(true)],
        })
    }

    /// Tokens in the cache.
    pub const fn position(&self) -> usize {
        self.position
    }

    /// Positions in all.
    pub const fn context(&self) -> usize {
        self.context
    }

    /// Forgets every token from position `to` on.
    ///
    /// # Errors
    /// [`Error::Rewind`] when `to` is ahead, or so far back that a sliding layer's ring has overwritten its keys.
    pub fn rewind(&mut self, image: &Image<'_>, to: usize) -> Result<(), Error> {
        let oldest = self.oldest(image);
        if to > self.position || (to < oldest && to != 0) {
            return Err(Error::Rewind { to: to as u64, oldest: oldest as u64 });
        }
        if to == 0 {
            (self.written, self.kept_from) = (0, 0);
        }
        self.position = to;
        Ok(())
    }

    /// Reads `tokens` and returns the logits `[vocab]` after the last. One token is decoding, several are prefill.
    ///
    /// # Errors
    /// [`Error`]; the position is then unchanged for the block that failed.
    pub fn prefill(&mut self, engine: &mut Engine<'_>, tokens: &[u32]) -> Result<&mut [f32], Error> {
        self.check(engine.image, tokens)?;
        let mut last = 0;
        let n_blocks = tokens.len().div_ceil(self.plan.block);
        for (i, block) in tokens.chunks(self.plan.block).enumerate() {
            if i + 1 < n_blocks {
                // No head after this block.
                let (first, end) = (engine.image.layer(0), engine.image.layer(engine.image.n_layers() - 1));
                engine.stream.turn(end.feed_forward, first.attention);
            }
            self.forward(engine, block)?;
            last = block.len() - 1;
        }
        self.head(engine, last, 1)?;
        self.logits(engine.kernels, engine.image, 0)
    }

    /// Reads `tokens` and calls `sink(position, logits)` after each.
    ///
    /// # Errors
    /// [`Error`].
    pub fn logits_of_all(
        &mut self,
        engine: &mut Engine<'_>,
        tokens: &[u32],
        sink: &mut dyn FnMut(usize, &[f32]),
    ) -> Result<(), Error> {
        self.check(engine.image, tokens)?;
        let vocab = engine.image.shape().vocab as usize;
        for block in tokens.chunks(self.plan.block) {
            let start = self.position;
            self.forward(engine, block)?;
            for first in (0..block.len()).step_by(self.plan.logit_rows) {
                let n = self.plan.logit_rows.min(block.len() - first);
                if first + n < block.len()
                    && let Some(end) = self.head_end(engine.image)
                {
                    // The head once more, for other positions.
                    engine.stream.turn(end, engine.image.final_norm().segment);
                }
                self.head(engine, first, n)?;
                for (i, row) in self.buffers.logits.chunks(self.plan.vocab_rows.max(1)).take(n).enumerate() {
                    sink(start + first + i, &row[..vocab]);
                }
            }
        }
        Ok(())
    }

    fn check(&self, image: &Image<'_>, tokens: &[u32]) -> Result<(), Error> {
        let vocab = image.shape().vocab;
        if tokens.is_empty() {
            return Err(Error::Empty);
        }
        if let Some(&id) = tokens.iter().find(|&&id| id >= vocab) {
            return Err(Error::Token { id, vocab });
        }
        let need = self.position + tokens.len();
        if need > self.context {
            return Err(Error::ContextFull { need: need as u64, context: self.context as u64 });
        }
        Ok(())
    }

    /// Pushes one block of at most `prefill_block` tokens through all layers; leaves the residual stream in its buffer.
    fn forward(&mut self, engine: &mut Engine<'_>, tokens: &[u32]) -> Result<(), Error> {
        self.forward_observed(engine, tokens, None)
    }

    fn forward_observed(&mut self, engine: &mut Engine<'_>, tokens: &[u32], mut seen: Observer<'_>) -> Result<(), Error> {
        let image = engine.image;
        let rows = if tokens.len() == 1 { engine.decode } else { engine.prefill };
        let pass = Pass { kernels: engine.kernels, rows, image, n: tokens.len(), position: self.position };
        // Before anything is written: a block that fails half-way has overwritten keys too.
        self.written = self.written.max(self.position + tokens.len());
        self.embed(engine, tokens)?;
        self.angles(&pass);
        let plan = self.plan;
        for (i, kv_layer) in plan.kv.layers(image).enumerate() {
            let layer = image.layer(i);
            let bytes = engine.stream.segment(layer.attention)?;
            self.attention(&pass, &Weights { image, layer, index: layer.attention, bytes }, &kv_layer, (i, &mut seen));
            let bytes = engine.stream.segment(layer.feed_forward)?;
            self.feed_forward(&pass, &Weights { image, layer, index: layer.feed_forward, bytes }, (i, &mut seen));
        }
        self.position += tokens.len();
        Ok(())
    }

    fn embed(&mut self, engine: &mut Engine<'_>, tokens: &[u32]) -> Result<(), Error> {
        let shape = engine.image.shape();
        for (&token, x) in tokens.iter().zip(self.buffers.residual.chunks_mut(self.plan.hidden)) {
            let row = token as usize;
            let part = engine.image.parts(Role::Embed).find(|t| row < t.first_row + t.rows);
            let part = part.ok_or(Error::Token { id: token, vocab: shape.vocab })?;
            let tile_bytes = layout::tile_bytes(part.dtype, part.cols);
            let (tile, in_tile) = ((row - part.first_row) / layout::TILE_ROWS, (row - part.first_row) % layout::TILE_ROWS);
            let bytes = engine.stream.read(part.offset + (tile * tile_bytes) as u64, tile_bytes)?;
            let tile = Tiles { dtype: part.dtype, bytes, cols: part.cols, table: part.table };
            bourn_kernels::row_f32(&tile, in_tile, x);
            if shape.embed_scale != 1.0 {
                x.iter_mut().for_each(|v| *v *= shape.embed_scale);
            }
        }
        Ok(())
    }

    /// cos and sin of `position · inv_freq` for both kinds of layers, once per pass.
    fn angles(&mut self, pass: &Pass<'_>) {
        let half = self.plan.half_rotary;
        for (&rope, table) in self.ropes.iter().zip(self.buffers.angles.chunks_mut((2 * self.plan.block * half).max(1))) {
            let Some(rope): Option<Rope<'_>> = pass.image.ropes().nth(rope) else { continue };
            let (cos, sin) = table.split_at_mut(self.plan.block * half);
            for t in 0..pass.n {
                let position = (pass.position + t) as f32;
                for i in 0..half {
                    let angle = position * rope.inv_freq(i);
                    cos[t * half + i] = libm::cosf(angle) * rope.factor;
                    sin[t * half + i] = libm::sinf(angle) * rope.factor;
                }
            }
        }
    }

    fn attention(
        &mut self,
        pass: &Pass<'_>,
        w: &Weights<'_>,
        kv_layer: &crate::kv::KvLayer,
        (layer, seen): (usize, &mut Observer<'_>),
    ) {
        let (plan, b, k, shape) = (&self.plan, &mut self.buffers, pass.kernels, pass.image.shape());
        let (n, hidden, head_dim) = (pass.n, plan.hidden, shape.head_dim as usize);
        pass.norm(b.residual, w.bytes_of(Role::AttnNorm), b.normed, hidden, n);
        tell(seen, (Site::Attention, layer, pass.position), b.normed, hidden, hidden, n);
        let [wq, wk, wv] = [Role::Wq, Role::Wk, Role::Wv].map(|r| w.matrix(r));
        let mut input = Input { q8: b.q8, scale: b.q8_scale, sum: b.q8_sum, float: b.normed, cols: hidden, n };
        pass.project(&[wq, wk, wv], &mut input, b.qkv, plan.qkv_stride);

        let q_end = layout::padded_rows(plan.q_rows);
        let v_start = q_end + layout::padded_rows(plan.kv_rows);
        let half = plan.half_rotary;
        let kind = usize::from(w.layer.sliding) * 2 * plan.block * half;
        let (cos, sin) = b.angles[kind..kind + 2 * plan.block * half].split_at(plan.block * half);
        for (t, row) in b.qkv.chunks_mut(plan.qkv_stride).take(n).enumerate() {
            let (q, rest) = row.split_at_mut(q_end);
            let (key, v) = rest.split_at_mut(v_start - q_end);
            let (q, key, v) = (&mut q[..plan.q_rows], &mut key[..plan.kv_rows], &mut v[..plan.kv_rows]);
            for (y, role) in [(&mut *q, Role::Bq), (&mut *key, Role::Bk), (v, Role::Bv)] {
                add_bias(y, w.bytes_of(role));
            }
            for (heads, role) in [(&mut *q, Role::QNorm), (&mut *key, Role::KNorm)] {
                let weight = w.bytes_of(role);
                if !weight.is_empty() {
                    for head in heads.chunks_mut(head_dim) {
                        let mut copy = [0.0; MAX_HEAD_DIM];
                        copy[..head_dim].copy_from_slice(head);
                        (k.rms_norm)(&copy[..head_dim], weight, shape.norm_eps, head);
                    }
                }
            }
            let (cos, sin) = (&cos[t * half..(t + 1) * half], &sin[t * half..(t + 1) * half]);
            (k.rope)(q, head_dim, cos, sin, shape.attn_scale * temperature(shape, pass.position + t));
            (k.rope)(key, head_dim, cos, sin, 1.0);
            let v = &row[v_start..v_start + plan.kv_rows];
            let key = &row[q_end..q_end + plan.kv_rows];
            let slot = (pass.position + t) % kv_layer.slots;
            for (head, (key, v)) in key.chunks(head_dim).zip(v.chunks(head_dim)).enumerate() {
                (k.kv_store)(&mut plan.kv.view_mut(kv_layer, head, b.kv, b.kv_scale), slot, key, v);
            }
        }

        let group = (shape.n_heads / shape.n_kv_heads) as usize;
        let (qkv, kv, kv_scale) = (&*b.qkv, &*b.kv, &*b.kv_scale);
        let out = Block::new(b.attended, n, plan.q_rows, plan.q_rows);
        split(pass.rows, out, PIECE_TOKENS, group * head_dim, &|t, r, mut out| {
            let attend = Attend {
                q: &qkv[t * plan.qkv_stride + r..],
                q_stride: plan.qkv_stride,
                n_heads: group,
                pos: pass.position + t,
                window: if w.layer.sliding { shape.window as usize } else { usize::MAX },
                softcap: shape.attn_softcap,
            };
            (k.attend)(&plan.kv.view(kv_layer, r / (group * head_dim), kv, kv_scale), &attend, &mut out);
        });

        tell(seen, (Site::Output, layer, pass.position), b.attended, plan.q_rows, plan.q_rows, n);
        let mut input = Input { q8: b.q8, scale: b.q8_scale, sum: b.q8_sum, float: b.attended, cols: plan.q_rows, n };
        pass.project(&[w.matrix(Role::Wo)], &mut input, b.projected, plan.hidden_rows);
        for row in b.projected.chunks_mut(plan.hidden_rows).take(n) {
            add_bias(&mut row[..hidden], w.bytes_of(Role::Bo));
        }
        pass.add_projected(plan, b, w.bytes_of(Role::PostAttnNorm));
    }

    fn feed_forward(&mut self, pass: &Pass<'_>, w: &Weights<'_>, (layer, seen): (usize, &mut Observer<'_>)) {
        let (plan, b, shape) = (&self.plan, &mut self.buffers, pass.image.shape());
        let (n, hidden, ffn) = (pass.n, plan.hidden, shape.ffn as usize);
        pass.norm(b.residual, w.bytes_of(Role::FfnNorm), b.normed, hidden, n);
        tell(seen, (Site::FeedForward, layer, pass.position), b.normed, hidden, hidden, n);
        let mut input = Input { q8: b.q8, scale: b.q8_scale, sum: b.q8_sum, float: b.normed, cols: hidden, n };
        pass.project(&[w.matrix(Role::Gate), w.matrix(Role::Up)], &mut input, b.ffn, 2 * plan.ffn_rows);

        let activate = match shape.activation {
            Activation::Silu => pass.kernels.silu_mul,
            Activation::GeluTanh => pass.kernels.gelu_mul,
        };
        let gated = Block::new(b.ffn, n, 2 * plan.ffn_rows, 2 * plan.ffn_rows);
        split(pass.rows, gated, 1, 2 * plan.ffn_rows, &|_, _, mut row| {
            let (gate, up) = row.row(0).split_at_mut(plan.ffn_rows);
            activate(&mut gate[..ffn], &up[..ffn]);
        });
        tell(seen, (Site::Down, layer, pass.position), b.ffn, 2 * plan.ffn_rows, ffn, n);
        // Rows of gates stand 2·ffn_rows apart: the quantizer takes them one by one.
        let mut input = Input { q8: b.q8, scale: b.q8_scale, sum: b.q8_sum, float: b.ffn, cols: ffn, n };
        pass.project_strided(&[w.matrix(Role::Down)], &mut input, 2 * plan.ffn_rows, b.projected, plan.hidden_rows);
        pass.add_projected(plan, b, w.bytes_of(Role::PostFfnNorm));
    }
}

/// `1 + β·ln(1 + ⌊position/context⌋)`: Ministral 3's query scale; 1 for everyone else.
fn temperature(shape: &bourn_format::Shape, position: usize) -> f32 {
    if shape.attn_temperature_beta == 0.0 {
        return 1.0;
    }
    let stretch = (position / shape.attn_temperature_context as usize) as f32;
    1.0 + shape.attn_temperature_beta * libm::logf(1.0 + stretch)
}

/// `y += bias`, little-endian f32; an empty bias adds nothing.
fn add_bias(y: &mut [f32], bias: &[u8]) {
    for (y, b) in y.iter_mut().zip(bias.as_chunks::<4>().0) {
        *y += f32::from_le_bytes(*b);
    }
}

/// A layer's tensors and the bytes of one of its segments.
struct Weights<'a> {
    image: &'a Image<'a>,
    layer: LayerTensors<'a>,
    index: usize,
    bytes: &'a [u8],
}

impl<'a> Weights<'a> {
    fn segment(&self) -> Segment {
        self.image.segment(self.index)
    }

    /// Bytes of a vector; empty when the layer has none of that role.
    fn bytes_of(&self, role: Role) -> &'a [u8] {
        self.layer.get(role).map_or(&[], |t| t.within(&self.segment(), self.bytes))
    }

    /// A matrix that the image check found present.
    fn matrix(&self, role: Role) -> Matrix<'a> {
        let tensor = self.layer.get(role).unwrap_or_else(|| self.image.tensor(usize::MAX));
        Matrix { tensor, bytes: tensor.within(&self.segment(), self.bytes) }
    }
}

/// A matrix and its bytes.
#[derive(Clone, Copy)]
struct Matrix<'a> {
    tensor: Tensor<'a>,
    bytes: &'a [u8],
}

/// Input vectors of a projection: floats, and the room for their int8 form.
struct Input<'a> {
    q8: &'a mut [i8],
    scale: &'a mut [f32],
    sum: &'a mut [i32],
    float: &'a [f32],
    cols: usize,
    n: usize,
}

impl Input<'_> {
    /// Makes the int8 form if any of the matrices takes it; vectors stand `stride` apart.
    fn quantize(&mut self, kernels: &Kernels, matrices: &[Matrix<'_>], stride: usize) {
        if !matrices.iter().any(|m| m.tensor.dtype.is_quantized()) {
            return;
        }
        let padded = layout::padded_cols(self.cols);
        let groups = padded / layout::GROUP;
        let rows = self.q8.chunks_mut(padded).zip(self.scale.chunks_mut(groups).zip(self.sum.chunks_mut(groups)));
        for (x, (q, (scale, sum))) in self.float.chunks(stride).take(self.n).zip(rows) {
            (kernels.quantize)(&x[..self.cols], &mut Q8RowMut { q, scale, sum });
        }
    }
}

/// One pass of `n` tokens, the first at `position`, with a tier and workers.
struct Pass<'p> {
    kernels: &'static Kernels,
    rows: &'p dyn Rows,
    image: &'p Image<'p>,
    n: usize,
    position: usize,
}

impl Pass<'_> {
    /// `y[t] = norm(x[t])·w` for `n` vectors of `len`.
    fn norm(&self, x: &[f32], w: &[u8], y: &mut [f32], len: usize, n: usize) {
        let eps = self.image.shape().norm_eps;
        for (x, y) in x.chunks(len).zip(y.chunks_mut(len)).take(n) {
            (self.kernels.rms_norm)(x, w, eps, y);
        }
    }

    fn project(&self, matrices: &[Matrix<'_>], input: &mut Input<'_>, y: &mut [f32], y_stride: usize) {
        self.project_strided(matrices, input, input.cols, y, y_stride);
    }

    fn project_strided(&self, matrices: &[Matrix<'_>], input: &mut Input<'_>, x_stride: usize, y: &mut [f32], y_stride: usize) {
        input.quantize(self.kernels, matrices, x_stride);
        self.multiply(matrices, input, x_stride, y, y_stride);
    }

    /// `y[t] = [m₀·x[t]; m₁·x[t]; …]`, each matrix's rows padded to whole tiles; pieces of rows are shared out.
    fn multiply(&self, matrices: &[Matrix<'_>], input: &Input<'_>, x_stride: usize, y: &mut [f32], y_stride: usize) {
        let padded = layout::padded_cols(input.cols);
        let (n_codes, n_groups) = (input.n * padded, input.n * padded / layout::GROUP);
        let x = Q8Rows { n: input.n, q: &input.q8[..n_codes], scale: &input.scale[..n_groups], sum: &input.sum[..n_groups] };
        let len: usize = matrices.iter().map(|m| layout::padded_rows(m.tensor.rows)).sum();
        let piece = match self.rows.workers() {
            1 => len,
            workers => (len / (workers * 4)).clamp(layout::TILE_ROWS, PIECE_ROWS),
        };
        let piece = piece.div_ceil(layout::TILE_ROWS) * layout::TILE_ROWS;
        split(self.rows, Block::new(y, self.n, y_stride, len), self.n, piece, &|_, first, mut y| {
            let (mut start, end) = (0, first + y.len());
            for m in matrices {
                let stop = start + layout::padded_rows(m.tensor.rows);
                let (from, to) = (first.max(start), end.min(stop));
                if from < to {
                    let tile_bytes = layout::tile_bytes(m.tensor.dtype, m.tensor.cols);
                    let tiles = |r: usize| (r - start) / layout::TILE_ROWS * tile_bytes;
                    let w = Tiles {
                        dtype: m.tensor.dtype,
                        bytes: &m.bytes[tiles(from)..tiles(to)],
                        cols: m.tensor.cols,
                        table: m.tensor.table,
                    };
                    let mut y = y.part(from - first..to - first);
                    match m.tensor.dtype {
                        Dtype::Q8R => (self.kernels.mul_rows)(&w, &x, &mut y),
                        dtype if dtype.is_quantized() => (self.kernels.mul_quantized)(&w, &x, &mut y),
                        _ => (self.kernels.mul_float)(&w, input.float, x_stride, &mut y),
                    }
                }
                start = stop;
            }
        });
    }

    /// `residual += norm(projected)` (or without the norm, where the layer has none).
    fn add_projected(&self, plan: &Plan, b: &mut Buffers<'_>, norm: &[u8]) {
        let eps = self.image.shape().norm_eps;
        let rows = b.projected.chunks(plan.hidden_rows).zip(b.residual.chunks_mut(plan.hidden)).take(self.n);
        for ((y, x), scratch) in rows.zip(b.normed.chunks_mut(plan.hidden)) {
            let y = &y[..plan.hidden];
            if norm.is_empty() {
                (self.kernels.add)(x, y);
            } else {
                (self.kernels.rms_norm)(y, norm, eps, scratch);
                (self.kernels.add)(x, scratch);
            }
        }
    }
}
