//! Sixteen f32 side by side: the one type the generic kernels compute with, one implementation per tier.
//!
//! Every operation is defined per lane by IEEE 754 (or by the formula given) and takes no approximation, so an algorithm
//! written over [`Lanes`] returns the same bits on every tier.

/// Adding this to an `x` with `|x| < 2^22` rounds `x` to a whole number, half to even, and leaves that number in the low bits.
pub(crate) const ROUNDER: f32 = 12_582_912.0; // 1.5 · 2^23

/// Sixteen f32.
///
/// Implementations other than the scalar one use instructions that not every CPU has. Their methods are `#[inline(always)]`
/// and safe to call only because values are made and used nowhere but in functions of the tier, which are reached
/// through the tier's token.
pub(crate) trait Lanes: Copy {
    /// Most queries (or tokens) × vectors worth holding in registers at once: `QUERIES · VECTORS` accumulators.
    const QUERIES: usize;
    /// See [`Self::QUERIES`].
    const VECTORS: usize;

    /// `x` in every lane.
    fn splat(x: f32) -> Self;
    /// Lanes from memory.
    fn load(x: &[f32; 16]) -> Self;
    /// Lanes from little-endian bytes.
    fn from_le_f32(x: &[u8; 64]) -> Self;
    /// Lanes from binary16, exact.
    fn from_f16(x: &[u8; 32]) -> Self;
    /// Lanes from bfloat16, exact.
    fn from_bf16(x: &[u8; 32]) -> Self;
    /// Lanes from signed bytes, exact.
    fn from_i8(x: &[u8; 16]) -> Self;
    /// Lanes to memory.
    fn store(self, x: &mut [f32; 16]);
    /// Lanes to binary16, to nearest, half to even, too large to infinity.
    fn to_f16(self) -> [u8; 32];
    /// The lowest byte of each lane's bits: the whole number [`ROUNDER`] left there, as i8.
    fn low_bytes(self) -> [i8; 16];
    /// `a + b`.
    fn add(self, b: Self) -> Self;
    /// `a − b`.
    fn sub(self, b: Self) -> Self;
    /// `a · b`.
    fn mul(self, b: Self) -> Self;
    /// `a / b`.
    fn div(self, b: Self) -> Self;
    /// `a · b + c`, rounded once.
    fn fma(self, b: Self, c: Self) -> Self;
    /// `if a > b { a } else { b }`: of a NaN and a number, `b`.
    fn max(self, b: Self) -> Self;
    /// `if a < b { a } else { b }`: of a NaN and a number, `b`.
    fn min(self, b: Self) -> Self;
    /// `2^n`, where `a = ROUNDER + n` and `−126 ≤ n ≤ 127`: bits `(a << 23) + (127 << 23)`.
    fn pow2(self) -> Self;
    /// `if a < b { 0 } else { x }`.
    fn zero_if_lt(self, b: Self, x: Self) -> Self;
    /// Sum by halves: lane `i` + lane `i + 8`, then `i + 4`, `i + 2`, `i + 1`.
    fn reduce_add(self) -> f32;
    /// Maximum by halves, as [`Self::max`].
    fn reduce_max(self) -> f32;

    /// `max(a, −a)`.
    #[inline(always)]
    fn abs(self) -> Self {
        self.max(Self::splat(0.0).sub(self))
    }

    /// `e^a` to about one unit in the last place; 0 below −87, `e^88.37` above; NaN stays NaN.
    ///
    /// `n = round(a·log2 e)`, `r = a − n·ln 2` in two parts, `2^n` times a polynomial of `r`.
    /// Source: Cephes, expf.
    #[inline(always)]
    fn exp(self) -> Self {
        let s = Self::splat;
        let x = s(-87.0).max(s(88.37).min(self));
        let rounded = x.fma(s(core::f32::consts::LOG2_E), s(ROUNDER));
        let n = rounded.sub(s(ROUNDER));
        let r = n.fma(s(-0.693_359_4), x);
        let r = n.fma(s(2.121_944_4e-4), r);
        let p = s(1.987_569_1e-4);
        let p = p.fma(r, s(1.398_2e-3));
        let p = p.fma(r, s(8.333_452e-3));
        let p = p.fma(r, s(4.166_579_6e-2));
        let p = p.fma(r, s(1.666_666_5e-1));
        let p = p.fma(r, s(0.5));
        let y = p.fma(r.mul(r), r).add(s(1.0));
        self.zero_if_lt(s(-87.0), y.mul(rounded.pow2()))
    }

    /// `tanh a = 1 − 2 / (e^2a + 1)`; within 4e-7, absolute.
    #[inline(always)]
    fn tanh(self) -> Self {
        let s = Self::splat;
        s(1.0).sub(s(2.0).div(self.add(self).exp().add(s(1.0))))
    }

    /// Up to 16 elements, the rest filled.
    #[inline(always)]
    fn load_part(x: &[f32], fill: f32) -> Self {
        let mut all = [fill; 16];
        all[..x.len()].copy_from_slice(x);
        Self::load(&all)
    }

    /// As many of the lanes as `x` has elements, at most 16.
    #[inline(always)]
    fn store_part(self, x: &mut [f32]) {
        let mut all = [0.0; 16];
        self.store(&mut all);
        x.copy_from_slice(&all[..x.len()]);
    }
}

/// The first `N` elements.
///
/// # Panics
/// If there are fewer.
#[inline(always)]
pub(crate) fn first<T, const N: usize>(x: &[T]) -> &[T; N] {
    match x.first_chunk() {
        Some(x) => x,
        None => short(N, x.len()),
    }
}

/// As [`first`], to be written.
#[inline(always)]
pub(crate) fn first_mut<T, const N: usize>(x: &mut [T]) -> &mut [T; N] {
    let have = x.len();
    match x.first_chunk_mut() {
        Some(x) => x,
        None => short(N, have),
    }
}

#[cold]
#[inline(never)]
fn short(need: usize, have: usize) -> ! {
    panic!("slice too short: need {need} elements, have {have}")
}

/// Implements [`Lanes`] for `$name($vector)` with the functions of `$ops`, safe functions with the tier's target features.
#[allow(unused_macros)]
macro_rules! impl_lanes {
    ($name:ident, $vector:ty, $queries:literal x $vectors:literal) => {
        #[derive(Clone, Copy)]
        pub(crate) struct $name($vector);

        // SAFETY of every block below: the functions of `ops` ask only for the tier's target features. This type is named
        // only where the tier's table is built, inside functions that enable those features and that are reached only
        // through the tier's token, the proof that the CPU has them.
        impl $crate::lanes::Lanes for $name {
            const QUERIES: usize = $queries;
            const VECTORS: usize = $vectors;
            impl_lanes!(@make splat(x: f32), load(x: &[f32; 16]), from_le_f32(x: &[u8; 64]), from_f16(x: &[u8; 32]),
                from_bf16(x: &[u8; 32]), from_i8(x: &[u8; 16]));
            impl_lanes!(@two add, sub, mul, div, max, min);
            impl_lanes!(@out to_f16 [u8; 32], low_bytes [i8; 16], reduce_add f32, reduce_max f32);
            #[inline(always)]
            fn store(self, x: &mut [f32; 16]) {
                // SAFETY: above.
                unsafe { ops::store(self.0, x) }
            }
            #[inline(always)]
            fn fma(self, b: Self, c: Self) -> Self {
                // SAFETY: above.
                Self(unsafe { ops::fma(self.0, b.0, c.0) })
            }
            #[inline(always)]
            fn pow2(self) -> Self {
                // SAFETY: above.
                Self(unsafe { ops::pow2(self.0) })
            }
            #[inline(always)]
            fn zero_if_lt(self, b: Self, x: Self) -> Self {
                // SAFETY: above.
                Self(unsafe { ops::zero_if_lt(self.0, b.0, x.0) })
            }
        }
    };
    (@make $($f:ident($x:ident: $t:ty)),*) => {$(
        #[inline(always)]
        fn $f($x: $t) -> Self {
            // SAFETY: above.
            Self(unsafe { ops::$f($x) })
        }
    )*};
    (@two $($f:ident),*) => {$(
        #[inline(always)]
        fn $f(self, b: Self) -> Self {
            // SAFETY: above.
            Self(unsafe { ops::$f(self.0, b.0) })
        }
    )*};
    (@out $($f:ident $t:ty),*) => {$(
        #[inline(always)]
        fn $f(self) -> $t {
            // SAFETY: above.
            unsafe { ops::$f(self.0) }
        }
    )*};
}
#[allow(unused_imports)]
pub(crate) use impl_lanes;
