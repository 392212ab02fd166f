//! Quantized matrix times vectors, 4 rows a vector, for every tier that has NEON.
//!
//! One token: 16 rows at a time, so that a load of activations serves four quads of rows, and every weight is read once, in order.
//! More: 4 rows at a time for up to 8 tokens, so that codes unpacked once serve them all; the tile then comes from the L1 cache.

use super::NeonLanes;
use super::codes::{Bytes, Codes, Levels, Linear};
use super::ops;
use crate::lanes::{Lanes, first, first_mut};
use crate::rows::Block;
use crate::scalar::check;
use crate::table::{Q8Rows, Tiles};
use bourn_format::Dtype;
use bourn_format::layout::{BLOCK_COLS, GROUP, LINEAR, TILE_ROWS};
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
    fn start(bias: i32) -> Self::Acc;
    /// Adds the products of columns `4·P ..` and `16 + 4·P ..`.
    fn step<const P: usize>(acc: Self::Acc, w: [int8x16_t; 2], x: &Self::X) -> Self::Acc;
    /// A row a lane.
    fn finish(acc: Self::Acc, bias: i32) -> int32x4_t;
}

/// See [`crate::table::Kernels::mul_quantized`].
///
/// # Panics
/// If a slice has another length than stated.
#[inline(always)]
pub(crate) fn mul_quantized<T: Tier>(w: &Tiles<'_>, x: &Q8Rows<'_>, y: &mut Block<'_>) {
    check(w, x, y);
    let table = w.table.map(|level| level as u8);
    // SAFETY: NEON, as every caller is reached through a tier's token.
    let table = unsafe { ops::load16(&table) };
    match (w.dtype, w.table == LINEAR) {
        (Dtype::Q4, true) => tiles::<_, T::Levels>(Linear::<false>, w, x, y),
        (Dtype::Q4, false) => tiles::<_, T::Levels>(Levels::<false>(table), w, x, y),
        (Dtype::Q4M, true) => tiles::<_, T::Levels>(Linear::<true>, w, x, y),
        (Dtype::Q4M, false) => tiles::<_, T::Levels>(Levels::<true>(table), w, x, y),
        _ => tiles::<_, T::Bytes>(Bytes, w, x, y),
    }
}

/// One vector of activations, block by block.
#[derive(Clone, Copy)]
struct Token<'a> {
    q: &'a [[i8; BLOCK_COLS]],
    scale: &'a [[f32; 2]],
    sum: &'a [[i32; 2]],
}

impl<'a> Token<'a> {
    #[inline(always)]
    fn of(x: &Q8Rows<'a>, t: usize, blocks: usize) -> Self {
        Self {
            q: &x.q.as_chunks().0[t * blocks..][..blocks],
            scale: &x.scale.as_chunks().0[t * blocks..][..blocks],
            sum: &x.sum.as_chunks().0[t * blocks..][..blocks],
        }
    }
}

/// All tokens with a tile before the next tile.
#[inline(always)]
fn tiles<C: Codes, D: Dot>(codes: C, w: &Tiles<'_>, x: &Q8Rows<'_>, y: &mut Block<'_>) {
    let blocks = w.cols.div_ceil(BLOCK_COLS);
    for (i, tile) in w.bytes.chunks_exact(blocks * C::BLOCK).enumerate() {
        let (row, mut t) = (i * TILE_ROWS, 0);
        while x.n - t >= 8 {
            some_tokens::<C, D, 8>(codes, tile, x, t, y, row);
            t += 8;
        }
        if x.n - t >= 4 {
            some_tokens::<C, D, 4>(codes, tile, x, t, y, row);
            t += 4;
        }
        if x.n - t >= 2 {
            some_tokens::<C, D, 2>(codes, tile, x, t, y, row);
            t += 2;
        }
        if x.n - t == 1 {
            one_token::<C, D>(codes, tile, Token::of(x, t, blocks), first_mut(&mut y.row(t)[row..]));
        }
    }
}

/// One tile times one token.
#[inline(always)]
fn one_token<C: Codes, D: Dot>(codes: C, tile: &[u8], x: Token<'_>, y: &mut [f32; TILE_ROWS]) {
    let mut acc = NeonLanes::splat(0.0);
    for (((block, q), scale), sum) in tile.chunks_exact(C::BLOCK).zip(x.q).zip(x.scale).zip(x.sum) {
        ask_for_a_later_one::<C>(block);
        let (groups, _) = q.as_chunks::<GROUP>();
        for (g, q) in groups.iter().enumerate() {
            let bias = sum[g].wrapping_mul(-C::EXCESS);
            let x = D::activations(q);
            let mut dots = [D::start(bias); 4];
            step_all::<C, D, 0>(codes, block, g, &x, &mut dots);
            step_all::<C, D, 1>(codes, block, g, &x, &mut dots);
            step_all::<C, D, 2>(codes, block, g, &x, &mut dots);
            step_all::<C, D, 3>(codes, block, g, &x, &mut dots);
            let [a, b, c, d] = dots;
            let dots = NeonLanes::from_i32([D::finish(a, bias), D::finish(b, bias), D::finish(c, bias), D::finish(d, bias)]);
            let s_w = NeonLanes::from_f16(first(&block[32 * g..]));
            acc = dots.fma(s_w.mul(NeonLanes::splat(scale[g])), acc);
            if C::MINIMA {
                let m = NeonLanes::from_f16(first(&block[64 + 32 * g..]));
                acc = m.fma(NeonLanes::splat(scale[g] * sum[g] as f32), acc);
            }
        }
    }
    acc.store(y);
}

/// Two columns of words of all 16 rows.
#[inline(always)]
fn step_all<C: Codes, D: Dot, const P: usize>(codes: C, block: &[u8], g: usize, x: &D::X, dots: &mut [D::Acc; 4]) {
    for (quad, dot) in dots.iter_mut().enumerate() {
        *dot = D::step::<P>(*dot, codes.words::<P>(block, g, quad), x);
    }
}

/// One tile times `T` tokens from `t0`.
#[inline(always)]
fn some_tokens<C: Codes, D: Dot, const T: usize>(
    codes: C,
    tile: &[u8],
    x: &Q8Rows<'_>,
    t0: usize,
    y: &mut Block<'_>,
    row: usize,
) {
    let blocks = tile.len() / C::BLOCK;
    let mut xs = [Token::of(x, t0, blocks); T];
    for (t, x_t) in xs.iter_mut().enumerate() {
        *x_t = Token::of(x, t0 + t, blocks);
    }
    for quad in 0..4 {
        // SAFETY: NEON, as every caller is reached through a tier's token.
        let mut acc = [unsafe { ops::splat(0.0) }; T];
        for (b, block) in tile.chunks_exact(C::BLOCK).enumerate() {
            if quad == 0 {
                ask_for_a_later_one::<C>(block);
            }
            group_of_some::<C, D, T>(codes, block, b, 0, quad, &xs, &mut acc);
            group_of_some::<C, D, T>(codes, block, b, 1, quad, &xs, &mut acc);
        }
        for (t, acc) in acc.iter().enumerate() {
            // SAFETY: as above.
            unsafe { ops::store4(*acc, first_mut(&mut y.row(t0 + t)[row + 4 * quad..])) }
        }
    }
}

/// Group `g` of block `b`, four rows times `T` tokens.
#[inline(always)]
fn group_of_some<C: Codes, D: Dot, const T: usize>(
    codes: C,
    block: &[u8],
    b: usize,
    g: usize,
    quad: usize,
    xs: &[Token<'_>; T],
    acc: &mut [float32x4_t; T],
) {
    let w = [
        codes.words::<0>(block, g, quad),
        codes.words::<1>(block, g, quad),
        codes.words::<2>(block, g, quad),
        codes.words::<3>(block, g, quad),
    ];
    // SAFETY: NEON, as every caller is reached through a tier's token.
    let s_w = unsafe { ops::halves(&block[32 * g + 8 * quad..]) };
    for (x, acc) in xs.iter().zip(acc) {
        let (scale, sum) = (x.scale[b][g], x.sum[b][g]);
        let bias = sum.wrapping_mul(-C::EXCESS);
        let q = D::activations(first(&x.q[b][GROUP * g..]));
        let dot = D::start(bias);
        let dot = D::step::<0>(dot, w[0], &q);
        let dot = D::step::<1>(dot, w[1], &q);
        let dot = D::step::<2>(dot, w[2], &q);
        let dot = D::step::<3>(dot, w[3], &q);
        // SAFETY: as above.
        *acc = unsafe { ops::scaled(*acc, D::finish(dot, bias), s_w, scale) };
        if C::MINIMA {
            // SAFETY: as above.
            let m = unsafe { ops::halves(&block[64 + 32 * g + 8 * quad..]) };
            // SAFETY: as above.
            *acc = unsafe { ops::add_scaled(*acc, m, scale * sum as f32) };
        }
    }
}

/// Prefetches the block after the next.
#[inline(always)]
fn ask_for_a_later_one<C: Codes>(block: &[u8]) {
    let at = block.as_ptr().wrapping_add(2 * C::BLOCK);
    let mut line = 0;
    while line < C::BLOCK {
        ops::prefetch(at.wrapping_add(line));
        line += 64;
    }
}
