//! Rotary position embedding.

use crate::lanes::Lanes;

/// On each head, `i < n = cos.len()`: `(x[i], x[n + i]) → (a·cos − b·sin, b·cos + a·sin) · scale`; the rest of the head `· scale`.
///
/// Products and sums are rounded one by one, in the order written.
/// Source: Su et al., RoFormer; the half-split form of Hugging Face's `rotate_half`.
#[inline(always)]
pub(crate) fn rope<L: Lanes>(x: &mut [f32], head_dim: usize, cos: &[f32], sin: &[f32], scale: f32) {
    let n = cos.len();
    assert!(sin.len() == n && 2 * n <= head_dim && x.len().is_multiple_of(head_dim));
    let s = L::splat(scale);
    for head in x.chunks_exact_mut(head_dim) {
        let (a, rest) = head.split_at_mut(n);
        let (b, rest) = rest.split_at_mut(n);
        let (a, a_tail) = a.as_chunks_mut::<16>();
        let (b, b_tail) = b.as_chunks_mut::<16>();
        let (cs, c_tail) = cos.as_chunks::<16>();
        let (ss, s_tail) = sin.as_chunks::<16>();
        for (((a, b), c), sn) in a.iter_mut().zip(b).zip(cs).zip(ss) {
            let (p, q) = rotate(L::load(a), L::load(b), L::load(c), L::load(sn));
            p.mul(s).store(a);
            q.mul(s).store(b);
        }
        if !a_tail.is_empty() {
            let (a, b) = (L::load_part(a_tail, 0.0), L::load_part(b_tail, 0.0));
            let (p, q) = rotate(a, b, L::load_part(c_tail, 0.0), L::load_part(s_tail, 0.0));
            p.mul(s).store_part(a_tail);
            q.mul(s).store_part(b_tail);
        }
        for x in rest {
            *x *= scale;
        }
    }
}

#[inline(always)]
fn rotate<L: Lanes>(a: L, b: L, cos: L, sin: L) -> (L, L) {
    (a.mul(cos).sub(b.mul(sin)), b.mul(cos).add(a.mul(sin)))
}
