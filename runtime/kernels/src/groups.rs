//! Quantized activations group by group, for the inner loops: checked once, then read without checks.

use crate::rows::Block;
use crate::scalar::check;
use crate::table::{Q8Rows, Tiles};
use bourn_format::layout::{BLOCK_COLS, GROUP, padded_cols};

/// The activations of one group.
///
/// In functions with target features a closure may not be passed to a function without: it would stay a call. Plain loops do.
#[derive(Clone, Copy)]
pub(crate) struct Group<'a> {
    /// The whole numbers, four signed bytes to a word.
    pub(crate) q: &'a [[u8; 4]; 8],
    /// Their scale.
    pub(crate) scale: f32,
    /// Their sum.
    pub(crate) sum: i32,
}

/// [`Q8Rows`] whose lengths have been checked.
#[derive(Clone, Copy)]
pub(crate) struct Groups<'a> {
    rows: Q8Rows<'a>,
    per_row: usize,
}

impl<'a> Groups<'a> {
    /// # Panics
    /// If a slice has another length than `Kernels::mul_quantized` states.
    #[inline(always)]
    pub(crate) fn new_checked(w: &Tiles<'_>, x: &Q8Rows<'a>, y: &Block<'_>) -> Self {
        check(w, x, y);
        Self { rows: *x, per_row: padded_cols(w.cols) / GROUP }
    }

    /// Vectors.
    #[inline(always)]
    pub(crate) fn n(&self) -> usize {
        self.rows.n
    }

    /// Blocks of two groups of each vector.
    #[inline(always)]
    pub(crate) fn blocks(&self) -> usize {
        self.per_row * GROUP / BLOCK_COLS
    }

    /// Group `g` of vector `t`.
    ///
    /// # Safety
    /// `t < n()` and `g < 2 · blocks()`.
    #[inline(always)]
    pub(crate) unsafe fn get(&self, t: usize, g: usize) -> Group<'a> {
        debug_assert!(t < self.rows.n && g < self.per_row);
        let i = t * self.per_row + g;
        // SAFETY: `i < n · per_row`, and `q` has `GROUP` elements for each: `check`.
        let q = unsafe { self.rows.q.as_ptr().add(i * GROUP) };
        // SAFETY: `GROUP` elements are there, read-only for `'a`; arrays of bytes take any alignment.
        let q = unsafe { &*q.cast() };
        // SAFETY: `i < n · per_row = scale.len()`: `check`.
        let scale = unsafe { *self.rows.scale.get_unchecked(i) };
        // SAFETY: `sum.len() = scale.len()`: `check`.
        let sum = unsafe { *self.rows.sum.get_unchecked(i) };
        Group { q, scale, sum }
    }
}
