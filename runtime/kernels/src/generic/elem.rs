//! Stored element types: little-endian bytes to lanes.

use crate::lanes::{Lanes, first};

/// An element type of KV caches and float tiles.
pub(crate) trait Elem {
    /// Bytes of one element.
    const BYTES: usize;
    /// The first 16 elements of `x`.
    fn load<L: Lanes>(x: &[u8]) -> L;
    /// The elements of `x`, at most 16, then zeros.
    #[inline(always)]
    fn load_part<L: Lanes>(x: &[u8]) -> L {
        let mut all = [0; 64];
        all[..x.len()].copy_from_slice(x);
        Self::load(&all)
    }
}

/// binary32.
pub(crate) struct F32;
/// binary16.
pub(crate) struct F16;
/// bfloat16.
pub(crate) struct Bf16;
/// Signed bytes.
pub(crate) struct I8;

impl Elem for F32 {
    const BYTES: usize = 4;
    #[inline(always)]
    fn load<L: Lanes>(x: &[u8]) -> L {
        L::from_le_f32(first(x))
    }
}

impl Elem for F16 {
    const BYTES: usize = 2;
    #[inline(always)]
    fn load<L: Lanes>(x: &[u8]) -> L {
        L::from_f16(first(x))
    }
}

impl Elem for Bf16 {
    const BYTES: usize = 2;
    #[inline(always)]
    fn load<L: Lanes>(x: &[u8]) -> L {
        L::from_bf16(first(x))
    }
}

impl Elem for I8 {
    const BYTES: usize = 1;
    #[inline(always)]
    fn load<L: Lanes>(x: &[u8]) -> L {
        L::from_i8(first(x))
    }
}
