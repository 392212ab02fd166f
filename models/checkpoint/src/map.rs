//! Weight files as bytes, without reading them.

use std::fs::File;
use std::path::{Path, PathBuf};

use memmap2::Mmap;

use crate::Error;

/// A file mapped read-only.
#[derive(Debug)]
pub(crate) struct Mapped {
    path: PathBuf,
    map: Mmap,
}

/// Smallest release worth a system call.
const RELEASE_BYTES: usize = 1 << 20;
/// Multiple of every page size in use, so that a rounded range lies on page borders.
const PAGE_BYTES: usize = 1 << 16;

impl Mapped {
    #[allow(unsafe_code)]
    pub(crate) fn open(path: &Path) -> Result<Self, Error> {
        let io = |source| Error::Io { path: path.to_owned(), source };
        let file = File::open(path).map_err(io)?;
        // SAFETY: the map is private to this value and read-only. Its bytes are only ever read as integers, of which every
        // pattern is valid; a file that another process rewrites gives other numbers, one that it truncates ends the process
        // by SIGBUS, as with every mapping reader: checkpoints are files that nobody writes while they are packed.
        let map = unsafe { Mmap::map(&file) }.map_err(io)?;
        Ok(Self { path: path.to_owned(), map })
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.map
    }

    pub(crate) fn name(&self) -> String {
        self.path.file_name().unwrap_or_default().to_string_lossy().into_owned()
    }

    /// Drops the pages wholly inside a range from this process; they are read again when touched.
    #[allow(unsafe_code)]
    pub(crate) fn release(&self, offset: usize, bytes: usize) {
        let start = offset.next_multiple_of(PAGE_BYTES);
        let end = offset.saturating_add(bytes).min(self.map.len()) / PAGE_BYTES * PAGE_BYTES;
        if end < start.saturating_add(RELEASE_BYTES) {
            return;
        }
        #[cfg(unix)]
        {
            // SAFETY: the mapping is of a file, shared and never written, so the dropped pages come back with the same bytes.
            let done = unsafe { self.map.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, start, end - start) };
            // A refusal costs memory, not correctness.
            drop(done);
        }
    }
}
