//! Reductions over a vocabulary.

use crate::lanes::Lanes;

/// Elements looked at between two comparisons with the best so far.
const STRIP: usize = 256;

/// `max x`, NaN never; −∞ of nothing.
#[inline(always)]
fn max<L: Lanes>(x: &[f32]) -> f32 {
    let (xs, tail) = x.as_chunks::<16>();
    let mut m = L::splat(f32::NEG_INFINITY);
    for x in xs {
        m = L::load(x).max(m);
    }
    if !tail.is_empty() {
        m = L::load_part(tail, f32::NEG_INFINITY).max(m);
    }
    m.reduce_max()
}

/// How many values are at least `threshold`; NaN is not.
#[inline(always)]
pub(crate) fn count_at_least(x: &[f32], threshold: f32) -> usize {
    let mut n = 0;
    for x in x.chunks(STRIP) {
        let mut in_strip = 0u32;
        for &x in x {
            in_strip += u32::from(x >= threshold);
        }
        n += in_strip as usize;
    }
    n
}

/// Index of the largest value, the first of equals; NaN never wins (0 if there is nothing else).
#[inline(always)]
pub(crate) fn argmax<L: Lanes>(x: &[f32]) -> usize {
    let mut best = f32::NEG_INFINITY;
    let mut strip = 0;
    for (i, x) in x.chunks(STRIP).enumerate() {
        let m = max::<L>(x);
        if m > best {
            (best, strip) = (m, i);
        }
    }
    let first = strip * STRIP;
    let mut i = first;
    while i < x.len() && i < first + STRIP {
        if x[i] == best {
            return i;
        }
        i += 1;
    }
    0
}

/// `(max, Σ e^(x − max))`, the sum in 16 lanes (`i mod 16`) in rising order, then by halves.
#[inline(always)]
pub(crate) fn max_sum_exp<L: Lanes>(x: &[f32]) -> (f32, f32) {
    let m = max::<L>(x);
    let top = L::splat(m);
    let (xs, tail) = x.as_chunks::<16>();
    let mut sum = L::splat(0.0);
    for x in xs {
        sum = sum.add(L::load(x).sub(top).exp());
    }
    if !tail.is_empty() {
        sum = sum.add(L::load_part(tail, f32::NEG_INFINITY).sub(top).exp());
    }
    (m, sum.reduce_add())
}
