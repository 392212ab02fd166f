//! One output per input: residual sum, gated activations, softcap.

use crate::lanes::Lanes;

/// A function of two numbers, on lanes.
trait Two: Copy {
    fn at<L: Lanes>(self, a: L, b: L) -> L;
}

/// `y = f(y, x)`.
#[inline(always)]
fn each<L: Lanes, F: Two>(f: F, y: &mut [f32], x: &[f32]) {
    assert_eq!(y.len(), x.len());
    let (y, y_tail) = y.as_chunks_mut::<16>();
    let (x, x_tail) = x.as_chunks::<16>();
    for (y, x) in y.iter_mut().zip(x) {
        f.at(L::load(y), L::load(x)).store(y);
    }
    if !y_tail.is_empty() {
        f.at(L::load_part(y_tail, 0.0), L::load_part(x_tail, 0.0)).store_part(y_tail);
    }
}

/// `a + b`.
#[derive(Clone, Copy)]
struct Add;
impl Two for Add {
    #[inline(always)]
    fn at<L: Lanes>(self, a: L, b: L) -> L {
        a.add(b)
    }
}

/// `silu(a) · b`, `silu(a) = a / (1 + e^−a)`.
#[derive(Clone, Copy)]
struct SiluMul;
impl Two for SiluMul {
    #[inline(always)]
    fn at<L: Lanes>(self, a: L, b: L) -> L {
        a.div(L::splat(1.0).add(L::splat(0.0).sub(a).exp())).mul(b)
    }
}

/// `gelu_tanh(a) · b`, `gelu_tanh(a) = a / (1 + e^−2u)`, `u = √(2/π)·(a + 0.044715·a³)`.
///
/// The same function as `a/2 · (1 + tanh u)`.
#[derive(Clone, Copy)]
struct GeluMul;
impl Two for GeluMul {
    #[inline(always)]
    fn at<L: Lanes>(self, a: L, b: L) -> L {
        let cubic = a.mul(a).mul(a);
        let u = cubic.fma(L::splat(0.044_715), a);
        a.div(L::splat(1.0).add(u.mul(L::splat(-1.595_769)).exp())).mul(b)
    }
}

/// `y += x`.
#[inline(always)]
pub(crate) fn add<L: Lanes>(y: &mut [f32], x: &[f32]) {
    each::<L, _>(Add, y, x);
}

/// `g = silu(g) · u`.
#[inline(always)]
pub(crate) fn silu_mul<L: Lanes>(g: &mut [f32], u: &[f32]) {
    each::<L, _>(SiluMul, g, u);
}

/// `g = gelu_tanh(g) · u`.
#[inline(always)]
pub(crate) fn gelu_mul<L: Lanes>(g: &mut [f32], u: &[f32]) {
    each::<L, _>(GeluMul, g, u);
}

/// `c · tanh(x / c)` on lanes.
#[inline(always)]
pub(crate) fn cap<L: Lanes>(x: L, c: L) -> L {
    x.div(c).tanh().mul(c)
}

/// `x = c · tanh(x / c)`.
#[inline(always)]
pub(crate) fn softcap<L: Lanes>(x: &mut [f32], c: f32) {
    let c = L::splat(c);
    let (x, tail) = x.as_chunks_mut::<16>();
    for x in x {
        cap(L::load(x), c).store(x);
    }
    if !tail.is_empty() {
        cap(L::load_part(tail, 0.0), c).store_part(tail);
    }
}
