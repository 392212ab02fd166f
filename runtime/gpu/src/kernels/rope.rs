//! What happens to queries, keys and values between projection and attention: biases, head norms, rotation, the KV cache.
//!
//! Keys of a KV head lie in tiles of 16 positions, `[slots/16][head_dim][16]`, values as `[slots][head_dim]`; in a cache of halves two
//! neighbouring dimensions are one word.

use super::float::{f32_to_half, product};
use super::norm::{add_squares, sum_of_16};
use cubecl_core as cubecl;
use cubecl_core::prelude::*;

/// Words of `step` before its tables: first position, tokens, and zeros.
pub const STEP_WORDS: u32 = 4;

/// A model's heads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Spec {
    /// Width of a head.
    pub head_dim: u32,
    /// Query heads.
    pub n_heads: u32,
    /// KV heads.
    pub n_kv_heads: u32,
    /// Elements of queries and of keys in a row of the projection's output, whole tiles.
    pub q_rows: u32,
    /// The same of keys.
    pub kv_rows: u32,
    /// Positions of the cache.
    pub slots: u32,
    /// The cache holds halves.
    pub halves: bool,
    /// Pairs of dimensions that turn.
    pub pairs: u32,
    /// Most tokens of a pass: what the tables in `step` are made for.
    pub block: u32,
    /// Whether the layer slides.
    pub sliding: bool,
    /// There are biases on queries, keys, values.
    pub biases: [bool; 3],
    /// There are norms on the heads of queries and keys.
    pub norms: [bool; 2],
    /// Bits of the norms' epsilon.
    pub eps: u32,
    /// Units of a workgroup: a power of two.
    pub units: u32,
}

impl Spec {
    /// Elements between tokens of the projection's output.
    pub const fn stride(&self) -> u32 {
        self.q_rows + 2 * self.kv_rows
    }

    /// Words of a position's key or value of one KV head.
    pub const fn words(&self) -> u32 {
        if self.halves { self.head_dim / 2 } else { self.head_dim }
    }
}

/// One workgroup per head (queries, then keys, then values) and token.
///
/// `step`: first position, tokens, two zeros; then bits of: a factor of the queries for each token, and cos and sin `[block, pairs]` of full layers,
/// the same of sliding ones. `params`: where in `vectors` the biases of q, k, v and the norms of q, k begin.
#[cube(launch_unchecked)]
pub fn rope(qkv: &mut [f32], vectors: &[f32], params: &[u32], step: &[u32], cache: &mut [u32], #[comptime] spec: Spec) {
    let (head, t) = (CUBE_POS_X, CUBE_POS_Y);
    let head_dim = comptime!(spec.head_dim);
    let units = comptime!(spec.units);
    let rounds = comptime!(spec.head_dim.next_multiple_of(16).div_ceil(spec.units));
    let padded = comptime!(spec.head_dim.next_multiple_of(16));
    let mut x = Shared::<[f32]>::new_slice(comptime!(spec.head_dim.next_multiple_of(16) as usize));
    let mut room = Shared::<[f32]>::new_slice(16usize);
    let keys = comptime!(spec.n_heads);
    let values = comptime!(spec.n_heads + spec.n_kv_heads);
    let is_query = head < keys;
    let is_value = head >= values;
    // Head of its kind, where the kind begins, and where its bias does.
    let mut of_kind = head;
    let mut first = 0u32;
    let mut bias = params[0];
    let mut has_bias = comptime!(u32::from(spec.biases[0])).runtime();
    let mut norm = params[3];
    let mut has_norm = comptime!(u32::from(spec.norms[0])).runtime();
    if is_value {
        of_kind = head - values;
        first = comptime!(spec.q_rows + spec.kv_rows).runtime();
        bias = params[2];
        has_bias = comptime!(u32::from(spec.biases[2])).runtime();
        has_norm = 0u32;
    } else if !is_query {
        of_kind = head - keys;
        first = comptime!(spec.q_rows).runtime();
        bias = params[1];
        has_bias = comptime!(u32::from(spec.biases[1])).runtime();
        norm = params[4];
        has_norm = comptime!(u32::from(spec.norms[1])).runtime();
    }
    let at = t * comptime!(spec.stride()) + first + of_kind * head_dim;
    for i in 0..rounds {
        let d = i * units + UNIT_POS_X;
        if d < padded {
            x[d as usize] = 0.0f32;
        }
        if d < head_dim {
            let mut value = qkv[(at + d) as usize];
            if has_bias != 0u32 {
                value += vectors[(bias + of_kind * head_dim + d) as usize];
            }
            x[d as usize] = value;
        }
    }
    if comptime!(spec.norms[0] || spec.norms[1]) {
        sync_cube();
        let squares = add_squares(0.0f32, &x, comptime!(spec.head_dim.next_multiple_of(16)));
        let mean = sum_of_16(squares, &mut room) / f32::cast_from(head_dim);
        let factor = 1.0f32 / f32::sqrt(mean + f32::from_bits(comptime!(spec.eps)));
        if has_norm != 0u32 {
            for i in 0..rounds {
                let d = i * units + UNIT_POS_X;
                if d < head_dim {
                    x[d as usize] = x[d as usize] * factor * vectors[(norm + d) as usize];
                }
            }
        }
    }
    sync_cube();
    let pairs = comptime!(spec.pairs);
    let block = comptime!(spec.block);
    let tables = comptime!(STEP_WORDS + spec.block + if spec.sliding { 2 * spec.block * spec.pairs } else { 0 });
    let mut scale = 1.0f32;
    if is_query {
        scale = f32::reinterpret(step[(STEP_WORDS + t) as usize]);
    }
    if !is_value {
        for i in 0..rounds {
            let d = i * units + UNIT_POS_X;
            if d < pairs {
                let cos = f32::reinterpret(step[(tables + t * pairs + d) as usize]);
                let sin = f32::reinterpret(step[(tables + (block + t) * pairs + d) as usize]);
                let a = x[d as usize];
                let b = x[(d + pairs) as usize];
                x[d as usize] = (product(a, cos) - product(b, sin)) * scale;
                x[(d + pairs) as usize] = (product(b, cos) + product(a, sin)) * scale;
            }
            if d >= comptime!(2 * spec.pairs) && d < head_dim {
                x[d as usize] = x[d as usize] * scale;
            }
        }
    }
    sync_cube();
    if is_query {
        for i in 0..rounds {
            let d = i * units + UNIT_POS_X;
            if d < head_dim {
                qkv[(at + d) as usize] = x[d as usize];
            }
        }
    } else {
        let slot = step[0] + t;
        let words = comptime!(spec.words());
        let slots = comptime!(spec.slots);
        for i in 0..rounds {
            let d = i * units + UNIT_POS_X;
            if d < words {
                let word = if comptime!(spec.halves) {
                    f32_to_half(x[(2u32 * d) as usize]) | (f32_to_half(x[(2u32 * d + 1u32) as usize]) << 16u32)
                } else {
                    u32::reinterpret(x[d as usize])
                };
                if is_value {
                    cache[((comptime!(spec.n_kv_heads) + of_kind) * slots * words + slot * words + d) as usize] = word;
                } else {
                    cache[(of_kind * slots * words + (slot / 16u32) * words * 16u32 + d * 16u32 + slot % 16u32) as usize] = word;
                }
            }
        }
    }
}
