//! Where weight bytes come from: the seam between the decoder and flash, card, file or memory.

use crate::Error;

/// A source of an image's bytes. The decoder asks for segments in the order in which they lie in the image.
pub trait WeightStream {
    /// All bytes of segment `index`, checked against the page sums; valid until the next call.
    ///
    /// # Errors
    /// [`Error::Read`], or [`Error::Format`] when a page is corrupt.
    fn segment(&mut self, index: usize) -> Result<&[u8], Error>;

    /// A few bytes out of order (one tile of the embedding), from pages that are checked too; valid until the next call.
    ///
    /// # Errors
    /// As [`Self::segment`].
    fn read(&mut self, offset: u64, bytes: usize) -> Result<&[u8], Error>;

    /// A hint: [`Self::read`] will soon be called with these. Streams whose bytes are in memory fetch them into the CPU's caches.
    fn soon(&mut self, offset: u64, bytes: usize) {
        let _ = (offset, bytes);
    }

    /// A hint for streams that read ahead: after segment `after` the decoder will ask for `to`, this once, and not for the
    /// segment that follows. Without hints segments come in the order of the image, then from the first again.
    fn turn(&mut self, after: usize, to: usize) {
        let _ = (after, to);
    }
}
