//! The parts of a decoder layer: matrix, gated feed-forward, rotary position.

use bourn_checkpoint::{Activation, RopeSpec};
use burn::module::{Module, Param};
use burn::nn::Initializer;
use burn::tensor::{Device, Tensor, TensorData, activation};

/// `y = x·Wᵀ + b`, with `W` `[rows, cols]` as checkpoints store it and `b` `[rows]` where there is one.
#[derive(Module, Debug)]
pub struct Linear {
    /// `W`.
    pub weight: Param<Tensor<2>>,
    /// `b`.
    pub bias: Option<Param<Tensor<1>>>,
}

impl Linear {
    /// Zeros, which a load replaces; nothing is allocated before.
    pub fn init(rows: usize, cols: usize, bias: bool, device: &Device) -> Self {
        let weight = Initializer::Zeros.init([rows, cols], device);
        Self { weight, bias: bias.then(|| Initializer::Zeros.init([rows], device)) }
    }

    /// `x` `[n, cols]` → `[n, rows]`.
    pub fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        let y = times_transposed(x, self.weight.val());
        match &self.bias {
            Some(bias) => y + bias.val().unsqueeze(),
            None => y,
        }
    }
}

/// `x·Wᵀ` as `(W·xᵀ)ᵀ`: `W` is used as it lies, only the small `x` is turned.
pub fn times_transposed(x: Tensor<2>, w: Tensor<2>) -> Tensor<2> {
    w.matmul(x.transpose()).transpose()
}

/// `Wdown·(act(Wgate·x) ⊙ Wup·x)`.
#[derive(Module, Debug)]
pub struct FeedForward {
    /// `[ffn, hidden]`.
    pub gate: Linear,
    /// `[ffn, hidden]`.
    pub up: Linear,
    /// `[hidden, ffn]`.
    pub down: Linear,
    /// The gate's nonlinearity.
    #[module(skip)]
    pub activation: Activation,
}

impl FeedForward {
    /// What `down` is fed: `x` `[n, hidden]` → `[n, ffn]`.
    pub fn gated(&self, x: Tensor<2>) -> Tensor<2> {
        let gate = self.gate.forward(x.clone());
        let gate = match self.activation {
            Activation::Silu => activation::silu(gate),
            Activation::GeluTanh => gelu_tanh(gate),
        };
        gate * self.up.forward(x)
    }
}

/// `x/2 · (1 + tanh(√(2/π)·(x + 0.044715·x³)))`.
pub fn gelu_tanh(x: Tensor<2>) -> Tensor<2> {
    let inner = (x.clone() + x.clone().powi_scalar(3) * 0.044715) * (2.0f64 / std::f64::consts::PI).sqrt();
    x * 0.5 * (inner.tanh() + 1.0)
}

/// cos and sin of `position · inv_freq`, times the table's factor.
#[derive(Clone, Debug)]
pub struct Rotary {
    /// `[n, 1, rotary_dim / 2]`.
    cos: Tensor<3>,
    /// `[n, 1, rotary_dim / 2]`.
    sin: Tensor<3>,
}

impl Rotary {
    /// Tables for positions `0..n`.
    pub fn new(rope: &RopeSpec, n: usize, device: &Device) -> Self {
        let half = rope.inv_freq.len();
        let table = |f: fn(f32) -> f32| {
            let angles = (0..n).flat_map(|position| rope.inv_freq.iter().map(move |freq| position as f32 * freq));
            let values: Vec<f32> = angles.map(|angle| f(angle) * rope.factor).collect();
            Tensor::from_data(TensorData::new(values, [n, 1, half]), device)
        };
        Self { cos: table(f32::cos), sin: table(f32::sin) }
    }

    /// Turns the first `rotary_dim` dimensions of each head, in pairs half a rotary width apart: `x` `[n, heads, head_dim]`.
    pub fn turn(&self, x: Tensor<3>) -> Tensor<3> {
        let (head_dim, half) = (x.dims()[2], self.cos.dims()[2]);
        let first = x.clone().narrow(2, 0, half);
        let second = x.clone().narrow(2, half, half);
        let mut parts = vec![
            first.clone() * self.cos.clone() - second.clone() * self.sin.clone(),
            second * self.cos.clone() + first * self.sin.clone(),
        ];
        if 2 * half < head_dim {
            parts.push(x.narrow(2, 2 * half, head_dim - 2 * half));
        }
        Tensor::cat(parts, 2)
    }
}
