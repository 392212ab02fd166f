//! The image's head (all but weights) from a device into memory.

use bourn_format::superblock::{BYTES, Superblock};

use crate::Error;
use crate::source::Source;

/// Reads of a device are multiples of this.
const STEP: u64 = 256;

/// Reads the superblock and then the head into `memory`; what is returned is what [`bourn_format::Image::new_checked`] takes.
///
/// # Errors
/// [`Error::Format`] if there is no image, or an unfinished one; [`Error::Short`] if the device ends before the image;
/// [`Error::Buffer`] with the bytes of memory that the head needs; [`Error::Device`].
pub fn read<'m>(source: &mut impl Source, memory: &'m mut [u8]) -> Result<&'m [u8], Error> {
    let superblock = superblock(source)?;
    // The length was checked to be at most 1 GiB.
    let need = superblock.head_bytes.div_ceil(STEP) * STEP;
    let have = memory.len() as u64;
    let head = memory.get_mut(..need as usize).ok_or(Error::Buffer { need, have })?;
    source.read(0, head).map_err(|_| Error::Device { offset: 0, bytes: need })?;
    Ok(&head[..superblock.head_bytes as usize])
}

/// The checked superblock: how long the image is, and how much memory its head needs (rounded up to 256 bytes).
///
/// # Errors
/// As [`read`].
pub fn superblock(source: &mut impl Source) -> Result<Superblock, Error> {
    let mut first = [0; BYTES];
    if source.capacity() < BYTES as u64 {
        return Err(Error::Short { need: BYTES as u64, have: source.capacity() });
    }
    source.read(0, &mut first).map_err(|_| Error::Device { offset: 0, bytes: BYTES as u64 })?;
    let superblock = Superblock::new_checked(&first)?;
    if source.capacity() < superblock.file_bytes {
        return Err(Error::Short { need: superblock.file_bytes, have: source.capacity() });
    }
    Ok(superblock)
}
