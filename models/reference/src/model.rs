//! Tokens → logits: the decoder layer and the model, for every family.

use crate::attention::{Attention, Positions};
use crate::layers::{FeedForward, Linear, times_transposed};
use crate::tap::{Input, Site, Tap};
use bourn_checkpoint::{Checkpoint, ModelSpec, Role};
use burn::module::{Module, Param};
use burn::nn::{Initializer, RmsNorm, RmsNormConfig};
use burn::tensor::{Device, Int, Tensor, TensorData};

/// `x += post_norm(attention(norm(x)))`, `x += post_norm(feed_forward(norm(x)))`.
#[derive(Module, Debug)]
pub struct Layer {
    /// Before attention.
    pub attention_norm: RmsNorm,
    /// Attention.
    pub attention: Attention,
    /// After attention, before the residual add (Gemma).
    pub post_attention_norm: Option<RmsNorm>,
    /// Before the feed-forward part.
    pub feed_forward_norm: RmsNorm,
    /// The feed-forward part.
    pub feed_forward: FeedForward,
    /// After the feed-forward part, before the residual add (Gemma).
    pub post_feed_forward_norm: Option<RmsNorm>,
}

/// `logits = head(norm(layers(embed[ids] · scale)))`.
#[derive(Module, Debug)]
pub struct Model {
    /// `[vocab, hidden]`.
    pub embedding: Param<Tensor<2>>,
    /// In order.
    pub layers: Vec<Layer>,
    /// Before the head.
    pub final_norm: RmsNorm,
    /// `[vocab, hidden]`; the embedding where there is none.
    pub head: Option<Linear>,
    /// Sizes and constants.
    #[module(skip)]
    pub spec: ModelSpec,
}

impl Layer {
    /// `x` `[n, hidden]` → `[n, hidden]`.
    pub fn forward(&self, x: Tensor<2>, layer: usize, positions: &Positions, spec: &ModelSpec, tap: &mut dyn Tap) -> Tensor<2> {
        let mut tap = |input, x: &Tensor<2>| tap.input(Site { layer: Some(layer), input }, x);

        let h = self.attention_norm.forward(x.clone());
        tap(Input::Qkv, &h);
        let h = self.attention.heads(h, positions, spec);
        tap(Input::Output, &h);
        let h = self.attention.output.forward(h);
        let x = x + normed(&self.post_attention_norm, h);

        let h = self.feed_forward_norm.forward(x.clone());
        tap(Input::GateUp, &h);
        let h = self.feed_forward.gated(h);
        tap(Input::Down, &h);
        let h = self.feed_forward.down.forward(h);
        x + normed(&self.post_feed_forward_norm, h)
    }
}

fn normed(norm: &Option<RmsNorm>, x: Tensor<2>) -> Tensor<2> {
    match norm {
        Some(norm) => norm.forward(x),
        None => x,
    }
}

impl Model {
    /// The checkpoint's modules, with the norms and biases that it has; a load fills them.
    pub fn init(checkpoint: &Checkpoint, device: &Device) -> Self {
        let spec = checkpoint.spec.clone();
        let layers = (0..spec.n_layers).map(|layer| {
            let has = |role| checkpoint.tensor(role, Some(layer)).is_some();
            let linear = |role, bias: Option<Role>| {
                let (rows, cols) = spec.dims(role);
                Linear::init(rows, cols, bias.is_some_and(has), device)
            };
            let norm = |role| {
                let config = RmsNormConfig::new(spec.dims(role).1).with_epsilon(f64::from(spec.norm_eps));
                has(role).then(|| config.init(device))
            };
            let hidden_norm = || RmsNormConfig::new(spec.hidden as usize).with_epsilon(f64::from(spec.norm_eps)).init(device);
            Layer {
                attention_norm: hidden_norm(),
                attention: Attention {
                    query: linear(Role::Wq, Some(Role::Bq)),
                    key: linear(Role::Wk, Some(Role::Bk)),
                    value: linear(Role::Wv, Some(Role::Bv)),
                    output: linear(Role::Wo, Some(Role::Bo)),
                    query_norm: norm(Role::QNorm),
                    key_norm: norm(Role::KNorm),
                    sliding: spec.layer_sliding[layer as usize],
                },
                post_attention_norm: norm(Role::PostAttnNorm),
                feed_forward_norm: hidden_norm(),
                feed_forward: FeedForward {
                    gate: linear(Role::Gate, None),
                    up: linear(Role::Up, None),
                    down: linear(Role::Down, None),
                    activation: spec.activation,
                },
                post_feed_forward_norm: norm(Role::PostFfnNorm),
            }
        });
        let (vocab, hidden) = (spec.vocab as usize, spec.hidden as usize);
        Self {
            embedding: Initializer::Zeros.init([vocab, hidden], device),
            layers: layers.collect(),
            final_norm: RmsNormConfig::new(hidden).with_epsilon(f64::from(spec.norm_eps)).init(device),
            head: (!spec.tied).then(|| Linear::init(vocab, hidden, false, device)),
            spec,
        }
    }

    /// Logits `[n, vocab]` of `ids` in a session of `context` positions; `tap` sees every matrix's input and the residual stream.
    pub fn forward(&self, ids: &[u32], context: usize, tap: &mut dyn Tap) -> Tensor<2> {
        let spec = &self.spec;
        let device = self.embedding.val().device();
        let positions = Positions::new(spec, ids.len(), context, &device);
        let rows: Vec<i32> = ids.iter().map(|&id| id as i32).collect();
        let rows = Tensor::<1, Int>::from_data(TensorData::new(rows, [ids.len()]), &device);
        let mut x = self.embedding.val().select(0, rows) * spec.embed_scale;
        tap.residual(0, &x);
        for (i, layer) in self.layers.iter().enumerate() {
            x = layer.forward(x, i, &positions, spec, tap);
            tap.residual(i + 1, &x);
        }
        let h = self.final_norm.forward(x);
        tap.input(Site { layer: None, input: Input::Head }, &h);
        let logits = match &self.head {
            Some(head) => head.forward(h),
            None => times_transposed(h, self.embedding.val()),
        };
        if spec.final_softcap == 0.0 { logits } else { (logits / spec.final_softcap).tanh() * spec.final_softcap }
    }
}

/// Where a tensor of the checkpoint goes: the name burn gives the parameter, which is its path through the modules' fields.
pub(crate) fn parameter(role: Role, layer: Option<u32>) -> String {
    let name = match role {
        Role::Embed => "embedding",
        Role::AttnNorm => "attention_norm.gamma",
        Role::Wq => "attention.query.weight",
        Role::Wk => "attention.key.weight",
        Role::Wv => "attention.value.weight",
        Role::Bq => "attention.query.bias",
        Role::Bk => "attention.key.bias",
        Role::Bv => "attention.value.bias",
        Role::QNorm => "attention.query_norm.gamma",
        Role::KNorm => "attention.key_norm.gamma",
        Role::Wo => "attention.output.weight",
        Role::Bo => "attention.output.bias",
        Role::PostAttnNorm => "post_attention_norm.gamma",
        Role::FfnNorm => "feed_forward_norm.gamma",
        Role::Gate => "feed_forward.gate.weight",
        Role::Up => "feed_forward.up.weight",
        Role::Down => "feed_forward.down.weight",
        Role::PostFfnNorm => "post_feed_forward_norm.gamma",
        Role::FinalNorm => "final_norm.gamma",
        Role::Head => "head.weight",
    };
    layer.map_or_else(|| name.to_owned(), |layer| format!("layers.{layer}.{name}"))
}
