//! Attention of one query head over its KV head, as an online softmax in one walk over the cache.

use super::float::{exp, half_of, product, softcap};
use super::norm::sum_of_16;
use super::rope::Spec as Heads;
use cubecl_core as cubecl;
use cubecl_core::prelude::*;

/// Positions that a workgroup looks at together, and its units.
pub const RUN: u32 = 64;

/// What attention is like in a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Spec {
    /// Heads and cache.
    pub heads: Heads,
    /// Positions a token sees; 0 = all.
    pub window: u32,
    /// Bits of the cap on scores; 0 = none.
    pub softcap: u32,
}

/// `out[t][head] = softmax(q·K)·V`: one workgroup per query head and token.
///
/// Per run of 64 positions: a score for each unit; the maximum of all so far; what was summed before shrinks to it; then units are
/// dimensions and add up the run's values. `out`: `[T, q_rows]`.
#[cube(launch_unchecked)]
pub fn attend(qkv: &[f32], cache: &[u32], step: &[u32], out: &mut [f32], #[comptime] spec: Spec) {
    let (head, t) = (CUBE_POS_X, CUBE_POS_Y);
    let heads = comptime!(spec.heads);
    let head_dim = comptime!(heads.head_dim);
    let words = comptime!(heads.words());
    let rounds = comptime!(heads.words().div_ceil(RUN));
    let unit = UNIT_POS_X;
    let mut q = Shared::<[f32]>::new_slice(comptime!(heads.head_dim as usize));
    let mut weights = Shared::<[f32]>::new_slice(RUN as usize);
    let mut room = Shared::<[f32]>::new_slice(RUN as usize);
    // Two sums for each word of a value: of halves both are used.
    let mut acc = Array::<f32>::new(comptime!(2 * rounds as usize));
    for i in 0..comptime!(heads.head_dim.div_ceil(RUN)) {
        let d = i * RUN + unit;
        if d < head_dim {
            q[d as usize] = qkv[(t * comptime!(heads.stride()) + head * head_dim + d) as usize];
        }
    }
    sync_cube();
    let kv_head = head / comptime!(heads.n_heads / heads.n_kv_heads);
    let k_at = kv_head * comptime!(heads.slots * heads.words());
    let v_at = (comptime!(heads.n_kv_heads) + kv_head) * comptime!(heads.slots * heads.words());
    let end = step[0] + t + 1u32;
    let mut begin = 0u32;
    if comptime!(spec.window > 0) {
        begin = select(end > comptime!(spec.window), end - comptime!(spec.window), 0u32);
    }
    let mut top = f32::new(-3.4e38f32);
    let mut sum = 0.0f32;
    let mut run = begin / RUN;
    let runs = end.div_ceil(RUN);
    while run < runs {
        let position = run * RUN + unit;
        let seen = position >= begin && position < end;
        let mut score = f32::new(-3.4e38f32);
        if seen {
            let tile = k_at + (position / 16u32) * comptime!(16 * heads.words()) + position % 16u32;
            let mut dot = 0.0f32;
            for d in 0..words {
                let word = cache[(tile + d * 16u32) as usize];
                if comptime!(heads.halves) {
                    dot = fma(half_of(word, 0u32), q[(2u32 * d) as usize], dot);
                    dot = fma(half_of(word, 1u32), q[(2u32 * d + 1u32) as usize], dot);
                } else {
                    dot = fma(f32::reinterpret(word), q[d as usize], dot);
                }
            }
            score = dot;
            if comptime!(spec.softcap != 0) {
                score = softcap(dot, comptime!(spec.softcap));
            }
        }
        room[unit as usize] = score;
        sync_cube();
        #[unroll]
        for i in 0..6u32 {
            let half = comptime!(32u32 >> i);
            if unit < half {
                room[unit as usize] = max(room[unit as usize], room[(unit + half) as usize]);
            }
            sync_cube();
        }
        let new_top = max(top, room[0]);
        let shrink = exp(top - new_top);
        top = new_top;
        let mut weight = 0.0f32;
        if seen {
            weight = exp(score - new_top);
        }
        weights[unit as usize] = weight;
        sync_cube();
        // By all units, though 16 hold the sums: see `add_squares`.
        sum = product(sum, shrink);
        #[unroll]
        for i in 0..4u32 {
            sum += weights[(unit % 16u32 + comptime!(16 * i)) as usize];
        }
        let first = select(begin > run * RUN, begin - run * RUN, 0u32);
        let last = min(end - run * RUN, RUN);
        #[unroll]
        for r in 0..rounds {
            let word = comptime!(r * RUN) + unit;
            if word < words {
                let mut a = acc[comptime!(2 * r as usize)] * shrink;
                let mut b = acc[comptime!(2 * r as usize + 1)] * shrink;
                for i in first..last {
                    let value = cache[(v_at + (run * RUN + i) * words + word) as usize];
                    let weight = weights[i as usize];
                    if comptime!(heads.halves) {
                        a = fma(weight, half_of(value, 0u32), a);
                        b = fma(weight, half_of(value, 1u32), b);
                    } else {
                        a = fma(weight, f32::reinterpret(value), a);
                    }
                }
                acc[comptime!(2 * r as usize)] = a;
                acc[comptime!(2 * r as usize + 1)] = b;
            }
        }
        sync_cube();
        run += 1u32;
    }
    let total = sum_of_16(sum, &mut room);
    let at = t * comptime!(heads.n_heads * heads.head_dim) + head * head_dim;
    #[unroll]
    for r in 0..rounds {
        let word = comptime!(r * RUN) + unit;
        if word < words {
            if comptime!(heads.halves) {
                out[(at + 2u32 * word) as usize] = acc[comptime!(2 * r as usize)] / total;
                out[(at + 2u32 * word + 1u32) as usize] = acc[comptime!(2 * r as usize + 1)] / total;
            } else {
                out[(at + word) as usize] = acc[comptime!(2 * r as usize)] / total;
            }
        }
    }
}
