//! Quantized matrix times vectors, 4 rows a vector, for every tier that has NEON.
//!
//! One token: 16 rows at a time, so that a load of activations serves four quads of rows, and every weight is read once, in order.
//! More: 4 rows at a time for up to 8 tokens, so that codes unpacked once serve them all; the tile then comes from the L1 cache.

use super::NeonLanes;
use super::codes::{Bytes, Codes, Levels, Linear, Q4, Q4M, Q8};
use super::ops;
use crate::lanes::{Lanes, first_mut};
use crate::rows::Block;
use crate::scalar::check;
use crate::table::{Q8Rows, Tiles};
use bourn_format::Dtype;
use bourn_format::layout::{BLOCK_COLS, GROUP, LINEAR, TILE_ROWS, block_bytes};
use core::arch::aarch64::{float32x4_t, int8x16_t, int32x4_t};

/// How a tier multiplies.
pub(crate) trait Tier {
    /// For signed bytes within ±31.
    type Levels: Dot;
    /// For any.
    type Bytes: Dot;
}

/// Dots of four rows with one group of activations.
pub(crate) trait Dot {
    /// The activations.
    type X: Copy;
    /// Sums on the way.
    type Acc: Copy;
    /// 32 activations.
    fn activations(q: &[i8; 32]) -> Self::X;
    /// Sums before the first step. `bias` is the one [`Self::finish`] will get; one of the two adds it.
    fn start(bias: int32x4_t) -> Self::Acc;
    /// Adds the products of columns `4·P ..` and `16 + 4·P ..`.
    fn step<const P: usize>(acc: Self::Acc, w: [int8x16_t; 2], x: &Self::X) -> Self::Acc;
    /// A row a lane.
    fn finish(acc: Self::Acc, bias: int32x4_t) -> int32x4_t;
}

/// See [`crate::table::Kernels::mul_quantized`].
///
/// # Panics
/// If a slice has another length than stated.
#[inline(always)]
pub(crate) fn mul_quantized<T: Tier>(w: &Tiles<'_>, x: &Q8Rows<'_>, y: &mut Block<'_>) {
    const { assert!(16 * Q8 == block_bytes(Dtype::Q8) && 16 * Q4 == block_bytes(Dtype::Q4) && 16 * Q4M == block_bytes(Dtype::Q4M)) };
    check(w, x, y);
    let table = w.table.map(|level| level as u8);
    // SAFETY: NEON, as every caller is reached through a tier's token.
    let table = unsafe { ops::load16(&table) };
    match (w.dtype, w.table == LINEAR) {
        (Dtype::Q4, true) => tiles::<_, T::Levels, Q4>(Linear, w.bytes, x, y),
        (Dtype::Q4, false) => tiles::<_, T::Levels, Q4>(Levels(table), w.bytes, x, y),
        (Dtype::Q4M, true) => tiles::<_, T::Levels, Q4M>(Linear, w.bytes, x, y),
        (Dtype::Q4M, false) => tiles::<_, T::Levels, Q4M>(Levels(table), w.bytes, x, y),
        _ => tiles::<_, T::Bytes, Q8>(Bytes, w.bytes, x, y),
    }
}

/// A block of weights.
type Weights<const N: usize> = [[u8; 16]; N];

/// One vector of activations, block by block.
#[derive(Clone, Copy)]
struct Token<'a> {
    q: &'a [[[i8; GROUP]; 2]],
    scale: &'a [[f32; 2]],
    sum: &'a [[i32; 2]],
}

impl<'a> Token<'a> {
    #[inline(always)]
    fn of(x: &Q8Rows<'a>, t: usize, blocks: usize) -> Self {
        Self {
            q: &x.q.as_chunks().0.as_chunks().0[t * blocks..][..blocks],
            scale: &x.scale.as_chunks().0[t * blocks..][..blocks],
            sum: &x.sum.as_chunks().0[t * blocks..][..blocks],
        }
    }
}

/// All tokens with a tile before the next tile.
#[inline(always)]
fn tiles<C: Codes<N>, D: Dot, const N: usize>(codes: C, w: &[u8], x: &Q8Rows<'_>, y: &mut Block<'_>) {
    let (w, _) = w.as_chunks::<16>().0.as_chunks::<N>();
    if x.n == 0 {
        return;
    }
    let blocks = x.q.len() / x.n / BLOCK_COLS;
    for (i, tile) in w.chunks_exact(blocks).enumerate() {
        let (row, mut t) = (i * TILE_ROWS, 0);
        while x.n - t >= 8 {
            some_tokens::<C, D, N, 8>(codes, tile, x, t, y, row);
            t += 8;
        }
        if x.n - t >= 4 {
            some_tokens::<C, D, N, 4>(codes, tile, x, t, y, row);
            t += 4;
        }
        if x.n - t >= 2 {
            some_tokens::<C, D, N, 2>(codes, tile, x, t, y, row);
            t += 2;
        }
        if x.n - t == 1 {
            one_token::<C, D, N>(codes, tile, Token::of(x, t, blocks), first_mut(&mut y.row(t)[row..]));
        }
    }
}

/// One tile times one token.
#[inline(always)]
fn one_token<C: Codes<N>, D: Dot, const N: usize>(codes: C, tile: &[Weights<N>], x: Token<'_>, y: &mut [f32; TILE_ROWS]) {
    let mut acc = NeonLanes::splat(0.0);
    for (((block, q), scale), sum) in tile.iter().zip(x.q).zip(x.scale).zip(x.sum) {
        ask_for_a_later_one(block);
        acc = group_of_one::<C, D, N, 0>(codes, block, &q[0], scale[0], sum[0], acc);
        acc = group_of_one::<C, D, N, 1>(codes, block, &q[1], scale[1], sum[1], acc);
    }
    acc.store(y);
}

/// Group `G` of a block, 16 rows times one token.
#[inline(always)]
fn group_of_one<C: Codes<N>, D: Dot, const N: usize, const G: usize>(
    codes: C,
    block: &Weights<N>,
    q: &[i8; GROUP],
    scale: f32,
    sum: i32,
    acc: NeonLanes,
) -> NeonLanes {
    // SAFETY: NEON, as every caller is reached through a tier's token.
    let bias = unsafe { ops::bias::<C, N>(sum) };
    let x = D::activations(q);
    let mut dots = [D::start(bias); 4];
    step_all::<C, D, N, 0>(codes, block, G, &x, &mut dots);
    step_all::<C, D, N, 1>(codes, block, G, &x, &mut dots);
    step_all::<C, D, N, 2>(codes, block, G, &x, &mut dots);
    step_all::<C, D, N, 3>(codes, block, G, &x, &mut dots);
    let [a, b, c, d] = dots;
    let dots = NeonLanes::from_i32([D::finish(a, bias), D::finish(b, bias), D::finish(c, bias), D::finish(d, bias)]);
    let s_w = NeonLanes::from_f16_halves(&block[2 * G], &block[2 * G + 1]);
    let acc = dots.fma(s_w.mul(NeonLanes::splat(scale)), acc);
    if C::MINIMA {
        let m = NeonLanes::from_f16_halves(&block[4 + 2 * G], &block[4 + 2 * G + 1]);
        m.fma(NeonLanes::splat(scale * sum as f32), acc)
    } else {
        acc
    }
}

/// Two columns of words of all 16 rows.
#[inline(always)]
fn step_all<C: Codes<N>, D: Dot, const N: usize, const P: usize>(
    codes: C,
    block: &Weights<N>,
    g: usize,
    x: &D::X,
    dots: &mut [D::Acc; 4],
) {
    ops::keep_order();
    for (quad, dot) in dots.iter_mut().enumerate() {
        *dot = D::step::<P>(*dot, codes.words::<P>(block, g, quad), x);
    }
}

/// One tile times `T` tokens from `t0`, `T` at most 8.
#[inline(always)]
fn some_tokens<C: Codes<N>, D: Dot, const N: usize, const T: usize>(
    codes: C,
    tile: &[Weights<N>],
    x: &Q8Rows<'_>,
    t0: usize,
    y: &mut Block<'_>,
    row: usize,
) {
    let mut xs = [Token::of(x, t0, tile.len()); T];
    for (t, x_t) in xs.iter_mut().enumerate() {
        *x_t = Token::of(x, t0 + t, tile.len());
    }
    for quad in 0..4 {
        // SAFETY: NEON, as every caller is reached through a tier's token.
        let mut acc = [unsafe { ops::splat(0.0) }; T];
        for (b, block) in tile.iter().enumerate() {
            if quad == 0 {
                ask_for_a_later_one(block);
            }
            group_of_some::<C, D, N, 0, T>(codes, block, b, quad, &xs, &mut acc);
            group_of_some::<C, D, N, 1, T>(codes, block, b, quad, &xs, &mut acc);
        }
        for (t, acc) in acc.iter().enumerate() {
            // SAFETY: as above.
            unsafe { ops::store4(*acc, first_mut(&mut y.row(t0 + t)[row + 4 * quad..])) }
        }
    }
}

/// Group `G` of block `b`, four rows times `T` tokens.
#[inline(always)]
fn group_of_some<C: Codes<N>, D: Dot, const N: usize, const G: usize, const T: usize>(
    codes: C,
    block: &Weights<N>,
    b: usize,
    quad: usize,
    xs: &[Token<'_>; T],
    acc: &mut [float32x4_t; T],
) {
    let w = [
        codes.words::<0>(block, G, quad),
        codes.words::<1>(block, G, quad),
        codes.words::<2>(block, G, quad),
        codes.words::<3>(block, G, quad),
    ];
    // SAFETY: NEON, as every caller is reached through a tier's token.
    let s_w = unsafe { ops::halves(&block[2 * G + quad / 2], quad % 2) };
    // SAFETY: as above.
    let m = unsafe { ops::halves(&block[if C::MINIMA { 4 } else { 0 } + 2 * G + quad / 2], quad % 2) };
    // Written out, so that sums stay in registers.
    macro_rules! tokens {
        ($($t:literal)*) => {$(
            if $t < T {
                ops::keep_order();
                acc[$t] = group_of_token::<C, D, N>(w, s_w, m, &xs[$t].q[b][G], xs[$t].scale[b][G], xs[$t].sum[b][G], acc[$t]);
            }
        )*};
    }
    tokens!(0 1 2 3 4 5 6 7);
}

/// The same for one of the tokens.
#[inline(always)]
fn group_of_token<C: Codes<N>, D: Dot, const N: usize>(
    w: [[int8x16_t; 2]; 4],
    s_w: float32x4_t,
    m: float32x4_t,
    q: &[i8; GROUP],
    scale: f32,
    sum: i32,
    acc: float32x4_t,
) -> float32x4_t {
    // SAFETY: NEON, as every caller is reached through a tier's token.
    let bias = unsafe { ops::bias::<C, N>(sum) };
    let q = D::activations(q);
    let dot = D::start(bias);
    let dot = D::step::<0>(dot, w[0], &q);
    let dot = D::step::<1>(dot, w[1], &q);
    let dot = D::step::<2>(dot, w[2], &q);
    let dot = D::step::<3>(dot, w[3], &q);
    // SAFETY: as above.
    let acc = unsafe { ops::scaled(acc, D::finish(dot, bias), s_w, scale) };
    if C::MINIMA {
        // SAFETY: as above.
        unsafe { ops::add_scaled(acc, m, scale * sum as f32) }
    } else {
        acc
    }
}

/// Prefetches the block after the next.
#[inline(always)]
fn ask_for_a_later_one<const N: usize>(block: &Weights<N>) {
    let at = block.as_ptr().cast::<u8>().wrapping_add(2 * 16 * N);
    let mut line = 0;
    while line < 16 * N {
        ops::prefetch(at.wrapping_add(line));
        line += 64;
    }
}
