//! What comes back from the device after a pass: the best token, the few best, rows of logits.

use super::{GpuSession, Left};
use crate::Error;
use crate::kernels::screen::CHOSEN_WORDS;
use crate::select::MAX_BEST;
use bourn_core::Candidate;
use bourn_format::Image;

impl GpuSession {
    /// The most likely token after the last pass: only its id and logit leave the device.
    ///
    /// # Errors
    /// [`Error::Core`] when no logit is a number; [`Error::DeviceLost`] and the like.
    pub fn best(&mut self, image: &Image<'_>) -> Result<u32, Error> {
        self.expect_one()?;
        let (value, id) = self.model.device.read(&self.buffers.back, 16, |bytes| {
            let [value, id, candidates, _] = words(bytes);
            (f32::from_bits(value), (id, candidates))
        })?;
        let (id, candidates) = id;
        if self.row_bytes > 0 {
            self.candidates = (self.candidates.0 + u64::from(candidates), self.candidates.1 + 1);
        }
        if value <= -3.3e38 || !value.is_finite() || id >= image.shape().vocab {
            return Err(bourn_core::Error::NotFinite { position: (self.position - 1) as u64 }.into());
        }
        Ok(id)
    }

    fn expect_one(&self) -> Result<(), Error> {
        if self.left == Left::One {
            return Ok(());
        }
        Err(bourn_core::Error::Option { what: "row of logits", need: 0, found: 0 }.into())
    }

    /// The `n` best logits after the last pass with their ids, best first, of equals the lower id first: only they leave the device.
    /// `None` where that is no less than all, or more than 1024.
    ///
    /// # Errors
    /// [`Error::Core`] when a logit is not a number; [`Error::DeviceLost`] and the like.
    pub fn few_best(&mut self, image: &Image<'_>, n: usize) -> Result<Option<&mut [Candidate]>, Error> {
        self.expect_one()?;
        if n == 0 || n > MAX_BEST || 2 * n > self.logits.len() {
            return Ok(None);
        }
        let bytes = 4 * (u64::from(CHOSEN_WORDS) + 2 * n as u64);
        self.model.device.queue.write_buffer(&self.buffers.select.wanted, 0, bytemuck::cast_slice(&[n as u32, 0, 0, 0]));
        let mut encoder = self.encoder();
        self.encode(&mut encoder, &[(&self.few, 1)]);
        encoder.copy_buffer_to_buffer(&self.buffers.select.chosen, 0, &self.buffers.back, 16, bytes);
        self.submit(encoder)?;
        let (few, candidates) = (&mut self.few_best, &mut self.candidates);
        few.clear();
        let screened = self.row_bytes > 0;
        self.model.device.read(&self.buffers.back, 16 + bytes, |bytes| {
            let [_, _, found, _] = words(bytes);
            if screened {
                *candidates = (candidates.0 + u64::from(found), candidates.1 + 1);
            }
            let (pairs, _) = bytes[16 + 4 * CHOSEN_WORDS as usize..].as_chunks::<8>();
            few.extend(pairs.iter().map(|pair| {
                let [logit, id] = words(pair);
                Candidate { logit: f32::from_bits(logit), id }
            }));
        })?;
        let vocab = image.shape().vocab;
        if few.iter().any(|c| c.logit.is_nan() || c.id >= vocab) || !few.iter().any(|c| c.logit.is_finite()) {
            return Err(bourn_core::Error::NotFinite { position: (self.position - 1) as u64 }.into());
        }
        let cap = image.shape().final_softcap;
        if cap != 0.0 {
            let mut logits: Vec<f32> = few.iter().map(|c| c.logit).collect();
            (bourn_kernels::best().softcap)(&mut logits, cap);
            few.iter_mut().zip(logits).for_each(|(c, logit)| c.logit = logit);
        }
        few.sort_unstable_by(|a, b| b.logit.total_cmp(&a.logit).then(a.id.cmp(&b.id)));
        Ok(Some(few))
    }

    /// Logits `[vocab]` after token `row` of the last pass.
    ///
    /// # Errors
    /// [`Error::Core`] when none is finite or there is no such row; [`Error::DeviceLost`] and the like.
    pub fn logits(&mut self, image: &Image<'_>, row: usize) -> Result<&mut [f32], Error> {
        let rows = match self.left {
            Left::Nothing => 0,
            Left::One => 1,
            Left::Rows(n) => n,
        };
        if row >= rows {
            let (need, found) = (rows.saturating_sub(1) as u64, row as u64);
            return Err(bourn_core::Error::Option { what: "row of logits", need, found }.into());
        }
        self.fetch(image, row)?;
        let best = self.logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        if !best.is_finite() {
            return Err(bourn_core::Error::NotFinite { position: (self.position + row).saturating_sub(rows) as u64 }.into());
        }
        Ok(&mut self.logits)
    }

    /// Copies a row of logits to the host.
    pub(super) fn fetch(&mut self, image: &Image<'_>, row: usize) -> Result<(), Error> {
        let bytes = 4 * self.logits.len() as u64;
        let at = 4 * (row * self.buffers.vocab_rows) as u64;
        let from = if self.left == Left::One { &self.buffers.select.row } else { &self.buffers.rows };
        let mut encoder = self.encoder();
        encoder.copy_buffer_to_buffer(from, at, &self.buffers.back, 16, bytes);
        self.submit(encoder)?;
        let logits = &mut self.logits;
        let best = self.model.device.read(&self.buffers.back, 16 + bytes, |bytes| {
            bytemuck::cast_slice_mut::<f32, u8>(logits).copy_from_slice(&bytes[16..]);
            words::<4>(bytes)
        })?;
        if self.left == Left::One && self.row_bytes > 0 {
            self.candidates = (self.candidates.0 + u64::from(best[2]), self.candidates.1 + 1);
            if !f32::from_bits(best[0]).is_finite() {
                // Weights that are not numbers: it must show.
                self.logits.fill(f32::NAN);
            }
        }
        let cap = image.shape().final_softcap;
        if cap != 0.0 {
            (bourn_kernels::best().softcap)(&mut self.logits, cap);
        }
        Ok(())
    }
}

/// The first words of some bytes; zeros after their end.
fn words<const N: usize>(bytes: &[u8]) -> [u32; N] {
    let mut all = bytes.as_chunks::<4>().0.iter();
    std::array::from_fn(|_| all.next().map_or(0, |word| u32::from_le_bytes(*word)))
}
