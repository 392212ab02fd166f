//! The bourn image, byte by byte. FORMAT.md is the authority; this crate is its checked reader.
//!
//! Hostile until checked, then cannot fail: after [`Image::new_checked`] no accessor panics or reads out of bounds.
//! No heap, no I/O. Modules in path order: [`superblock`] → [`image`] → [`shape`] → [`layout`] → [`screen`] → [`tokenizer`].
#![no_std]
#![deny(unsafe_code)]

mod bytes;
mod check;
mod error;
pub mod image;
pub mod layout;
pub mod screen;
pub mod shape;
pub mod superblock;
mod tensor;
pub mod tokenizer;

pub use error::Error;
pub use image::{Image, LayerTensors};
pub use layout::Dtype;
pub use screen::Screen;
pub use shape::Shape;
pub use tensor::{Role, Segment, SegmentKind, Tensor};

/// The newest version of the format: this crate reads all up to it. What needs nothing of a newer version is written as an older one.
pub const VERSION: u32 = 2;
/// Bytes of a page: the unit of checksums; segments begin on a page.
pub const PAGE: usize = 16384;
/// The hash of pages, head and superblock: XXH3, 64 bits, seed 0.
pub fn checksum(bytes: &[u8]) -> u64 {
    xxhash_rust::xxh3::xxh3_64(bytes)
}
