//! The memory that readers fill and the decoder reads: one private map, lent out in ranges.

#![allow(unsafe_code)]

use memmap2::MmapMut;
use std::io;
use std::ops::Range;

/// Memory that several threads use at once, each its own range of it.
#[derive(Debug)]
pub(crate) struct Area {
    start: *mut u8,
    len: usize,
    /// Owns the memory; not touched but for unmapping.
    _map: MmapMut,
}

// SAFETY: the pointer is to memory of the private map that is owned beside it, which any thread may use and unmap. Borrows are
// made only by the two methods below, whose callers answer for their ranges.
unsafe impl Send for Area {}
// SAFETY: as above.
unsafe impl Sync for Area {}

impl Area {
    /// `len` bytes of zeros, in huge pages where the system has them: all of it will be used.
    pub fn new(len: usize) -> io::Result<Self> {
        let mut map = MmapMut::map_anon(len.max(1))?;
        #[cfg(target_os = "linux")]
        let _ = map.advise(memmap2::Advice::HugePage);
        Ok(Self { start: map.as_mut_ptr(), len, _map: map })
    }

    /// Keeps all of it in memory.
    ///
    /// # Errors
    /// What the system answers: mostly that RLIMIT_MEMLOCK is less.
    pub fn lock(&self) -> io::Result<()> {
        // SAFETY: the range is the map, which stays mapped as long as `self` lives; locking changes no bytes.
        let answer = unsafe { libc::mlock(self.start.cast(), self.len) };
        if answer == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }

    /// The bytes of `range`; none if it is not inside.
    ///
    /// # Safety
    /// As long as the slice lives, nobody has [`Self::slice_mut`] of a range that overlaps.
    pub unsafe fn slice(&self, range: Range<usize>) -> &[u8] {
        if range.start > range.end || range.end > self.len {
            return &[];
        }
        // SAFETY: checked to be inside the map.
        let first = unsafe { self.start.add(range.start) };
        // SAFETY: initialised memory of the map, which lives as long as `self`; nobody writes it, as the caller answers.
        unsafe { std::slice::from_raw_parts(first, range.end - range.start) }
    }

    /// Where `range` begins, for the system to write to; `None` if it is not inside.
    pub fn pointer(&self, range: Range<usize>) -> Option<*mut u8> {
        (range.start <= range.end && range.end <= self.len).then(|| self.start.wrapping_add(range.start))
    }

    /// The bytes of `range` for writing; none if it is not inside.
    ///
    /// # Safety
    /// As long as the slice lives, nobody has another slice of a range that overlaps.
    #[allow(clippy::mut_from_ref)]
    pub unsafe fn slice_mut(&self, range: Range<usize>) -> &mut [u8] {
        if range.start > range.end || range.end > self.len {
            return &mut [];
        }
        // SAFETY: checked to be inside the map.
        let first = unsafe { self.start.add(range.start) };
        // SAFETY: initialised memory of the map, which lives as long as `self`; nobody else uses it, as the caller answers.
        unsafe { std::slice::from_raw_parts_mut(first, range.end - range.start) }
    }
}

/// Bytes of a page of this system's memory.
pub fn page_bytes() -> u64 {
    // SAFETY: no pointer is passed, and the name is one that every system knows.
    let bytes = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    u64::try_from(bytes).ok().filter(|b| b.is_power_of_two()).unwrap_or(4096)
}
