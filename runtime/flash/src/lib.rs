//! Where weight bytes come from when there is no operating system: NOR flash, memory cards, any block device.
//!
//! Modules in path order: [`spi_nor`] (a flash chip on a bus) → [`source`] (bytes at an offset: NOR or blocks) → [`head`] (the
//! image's head into memory that the caller lends) → [`stream`] (its segments, checked page by page as they are read) ;
//! [`install`] writes an image so that a half-written one is recognised.
//!
//! No heap, no threads, no clock: buffers are lent, [`stream::buffer_bytes`] says how large.
//!
//! ```no_run
//! # fn f<F: embedded_storage::nor_flash::ReadNorFlash>(flash: F) -> Result<(), bourn_flash::Error> {
//! use bourn_flash::{FlashStream, NorSource, head, stream};
//!
//! # let (mut head_bytes, mut buffer) = ([0; 1 << 16], [0; 1 << 20]);
//! // The image lies 1 MiB into the flash; `head_bytes` and `buffer` are static memory.
//! let mut source = NorSource::new(flash, 1 << 20)?;
//! let head = head::read(&mut source, &mut head_bytes)?;
//! let image = bourn_format::Image::new_checked(head)?;
//! assert!(buffer.len() >= stream::buffer_bytes(&image));
//! let mut stream = FlashStream::new(&image, source, &mut buffer)?;
//! // Engine { image: &image, stream: &mut stream, … }
//! # Ok(()) }
//! ```
#![no_std]
#![deny(unsafe_code)]

mod error;
pub mod head;
pub mod install;
pub mod source;
pub mod spi_nor;
pub mod stream;

pub use error::Error;
pub use source::{Ahead, BlockSource, NorSource, Source};
pub use spi_nor::SpiNor;
pub use stream::{FlashStream, Stats};
