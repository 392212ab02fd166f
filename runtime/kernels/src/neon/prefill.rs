//! 4-bit matrix (on some tiers 8-bit, too) times many vectors: what the tiers' blocked loops share.
//!
//! Some blocks of a tile are unpacked once, into a stretch of memory that stays in the L1 cache, and then meet all vectors, [`TOKENS`] at a
//! time. Sums of f32 wait in memory between stretches: two loads and two stores of four vectors for every 8 tokens × 4 rows × 32 columns.

use super::levels::Levels;
use crate::lanes::first_mut;
use crate::rows::Block;
use crate::table::Q8Rows;
use bourn_format::layout::{GROUP, TILE_ROWS};
use core::arch::aarch64::*;
use core::mem::MaybeUninit;

/// Vectors that meet a loaded weight together.
pub(crate) const TOKENS: usize = 8;
/// Fewer vectors than this go one by one.
pub(crate) const WORTH_IT: usize = 4;
/// Groups unpacked at a time, 18 KiB: as much as leaves room in an L1 cache of 32.
const STRETCH: usize = 24;
/// Lots of vectors that share an unpacked stretch.
const LOTS: usize = 8;
/// Scales of vectors that there is room for: those of 8 vectors of 16 384 elements, for example.
const SCALES: usize = 4096;

/// Four rows of one group, unpacked.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub(crate) struct Quad {
    /// Levels: words 0 to 7, four rows a vector; for `smmla` [`Interleave`]d.
    pub(crate) levels: [[i8; 16]; 8],
    /// What sums begin with: bits of an f32 whose last place is 1.
    pub(crate) ones: [i32; 4],
    /// `s_w` of the rows.
    pub(crate) scale: [f32; 4],
    /// `m` of the rows.
    pub(crate) min: [f32; 4],
    pub(crate) unused: [f32; 4],
}

/// 16 rows of one group.
pub(crate) type Group = [Quad; 4];

/// Where a lot's activations are.
#[derive(Clone, Copy)]
pub(crate) struct Lot<'a> {
    /// `GROUP` activations of each vector for each group of the stretch, one after another.
    pub(crate) x: [*const i8; TOKENS],
    /// `s_x` of the vectors, for each group.
    pub(crate) scale: &'a [[f32; TOKENS]],
    /// `s_x · Σx` of the vectors, for each group; empty if not asked for.
    pub(crate) scaled_sum: &'a [[f32; TOKENS]],
}

/// Sums of a lot: 16 rows × 8 vectors, in an order of the tier's own.
pub(crate) type Sums = [f32; TILE_ROWS * TOKENS];

/// A tier's loop.
pub(crate) trait Multiply {
    /// Bits of what sums of products begin with.
    const ONES: i32;
    /// Rearranges the levels of four rows.
    fn arrange(levels: [[i8; 16]; 8]) -> [[i8; 16]; 8];
    /// Adds the products of a stretch's groups.
    ///
    /// # Safety
    /// The CPU has the tier's instructions. Every pointer of `x` leads to `GROUP · w.len()` elements; `x.scale` has as many elements as `w`, and so has
    /// `x.scaled_sum` if `MINIMA`.
    unsafe fn add<const MINIMA: bool, const NARROW: bool>(w: &[Group], x: Lot<'_>, sums: &mut Sums);
    /// The sums of vector `t`, which is below [`TOKENS`].
    fn rows(sums: &Sums, t: usize) -> [[f32; 4]; 4];
}

/// Vectors that [`tiles`] takes at once; fewer than [`WORTH_IT`] if there are too many columns for it.
pub(crate) fn most_tokens(groups: usize) -> usize {
    (SCALES / groups / TOKENS).min(LOTS) * TOKENS
}

/// `y = w · x` for vectors `first..first + n`, `n` at most [`most_tokens`]; `N` bytes a block; codes are bytes if `N` is 1088.
#[target_feature(enable = "neon")]
pub(crate) fn tiles<M: Multiply, const N: usize>(
    levels: Levels<'_>,
    w: &[[u8; N]],
    x: &Q8Rows<'_>,
    (first, n): (usize, usize),
    y: &mut Block<'_>,
) {
    let groups = x.scale.len() / x.n;
    let lots = n.div_ceil(TOKENS);
    let minima = N == 640;
    assert!(
        first + n <= x.n && groups > 0 && lots * groups * TOKENS <= SCALES && lots <= LOTS && x.q.len() == x.n * groups * GROUP
    );
    let vector = |lot: usize, t: usize| first + (lot * TOKENS + t).min(n - 1);
    let mut starts = [[x.q.as_ptr(); TOKENS]; LOTS];
    for (lot, starts) in starts[..lots].iter_mut().enumerate() {
        *starts = core::array::from_fn(|t| x.q[vector(lot, t) * groups * GROUP..].as_ptr());
    }

    let mut scales = [const { MaybeUninit::<[f32; TOKENS]>::uninit() }; SCALES / TOKENS];
    let mut scaled_sums = [const { MaybeUninit::<[f32; TOKENS]>::uninit() }; SCALES / TOKENS];
    for lot in 0..lots {
        for g in 0..groups {
            let at = |t: usize| vector(lot, t) * groups + g;
            scales[lot * groups + g].write(core::array::from_fn(|t| x.scale[at(t)]));
            if minima {
                scaled_sums[lot * groups + g].write(core::array::from_fn(|t| x.scale[at(t)] * x.sum[at(t)] as f32));
            }
        }
    }
    // SAFETY: the first `lots · groups` elements have been written.
    let scales = unsafe { scales[..lots * groups].assume_init_ref() };
    let scaled_sums: &[[f32; TOKENS]] = if minima {
        // SAFETY: as above.
        unsafe { scaled_sums[..lots * groups].assume_init_ref() }
    } else {
        &[]
    };

    let empty = Quad { levels: [[0; 16]; 8], ones: [M::ONES; 4], scale: [0.0; 4], min: [0.0; 4], unused: [0.0; 4] };
    let mut stretch = [[empty; 4]; STRETCH];
    let mut sums = [[0.0; TILE_ROWS * TOKENS]; LOTS];
    let narrow = levels.are_consecutive();
    for (i, tile) in w.chunks_exact(groups / 2).enumerate() {
        sums[..lots].fill([0.0; TILE_ROWS * TOKENS]);
        for (s, blocks) in tile.chunks(STRETCH / 2).enumerate() {
            for (block, groups) in blocks.iter().zip(stretch.as_chunks_mut::<2>().0) {
                unpack::<M, N>(levels, block, groups);
            }
            let stretch = &stretch[..2 * blocks.len()];
            let from = s * STRETCH;
            for (lot, sums) in sums[..lots].iter_mut().enumerate() {
                let at = lot * groups + from;
                let lot = Lot {
                    x: starts[lot].map(|x| x.wrapping_add(from * GROUP)),
                    scale: &scales[at..][..stretch.len()],
                    scaled_sum: if minima { &scaled_sums[at..][..stretch.len()] } else { &[] },
                };
                // SAFETY: the tier's kernel calls this, behind its token. A vector has `groups` groups, the stretch ends within a tile of as many.
                unsafe {
                    match (minima, narrow) {
                        (false, false) => M::add::<false, false>(stretch, lot, sums),
                        (false, true) => M::add::<false, true>(stretch, lot, sums),
                        (true, false) => M::add::<true, false>(stretch, lot, sums),
                        (true, true) => M::add::<true, true>(stretch, lot, sums),
                    }
                }
            }
        }
        for t in 0..n {
            let y: &mut [f32; TILE_ROWS] = first_mut(&mut y.row(first + t)[i * TILE_ROWS..]);
            y.as_chunks_mut().0.copy_from_slice(&M::rows(&sums[t / TOKENS], t % TOKENS));
        }
    }
}

/// Levels, scales and minima of both groups of a block.
#[target_feature(enable = "neon")]
fn unpack<M: Multiply, const N: usize>(levels: Levels<'_>, block: &[u8; N], groups: &mut [Group; 2]) {
    let floats = |at: usize| -> [f32; 4] {
        let halves: [u8; 8] = core::array::from_fn(|i| block[at + i]);
        // SAFETY: any 64 bits are four halves.
        let halves: float16x4_t = unsafe { core::mem::transmute(halves) };
        // SAFETY: four lanes are four floats.
        unsafe { core::mem::transmute(vcvt_f32_f16(halves)) }
    };
    let vector = |at: usize| {
        let bytes: [u8; 16] = core::array::from_fn(|i| block[at + i]);
        // SAFETY: any 128 bits are 16 bytes.
        unsafe { core::mem::transmute::<[u8; 16], uint8x16_t>(bytes) }
    };
    let bytes = |x: uint8x16_t| {
        // SAFETY: 16 lanes are 16 bytes.
        unsafe { core::mem::transmute::<uint8x16_t, [i8; 16]>(x) }
    };
    // SAFETY: as above.
    let table = unsafe { core::mem::transmute::<[i8; 16], uint8x16_t>(*levels.table) };
    for (g, group) in groups.iter_mut().enumerate() {
        for (quad, out) in group.iter_mut().enumerate() {
            let mut words = [[0; 16]; 8];
            for p in 0..4 {
                if N == 1088 {
                    let at = 64 + 512 * g + 64 * p + 16 * quad;
                    (words[p], words[p + 4]) = (bytes(vector(at)), bytes(vector(at + 256)));
                } else {
                    let codes = vector(N - 512 + 256 * g + 64 * p + 16 * quad);
                    words[p] = bytes(vqtbl1q_u8(table, vandq_u8(codes, vdupq_n_u8(15))));
                    words[p + 4] = bytes(vqtbl1q_u8(table, vshrq_n_u8::<4>(codes)));
                }
            }
            out.levels = M::arrange(words);
            out.scale = floats(32 * g + 8 * quad);
            if N == 640 {
                out.min = floats(64 + 32 * g + 8 * quad);
            }
        }
    }
}
