//! An image onto NOR flash, so that a power cut at any moment leaves either no image or the whole one.
//!
//! The superblock is erased first and written last, after every page has been read back and held against its sum.

use bourn_format::superblock::{BYTES as SUPERBLOCK_BYTES, Superblock};
use bourn_format::{Image, PAGE};
use embedded_storage::nor_flash::NorFlash;

use crate::Error;

/// Writes the image whose bytes `from(offset, bytes)` gives (a serial line, a network, another flash) to `base`.
///
/// `memory` is for the head: `Superblock::head_bytes` rounded up to a page, and a page besides.
///
/// # Errors
/// [`Error::Align`] if `base` is no multiple of what is erased at once, [`Error::Short`], [`Error::Buffer`],
/// [`Error::Device`] when either side fails, [`Error::Format`] if what came is no image, [`Error::Verify`].
pub fn install<F: NorFlash, E>(
    flash: &mut F,
    base: u32,
    from: &mut impl FnMut(u64, &mut [u8]) -> Result<(), E>,
    memory: &mut [u8],
) -> Result<(), Error> {
    let mut first = [0; SUPERBLOCK_BYTES];
    from(0, &mut first).map_err(|_| Error::Device { offset: 0, bytes: SUPERBLOCK_BYTES as u64 })?;
    let superblock = Superblock::new_checked(&first)?;
    let (erase, base64) = (F::ERASE_SIZE as u64, u64::from(base));
    let in_step = PAGE.is_multiple_of(F::WRITE_SIZE) && SUPERBLOCK_BYTES.is_multiple_of(F::WRITE_SIZE);
    if erase == 0 || !base64.is_multiple_of(erase) || !in_step {
        return Err(Error::Align { need: erase, found: base64 });
    }
    let have = (flash.capacity() as u64).min(u64::from(u32::MAX) + 1).saturating_sub(base64);
    let need = superblock.file_bytes.div_ceil(erase) * erase;
    if have < need {
        return Err(Error::Short { need, have });
    }
    let need = superblock.payload_offset + PAGE as u64;
    let lent = memory.len() as u64;
    let memory = memory.get_mut(..need as usize).ok_or(Error::Buffer { need, have: lent })?;
    let (head, page) = memory.split_at_mut(superblock.payload_offset as usize);
    head.fill(0);
    from(0, &mut head[..superblock.head_bytes as usize])
        .map_err(|_| Error::Device { offset: 0, bytes: superblock.head_bytes })?;
    let image = Image::new_checked(&head[..superblock.head_bytes as usize])?;

    // Within 32 bits: the capacity was checked.
    let at = |offset: u64| (base64 + offset) as u32;
    let failed = |offset: u64, bytes: u64| move |_| Error::Device { offset, bytes };
    // In rising order, the superblock's sector first: from here on there is no image.
    let end = superblock.file_bytes.div_ceil(erase) * erase;
    flash.erase(base, at(end)).map_err(failed(0, end))?;
    for i in 0..image.n_pages() {
        let offset = superblock.payload_offset + (i * PAGE) as u64;
        from(offset, page).map_err(|_| Error::Device { offset, bytes: PAGE as u64 })?;
        image.check_page(i, page)?;
        flash.write(at(offset), page).map_err(failed(offset, PAGE as u64))?;
        flash.read(at(offset), page).map_err(failed(offset, PAGE as u64))?;
        image.check_page(i, page).map_err(|_| Error::Verify { offset })?;
    }
    for (i, wanted) in head.chunks(PAGE).enumerate() {
        let offset = (i * PAGE) as u64;
        let skip = if i == 0 { SUPERBLOCK_BYTES } else { 0 };
        flash.write(at(offset + skip as u64), &wanted[skip..]).map_err(failed(offset, PAGE as u64))?;
        flash.read(at(offset), page).map_err(failed(offset, PAGE as u64))?;
        if page[skip..wanted.len()] != wanted[skip..] {
            return Err(Error::Verify { offset });
        }
    }
    flash.write(base, &first).map_err(failed(0, SUPERBLOCK_BYTES as u64))?;
    let mut back = [0; SUPERBLOCK_BYTES];
    flash.read(base, &mut back).map_err(failed(0, SUPERBLOCK_BYTES as u64))?;
    if back == first { Ok(()) } else { Err(Error::Verify { offset: 0 }) }
}
