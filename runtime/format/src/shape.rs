//! A model family as data: everything the one decoder needs to know about an architecture (FORMAT.md §3).

use crate::Error;
use crate::bytes::{f32_at, u32_at};

/// Bytes of the SHAPE section in version 1.
pub const SHAPE_BYTES: usize = 128;

/// Architecture a checkpoint came from. Only a name: the decoder never looks at it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
#[allow(missing_docs)]
pub enum Family {
    Llama = 0,
    Qwen2 = 1,
    Qwen3 = 2,
    Gemma3 = 3,
    Phi3 = 4,
    Ministral3 = 5,
    PaliGemma2 = 6,
}

impl Family {
    const ALL: [Self; 7] = [Self::Llama, Self::Qwen2, Self::Qwen3, Self::Gemma3, Self::Phi3, Self::Ministral3, Self::PaliGemma2];

    /// The name in `bourn inspect`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Llama => "llama",
            Self::Qwen2 => "qwen2",
            Self::Qwen3 => "qwen3",
            Self::Gemma3 => "gemma3",
            Self::Phi3 => "phi3",
            Self::Ministral3 => "ministral3",
            Self::PaliGemma2 => "paligemma2",
        }
    }
}

/// The gate's nonlinearity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Activation {
    /// `x · σ(x)`.
    Silu = 0,
    /// `x/2 · (1 + tanh(√(2/π)·(x + 0.044715·x³)))`.
    GeluTanh = 1,
}

/// Sizes and constants of a decoder-only transformer. Which norms and biases a layer has follows from its tensors.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Shape {
    /// Where it came from.
    pub family: Family,
    /// Layers.
    pub n_layers: u32,
    /// Width of the residual stream.
    pub hidden: u32,
    /// Query heads.
    pub n_heads: u32,
    /// Key/value heads; divides `n_heads`.
    pub n_kv_heads: u32,
    /// Width of a head; even.
    pub head_dim: u32,
    /// Width of the feed-forward layer.
    pub ffn: u32,
    /// Rows of the embedding: ids are below this.
    pub vocab: u32,
    /// Longest context the model was trained for.
    pub max_context: u32,
    /// Nonlinearity of the feed-forward gate.
    pub activation: Activation,
    /// Keys a sliding layer sees, the current one included; 0 when no layer slides.
    pub window: u32,
    /// Dimensions of a head that rope turns (the first ones); even, at most `head_dim`.
    pub rotary_dim: u32,
    /// The output head is the embedding.
    pub tied: bool,
    /// Added inside the root of every RMSNorm.
    pub norm_eps: f32,
    /// Embeddings are multiplied by this.
    pub embed_scale: f32,
    /// Attention scores are multiplied by this.
    pub attn_scale: f32,
    /// `c·tanh(score/c)` on attention scores; 0 = none.
    pub attn_softcap: f32,
    /// `c·tanh(logit/c)` on logits; 0 = none.
    pub final_softcap: f32,
    /// Queries are multiplied by `1 + β·ln(1 + ⌊pos/attn_temperature_context⌋)`; 0 = none (Ministral 3).
    pub attn_temperature_beta: f32,
    /// See `attn_temperature_beta`.
    pub attn_temperature_context: u32,
}

impl Shape {
    /// Reads and checks the SHAPE section.
    ///
    /// # Errors
    /// [`Error::Truncated`], [`Error::Invalid`].
    pub fn new_checked(b: &[u8]) -> Result<Self, Error> {
        if b.len() < SHAPE_BYTES {
            return Err(Error::Truncated { need: SHAPE_BYTES as u64, have: b.len() as u64 });
        }
        let u = |i: usize| u32_at(b, 4 * i);
        let f = |i: usize| f32_at(b, 4 * i);
        let invalid = |what, found: u32| Err(Error::Invalid { what, found: u64::from(found) });
        let Some(&family) = Family::ALL.get(u(0) as usize) else { return invalid("family", u(0)) };
        let activation = match u(9) {
            0 => Activation::Silu,
            1 => Activation::GeluTanh,
            other => return invalid("activation", other),
        };
        let shape = Self {
            family,
            n_layers: u(1),
            hidden: u(2),
            n_heads: u(3),
            n_kv_heads: u(4),
            head_dim: u(5),
            ffn: u(6),
            vocab: u(7),
            max_context: u(8),
            activation,
            window: u(10),
            rotary_dim: u(11),
            tied: u(12) == 1,
            norm_eps: f(13),
            embed_scale: f(14),
            attn_scale: f(15),
            attn_softcap: f(16),
            final_softcap: f(17),
            attn_temperature_beta: f(18),
            attn_temperature_context: u(19),
        };
        if u(12) > 1 {
            return invalid("tied", u(12));
        }
        for (what, value, most) in [
            ("n_layers", shape.n_layers, 1024),
            ("hidden", shape.hidden, 1 << 16),
            ("n_heads", shape.n_heads, 1 << 10),
            ("n_kv_heads", shape.n_kv_heads, 1 << 10),
            ("head_dim", shape.head_dim, 512),
            ("ffn", shape.ffn, 1 << 20),
            ("vocab", shape.vocab, 1 << 24),
            ("max_context", shape.max_context, 1 << 24),
        ] {
            if value == 0 || value > most {
                return invalid(what, value);
            }
        }
        if !shape.n_heads.is_multiple_of(shape.n_kv_heads) {
            return invalid("n_kv_heads", shape.n_kv_heads);
        }
        if !shape.head_dim.is_multiple_of(2) {
            return invalid("head_dim", shape.head_dim);
        }
        if !shape.rotary_dim.is_multiple_of(2) || shape.rotary_dim > shape.head_dim {
            return invalid("rotary_dim", shape.rotary_dim);
        }
        if shape.attn_temperature_beta != 0.0 && shape.attn_temperature_context == 0 {
            return invalid("attn_temperature_context", 0);
        }
        for (what, value) in [
            ("norm_eps", shape.norm_eps),
            ("embed_scale", shape.embed_scale),
            ("attn_scale", shape.attn_scale),
            ("attn_softcap", shape.attn_softcap),
            ("final_softcap", shape.final_softcap),
            ("attn_temperature_beta", shape.attn_temperature_beta),
        ] {
            if !value.is_finite() || value < 0.0 {
                return invalid(what, value.to_bits());
            }
        }
        Ok(shape)
    }

    /// The bytes of the SHAPE section: [`Self::new_checked`] in reverse.
    pub fn to_bytes(&self) -> [u8; SHAPE_BYTES] {
        let words = [
            self.family as u32,
            self.n_layers,
            self.hidden,
            self.n_heads,
            self.n_kv_heads,
            self.head_dim,
            self.ffn,
            self.vocab,
            self.max_context,
            self.activation as u32,
            self.window,
            self.rotary_dim,
            u32::from(self.tied),
            self.norm_eps.to_bits(),
            self.embed_scale.to_bits(),
            self.attn_scale.to_bits(),
            self.attn_softcap.to_bits(),
            self.final_softcap.to_bits(),
            self.attn_temperature_beta.to_bits(),
            self.attn_temperature_context,
        ];
        let mut out = [0; SHAPE_BYTES];
        for (dst, word) in out.chunks_exact_mut(4).zip(words) {
            dst.copy_from_slice(&word.to_le_bytes());
        }
        out
    }

    /// `n_heads · head_dim`: rows of the query projection.
    pub const fn q_rows(&self) -> usize {
        self.n_heads as usize * self.head_dim as usize
    }

    /// `n_kv_heads · head_dim`: rows of the key and of the value projection.
    pub const fn kv_rows(&self) -> usize {
        self.n_kv_heads as usize * self.head_dim as usize
    }
}

/// One rope table: angle of dimension pair `i` at position `p` is `p · inv_freq[i]`; cos and sin are multiplied by `factor`.
///
/// Every published scaling (Llama 3's three bands, yarn, longrope, linear) is such a table.
/// ROPE section: records of 32 bytes {kind u32 (0 full, 1 sliding layers), min_context u32, factor f32, first u32 (f32
/// index after the records), n u32, 12 B zero}, count u32 before them at offset 0 (16-byte header).
#[derive(Clone, Copy, Debug)]
pub struct Rope<'a> {
    /// Whether it is for sliding layers.
    pub sliding: bool,
    /// Used when the session's context is at least this (longrope's long factors); the largest that fits wins.
    pub min_context: u32,
    /// Multiplies cos and sin.
    pub factor: f32,
    pub(crate) inv_freq: &'a [u8],
}

impl Rope<'_> {
    /// `inv_freq[i]`, radians per position; 0 when out of range.
    pub fn inv_freq(&self, i: usize) -> f32 {
        f32_at(self.inv_freq, 4 * i)
    }

    /// Pairs in the table: `rotary_dim / 2`.
    pub fn n_pairs(&self) -> usize {
        self.inv_freq.len() / 4
    }
}

/// What the model's authors recommend for sampling, and where text ends (GENERATION section).
/// 32-byte header {temperature f32, top_k u32, top_p f32, min_p f32, repetition_penalty f32, n_eos u32, 8 B zero}, then ids.
#[derive(Clone, Copy, Debug)]
pub struct Generation<'a> {
    /// 0 = greedy.
    pub temperature: f32,
    /// 0 = off.
    pub top_k: u32,
    /// 1 = off.
    pub top_p: f32,
    /// 0 = off.
    pub min_p: f32,
    /// 1 = off.
    pub repetition_penalty: f32,
    pub(crate) eos: &'a [u8],
}

impl<'a> Generation<'a> {
    /// Bytes before the ids.
    pub const HEADER_BYTES: usize = 32;

    /// Ids that end a text.
    pub fn eos(&self) -> impl Iterator<Item = u32> + Clone + 'a {
        self.eos.as_chunks::<4>().0.iter().map(|b| u32::from_le_bytes(*b))
    }
}
