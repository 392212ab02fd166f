//! The bourn image, byte by byte. FORMAT.md is the authority; this crate is its checked reader.
//!
//! Hostile until checked, then cannot fail: after [`Image::new_checked`] no accessor panics or reads out of bounds.
//! No heap, no I/O. Modules in path order: [`superblock`] → [`image`] → [`shape`] → [`layout`] → [`tokenizer`].
#![no_std]
#![deny(unsafe_code)]

mod bytes;
mod error;
pub mod image;
pub mod layout;
pub mod shape;
pub mod superblock;
pub mod tokenizer;

pub use error::Error;
pub use image::{Image, LayerTensors, Role, Segment, SegmentKind, Tensor};
pub use layout::Dtype;
pub use shape::Shape;

/// Version of the format that this crate writes and the newest it reads.
pub const VERSION: u32 = 1;
/// Bytes of a page: the unit of checksums; segments begin on a page.
pub const PAGE: usize = 16384;
/// The hash of pages, head and superblock: XXH3, 64 bits, seed 0.
pub fn checksum(bytes: &[u8]) -> u64 {
    xxhash_rust::xxh3::xxh3_64(bytes)
}
