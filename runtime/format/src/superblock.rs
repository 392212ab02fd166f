//! The first 256 bytes: what the file is, how long, and where the rest lies (FORMAT.md §1).

use crate::bytes::{u32_at, u64_at};
use crate::{Error, PAGE, VERSION, checksum};

/// Bytes of the superblock.
pub const BYTES: usize = 256;
/// The first eight bytes: not text, and broken by any newline or 7-bit translation.
pub const MAGIC: [u8; 8] = *b"\x89BOURN\r\n";
/// Most sections an image can have.
pub const MAX_SECTIONS: u32 = 64;
/// Bytes of one entry of the section directory, which follows the superblock.
pub const SECTION_BYTES: usize = 24;

/// The checked superblock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Superblock {
    /// Format version.
    pub version: u32,
    /// Length of the whole file.
    pub file_bytes: u64,
    /// Superblock, section directory and sections: all that is needed besides weights.
    pub head_bytes: u64,
    /// Where weights begin: `head_bytes` rounded up to a page.
    pub payload_offset: u64,
    /// Entries of the section directory.
    pub n_sections: u32,
    /// Checksum of the head after the superblock.
    pub head_sum: u64,
}

impl Superblock {
    /// Reads the superblock from the first [`BYTES`] bytes of a file.
    ///
    /// # Errors
    /// [`Error::Truncated`], [`Error::NotAnImage`], [`Error::NewerVersion`], [`Error::Checksum`], [`Error::Invalid`].
    pub fn new_checked(bytes: &[u8]) -> Result<Self, Error> {
        if bytes.get(..8).is_some_and(|m| m != MAGIC) {
            return Err(Error::NotAnImage);
        }
        if bytes.len() < BYTES {
            return Err(Error::Truncated { need: BYTES as u64, have: bytes.len() as u64 });
        }
        let version = u32_at(bytes, 8);
        if version > VERSION {
            return Err(Error::NewerVersion { found: version, newest: VERSION });
        }
        let (need, found) = (u64_at(bytes, BYTES - 8), checksum(&bytes[..BYTES - 8]));
        if need != found {
            return Err(Error::Checksum { what: "superblock", index: 0, need, found });
        }
        let block = Self {
            version,
            file_bytes: u64_at(bytes, 16),
            head_bytes: u64_at(bytes, 24),
            payload_offset: u64_at(bytes, 32),
            n_sections: u32_at(bytes, 40),
            head_sum: u64_at(bytes, 48),
        };
        let invalid = |what, found| Err(Error::Invalid { what, found });
        if version == 0 {
            return invalid("version", 0);
        }
        if u32_at(bytes, 12) as usize != BYTES {
            return invalid("superblock_bytes", u64::from(u32_at(bytes, 12)));
        }
        if u32_at(bytes, 44) as usize != PAGE {
            return invalid("page_bytes", u64::from(u32_at(bytes, 44)));
        }
        if block.n_sections > MAX_SECTIONS {
            return invalid("n_sections", u64::from(block.n_sections));
        }
        let directory_end = BYTES as u64 + u64::from(block.n_sections) * SECTION_BYTES as u64;
        if block.head_bytes < directory_end || block.head_bytes > 1 << 30 {
            return invalid("head_bytes", block.head_bytes);
        }
        let page = PAGE as u64;
        if block.payload_offset != block.head_bytes.div_ceil(page) * page {
            return invalid("payload_offset", block.payload_offset);
        }
        if block.file_bytes < block.payload_offset || !block.file_bytes.is_multiple_of(page) || block.file_bytes > 1 << 40 {
            return invalid("file_bytes", block.file_bytes);
        }
        Ok(block)
    }

    /// The bytes of a superblock: [`Self::new_checked`] in reverse.
    pub fn to_bytes(&self) -> [u8; BYTES] {
        let mut out = [0; BYTES];
        out[..8].copy_from_slice(&MAGIC);
        out[8..12].copy_from_slice(&self.version.to_le_bytes());
        out[12..16].copy_from_slice(&(BYTES as u32).to_le_bytes());
        out[16..24].copy_from_slice(&self.file_bytes.to_le_bytes());
        out[24..32].copy_from_slice(&self.head_bytes.to_le_bytes());
        out[32..40].copy_from_slice(&self.payload_offset.to_le_bytes());
        out[40..44].copy_from_slice(&self.n_sections.to_le_bytes());
        out[44..48].copy_from_slice(&(PAGE as u32).to_le_bytes());
        out[48..56].copy_from_slice(&self.head_sum.to_le_bytes());
        let sum = checksum(&out[..BYTES - 8]);
        out[BYTES - 8..].copy_from_slice(&sum.to_le_bytes());
        out
    }
}
