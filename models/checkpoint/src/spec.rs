//! A model family as data: what the one decoder needs to know, whatever file it came from.

/// Architecture the checkpoint came from. Only a name: nothing after the mapping looks at it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Family {
    Llama,
    Qwen2,
    Qwen3,
    Gemma3,
    Phi3,
    Ministral3,
    PaliGemma2,
}

/// The feed-forward gate's nonlinearity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// `x · σ(x)`.
    Silu,
    /// `x/2 · (1 + tanh(√(2/π)·(x + 0.044715·x³)))`.
    GeluTanh,
}

/// What a tensor is for, in the order the decoder reads a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// Token embedding `[vocab, hidden]`.
    Embed,
    /// Norm before attention `[hidden]`.
    AttnNorm,
    /// Query projection `[n_heads · head_dim, hidden]`.
    Wq,
    /// Key projection `[n_kv_heads · head_dim, hidden]`.
    Wk,
    /// Value projection `[n_kv_heads · head_dim, hidden]`.
    Wv,
    /// Bias of the query projection.
    Bq,
    /// Bias of the key projection.
    Bk,
    /// Bias of the value projection.
    Bv,
    /// Norm of each query head `[head_dim]`.
    QNorm,
    /// Norm of each key head `[head_dim]`.
    KNorm,
    /// Attention output projection `[hidden, n_heads · head_dim]`.
    Wo,
    /// Bias of the output projection.
    Bo,
    /// Norm of the attention output, before the residual add `[hidden]`.
    PostAttnNorm,
    /// Norm before the feed-forward layer `[hidden]`.
    FfnNorm,
    /// Gate projection `[ffn, hidden]`.
    Gate,
    /// Up projection `[ffn, hidden]`.
    Up,
    /// Down projection `[hidden, ffn]`.
    Down,
    /// Norm of the feed-forward output, before the residual add `[hidden]`.
    PostFfnNorm,
    /// Norm before the head `[hidden]`.
    FinalNorm,
    /// Output head `[vocab, hidden]`; absent when tied.
    Head,
}

impl Role {
    /// A flat vector (a norm or a bias) rather than a matrix: one row.
    pub const fn is_vector(self) -> bool {
        self.is_norm() || matches!(self, Self::Bq | Self::Bk | Self::Bv | Self::Bo)
    }

    /// The multiplier of an RMSNorm.
    pub const fn is_norm(self) -> bool {
        matches!(
            self,
            Self::AttnNorm | Self::QNorm | Self::KNorm | Self::PostAttnNorm | Self::FfnNorm | Self::PostFfnNorm | Self::FinalNorm
        )
    }
}

/// Sizes and constants of a decoder-only transformer. Which norms and biases a layer has follows from its tensors.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelSpec {
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
    /// One per layer: attends to `window` keys only.
    pub layer_sliding: Vec<bool>,
    /// Dimensions of a head that rope turns (the first ones, pairs half a rotary width apart); even.
    pub rotary_dim: u32,
    /// Rope tables: at least one for each kind of layer there is.
    pub ropes: Vec<RopeSpec>,
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
    /// After rope, queries are multiplied by `1 + β·ln(1 + ⌊pos/attn_temperature_context⌋)`; 0 = none.
    pub attn_temperature_beta: f32,
    /// See `attn_temperature_beta`.
    pub attn_temperature_context: u32,
}

impl ModelSpec {
    /// Rows of the query projection.
    pub const fn q_rows(&self) -> usize {
        self.n_heads as usize * self.head_dim as usize
    }

    /// Rows of the key and of the value projection.
    pub const fn kv_rows(&self) -> usize {
        self.n_kv_heads as usize * self.head_dim as usize
    }

    /// `[rows, cols]` of a tensor; a vector has one row.
    pub const fn dims(&self, role: Role) -> (usize, usize) {
        let (hidden, ffn) = (self.hidden as usize, self.ffn as usize);
        match role {
            Role::Embed | Role::Head => (self.vocab as usize, hidden),
            Role::Wq => (self.q_rows(), hidden),
            Role::Wk | Role::Wv => (self.kv_rows(), hidden),
            Role::Bq => (1, self.q_rows()),
            Role::Bk | Role::Bv => (1, self.kv_rows()),
            Role::QNorm | Role::KNorm => (1, self.head_dim as usize),
            Role::Wo => (hidden, self.q_rows()),
            Role::Gate | Role::Up => (ffn, hidden),
            Role::Down => (hidden, ffn),
            Role::AttnNorm | Role::Bo | Role::PostAttnNorm | Role::FfnNorm | Role::PostFfnNorm | Role::FinalNorm => (1, hidden),
        }
    }
}

/// One rope table: the angle of dimension pair `i` at position `p` is `p · inv_freq[i]`; cos and sin are multiplied by `factor`.
#[derive(Clone, Debug, PartialEq)]
pub struct RopeSpec {
    /// For sliding layers, or for the others.
    pub sliding: bool,
    /// Used when a session's context is at least this; of those that fit the largest wins.
    pub min_context: u32,
    /// Multiplies cos and sin.
    pub factor: f32,
    /// `rotary_dim / 2` radians per position.
    pub inv_freq: Vec<f32>,
}

/// What the model's authors recommend for sampling, and where text ends.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct GenerationSpec {
    /// Ids that end a text: of the config, the generation config and, for GGUF, well-known end-of-turn tokens; ascending.
    pub eos: Vec<u32>,
    /// `Some(0.0)` is greedy.
    pub temperature: Option<f32>,
    /// The k likeliest.
    pub top_k: Option<u32>,
    /// The likeliest that together reach p.
    pub top_p: Option<f32>,
    /// At least this share of the likeliest one's probability.
    pub min_p: Option<f32>,
    /// Divides the positive logits of recent tokens.
    pub repetition_penalty: Option<f32>,
}
