//! Looking into a forward pass: what each matrix is fed, and the residual stream between layers.

use bourn_checkpoint::Role;
use burn::tensor::Tensor;

/// The vectors that one or more matrices of a layer are multiplied with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Input {
    /// The normed residual stream, read by the query, key and value projections: `hidden` wide.
    Qkv,
    /// The heads' answers, read by the output projection: `n_heads · head_dim` wide.
    Output,
    /// The normed residual stream, read by the gate and up projections: `hidden` wide.
    GateUp,
    /// The gated values, read by the down projection: `ffn` wide.
    Down,
    /// The last normed residual stream, read by the head: `hidden` wide.
    Head,
}

impl Input {
    /// The input of that matrix; `None` for vectors and the embedding, which no vector is multiplied with.
    pub const fn of(role: Role) -> Option<Self> {
        match role {
            Role::Wq | Role::Wk | Role::Wv => Some(Self::Qkv),
            Role::Wo => Some(Self::Output),
            Role::Gate | Role::Up => Some(Self::GateUp),
            Role::Down => Some(Self::Down),
            Role::Head => Some(Self::Head),
            _ => None,
        }
    }

    /// Its name in files: `qkv`, `output`, `gate_up`, `down`, `head`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Qkv => "qkv",
            Self::Output => "output",
            Self::GateUp => "gate_up",
            Self::Down => "down",
            Self::Head => "head",
        }
    }
}

/// An input of a layer; the head's has none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Site {
    /// The layer.
    pub layer: Option<usize>,
    /// Which of its inputs.
    pub input: Input,
}

impl std::fmt::Display for Site {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.layer {
            Some(layer) => write!(f, "layers.{layer}.{}", self.input.name()),
            None => f.write_str(self.input.name()),
        }
    }
}

/// Is shown the values of a forward pass as they come up. The default sees nothing.
pub trait Tap {
    /// Vectors `[n, cols]` that the matrices of `site` are about to be multiplied with.
    fn input(&mut self, site: Site, x: &Tensor<2>) {
        let _ = (site, x);
    }

    /// The residual stream `[n, hidden]` after `layers` layers; 0 is the scaled embedding.
    fn residual(&mut self, layers: usize, x: &Tensor<2>) {
        let _ = (layers, x);
    }
}

/// Looks at nothing.
impl Tap for () {}
