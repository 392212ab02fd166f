//! f32 to int8: activations per group of 32, keys and values per vector.

use crate::lanes::{Lanes, ROUNDER, first_mut};
use crate::table::Q8RowMut;
use bourn_format::layout::{BLOCK_COLS, GROUP, padded_cols};

/// Below this a group counts as zeros: 127 / max would not be finite.
const TINY: f32 = 1e-30;

/// Scale and factor of a group with the largest magnitude `max`: `(max/127, 127/max)`; zeros for zeros.
/// `poison`, `Σ 0·x`, is NaN if an element is infinite or NaN; the scale then is NaN, so that it shows.
#[inline(always)]
pub(crate) fn scale_and_factor(max: f32, poison: f32) -> (f32, f32) {
    if poison.is_nan() {
        (poison, 0.0)
    } else if max < TINY {
        (0.0, 0.0)
    } else {
        (max / 127.0, 127.0 / max)
    }
}

/// Group by group: `scale = max|x| / 127`, `q = round-half-even(x · (127 / max|x|))`, `sum = Σ q`.
#[inline(always)]
pub(crate) fn quantize<L: Lanes>(x: &[f32], out: &mut Q8RowMut<'_>) {
    let padded = padded_cols(x.len());
    let groups = padded / GROUP;
    assert!(out.q.len() == padded && out.scale.len() == groups && out.sum.len() == groups);
    let (xs, tail) = x.as_chunks::<GROUP>();
    for (g, x) in xs.iter().enumerate() {
        group::<L>(x, g, out);
    }
    let mut rest = xs.len();
    if !tail.is_empty() {
        let mut last = [0.0; GROUP];
        last[..tail.len()].copy_from_slice(tail);
        group::<L>(&last, rest, out);
        rest += 1;
    }
    const { assert!(BLOCK_COLS == 2 * GROUP) };
    if rest < groups {
        out.q[rest * GROUP..].fill(0);
        out.scale[rest..].fill(0.0);
        out.sum[rest..].fill(0);
    }
}

#[inline(always)]
fn group<L: Lanes>(x: &[f32; GROUP], g: usize, out: &mut Q8RowMut<'_>) {
    let (halves, _) = x.as_chunks::<16>();
    let (a, b) = (L::load(&halves[0]), L::load(&halves[1]));
    let zero = L::splat(0.0);
    let poison = a.fma(zero, b.fma(zero, zero)).reduce_add();
    let (scale, factor) = scale_and_factor(a.abs().max(b.abs()).reduce_max(), poison);
    let q: &mut [i8; GROUP] = first_mut(&mut out.q[g * GROUP..]);
    out.scale[g] = scale;
    if factor == 0.0 {
        *q = [0; GROUP];
        out.sum[g] = 0;
        return;
    }
    let (factor, rounder) = (L::splat(factor), L::splat(ROUNDER));
    let (a, b) = (a.mul(factor).add(rounder), b.mul(factor).add(rounder));
    let (q, _) = q.as_chunks_mut::<16>();
    q[0] = a.low_bytes();
    q[1] = b.low_bytes();
    // Whole numbers below 2^24: exact in f32, in any order.
    out.sum[g] = a.sub(rounder).add(b.sub(rounder)).reduce_add() as i32;
}
