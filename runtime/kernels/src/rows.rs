//! Who shares out the rows: one core or a pool. The seam between the decoder and threads.

use core::marker::PhantomData;
use core::ops::Range;

/// Runs independent pieces of work, on one core or several.
///
/// # Safety
/// [`Self::each`] calls `job(i)` exactly once for every `i` in `0..n`, never the same `i` twice, and returns only after
/// all calls have returned. [`split`] builds disjoint mutable borrows on that.
pub unsafe trait Rows: Sync {
    /// Calls `job(i)` once for every `i` in `0..n`, in any order, on any worker.
    fn each(&self, n: usize, job: &(dyn Fn(usize) + Sync));
    /// How many pieces run at the same time.
    fn workers(&self) -> usize;
}

/// The calling core alone.
#[derive(Clone, Copy, Debug)]
pub struct OneCore;

// SAFETY: a plain loop over `0..n` calls each index once and returns after the last call.
unsafe impl Rows for OneCore {
    fn each(&self, n: usize, job: &(dyn Fn(usize) + Sync)) {
        for i in 0..n {
            job(i);
        }
    }

    fn workers(&self) -> usize {
        1
    }
}

/// Part of a row-major matrix `[n, stride]`: `n` vectors, of each the same run of `len` elements.
#[derive(Debug)]
pub struct Block<'a> {
    first: *mut f32,
    stride: usize,
    n: usize,
    len: usize,
    of: PhantomData<&'a mut [f32]>,
}

// SAFETY: a block is an exclusive borrow of f32s, which may move between threads as `&mut [f32]` may.
unsafe impl Send for Block<'_> {}

impl<'a> Block<'a> {
    /// All of `y`, seen as `n` vectors of `stride` elements, of each the first `len`.
    ///
    /// # Panics
    /// If `len > stride` or `y` is shorter than `(n − 1) · stride + len`.
    pub fn new(y: &'a mut [f32], n: usize, stride: usize, len: usize) -> Self {
        let end = n.saturating_sub(1).checked_mul(stride).and_then(|start| start.checked_add(len));
        assert!(len <= stride && end.is_some_and(|end| n == 0 || end <= y.len()));
        Self { first: y.as_mut_ptr(), stride, n, len, of: PhantomData }
    }

    /// Vectors.
    pub const fn n(&self) -> usize {
        self.n
    }

    /// Elements of each vector.
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Whether the block holds nothing.
    pub const fn is_empty(&self) -> bool {
        self.n == 0 || self.len == 0
    }

    /// The elements of vector `t`.
    ///
    /// # Panics
    /// If `t >= n`.
    pub fn row(&mut self, t: usize) -> &mut [f32] {
        assert!(t < self.n);
        // SAFETY: `t < n`, so by `new`'s assertion the offset is within the borrowed slice.
        let start = unsafe { self.first.add(t * self.stride) };
        // SAFETY: by `new` (or `cell`) these `len` elements are borrowed exclusively by this block for `'a`.
        unsafe { core::slice::from_raw_parts_mut(start, self.len) }
    }

    /// Elements `range` of every vector.
    ///
    /// # Panics
    /// If the range is not within `0..len`.
    pub fn part(&mut self, range: Range<usize>) -> Block<'_> {
        let all = 0..self.n;
        // SAFETY: the result borrows `self` mutably, so `self` cannot be used while it lives, and there is only one.
        unsafe { self.cell(all, range) }
    }

    /// The part of vectors `ts` and elements `rs`.
    ///
    /// # Safety
    /// No two live cells, nor a cell and the block it came from, may be used to reach the same element.
    unsafe fn cell(&self, ts: Range<usize>, rs: Range<usize>) -> Self {
        assert!(ts.start <= ts.end && ts.end <= self.n && rs.start <= rs.end && rs.end <= self.len);
        // Within the borrowed slice unless the cell is empty, and then never read.
        let first = self.first.wrapping_add(ts.start.wrapping_mul(self.stride) + rs.start);
        Self { first, stride: self.stride, n: ts.len(), len: rs.len(), of: PhantomData }
    }
}

/// A block that several workers may cut cells from.
struct Shared<'a>(Block<'a>);
// SAFETY: only `cell` is called through the shared reference, and `split` cuts disjoint cells.
unsafe impl Sync for Shared<'_> {}

/// Cuts `y` into cells of at most `t_step` vectors × `r_step` elements and calls `job(first vector, first element, cell)`
/// once for each, shared out by `rows`.
///
/// # Panics
/// If a step is 0.
pub fn split(rows: &dyn Rows, y: Block<'_>, t_step: usize, r_step: usize, job: &(dyn Fn(usize, usize, Block<'_>) + Sync)) {
    assert!(t_step > 0 && r_step > 0);
    let (n, len) = (y.n, y.len);
    let (nt, nr) = (n.div_ceil(t_step), len.div_ceil(r_step));
    let y = Shared(y);
    let y = &y;
    rows.each(nt * nr, &|i| {
        let (t, r) = ((i / nr) * t_step, (i % nr) * r_step);
        // SAFETY: `each` gives every `i` once, and different `i` are different (t, r) cells, which do not overlap;
        // `y` itself is not used while the cells live.
        let cell = unsafe { y.0.cell(t..(t + t_step).min(n), r..(r + r_step).min(len)) };
        job(t, r, cell);
    });
}
