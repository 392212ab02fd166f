//! One vector of activations, block by block.

use crate::table::Q8Rows;
use bourn_format::layout::GROUP;

/// One vector of activations, block by block.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Token<'a> {
    /// Whole numbers.
    pub(crate) q: &'a [[[i8; GROUP]; 2]],
    /// A scale for each group.
    pub(crate) scale: &'a [[f32; 2]],
    /// A sum for each group.
    pub(crate) sum: &'a [[i32; 2]],
}

impl<'a> Token<'a> {
    /// Vector `t` of `x`, which has `blocks` blocks.
    #[inline(always)]
    pub(crate) fn of(x: &Q8Rows<'a>, t: usize, blocks: usize) -> Self {
        Self {
            q: &x.q.as_chunks().0.as_chunks().0[t * blocks..][..blocks],
            scale: &x.scale.as_chunks().0[t * blocks..][..blocks],
            sum: &x.sum.as_chunks().0[t * blocks..][..blocks],
        }
    }
}
