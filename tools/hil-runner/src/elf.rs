//! A firmware's ELF file → the flat image that a loader loads.

use anyhow::{Context, Result, bail};
use object::LittleEndian;
use object::elf::PT_LOAD;
use object::read::elf::{ElfFile64, ProgramHeader as _};

/// No firmware is larger: segments further apart are a mistake.
const MOST_BYTES: usize = 1 << 25;
/// Where an image for 64-bit ARM says so. Source: Linux, Documentation/arch/arm64/booting.rst.
const MAGIC: (usize, &[u8]) = (56, b"ARM\x64");

/// Whether these are the bytes of an ELF file.
pub fn is_elf(bytes: &[u8]) -> bool {
    bytes.starts_with(b"\x7fELF")
}

/// Whether these are the bytes of a flat image, as a loader loads it.
pub fn is_flat(bytes: &[u8]) -> bool {
    bytes.get(MAGIC.0..).is_some_and(|rest| rest.starts_with(MAGIC.1))
}

/// Code, constants and data as they lie in memory: of an ELF file, or the image itself.
///
/// # Errors
/// If it is neither, or its segments overlap or lie far apart.
pub fn flat(bytes: &[u8]) -> Result<Vec<u8>> {
    if !is_elf(bytes) {
        if is_flat(bytes) {
            return Ok(bytes.to_vec());
        }
        bail!("need a firmware's ELF file or kernel8.img, found neither");
    }
    let file = ElfFile64::<LittleEndian>::parse(bytes).context("need a 64-bit ELF file")?;
    let mut flat = Vec::new();
    let mut start = None;
    for header in file.elf_program_headers().iter().filter(|header| header.p_type(LittleEndian) == PT_LOAD) {
        let at = header.p_paddr(LittleEndian);
        let start = *start.get_or_insert(at);
        let bytes = header.data(LittleEndian, bytes).ok().context("a segment lies beyond the file")?;
        if bytes.is_empty() {
            continue;
        }
        let offset = usize::try_from(at.checked_sub(start).context("segments fall")?)?;
        if offset < flat.len() || offset > MOST_BYTES {
            bail!("segments overlap or lie far apart: need them in order, found {at:#x}");
        }
        flat.resize(offset, 0);
        flat.extend_from_slice(bytes);
    }
    if flat.is_empty() {
        bail!("need an ELF file that can be loaded, found one without segments");
    }
    Ok(flat)
}

#[cfg(test)]
mod tests {
    use super::{flat, is_flat};

    #[test]
    fn a_flat_image_is_itself_and_nothing_else_is_taken() {
        let mut image = vec![0; 4096];
        assert!(!is_flat(&image));
        image[56..60].copy_from_slice(b"ARM\x64");
        assert_eq!(flat(&image).unwrap(), image);
        for wrong in [&b""[..], b"\x7fELF", &[7; 100]] {
            let text = format!("{:#}", flat(wrong).unwrap_err());
            assert!(text.contains("need"), "{text}");
        }
    }
}
