//! Model families as data: config keys → [`ModelSpec`], tensor names → [`Role`]s.
//!
//! A family is one [`Mapping`]: its names, a function that reads its config, and the names of its tensors in a Hugging Face
//! checkpoint and in GGUF. Nothing after this file knows which family it runs.

use serde_json::Value;

use crate::Error;
use crate::config::Config;
use crate::error::clip;
use crate::rope::Rope;
use crate::spec::{Activation, Family, ModelSpec, Role};

/// One tensor of a layer, or several fused along their rows.
pub(crate) struct Pattern {
    /// After `layers.<i>.` or `blk.<i>.`.
    pub(crate) name: &'static str,
    /// What its rows hold, in order.
    pub(crate) roles: &'static [Role],
    pub(crate) required: bool,
}

const fn need(name: &'static str, roles: &'static [Role]) -> Pattern {
    Pattern { name, roles, required: true }
}

const fn may(name: &'static str, roles: &'static [Role]) -> Pattern {
    Pattern { name, roles, required: false }
}

/// A family.
pub(crate) struct Mapping {
    /// Values of `model_type`.
    names: &'static [&'static str],
    /// The GGUF architecture, which is respelled as the first of `names`.
    arch: &'static str,
    /// Reads the config; `vocab` is left to the embedding.
    spec: fn(Config<'_>) -> Result<ModelSpec, Error>,
    /// Tensors of a layer in a Hugging Face checkpoint: lists that together are the layer.
    pub(crate) hf: &'static [&'static [Pattern]],
    /// The same in GGUF.
    pub(crate) gguf: &'static [&'static [Pattern]],
    /// Added to Hugging Face norms to make them multipliers.
    pub(crate) hf_norm_add: f32,
    /// GGUF has the rows of q and k permuted, rope pairs side by side.
    pub(crate) gguf_pairs: bool,
}

const HF_ATTENTION: &[Pattern] = &[
    need("input_layernorm.weight", &[Role::AttnNorm]),
    need("self_attn.q_proj.weight", &[Role::Wq]),
    need("self_attn.k_proj.weight", &[Role::Wk]),
    need("self_attn.v_proj.weight", &[Role::Wv]),
    need("self_attn.o_proj.weight", &[Role::Wo]),
];
const HF_BIASES: &[Pattern] = &[
    may("self_attn.q_proj.bias", &[Role::Bq]),
    may("self_attn.k_proj.bias", &[Role::Bk]),
    may("self_attn.v_proj.bias", &[Role::Bv]),
    may("self_attn.o_proj.bias", &[Role::Bo]),
];
const HF_HEAD_NORMS: &[Pattern] =
    &[need("self_attn.q_norm.weight", &[Role::QNorm]), need("self_attn.k_norm.weight", &[Role::KNorm])];
const HF_FFN: &[Pattern] = &[
    need("mlp.gate_proj.weight", &[Role::Gate]),
    need("mlp.up_proj.weight", &[Role::Up]),
    need("mlp.down_proj.weight", &[Role::Down]),
];
/// The name means the norm before the feed-forward layer …
const HF_PRE_NORM: &[Pattern] = &[need("post_attention_layernorm.weight", &[Role::FfnNorm])];
/// … except in Gemma, where it is what it says.
const HF_SANDWICH_NORMS: &[Pattern] = &[
    need("post_attention_layernorm.weight", &[Role::PostAttnNorm]),
    need("pre_feedforward_layernorm.weight", &[Role::FfnNorm]),
    need("post_feedforward_layernorm.weight", &[Role::PostFfnNorm]),
];
const HF_FUSED: &[Pattern] = &[
    need("input_layernorm.weight", &[Role::AttnNorm]),
    need("self_attn.qkv_proj.weight", &[Role::Wq, Role::Wk, Role::Wv]),
    need("self_attn.o_proj.weight", &[Role::Wo]),
    need("mlp.gate_up_proj.weight", &[Role::Gate, Role::Up]),
    need("mlp.down_proj.weight", &[Role::Down]),
];

const GGUF_ATTENTION: &[Pattern] = &[
    need("attn_norm.weight", &[Role::AttnNorm]),
    need("attn_q.weight", &[Role::Wq]),
    need("attn_k.weight", &[Role::Wk]),
    need("attn_v.weight", &[Role::Wv]),
    need("attn_output.weight", &[Role::Wo]),
    need("ffn_norm.weight", &[Role::FfnNorm]),
];
const GGUF_BIASES: &[Pattern] = &[
    may("attn_q.bias", &[Role::Bq]),
    may("attn_k.bias", &[Role::Bk]),
    may("attn_v.bias", &[Role::Bv]),
    may("attn_output.bias", &[Role::Bo]),
];
const GGUF_HEAD_NORMS: &[Pattern] = &[need("attn_q_norm.weight", &[Role::QNorm]), need("attn_k_norm.weight", &[Role::KNorm])];
const GGUF_FFN: &[Pattern] =
    &[need("ffn_gate.weight", &[Role::Gate]), need("ffn_up.weight", &[Role::Up]), need("ffn_down.weight", &[Role::Down])];
const GGUF_POST_NORMS: &[Pattern] =
    &[need("post_attention_norm.weight", &[Role::PostAttnNorm]), need("post_ffw_norm.weight", &[Role::PostFfnNorm])];
const GGUF_FUSED: &[Pattern] = &[
    need("attn_norm.weight", &[Role::AttnNorm]),
    need("attn_qkv.weight", &[Role::Wq, Role::Wk, Role::Wv]),
    need("attn_output.weight", &[Role::Wo]),
    need("ffn_norm.weight", &[Role::FfnNorm]),
    need("ffn_up.weight", &[Role::Gate, Role::Up]),
    need("ffn_down.weight", &[Role::Down]),
];

const MAPPINGS: &[Mapping] = &[
    Mapping {
        names: &["llama"],
        arch: "llama",
        spec: llama,
        hf: &[HF_ATTENTION, HF_BIASES, HF_PRE_NORM, HF_FFN],
        gguf: &[GGUF_ATTENTION, GGUF_BIASES, GGUF_FFN],
        hf_norm_add: 0.0,
        gguf_pairs: true,
    },
    Mapping {
        names: &["qwen2"],
        arch: "qwen2",
        spec: qwen2,
        hf: &[HF_ATTENTION, HF_BIASES, HF_PRE_NORM, HF_FFN],
        gguf: &[GGUF_ATTENTION, GGUF_BIASES, GGUF_FFN],
        hf_norm_add: 0.0,
        gguf_pairs: false,
    },
    Mapping {
        names: &["qwen3"],
        arch: "qwen3",
        spec: qwen3,
        hf: &[HF_ATTENTION, HF_BIASES, HF_HEAD_NORMS, HF_PRE_NORM, HF_FFN],
        gguf: &[GGUF_ATTENTION, GGUF_BIASES, GGUF_HEAD_NORMS, GGUF_FFN],
        hf_norm_add: 0.0,
        gguf_pairs: false,
    },
    Mapping {
        names: &["gemma3_text", "gemma3"],
        arch: "gemma3",
        spec: gemma3,
        hf: &[HF_ATTENTION, HF_BIASES, HF_HEAD_NORMS, HF_SANDWICH_NORMS, HF_FFN],
        gguf: &[GGUF_ATTENTION, GGUF_HEAD_NORMS, GGUF_POST_NORMS, GGUF_FFN],
        hf_norm_add: 1.0,
        gguf_pairs: false,
    },
    Mapping {
        names: &["phi3"],
        arch: "phi3",
        spec: phi3,
        hf: &[HF_FUSED, HF_PRE_NORM],
        gguf: &[GGUF_FUSED],
        hf_norm_add: 0.0,
        gguf_pairs: false,
    },
    Mapping {
        names: &["ministral3"],
        arch: "mistral3",
        spec: ministral3,
        hf: &[HF_ATTENTION, HF_PRE_NORM, HF_FFN],
        gguf: &[GGUF_ATTENTION, GGUF_FFN],
        hf_norm_add: 0.0,
        gguf_pairs: true,
    },
];

/// The mapping of a `model_type`.
pub(crate) fn by_model_type(name: &str) -> Result<&'static Mapping, Error> {
    MAPPINGS.iter().find(|m| m.names.contains(&name)).ok_or_else(|| unknown(name))
}

/// The mapping of a GGUF architecture.
pub(crate) fn by_arch(arch: &str) -> Result<&'static Mapping, Error> {
    MAPPINGS.iter().find(|m| m.arch == arch).ok_or_else(|| unknown(arch))
}

fn unknown(found: &str) -> Error {
    let names: Vec<&str> = MAPPINGS.iter().flat_map(|m| m.names).copied().collect();
    Error::Family { found: clip(found), supported: format!("{}, mistral3 (its text part)", names.join(", ")) }
}

impl Mapping {
    /// The first of its names.
    pub(crate) fn model_type(&self) -> &'static str {
        self.names[0]
    }

    /// Reads a config; `vocab` is 0 until the embedding is known.
    pub(crate) fn spec(&self, config: Config<'_>) -> Result<ModelSpec, Error> {
        if let Some(quantization) = config.top.get("quantization_config") {
            let method = quantization.get("quant_method").and_then(Value::as_str).unwrap_or("unnamed");
            let what = format!("quantization_config ({})", clip(method));
            return Err(Error::Unsupported { what, supported: "unquantized safetensors, or GGUF".to_owned() });
        }
        (self.spec)(config)
    }
}

/// What transformers assumes when a config does not say.
struct Defaults {
    family: Family,
    hidden: Option<u32>,
    n_layers: Option<u32>,
    n_heads: Option<u32>,
    /// `None`: as many as query heads.
    n_kv_heads: Option<u32>,
    /// `None`: `hidden / n_heads`.
    head_dim: Option<u32>,
    ffn: Option<u32>,
    max_context: u32,
    norm_eps: f64,
    activation: Option<Activation>,
    tied: bool,
    theta: f64,
}

impl Defaults {
    const fn of(family: Family) -> Self {
        Self {
            family,
            hidden: None,
            n_layers: None,
            n_heads: None,
            n_kv_heads: None,
            head_dim: None,
            ffn: None,
            max_context: 2048,
            norm_eps: 1e-6,
            activation: Some(Activation::Silu),
            tied: false,
            theta: 10_000.0,
        }
    }
}

/// The part that all families share. No layer slides; ropes are filled in by [`finish`].
fn base(c: Config<'_>, d: &Defaults) -> Result<ModelSpec, Error> {
    let text = c.text;
    let n_layers = text.size("num_hidden_layers", d.n_layers, 1024)?;
    let hidden = text.size("hidden_size", d.hidden, 1 << 16)?;
    let n_heads = text.size("num_attention_heads", d.n_heads, 1 << 10)?;
    let n_kv_heads = text.size("num_key_value_heads", d.n_kv_heads.or(Some(n_heads)), 1 << 10)?;
    if n_heads % n_kv_heads != 0 {
        return Err(Error::invalid("num_key_value_heads", format!("a divisor of {n_heads}"), n_kv_heads));
    }
    let head_dim = text.size("head_dim", d.head_dim.or(Some(hidden / n_heads)), 512)?;
    if head_dim % 2 != 0 {
        return Err(Error::invalid("head_dim", "an even number", head_dim));
    }
    let max_context = text.u32("max_position_embeddings")?.unwrap_or(d.max_context);
    if max_context == 0 {
        return Err(Error::invalid("max_position_embeddings", "at least 1", 0));
    }
    let norm_eps = text.f64("rms_norm_eps")?.unwrap_or(d.norm_eps);
    if !(0.0..1.0).contains(&norm_eps) {
        return Err(Error::invalid("rms_norm_eps", "0 to 1", norm_eps));
    }
    let tied = text.bool("tie_word_embeddings")?.or(c.top.bool("tie_word_embeddings")?);
    let activation = match text.str("hidden_activation")?.or(text.str("hidden_act")?) {
        Some("silu" | "swish") => Activation::Silu,
        Some("gelu_pytorch_tanh" | "gelu_new") => Activation::GeluTanh,
        Some(other) => {
            let supported = "silu, gelu_pytorch_tanh".to_owned();
            return Err(Error::Unsupported { what: format!("activation {}", clip(other)), supported });
        }
        None => d.activation.ok_or_else(|| Error::missing("hidden_act", text.place))?,
    };
    Ok(ModelSpec {
        family: d.family,
        n_layers,
        hidden,
        n_heads,
        n_kv_heads,
        head_dim,
        ffn: text.size("intermediate_size", d.ffn, 1 << 20)?,
        vocab: 0,
        max_context: max_context.min(1 << 24),
        activation,
        window: 0,
        layer_sliding: vec![false; n_layers as usize],
        rotary_dim: 0,
        ropes: Vec::new(),
        tied: tied.unwrap_or(d.tied),
        norm_eps: norm_eps as f32,
        embed_scale: 1.0,
        attn_scale: f64::from(head_dim).powf(-0.5) as f32,
        attn_softcap: text.positive("attn_logit_softcapping")?.unwrap_or(0.0) as f32,
        final_softcap: text.positive("final_logit_softcapping")?.unwrap_or(0.0) as f32,
        attn_temperature_beta: 0.0,
        attn_temperature_context: 0,
    })
}

/// Lets layers slide: those that `layer_types` names, else those of the family's pattern.
fn slide(spec: &mut ModelSpec, c: Config<'_>, window: Option<u32>, pattern: impl Fn(usize) -> bool) -> Result<(), Error> {
    let n = spec.layer_sliding.len();
    let sliding = match c.text.list("layer_types")? {
        Some(types) if types.len() != n => {
            return Err(Error::invalid("layer_types", format!("{n} entries"), types.len()));
        }
        Some(types) => types.iter().map(layer_slides).collect::<Result<_, _>>()?,
        None => (0..n).map(pattern).collect(),
    };
    if let Some(window) = window.filter(|&w| w > 0) {
        spec.layer_sliding = sliding;
        spec.window = if spec.layer_sliding.contains(&true) { window.min(spec.max_context) } else { 0 };
    }
    Ok(())
}

/// A window as wide as the context is none: for families whose layers differ in nothing else.
fn narrow(spec: &ModelSpec, c: Config<'_>) -> Result<Option<u32>, Error> {
    Ok(c.text.u32("sliding_window")?.filter(|&window| window < spec.max_context))
}

fn layer_slides(kind: &Value) -> Result<bool, Error> {
    match kind.as_str() {
        Some("full_attention") => Ok(false),
        Some("sliding_attention") => Ok(true),
        _ => {
            let what = format!("layer type {}", clip(&kind.to_string()));
            Err(Error::Unsupported { what, supported: "full_attention, sliding_attention".to_owned() })
        }
    }
}

/// Computes the rope tables of the kinds of layers there are.
fn finish(mut spec: ModelSpec, full: Rope<'_>, sliding: Rope<'_>) -> Result<ModelSpec, Error> {
    spec.rotary_dim = full.rotary_dim(spec.head_dim)?;
    for (kind, rope) in [(false, full), (true, sliding)] {
        if spec.layer_sliding.contains(&kind) {
            spec.ropes.extend(rope.tables(kind, spec.rotary_dim, spec.max_context)?);
        }
    }
    Ok(spec)
}

/// Llama 2, 3.x, SmolLM2 and what is built like them: every layer full, one rope.
fn llama(c: Config<'_>) -> Result<ModelSpec, Error> {
    let defaults = Defaults::of(Family::Llama);
    let rope = Rope::full(c, defaults.theta)?;
    finish(base(c, &defaults)?, rope, rope)
}

/// Qwen 2, 2.5 and R1-Distill-Qwen: biases on q, k and v; a window only when `use_sliding_window` is true.
fn qwen2(c: Config<'_>) -> Result<ModelSpec, Error> {
    qwen(c, &Defaults { max_context: 32_768, ..Defaults::of(Family::Qwen2) })
}

/// Qwen 3: norms on the heads of q and k, heads of their own width.
fn qwen3(c: Config<'_>) -> Result<ModelSpec, Error> {
    qwen(c, &Defaults { max_context: 32_768, head_dim: Some(128), ..Defaults::of(Family::Qwen3) })
}

fn qwen(c: Config<'_>, defaults: &Defaults) -> Result<ModelSpec, Error> {
    let mut spec = base(c, defaults)?;
    if c.text.bool("use_sliding_window")?.unwrap_or(false) {
        let first = c.text.u32("max_window_layers")?.unwrap_or(28) as usize;
        let window = narrow(&spec, c)?;
        slide(&mut spec, c, window, |i| i >= first)?;
    }
    let rope = Rope::full(c, defaults.theta)?;
    finish(spec, rope, rope)
}

/// Gemma 3: scaled embeddings, norms before and after both halves and on the heads of q and k, mostly sliding layers with a
/// rope of their own.
fn gemma3(c: Config<'_>) -> Result<ModelSpec, Error> {
    let defaults = Defaults {
        hidden: Some(2304),
        n_layers: Some(26),
        n_heads: Some(8),
        n_kv_heads: Some(4),
        head_dim: Some(256),
        ffn: Some(9216),
        max_context: 131_072,
        activation: Some(Activation::GeluTanh),
        tied: true,
        theta: 1e6,
        ..Defaults::of(Family::Gemma3)
    };
    if c.text.bool("use_bidirectional_attention")?.unwrap_or(false) {
        let supported = "causal attention".to_owned();
        return Err(Error::Unsupported { what: "use_bidirectional_attention".to_owned(), supported });
    }
    let mut spec = base(c, &defaults)?;
    spec.embed_scale = f64::from(spec.hidden).sqrt() as f32;
    spec.attn_scale = c.text.positive("query_pre_attn_scalar")?.unwrap_or(256.0).powf(-0.5) as f32;
    let pattern = c.text.u32("sliding_window_pattern")?.or(c.text.u32("_sliding_window_pattern")?).unwrap_or(6) as usize;
    if pattern == 0 {
        return Err(Error::invalid("sliding_window_pattern", "at least 1", 0));
    }
    let window = c.text.u32("sliding_window")?.unwrap_or(4096);
    slide(&mut spec, c, Some(window), |i| (i + 1) % pattern != 0)?;
    finish(spec, Rope::full(c, defaults.theta)?, Rope::local(c, 10_000.0)?)
}

/// Phi-3 mini and Phi-4-mini: fused projections, every layer slides (or none), part of a head is turned, longrope.
fn phi3(c: Config<'_>) -> Result<ModelSpec, Error> {
    let defaults = Defaults { max_context: 4096, norm_eps: 1e-5, ..Defaults::of(Family::Phi3) };
    let mut spec = base(c, &defaults)?;
    let window = narrow(&spec, c)?;
    slide(&mut spec, c, window, |_| true)?;
    let rope = Rope::full(c, defaults.theta)?;
    finish(spec, rope, rope)
}

/// Ministral 3: yarn, and queries that grow with the logarithm of the position.
fn ministral3(c: Config<'_>) -> Result<ModelSpec, Error> {
    let defaults = Defaults {
        n_kv_heads: Some(8),
        head_dim: Some(128),
        max_context: 262_144,
        norm_eps: 1e-5,
        ..Defaults::of(Family::Ministral3)
    };
    let mut spec = base(c, &defaults)?;
    let window = narrow(&spec, c)?;
    slide(&mut spec, c, window, |_| true)?;
    let rope = Rope::full(c, 1e6)?;
    if let Some(beta) = rope.temperature_beta()? {
        spec.attn_temperature_beta = beta as f32;
        spec.attn_temperature_context = match rope.original_context()? {
            Some(context) if context >= 1.0 => context as u32,
            _ => return Err(Error::missing("rope parameter original_max_position_embeddings", c.text.place)),
        };
    }
    finish(spec, rope, rope)
}
