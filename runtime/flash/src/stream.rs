//! An image's segments from a device, each page held against its sum as it arrives; the device is told which segment comes next.

use bourn_core::WeightStream;
use bourn_format::{Image, PAGE};

use crate::Error;
use crate::source::Source;

/// Kernels read whole cache lines.
const ALIGN: usize = 64;
/// Times that a read is tried, and that a page whose sum is wrong is read: a bus picks up noise, a worn cell does not mend.
const TRIES: u32 = 3;

/// Bytes of memory that a stream of this image needs: its largest segment, or the pages under one tile of its embedding.
pub fn buffer_bytes(image: &Image<'_>) -> usize {
    let segments = (0..image.n_segments()).map(|i| image.segment(i).bytes).max().unwrap_or(0);
    let tile = |tensor: bourn_format::Tensor<'_>| bourn_format::layout::tile_bytes(tensor.dtype, tensor.cols) as u64;
    let tiles = image.parts(bourn_format::Role::Embed).map(tile).max().unwrap_or(0);
    // A tile may begin and end anywhere within its pages.
    let tiles = tiles.div_ceil(PAGE as u64) * PAGE as u64 + PAGE as u64;
    usize::try_from(segments.max(tiles)).map_or(usize::MAX, |bytes| bytes.saturating_add(ALIGN - 1))
}

/// What a stream has done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Bytes read from the device, again counted again.
    pub bytes: u64,
    /// Reads that failed and were tried again.
    pub retried_reads: u64,
    /// Pages whose sum was wrong and that were read again.
    pub reread_pages: u64,
}

/// A weight stream over a device and a lent buffer. Nothing is kept from one segment to the next but the segment itself.
#[derive(Debug)]
pub struct FlashStream<'a, S: Source> {
    image: &'a Image<'a>,
    source: S,
    buffer: &'a mut [u8],
    /// The pages in the buffer: first byte and length in the image.
    held: (u64, usize),
    /// After this segment that one is asked for, once.
    turn: Option<(usize, usize)>,
    stats: Stats,
    last_error: Option<S::Error>,
}

impl<'a, S: Source> FlashStream<'a, S> {
    /// A stream of `image`, whose head was read from the same `source`.
    ///
    /// # Errors
    /// [`Error::Buffer`] if `buffer` is smaller than [`buffer_bytes`], [`Error::Short`] if the device ends before the image.
    pub fn new(image: &'a Image<'a>, source: S, buffer: &'a mut [u8]) -> Result<Self, Error> {
        let (need, have) = (buffer_bytes(image) as u64, buffer.len() as u64);
        if have < need {
            return Err(Error::Buffer { need, have });
        }
        let need = image.superblock().file_bytes;
        if source.capacity() < need {
            return Err(Error::Short { need, have: source.capacity() });
        }
        let skip = buffer.as_ptr().align_offset(ALIGN).min(buffer.len());
        Ok(Self {
            image,
            source,
            buffer: &mut buffer[skip..],
            held: (0, 0),
            turn: None,
            stats: Stats::default(),
            last_error: None,
        })
    }

    /// What it has done so far.
    pub const fn stats(&self) -> Stats {
        self.stats
    }

    /// What the device said when it failed last.
    pub fn take_error(&mut self) -> Option<S::Error> {
        self.last_error.take()
    }

    /// The device again.
    pub fn into_source(self) -> S {
        self.source
    }

    /// Fills the buffer with the whole pages `offset..offset + bytes` and checks each.
    fn pages(&mut self, offset: u64, bytes: usize) -> Result<(), bourn_core::Error> {
        if self.held == (offset, bytes) {
            return Ok(());
        }
        self.held = (0, 0);
        let invalid = bourn_core::Error::Read { offset, bytes: bytes as u64, code: 0 };
        let superblock = self.image.superblock();
        let end = offset.checked_add(bytes as u64).filter(|end| *end <= superblock.file_bytes);
        let first = offset.checked_sub(superblock.payload_offset).filter(|_| end.is_some()).ok_or(invalid)? / PAGE as u64;
        if bytes > self.buffer.len() {
            return Err(invalid);
        }
        self.fill(offset, 0, bytes)?;
        for i in 0..bytes / PAGE {
            let page = usize::try_from(first).map_err(|_| invalid)? + i;
            let mut tries = 1;
            while let Err(corrupt) = self.image.check_page(page, &self.buffer[i * PAGE..(i + 1) * PAGE]) {
                if tries == TRIES {
                    return Err(bourn_core::Error::Format(corrupt));
                }
                tries += 1;
                self.stats.reread_pages += 1;
                self.fill(offset + (i * PAGE) as u64, i * PAGE, PAGE)?;
            }
        }
        self.held = (offset, bytes);
        Ok(())
    }

    /// Reads `bytes` bytes of the image into the buffer from `at` on.
    fn fill(&mut self, offset: u64, at: usize, bytes: usize) -> Result<(), bourn_core::Error> {
        let mut tries = 1;
        loop {
            self.stats.bytes += bytes as u64;
            let Err(error) = self.source.read(offset, &mut self.buffer[at..at + bytes]) else { return Ok(()) };
            self.last_error = Some(error);
            if tries == TRIES {
                return Err(bourn_core::Error::Read { offset, bytes: bytes as u64, code: 0 });
            }
            tries += 1;
            self.stats.retried_reads += 1;
        }
    }
}

impl<S: Source> WeightStream for FlashStream<'_, S> {
    fn segment(&mut self, index: usize) -> Result<&[u8], bourn_core::Error> {
        let segment = self.image.segment(index);
        // At most the buffer's length, or it is refused below.
        let bytes = usize::try_from(segment.bytes).unwrap_or(usize::MAX);
        self.pages(segment.offset, bytes)?;
        let next = self.turn.take_if(|(after, _)| *after == index).map_or(index + 1, |(_, to)| to);
        let next = self.image.segment(if next < self.image.n_segments() { next } else { 0 });
        self.source.next(next.offset, next.bytes);
        Ok(&self.buffer[..bytes])
    }

    fn read(&mut self, offset: u64, bytes: usize) -> Result<&[u8], bourn_core::Error> {
        let page = PAGE as u64;
        let start = offset / page * page;
        let invalid = bourn_core::Error::Read { offset, bytes: bytes as u64, code: 0 };
        let end = offset.checked_add(bytes as u64).ok_or(invalid)?.div_ceil(page) * page;
        self.pages(start, usize::try_from(end - start).map_err(|_| invalid)?)?;
        let at = (offset - start) as usize;
        Ok(&self.buffer[at..at + bytes])
    }

    fn turn(&mut self, after: usize, to: usize) {
        self.turn = Some((after, to));
    }
}
