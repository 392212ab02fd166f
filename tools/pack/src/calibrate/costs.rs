//! What each matrix's 4 bits cost: the divergence of the model's predictions when it alone is rounded, all else in 8 bits.
//!
//! Divergences of single matrices add up nearly (they are small and have little to do with each other), so a budget is best spent
//! where a byte takes most away.

use super::{Calibration, HELD, failed};
use crate::plan::{Source, is_rounded};
use crate::quantize::{self, DoesNotFit, Feedback, Recipe};
use crate::{Error, Method, Options, Progress, source};
use bourn_checkpoint::Checkpoint;
use bourn_core::{Engine, Error as CoreError, WeightStream};
use bourn_format::Dtype;
use bourn_format::layout::{TILE_ROWS, tile_bytes};
use bourn_kernels::table::Tiles;
use std::sync::atomic::Ordering;

/// Held windows that are read for every matrix.
const WINDOWS: usize = 2;

/// A stream one segment of which is another's.
struct Overlay<S> {
    inner: S,
    segment: usize,
    bytes: Vec<u8>,
}

impl<S: WeightStream> WeightStream for Overlay<S> {
    fn segment(&mut self, index: usize) -> Result<&[u8], CoreError> {
        if index == self.segment { Ok(&self.bytes) } else { self.inner.segment(index) }
    }

    fn read(&mut self, offset: u64, bytes: usize) -> Result<&[u8], CoreError> {
        self.inner.read(offset, bytes)
    }

    fn turn(&mut self, after: usize, to: usize) {
        self.inner.turn(after, to);
    }
}

impl Calibration<'_> {
    /// Mean divergence, in nats, that each matrix's 4 bits cost on the windows held back: (source, divergence).
    pub(crate) fn costs(
        &mut self,
        src: &Checkpoint,
        sources: &[Source],
        options: &Options,
        progress: &mut dyn FnMut(Progress<'_>),
    ) -> Result<Vec<(usize, f64)>, Error> {
        let rounded: Vec<&Source> = sources.iter().filter(|s| is_rounded(s, options)).collect();
        let plain = self.predictions((usize::MAX, Vec::new()))?;
        let mut costs = Vec::with_capacity(rounded.len());
        let mut by_layer = rounded.clone();
        by_layer.sort_by_key(|s| s.layer);
        for (done, source) in by_layer.into_iter().enumerate() {
            if options.cancel.load(Ordering::Relaxed) {
                return Err(Error::Cancelled);
            }
            progress(Progress { tensor: &source.name, done: done as u64, total: rounded.len() as u64 });
            let changed = self.rounded(src, source, options, progress)?;
            let predictions = self.predictions(changed)?;
            costs.push((source.index, divergence(&plain, &predictions, self.file.image().shape().vocab as usize)));
        }
        Ok(costs)
    }

    /// The segment of the run's image with matrix `source` rounded to 4 bits and back: its index and bytes.
    fn rounded(
        &mut self,
        src: &Checkpoint,
        source: &Source,
        options: &Options,
        progress: &mut dyn FnMut(Progress<'_>),
    ) -> Result<(usize, Vec<u8>), Error> {
        let layer = source.layer.unwrap_or(0);
        let image = self.file.image();
        let missing = || Error::Missing { role: source.role, layer: source.layer };
        let tensor = image.layer(layer).get(source.role).ok_or_else(missing)?;
        let (at, segment) = (tensor.segment, image.segment(tensor.segment));
        let start = (tensor.offset - segment.offset) as usize;
        let mut bytes = self.file.stream().segment(at).map_err(failed)?.to_vec();
        let kernels = bourn_kernels::best();
        let threads = self.threads;
        let factor = match options.method {
            Some(Method::Gptq) => self.factor(layer, source.role, progress)?,
            _ => None,
        };
        let recipe =
            Recipe { dtype: Dtype::Q4, levels: &options.levels, feedback: factor.map(|factor| Feedback { factor, kernels }) };
        let eight = Recipe { dtype: Dtype::Q8, feedback: None, ..recipe };
        let (narrow, wide) = (tile_bytes(Dtype::Q4, source.cols), tile_bytes(Dtype::Q8, source.cols));
        let not_fitting =
            |e: DoesNotFit| Error::DoesNotFit { tensor: source.name.clone(), dtype: Dtype::Q4, row: e.row, found: e.found };
        let tiles: Vec<usize> = (0..source.rows.div_ceil(TILE_ROWS)).collect();
        let done = super::moments::shared(&tiles, threads, |&tile| -> Result<Vec<u8>, Error> {
            let rows = tile * TILE_ROWS..((tile + 1) * TILE_ROWS).min(source.rows);
            let mut values = vec![0.0; rows.len() * source.cols];
            source::rows(src, source.index, rows, &mut values)?;
            let (mut four, mut out) = (vec![0; narrow], vec![0; wide]);
            quantize::tile(&recipe, &values, source.cols, &mut four).map_err(not_fitting)?;
            let tile = Tiles { dtype: Dtype::Q4, bytes: &four, cols: source.cols, table: options.levels.table() };
            for (row, values) in values.chunks_exact_mut(source.cols).enumerate() {
                bourn_kernels::row_f32(&tile, row, values);
            }
            quantize::tile(&eight, &values, source.cols, &mut out).map_err(not_fitting)?;
            Ok(out)
        });
        for (tile, out) in bytes[start..].chunks_exact_mut(wide).zip(done) {
            tile.copy_from_slice(&out?);
        }
        Ok((at, bytes))
    }

    /// Logits at some positions of the windows held back, `[n, vocab]`, with one segment replaced.
    fn predictions(&mut self, (segment, bytes): (usize, Vec<u8>)) -> Result<Vec<f32>, Error> {
        let held: Vec<Vec<u32>> = self.held.iter().take(WINDOWS).cloned().collect();
        let every = (held.iter().map(Vec::len).sum::<usize>() / HELD).max(1);
        let skipped = self.skipped;
        let mut stream = Overlay { inner: self.file.stream(), segment, bytes };
        let rows = self.pool.limited(self.threads);
        let image = self.file.image();
        let mut out = Vec::new();
        for ids in &held {
            self.session.rewind(image, 0).map_err(failed)?;
            let kernels = bourn_kernels::best();
            let mut engine = Engine { image, stream: &mut stream, kernels, decode: &rows, prefill: &rows };
            let wanted = |position: usize| position >= skipped && (position - skipped).is_multiple_of(every);
            self.session.logits_at(&mut engine, ids, &wanted, &mut |_, row| out.extend_from_slice(row)).map_err(failed)?;
        }
        Ok(out)
    }
}

/// Mean of `Σ p·ln(p/q)` over the rows `[n, vocab]` of logits.
fn divergence(p: &[f32], q: &[f32], vocab: usize) -> f64 {
    let kernels = bourn_kernels::best();
    let rows = p.chunks_exact(vocab).zip(q.chunks_exact(vocab));
    let one = |(p, q): (&[f32], &[f32])| {
        let ((pm, ps), (qm, qs)) = ((kernels.max_sum_exp)(p), (kernels.max_sum_exp)(q));
        // e^-30 of the best counts for nothing.
        let near = p.iter().zip(q).filter(|(p, _)| **p > pm - 30.0);
        let sum: f64 = near.map(|(p, q)| f64::from(libm::expf(p - pm)) * f64::from((p - pm) - (q - qm))).sum();
        sum / f64::from(ps) - libm::log(f64::from(ps)) + libm::log(f64::from(qs))
    };
    rows.map(one).sum::<f64>() / (p.len() / vocab).max(1) as f64
}
