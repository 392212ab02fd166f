//! Causal attention over a whole text: grouped heads, norms of queries and keys, a sliding window, a cap on scores.

use crate::layers::{Linear, Rotary};
use bourn_checkpoint::ModelSpec;
use burn::module::Module;
use burn::nn::RmsNorm;
use burn::tensor::{Bool, Device, Tensor, TensorData, activation};

/// `softmax(rope(norm(Wq·x)) · rope(norm(Wk·x))ᵀ · scale) · Wv·x` per head; [`Self::output`] then mixes the heads.
#[derive(Module, Debug)]
pub struct Attention {
    /// `[n_heads · head_dim, hidden]`.
    pub query: Linear,
    /// `[n_kv_heads · head_dim, hidden]`.
    pub key: Linear,
    /// `[n_kv_heads · head_dim, hidden]`.
    pub value: Linear,
    /// `[hidden, n_heads · head_dim]`.
    pub output: Linear,
    /// Norm of each query head, where the family has it.
    pub query_norm: Option<RmsNorm>,
    /// Norm of each key head.
    pub key_norm: Option<RmsNorm>,
    /// Attends to the window only.
    pub sliding: bool,
}

/// What all layers of a pass share.
#[derive(Clone, Debug)]
pub struct Positions {
    /// Rope tables of layers that see the whole text, and of sliding ones.
    pub rotary: [Rotary; 2],
    /// `[1, n, n]`, true where a query must not look, for the same two kinds.
    pub hidden: [Tensor<3, Bool>; 2],
    /// `[n, 1, 1]`: the queries' scale, the model's own and Ministral's temperature in one.
    pub scale: Tensor<3>,
}

impl Positions {
    /// Positions `0..n` of a text in a session of `context` positions, by which rope tables are chosen.
    pub fn new(spec: &ModelSpec, n: usize, context: usize, device: &Device) -> Self {
        let rotary = [false, true].map(|sliding| {
            let fits = spec.ropes.iter().filter(|r| r.sliding == sliding && r.min_context as usize <= context);
            // A model without layers of a kind has no table for it: any other serves, nobody reads it.
            let rope = fits.max_by_key(|r| r.min_context).unwrap_or(&spec.ropes[0]);
            Rotary::new(rope, n, device)
        });
        let hidden = [usize::MAX, spec.window as usize].map(|window| {
            let hidden: Vec<bool> = (0..n).flat_map(|q| (0..n).map(move |k| k > q || q - k >= window)).collect();
            Tensor::from_data(TensorData::new(hidden, [1, n, n]), device)
        });
        let scales: Vec<f32> = (0..n).map(|position| spec.attn_scale * temperature(spec, position)).collect();
        let scale = Tensor::from_data(TensorData::new(scales, [n, 1, 1]), device);
        Self { rotary, hidden, scale }
    }
}

impl Attention {
    /// The heads' answers side by side, what [`Self::output`] is fed: `x` `[n, hidden]` → `[n, n_heads · head_dim]`.
    pub fn heads(&self, x: Tensor<2>, positions: &Positions, spec: &ModelSpec) -> Tensor<2> {
        let n = x.dims()[0];
        let (n_heads, n_kv_heads, head_dim) = (spec.n_heads as usize, spec.n_kv_heads as usize, spec.head_dim as usize);
        let kind = usize::from(self.sliding);

        let mut q = self.query.forward(x.clone()).reshape([n, n_heads, head_dim]);
        let mut k = self.key.forward(x.clone()).reshape([n, n_kv_heads, head_dim]);
        let v = self.value.forward(x).reshape([n, n_kv_heads, head_dim]);
        if let Some(norm) = &self.query_norm {
            q = norm.forward(q);
        }
        if let Some(norm) = &self.key_norm {
            k = norm.forward(k);
        }
        q = positions.rotary[kind].turn(q) * positions.scale.clone();
        k = positions.rotary[kind].turn(k);

        // [heads, n, head_dim]; each key and value head serves a group of query heads.
        let group = n_heads / n_kv_heads;
        let shared = |x: Tensor<3>| {
            let x: Tensor<4> = x.swap_dims(0, 1).unsqueeze_dim(1);
            x.repeat_dim(1, group).reshape([n_heads, n, head_dim])
        };
        let mut scores = q.swap_dims(0, 1).matmul(shared(k).swap_dims(1, 2));
        if spec.attn_softcap != 0.0 {
            scores = (scores / spec.attn_softcap).tanh() * spec.attn_softcap;
        }
        let scores = scores.mask_fill(positions.hidden[kind].clone().expand([n_heads, n, n]), f32::MIN);
        let answers = activation::softmax(scores, 2).matmul(shared(v));
        answers.swap_dims(0, 1).reshape([n, n_heads * head_dim])
    }
}

/// `1 + β·ln(1 + ⌊position/context⌋)`: Ministral 3's query scale; 1 for everyone else.
fn temperature(spec: &ModelSpec, position: usize) -> f32 {
    if spec.attn_temperature_beta == 0.0 {
        return 1.0;
    }
    let stretch = position / spec.attn_temperature_context.max(1) as usize;
    1.0 + spec.attn_temperature_beta * (1.0 + stretch as f32).ln()
}
