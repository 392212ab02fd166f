//! RMSNorm.

use crate::lanes::{Lanes, first};

/// `y = x · (1 / √(Σx²/n + eps)) · w`, `w` little-endian f32 or empty for none.
///
/// Σx² in 16 lanes (`c mod 16`) by fused multiply-add, the lanes then summed by halves.
#[inline(always)]
pub(crate) fn rms_norm<L: Lanes>(x: &[f32], w: &[u8], eps: f32, y: &mut [f32]) {
    assert!(y.len() == x.len() && (w.is_empty() || w.len() == 4 * x.len()));
    let (xs, tail) = x.as_chunks::<16>();
    let mut sum = L::splat(0.0);
    for x in xs {
        let x = L::load(x);
        sum = x.fma(x, sum);
    }
    let last = L::load_part(tail, 0.0);
    sum = last.fma(last, sum);
    let mean = sum.reduce_add() / x.len() as f32;
    let scale = L::splat(1.0 / libm::sqrtf(mean + eps));
    let (ys, y_tail) = y.as_chunks_mut::<16>();
    if w.is_empty() {
        for (y, x) in ys.iter_mut().zip(xs) {
            L::load(x).mul(scale).store(y);
        }
        last.mul(scale).store_part(y_tail);
    } else {
        let (ws, w_tail) = w.as_chunks::<64>();
        for ((y, x), w) in ys.iter_mut().zip(xs).zip(ws) {
            L::load(x).mul(scale).mul(L::from_le_f32(w)).store(y);
        }
        let mut w = [0; 64];
        w[..w_tail.len()].copy_from_slice(w_tail);
        last.mul(scale).mul(L::from_le_f32(first(&w))).store_part(y_tail);
    }
}
