//! Inputs by which a tier is held against `scalar`: by this crate's tests at length, and by a board's test of its own cores.

use bourn_format::layout::block_bytes;
use bourn_format::shape::{Activation, Family};
use bourn_format::{Dtype, Shape};

/// A fitted table: levels at both ends of what is allowed.
pub const FITTED: [i8; 16] = [-31, -22, -16, -12, -9, -6, -3, -1, 1, 3, 6, 9, 13, 17, 23, 31];

/// xorshift64*.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// The same numbers for the same seed.
    pub const fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    /// 64 bits.
    #[allow(clippy::should_implement_trait, reason = "they never end")]
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    /// In −1..1.
    pub fn unit(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1 << 23) as f32 - 1.0
    }

    /// In −scale..scale.
    pub fn array<const N: usize>(&mut self, scale: f32) -> [f32; N] {
        core::array::from_fn(|_| self.unit() * scale)
    }

    /// Bits of an f16 near 0.1 of any sign.
    pub fn half(&mut self) -> [u8; 2] {
        ((self.next() as u16 & 0x83ff) | 0x2c00).to_le_bytes()
    }

    /// Tiles of a matrix: any levels, scales near 0.1 and floats up to 1 of any sign.
    pub fn tiles(&mut self, dtype: Dtype, bytes: &mut [u8]) {
        bytes.iter_mut().for_each(|b| *b = self.next() as u8);
        let header = if dtype == Dtype::Q4M { 128 } else { 64 };
        match dtype {
            Dtype::F32 => bytes.chunks_exact_mut(4).for_each(|b| b.copy_from_slice(&self.unit().to_le_bytes())),
            Dtype::F16 => bytes.chunks_exact_mut(2).for_each(|b| b.copy_from_slice(&self.half())),
            Dtype::Bf16 => bytes.chunks_exact_mut(2).for_each(|b| {
                let bits = (u16::from_le_bytes([b[0], b[1]]) & 0x807f) | 0x3f00;
                b.copy_from_slice(&bits.to_le_bytes());
            }),
            _ => {
                for block in bytes.chunks_exact_mut(block_bytes(dtype)) {
                    block[..header].chunks_exact_mut(2).for_each(|s| s.copy_from_slice(&self.half()));
                }
            }
        }
    }
}

/// A model of nothing, for a screen of 64 dimensions.
pub const SHAPE: Shape = Shape {
    family: Family::Llama,
    n_layers: 1,
    hidden: 64,
    n_heads: 1,
    n_kv_heads: 1,
    head_dim: 2,
    ffn: 1,
    vocab: 1 << 20,
    max_context: 1,
    activation: Activation::Silu,
    window: 0,
    rotary_dim: 2,
    tied: true,
    norm_eps: 0.0,
    embed_scale: 1.0,
    attn_scale: 1.0,
    attn_softcap: 0.0,
    final_softcap: 0.0,
    attn_temperature_beta: 0.0,
    attn_temperature_context: 0,
};
