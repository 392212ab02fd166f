//! The kernels: int4 × int8 matrices, norms, rope, attention; one table of functions per tier of CPU instructions.
//!
//! The path: [`table`] says what a kernel computes, `generic` says how (over 16 lanes), a folder per ISA
//! says with which instructions, [`rows`] shares the work out, [`region`] among several workers. [`scalar`] is the definition;
//! **every tier returns the same bits** ([`conformance`]: the inputs of that test).
//!
//! A tier is had only through a token that proves the CPU can run it (`Avx2::detect()`), so no kernel here can meet
//! an illegal instruction. [`best`] asks at run time: feature `std` for that, else what the build was told.
#![no_std]

#[cfg(feature = "std")]
extern crate std;

#[cfg(target_arch = "x86_64")]
pub mod avx2;
#[cfg(target_arch = "x86_64")]
pub mod avx512vnni;
pub mod conformance;
#[cfg(target_arch = "aarch64")]
pub mod dotprod;
mod fetch;
mod generic;
#[cfg(target_arch = "x86_64")]
mod groups;
#[cfg(target_arch = "aarch64")]
pub mod i8mm;
mod lanes;
#[cfg(target_arch = "aarch64")]
pub mod neon;
pub mod region;
pub mod rows;
pub mod scalar;
pub mod table;
mod tier;

pub use fetch::fetch;
pub use rows::{Block, OneCore, Rows, split};
pub use scalar::row_f32;
pub use table::{Attend, Kernels, KvDtype, KvView, KvViewMut, Q8RowMut, Q8Rows, ScreenTables, ScreenTiles, Tiles};

/// The tiers this CPU can run, the fastest first; the last is `scalar`.
pub fn available() -> impl Iterator<Item = &'static Kernels> {
    tiers().into_iter().flatten()
}

/// The fastest tier this CPU can run.
pub fn best() -> &'static Kernels {
    available().next().unwrap_or(&scalar::TABLE)
}

/// The tier of that name, if this CPU can run it.
pub fn by_name(isa: &str) -> Option<&'static Kernels> {
    available().find(|k| k.isa == isa)
}

#[cfg(target_arch = "x86_64")]
fn tiers() -> [Option<&'static Kernels>; 3] {
    use avx2::Avx2;
    use avx512vnni::Avx512Vnni;
    [Avx512Vnni::detect().map(Avx512Vnni::kernels), Avx2::detect().map(Avx2::kernels), Some(&scalar::TABLE)]
}

#[cfg(target_arch = "aarch64")]
fn tiers() -> [Option<&'static Kernels>; 4] {
    [
        i8mm::I8mm::detect().map(i8mm::I8mm::kernels),
        dotprod::Dotprod::detect().map(dotprod::Dotprod::kernels),
        neon::Neon::detect().map(neon::Neon::kernels),
        Some(&scalar::TABLE),
    ]
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
fn tiers() -> [Option<&'static Kernels>; 1] {
    [Some(&scalar::TABLE)]
}
