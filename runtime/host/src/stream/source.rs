//! Positioned reads of an image: past the page cache where the file system allows it, and without leaving traces where not.

#![allow(unsafe_code)]

use std::fs::{File, OpenOptions};
use std::io;
use std::path::Path;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// A device that is read at positions, from several threads: a file, or what tests put in its place.
pub trait ReadAt: Send + Sync {
    /// Reads up to `buf.len()` bytes at `offset`; 0 at the end.
    ///
    /// # Errors
    /// What the system answers.
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize>;

    /// Bytes there are now.
    ///
    /// # Errors
    /// What the system answers.
    fn len(&self) -> io::Result<u64>;

    /// Whether there are none.
    ///
    /// # Errors
    /// As [`Self::len`].
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }

    /// The file, for interfaces that submit reads themselves; `None`: it is read by [`Self::read_at`] alone.
    fn file(&self) -> Option<&File> {
        None
    }

    /// Whether reads go past the page cache.
    fn is_direct(&self) -> bool {
        false
    }
}

/// What direct reads are aligned to, in the file and in memory: enough for every device in use.
pub(crate) const SECTOR: usize = 4096;

/// An image file.
#[derive(Debug)]
pub struct FileSource {
    /// Opened with `O_DIRECT`, where that works.
    direct: Option<File>,
    /// Cleared when the file system takes the flag but not the reads.
    direct_works: AtomicBool,
    plain: File,
}

impl FileSource {
    /// Opens `path` for direct reads, else for plain ones.
    ///
    /// # Errors
    /// What the system answers.
    pub fn open(path: &Path) -> io::Result<Self> {
        let plain = File::open(path)?;
        let direct = open_direct(path).ok().filter(|direct| same_file(&plain, direct));
        Ok(Self { direct_works: AtomicBool::new(direct.is_some()), direct, plain })
    }

    /// Name of the block device below, such as `mmcblk0`, where the system tells.
    pub fn device(&self) -> Option<String> {
        device(&self.plain)
    }

    fn direct(&self) -> Option<&File> {
        self.direct.as_ref().filter(|_| self.direct_works.load(Ordering::Relaxed))
    }
}

impl ReadAt for FileSource {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        let aligned = [offset as usize, buf.len(), buf.as_ptr() as usize].iter().all(|n| n.is_multiple_of(SECTOR));
        if let Some(file) = self.direct().filter(|_| aligned) {
            match read_file_at(file, offset, buf) {
                // EINVAL: the file system does not read past the cache after all.
                Err(e) if e.raw_os_error() == Some(libc::EINVAL) => self.direct_works.store(false, Ordering::Relaxed),
                other => return other,
            }
        }
        let n = read_file_at(&self.plain, offset, buf)?;
        forget(&self.plain, offset, n);
        Ok(n)
    }

    fn len(&self) -> io::Result<u64> {
        self.plain.metadata().map(|m| m.len())
    }

    fn file(&self) -> Option<&File> {
        self.direct()
    }

    fn is_direct(&self) -> bool {
        self.direct().is_some()
    }
}

#[cfg(target_os = "linux")]
fn open_direct(path: &Path) -> io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt;
    OpenOptions::new().read(true).custom_flags(libc::O_DIRECT).open(path)
}

#[cfg(not(target_os = "linux"))]
fn open_direct(path: &Path) -> io::Result<File> {
    let _ = (path, OpenOptions::new());
    Err(io::ErrorKind::Unsupported.into())
}

/// Whether both are the same file still: it may have been replaced between the two openings.
fn same_file(a: &File, b: &File) -> bool {
    use std::os::unix::fs::MetadataExt;
    matches!((a.metadata(), b.metadata()), (Ok(a), Ok(b)) if (a.dev(), a.ino()) == (b.dev(), b.ino()))
}

fn read_file_at(file: &File, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
    std::os::unix::fs::FileExt::read_at(file, buf, offset)
}

/// Tells the page cache that what was read will not be asked for again soon.
#[cfg(target_os = "linux")]
pub(crate) fn forget(file: &File, offset: u64, bytes: usize) {
    use std::os::fd::AsRawFd;
    // SAFETY: no memory is passed; the descriptor is open as long as `file` is borrowed. It is advice: errors change nothing.
    let _ = unsafe { libc::posix_fadvise(file.as_raw_fd(), offset as i64, bytes as i64, libc::POSIX_FADV_DONTNEED) };
}

#[cfg(not(target_os = "linux"))]
pub(crate) fn forget(_: &File, _: u64, _: usize) {}

/// Name of the whole block device that holds `file`: the disk, not its partition.
#[cfg(target_os = "linux")]
fn device(file: &File) -> Option<String> {
    use std::os::unix::fs::MetadataExt;
    let dev = file.metadata().ok()?.dev();
    let (major, minor) = (libc::major(dev), libc::minor(dev));
    let link = std::fs::canonicalize(format!("/sys/dev/block/{major}:{minor}")).ok()?;
    let disk = if link.join("partition").exists() { link.parent()? } else { &link };
    Some(disk.file_name()?.to_string_lossy().into_owned())
}

#[cfg(not(target_os = "linux"))]
fn device(_: &File) -> Option<String> {
    None
}

/// Holds reads to a rate, as a slower device would: every read ends when its share of time has passed.
#[derive(Debug)]
pub(crate) struct Throttle {
    bytes_per_second: f64,
    /// When what was handed out so far would have arrived.
    busy_until: Mutex<Instant>,
}

impl Throttle {
    pub fn new(bytes_per_second: u64) -> Self {
        Self { bytes_per_second: bytes_per_second.max(1) as f64, busy_until: Mutex::new(Instant::now()) }
    }

    /// When a read of `bytes` that is begun now ends.
    pub fn begin(&self, bytes: usize) -> Instant {
        let mut until = self.busy_until.lock().unwrap_or_else(PoisonError::into_inner);
        *until = (*until).max(Instant::now()) + Duration::from_secs_f64(bytes as f64 / self.bytes_per_second);
        *until
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn reads_what_a_file_holds_and_knows_its_end() {
        let path = std::env::temp_dir().join(format!("bourn-source-{}", std::process::id()));
        let bytes: Vec<u8> = (0..32768u32).map(|i| (i % 251) as u8).collect();
        File::create(&path).unwrap().write_all(&bytes).unwrap();
        let source = FileSource::open(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        let mut map = memmap2::MmapMut::map_anon(16384).unwrap();
        assert_eq!(source.read_at(16384, &mut map).unwrap(), 16384);
        assert_eq!(map[..], bytes[16384..]);
        assert_eq!(source.read_at(32768, &mut map).unwrap(), 0);
        assert_eq!(source.len().unwrap(), 32768);
        // Memory of any alignment is read into all the same.
        assert_eq!(source.read_at(0, &mut map[1..4096]).unwrap(), 4095);
        assert_eq!(map[1..4096], bytes[..4095]);
    }

    #[test]
    fn a_throttle_hands_out_time_in_turn() {
        let throttle = Throttle::new(1000);
        let start = Instant::now();
        let (first, second) = (throttle.begin(100), throttle.begin(100));
        assert!(second - first == Duration::from_millis(100));
        assert!(first - start >= Duration::from_millis(100));
    }
}
