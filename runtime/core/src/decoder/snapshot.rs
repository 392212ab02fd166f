//! A session's KV state out and in, block by block.

use super::Session;
use crate::Error;
use crate::snapshot::{BLOCK, Extent, Origin};
use bourn_format::Image;
use core::ops::Range;

impl Session<'_> {
    /// Oldest position that can be returned to, 0 aside.
    pub(super) fn oldest(&self, image: &Image<'_>) -> usize {
        let window = image.shape().window as usize;
        let resumed = if self.kept_from == 0 { 0 } else { self.kept_from + window };
        self.plan.kv.oldest(self.written, window).max(resumed)
    }

    /// What a snapshot must have been taken of to fit this session.
    pub fn origin(&self, image: &Image<'_>) -> Origin {
        Origin {
            image: Origin::image_sum(image),
            kv: self.plan.kv.dtype(),
            ropes: self.ropes.map(|i| i as u32),
            sizes: self.plan.kv.sizes(),
            vocab: image.shape().vocab,
        }
    }

    /// What a snapshot of the first `to` positions holds.
    ///
    /// # Errors
    /// [`Error::Rewind`] when the session could not return to `to`; [`Error::Empty`] for 0.
    pub fn extent(&self, image: &Image<'_>, to: usize) -> Result<Extent, Error> {
        let oldest = self.oldest(image);
        match to {
            0 => Err(Error::Empty),
            _ if to > self.position || to < oldest => Err(Error::Rewind { to: to as u64, oldest: oldest as u64 }),
            _ => Ok(Extent { n_tokens: to, sliding_from: self.kept_from.max(self.plan.kv.lost(self.written)).min(to - 1) }),
        }
    }

    /// Copies a block of `extent` into `out`, `block_bytes` long.
    pub fn export(&self, image: &Image<'_>, extent: &Extent, sliding: bool, block: usize, out: &mut [u8]) {
        let from = if sliding { extent.sliding_from } else { 0 };
        let valid = within(block, from..extent.n_tokens);
        self.plan.kv.export(image, (&*self.buffers.kv, &*self.buffers.kv_scale), sliding, block, valid, out);
    }

    /// First position of sliding layers that [`Self::import`] takes of `extent` for a prefix of `to` tokens.
    ///
    /// # Errors
    /// [`Error::Rewind`] when the prefix is longer than the snapshot or the context, or sliding layers lack what it sees.
    pub fn import_from(&self, image: &Image<'_>, extent: &Extent, to: usize) -> Result<usize, Error> {
        let window = if extent.sliding_from == 0 { 0 } else { image.shape().window as usize };
        let oldest = extent.sliding_from + window;
        if to > extent.n_tokens || to > self.context || to < oldest {
            return Err(Error::Rewind { to: to as u64, oldest: oldest as u64 });
        }
        Ok(extent.sliding_from.max(self.plan.kv.lost(to)))
    }

    /// Copies positions `valid` of a checked block into the cache. The session must be at position 0 and stays there until
    /// [`Self::resume`].
    ///
    /// # Errors
    /// [`Error::Rewind`] when it is elsewhere; [`Error::Snapshot`] when the block has another length.
    pub fn import(
        &mut self,
        image: &Image<'_>,
        sliding: bool,
        block: usize,
        valid: Range<usize>,
        bytes: &[u8],
    ) -> Result<(), Error> {
        let need = self.origin(image).block_bytes(sliding);
        if bytes.len() != need {
            return Err(Error::Snapshot { what: "bytes of a block", need: need as u64, found: bytes.len() as u64 });
        }
        if self.position != 0 || valid.end > self.context {
            return Err(Error::Rewind { to: 0, oldest: self.position as u64 });
        }
        let valid = within(block, valid);
        self.plan.kv.import(image, (&mut *self.buffers.kv, &mut *self.buffers.kv_scale), sliding, block, valid, bytes);
        Ok(())
    }

    /// Goes on at position `to`: every position below it was imported, of sliding layers those from `from` on.
    ///
    /// # Errors
    /// [`Error::ContextFull`] when the context is shorter.
    pub fn resume(&mut self, to: usize, from: usize) -> Result<(), Error> {
        if to > self.context {
            return Err(Error::ContextFull { need: to as u64, context: self.context as u64 });
        }
        (self.position, self.written, self.kept_from, self.rows) = (to, to, from, 0);
        Ok(())
    }
}

/// The part of `positions` that lies in a block, from its first position on.
fn within(block: usize, positions: Range<usize>) -> Range<usize> {
    let first = block * BLOCK;
    let clip = |p: usize| p.saturating_sub(first).min(BLOCK);
    clip(positions.start)..clip(positions.end)
}
