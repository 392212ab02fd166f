//! Image bytes from a file: mapped (pages come when touched), resident (read into memory once), or paged (under a RAM budget).
//!
//! Mapped or resident, every page is held against its checksum before its first use and never again; paged, whenever it is
//! read. Modules in path order: [`plan`] (what is pinned, what is streamed) → [`source`] (positioned reads) → `schedule` (what
//! is read when and where to) → `reader` (threads that do it) → [`pager`] (the stream).

#![allow(unsafe_code)]

mod area;
pub mod pager;
pub mod plan;
mod reader;
mod schedule;
pub mod source;
#[cfg(target_os = "linux")]
mod uring;

pub use area::page_bytes;
pub use pager::{PagedStream, Pager};
pub use plan::{RamOptions, RamPlan};
pub use reader::{ReadOptions, StreamStats};
pub use source::{FileSource, ReadAt};

use crate::Error;
use bourn_core::WeightStream;
use bourn_format::{Image, PAGE};
use memmap2::{Advice, Mmap, MmapMut, MmapOptions};
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

/// Where the bytes of an open image lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum StreamKind {
    /// Mapped: opening costs nothing, memory is the page cache's, the first token reads the file.
    #[default]
    Mapped,
    /// Read into huge-page memory and checked whole at opening.
    Resident,
    /// Under a RAM budget: only the head is read at opening; weights come when [`ImageFile::page`] has shared out the budget.
    Paged,
}

impl StreamKind {
    /// The name in the line that every run prints first.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Mapped => "mapped",
            Self::Resident => "resident",
            Self::Paged => "paged",
        }
    }
}

#[derive(Debug)]
enum Bytes {
    Mapped(Mmap),
    /// All of the file, or its head alone.
    Resident(MmapMut),
}

impl Bytes {
    fn all(&self) -> &[u8] {
        match self {
            Self::Mapped(m) => m,
            Self::Resident(m) => m,
        }
    }
}

/// Bytes and the checked image within them.
#[derive(Debug)]
pub(crate) struct Head {
    /// Borrows from `bytes`, whose memory does not move; never lent for longer than `&self`.
    image: Image<'static>,
    bytes: Bytes,
}

impl Head {
    fn new(bytes: Bytes) -> Result<Self, bourn_format::Error> {
        let all: *const [u8] = bytes.all();
        // SAFETY: the pointer is to memory of `bytes`, a private map that keeps its address and stays mapped until it is
        // dropped, which happens with `Self`. The 'static borrow made here is only kept in `Self::image` and lent through
        // `image()`, whose result cannot outlive `&self`; `Image` has no destructor that could read after the map is gone.
        // Nothing writes to the memory: `Bytes` is private and hands out shared slices only.
        let all: &'static [u8] = unsafe { &*all };
        Ok(Self { image: Image::new_checked(all)?, bytes })
    }

    /// The checked head.
    pub(crate) fn image(&self) -> &Image<'_> {
        &self.image
    }
}

/// An open image: its checked head, its bytes, and which pages have been checked. Any number of streams read from it, but
/// only one at a time if it is paged.
#[derive(Debug)]
pub struct ImageFile {
    path: PathBuf,
    kind: StreamKind,
    head: Arc<Head>,
    /// One bit per payload page; empty if paged.
    checked: Box<[AtomicU64]>,
    pager: OnceLock<Pager>,
}

impl ImageFile {
    /// Opens and checks an image.
    ///
    /// The file must not be changed in place while it is open (replacing it by a rename is fine): a mapped page that
    /// changes after its check is no longer what was checked, and a file cut short ends the process with SIGBUS, as with
    /// every mapping. A paged file may come to any harm: every page is checked whenever it is read.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::Image`]; both name the path.
    pub fn open(path: &Path, kind: StreamKind) -> Result<Self, Error> {
        let io = |doing| move |source| Error::Io { path: path.to_owned(), doing, source };
        let bad = |source| Error::Image { path: path.to_owned(), source };
        let mut file = File::open(path).map_err(io("open"))?;
        let meta = file.metadata().map_err(io("stat"))?;
        if !meta.is_file() {
            return Err(io("open")(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file")));
        }
        let have = meta.len();
        let mut first = Vec::with_capacity(bourn_format::superblock::BYTES);
        (&mut file).take(bourn_format::superblock::BYTES as u64).read_to_end(&mut first).map_err(io("read"))?;
        let superblock = bourn_format::superblock::Superblock::new_checked(&first).map_err(bad)?;
        if have < superblock.file_bytes {
            return Err(bad(bourn_format::Error::Truncated { need: superblock.file_bytes, have }));
        }
        let size = |bytes| {
            usize::try_from(bytes)
                .map_err(|_| io("map")(io::Error::new(io::ErrorKind::OutOfMemory, "larger than the address space")))
        };
        let bytes = match kind {
            StreamKind::Mapped => Bytes::Mapped(map(&file, size(superblock.file_bytes)?).map_err(io("map"))?),
            StreamKind::Resident => {
                Bytes::Resident(read_all(&mut file, &first, size(superblock.file_bytes)?).map_err(io("read"))?)
            }
            StreamKind::Paged => {
                let head = read_all(&mut file, &first, size(superblock.head_bytes)?).map_err(io("read"))?;
                source::forget(&file, 0, head.len());
                Bytes::Resident(head)
            }
        };
        let head = Head::new(bytes).map_err(bad)?;
        let n_words = if kind == StreamKind::Paged { 0 } else { head.image.n_pages().div_ceil(64) };
        let this = Self {
            path: path.to_owned(),
            kind,
            head: Arc::new(head),
            checked: (0..n_words).map(|_| AtomicU64::new(0)).collect(),
            pager: OnceLock::new(),
        };
        if kind == StreamKind::Resident {
            this.check_all().map_err(bad)?;
        }
        Ok(this)
    }

    /// Shares out the memory of a paged file as `plan` says and begins to read; the second call changes nothing.
    ///
    /// # Errors
    /// [`Error::Io`] if the file has been replaced since it was opened, [`Error::Memory`], [`Error::Lock`] (with `lock`, which
    /// keeps what is pinned and the ring from being swapped out), [`Error::Device`] when weights cannot be read.
    pub fn page(&self, plan: &RamPlan, options: &ReadOptions, lock: bool) -> Result<&Pager, Error> {
        let io = |doing| move |source| Error::Io { path: self.path.clone(), doing, source };
        if let Some(pager) = self.pager.get() {
            return Ok(pager);
        }
        let source = FileSource::open(&self.path).map_err(io("open"))?;
        let mut first = [0; bourn_format::superblock::BYTES];
        source.read_at(0, &mut first).map_err(io("read"))?;
        if bourn_format::superblock::Superblock::new_checked(&first).ok().as_ref() != Some(self.image().superblock()) {
            return Err(io("read")(io::Error::new(io::ErrorKind::InvalidData, "another file than was opened")));
        }
        let device = source.device();
        let name = device.clone().unwrap_or_else(|| "an unknown device".to_owned());
        let pager = Pager::new(Arc::clone(&self.head), Arc::new(source), device, plan.clone(), options, lock);
        let pager = pager.map_err(|e| match e {
            Error::Core(source) => Error::Device { path: self.path.clone(), device: name, source },
            e => e,
        })?;
        Ok(self.pager.get_or_init(|| pager))
    }

    /// As [`Self::page`], from whatever `source` reads: the seam at which tests put in devices with faults.
    ///
    /// # Errors
    /// As [`Self::page`], but [`Error::Core`] when weights cannot be read.
    pub fn page_from(&self, source: Arc<dyn ReadAt>, plan: &RamPlan, options: &ReadOptions) -> Result<&Pager, Error> {
        let pager = Pager::new(Arc::clone(&self.head), source, None, plan.clone(), options, false)?;
        Ok(self.pager.get_or_init(|| pager))
    }

    /// What pages a paged file, once [`Self::page`] has been called.
    pub fn pager(&self) -> Option<&Pager> {
        self.pager.get()
    }

    /// The checked head.
    pub fn image(&self) -> &Image<'_> {
        self.head.image()
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// How its bytes are held.
    pub fn kind(&self) -> StreamKind {
        self.kind
    }

    /// Checks every page that has not been checked; nothing if paged, where pages are checked when they are read.
    ///
    /// # Errors
    /// [`bourn_format::Error::Checksum`] with the first corrupt page.
    pub fn check_all(&self) -> Result<(), bourn_format::Error> {
        if self.kind == StreamKind::Paged { Ok(()) } else { self.check(0, self.image().n_pages()) }
    }

    /// Checks pages `first..end` that have not been checked.
    fn check(&self, first: usize, end: usize) -> Result<(), bourn_format::Error> {
        let payload = usize::try_from(self.image().superblock().payload_offset).unwrap_or(usize::MAX);
        let mut page = first;
        while page < end {
            let word = &self.checked[page / 64];
            let known = word.load(Ordering::Relaxed);
            if known == u64::MAX {
                page = (page / 64 + 1) * 64;
                continue;
            }
            if known >> (page % 64) & 1 == 0 {
                let start = payload + page * PAGE;
                self.image().check_page(page, self.head.bytes.all().get(start..start + PAGE).unwrap_or(&[]))?;
                word.fetch_or(1 << (page % 64), Ordering::Relaxed);
            }
            page += 1;
        }
        Ok(())
    }

    /// `bytes` bytes at `offset` in the file, from checked pages.
    fn range(&self, offset: u64, bytes: u64) -> Result<&[u8], bourn_core::Error> {
        let invalid = bourn_core::Error::Read { offset, bytes, code: 0 };
        let payload = self.image().superblock().payload_offset;
        let end = offset.checked_add(bytes).filter(|&e| offset >= payload && e <= self.image().superblock().file_bytes);
        let end = end.ok_or(invalid)?;
        let page = PAGE as u64;
        let (first, last) = ((offset - payload) / page, (end - payload).div_ceil(page));
        self.check(first as usize, last as usize).map_err(bourn_core::Error::Format)?;
        self.head.bytes.all().get(offset as usize..end as usize).ok_or(invalid)
    }

    /// A stream over this file. Of a paged file there is one at a time, and none before [`Self::page`]: any other answers
    /// [`bourn_core::Error::Busy`].
    pub fn stream(&self) -> Stream<'_> {
        match (self.kind, self.pager.get()) {
            (StreamKind::Paged, Some(pager)) => Stream::Paged(pager.stream()),
            (StreamKind::Paged, None) => Stream::Paged(PagedStream::none()),
            _ => Stream::Mapped(MappedStream { file: self }),
        }
    }
}

/// The file's first `len` bytes, mapped, with the payload asked for ahead of use.
fn map(file: &File, len: usize) -> io::Result<Mmap> {
    // SAFETY: the map is private and read-only. Rust asks that the bytes do not change while they are borrowed; that is the
    // condition which `ImageFile::open` states to its caller, and images are written beside and renamed into place.
    let map = unsafe { MmapOptions::new().len(len).map(file)? };
    // Hints only: a kernel without them serves the pages all the same.
    #[cfg(target_os = "linux")]
    let _ = map.advise(Advice::HugePage);
    let _ = map.advise(Advice::WillNeed);
    Ok(map)
}

/// The file's first `len` bytes in anonymous memory; `first` was read already.
fn read_all(file: &mut File, first: &[u8], len: usize) -> io::Result<MmapMut> {
    let mut map = MmapMut::map_anon(len)?;
    #[cfg(target_os = "linux")]
    let _ = map.advise(Advice::HugePage);
    map[..first.len()].copy_from_slice(first);
    file.read_exact(&mut map[first.len()..])?;
    Ok(map)
}

/// Weight bytes straight out of an [`ImageFile`].
#[derive(Clone, Copy, Debug)]
pub struct MappedStream<'a> {
    file: &'a ImageFile,
}

/// The same reader over a file whose pages are all in memory and checked.
pub type ResidentStream<'a> = MappedStream<'a>;

impl WeightStream for MappedStream<'_> {
    fn segment(&mut self, index: usize) -> Result<&[u8], bourn_core::Error> {
        let s = self.file.image().segment(index);
        self.file.range(s.offset, s.bytes)
    }

    fn read(&mut self, offset: u64, bytes: usize) -> Result<&[u8], bourn_core::Error> {
        self.file.range(offset, bytes as u64)
    }

    fn soon(&mut self, offset: u64, bytes: usize) {
        let start = usize::try_from(offset).unwrap_or(usize::MAX);
        if let Some(bytes) = self.file.head.bytes.all().get(start..start.saturating_add(bytes)) {
            bourn_kernels::fetch(bytes);
        }
    }
}

/// Weight bytes of an [`ImageFile`], however it is held.
#[derive(Debug)]
pub enum Stream<'a> {
    /// From bytes that are all there, or come when touched.
    Mapped(MappedStream<'a>),
    /// Under a RAM budget.
    Paged(PagedStream<'a>),
}

impl WeightStream for Stream<'_> {
    fn segment(&mut self, index: usize) -> Result<&[u8], bourn_core::Error> {
        match self {
            Self::Mapped(s) => s.segment(index),
            Self::Paged(s) => s.segment(index),
        }
    }

    fn read(&mut self, offset: u64, bytes: usize) -> Result<&[u8], bourn_core::Error> {
        match self {
            Self::Mapped(s) => s.read(offset, bytes),
            Self::Paged(s) => s.read(offset, bytes),
        }
    }

    fn soon(&mut self, offset: u64, bytes: usize) {
        match self {
            Self::Mapped(s) => s.soon(offset, bytes),
            Self::Paged(s) => s.soon(offset, bytes),
        }
    }

    fn turn(&mut self, after: usize, to: usize) {
        match self {
            Self::Mapped(s) => s.turn(after, to),
            Self::Paged(s) => s.turn(after, to),
        }
    }
}
