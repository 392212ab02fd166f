//! The payload: tensor after tensor, some tiles at a time, each tile on whichever thread.

use crate::calibrate::Calibration;
use crate::output::Output;
use crate::plan::{Plan, Planned};
use crate::quantize::{self, Blocks, DoesNotFit, Feedback, Loss, Recipe};
use crate::screen::Screen;
use crate::source;
use crate::{Error, Options, Progress};
use bourn_checkpoint::Checkpoint;
use bourn_format::image::NO_LAYER;
use bourn_format::layout::{TILE_ROWS, tile_bytes};
use bourn_format::{Dtype, Role};
use std::sync::atomic::Ordering;
use std::thread;

/// Weights that are made before they are written: what bounds memory.
const BATCH_WEIGHTS: usize = 1 << 20;

/// Threads to work with.
pub(crate) fn threads(options: &Options) -> usize {
    match options.threads {
        0 => thread::available_parallelism().map_or(1, usize::from),
        n => n,
    }
}

/// Writes all tensors, padding included; returns what each of them lost.
pub(crate) fn write(
    src: &Checkpoint,
    plan: &Plan,
    screen: Option<&Screen>,
    mut calibration: Option<&mut Calibration<'_>>,
    options: &Options,
    output: &mut Output,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<Vec<Loss>, Error> {
    let threads = threads(options);
    let total = plan.tensors.iter().map(|t| t.rows.len() as u64 * t.cols as u64).sum();
    let mut done = 0;
    let mut losses = Vec::with_capacity(plan.tensors.len());
    let mut bytes = Vec::new();
    for tensor in &plan.tensors {
        output.pad_to(tensor.offset)?;
        let mut loss = Loss::default();
        if let Some(screen) = screen.filter(|_| tensor.role.is_screen()) {
            made(screen, tensor, &mut bytes)?;
            output.push(&bytes)?;
            done += tensor.rows.len() as u64 * tensor.cols as u64;
            progress(Progress { tensor: &tensor.name, done, total });
            losses.push(loss);
            continue;
        }
        if tensor.role.is_flat() {
            loss.add(vector(src, tensor, &mut bytes)?);
            output.push(&bytes)?;
            done += tensor.cols as u64;
            progress(Progress { tensor: &tensor.name, done, total });
        } else {
            let factor = match &mut calibration {
                Some(run) if tensor.dtype == Dtype::Q4 && !tensor.transferred && !tensor.on_grid && tensor.layer != NO_LAYER => {
                    run.factor(usize::from(tensor.layer), tensor.role, progress)?
                }
                _ => None,
            };
            let feedback = factor.map(|factor| Feedback { factor, kernels: bourn_kernels::best() });
            let levels = &quantize::Levels::of(tensor.table);
            let work = Work { src, tensor, recipe: Recipe { dtype: tensor.dtype, levels, feedback } };
            let n_tiles = tensor.rows.len().div_ceil(TILE_ROWS);
            let batch = (BATCH_WEIGHTS / (TILE_ROWS * tensor.cols)).max(threads);
            for first in (0..n_tiles).step_by(batch) {
                if options.cancel.load(Ordering::Relaxed) {
                    return Err(Error::Cancelled);
                }
                let n = batch.min(n_tiles - first);
                loss.add(work.tiles(first, n, threads, &mut bytes)?);
                output.push(&bytes)?;
                done += ((n * TILE_ROWS).min(tensor.rows.len() - first * TILE_ROWS) * tensor.cols) as u64;
                progress(Progress { tensor: &tensor.name, done, total });
            }
        }
        source::release(src, tensor.index);
        debug_assert_eq!(output.position(), tensor.offset + tensor.bytes);
        losses.push(loss);
    }
    output.pad_to(plan.payload_bytes)?;
    Ok(losses)
}

/// A flat f32 tensor.
fn vector(src: &Checkpoint, tensor: &Planned, out: &mut Vec<u8>) -> Result<Loss, Error> {
    let mut values = vec![0.0; tensor.cols];
    source::rows(src, tensor.index, 0..1, &mut values)?;
    if let Some(&found) = values.iter().find(|v| !v.is_finite()) {
        return Err(not_fitting(tensor, 0, found));
    }
    out.clear();
    out.extend(values.iter().flat_map(|v| v.to_le_bytes()));
    Ok(Loss { energy: values.iter().map(|v| f64::from(*v) * f64::from(*v)).sum(), ..Loss::default() })
}

/// A tensor of the screen.
fn made(screen: &Screen, tensor: &Planned, out: &mut Vec<u8>) -> Result<(), Error> {
    let rows = &tensor.rows;
    out.clear();
    let values = match tensor.role {
        Role::ScreenMean => &screen.mean,
        Role::ScreenBooks => &screen.books,
        Role::ScreenCodes => {
            let size = tile_bytes(tensor.dtype, tensor.cols);
            out.extend_from_slice(&screen.codes[rows.start / TILE_ROWS * size..rows.end.div_ceil(TILE_ROWS) * size]);
            return Ok(());
        }
        Role::ScreenMap => &screen.map,
        _ => &screen.bias,
    };
    if let Some(&found) = values.iter().find(|v| !v.is_finite()) {
        return Err(not_fitting(tensor, 0, found));
    }
    if tensor.role.is_flat() {
        out.extend(values.iter().flat_map(|v| v.to_le_bytes()));
        return Ok(());
    }
    let size = tile_bytes(tensor.dtype, tensor.cols);
    out.resize(rows.len().div_ceil(TILE_ROWS) * size, 0);
    let values = &values[rows.start * tensor.cols..rows.end * tensor.cols];
    let recipe = Recipe { dtype: tensor.dtype, levels: &quantize::Levels::linear(), feedback: None };
    for (tile, (values, out)) in values.chunks(TILE_ROWS * tensor.cols).zip(out.chunks_exact_mut(size)).enumerate() {
        quantize::tile(&recipe, values, tensor.cols, out)
            .map_err(|DoesNotFit { row, found }| not_fitting(tensor, rows.start + tile * TILE_ROWS + row, found))?;
    }
    Ok(())
}

/// A matrix on its way into the image.
struct Work<'a> {
    src: &'a Checkpoint,
    tensor: &'a Planned,
    recipe: Recipe<'a>,
}

impl Work<'_> {
    /// Tiles `first..first + n` into `out`.
    fn tiles(&self, first: usize, n: usize, threads: usize, out: &mut Vec<u8>) -> Result<Loss, Error> {
        let size = tile_bytes(self.tensor.dtype, self.tensor.cols);
        out.clear();
        out.resize(n * size, 0);
        let mut losses = vec![Loss::default(); n];
        let share = n.div_ceil(threads.min(n));
        thread::scope(|scope| {
            let mut workers = Vec::new();
            for (i, (out, losses)) in out.chunks_mut(share * size).zip(losses.chunks_mut(share)).enumerate() {
                workers.push(scope.spawn(move || -> Result<(), Error> {
                    let mut scratch = Scratch::default();
                    for (j, (out, loss)) in out.chunks_exact_mut(size).zip(losses).enumerate() {
                        *loss = self.tile(first + i * share + j, &mut scratch, out)?;
                    }
                    Ok(())
                }));
            }
            // The error of the earliest rows, as one thread would find it.
            workers.into_iter().try_for_each(|worker| match worker.join() {
                Ok(result) => result,
                Err(panic) => std::panic::resume_unwind(panic),
            })
        })?;
        let mut sum = Loss::default();
        losses.into_iter().for_each(|loss| sum.add(loss));
        Ok(sum)
    }

    /// Tile number `tile`.
    fn tile(&self, tile: usize, scratch: &mut Scratch, out: &mut [u8]) -> Result<Loss, Error> {
        let Self { src, tensor, recipe } = self;
        let start = tensor.rows.start + tile * TILE_ROWS;
        let rows = start..(start + TILE_ROWS).min(tensor.rows.end);
        if tensor.transferred {
            for row in rows.clone() {
                source::blocks(src, tensor.index, tensor.dtype, row, &mut scratch.blocks)?;
                quantize::transfer(tensor.dtype, &scratch.blocks, row - rows.start, out)
                    .map_err(|found| not_fitting(tensor, row, found))?;
            }
            return Ok(Loss::default());
        }
        scratch.floats.resize(rows.len() * tensor.cols, 0.0);
        source::rows(src, tensor.index, rows.clone(), &mut scratch.floats)?;
        quantize::tile(recipe, &scratch.floats, tensor.cols, out)
            .map_err(|DoesNotFit { row, found }| not_fitting(tensor, rows.start + row, found))
    }
}

/// What a worker keeps from tile to tile.
#[derive(Default)]
struct Scratch {
    floats: Vec<f32>,
    blocks: Blocks,
}

fn not_fitting(tensor: &Planned, row: usize, found: f32) -> Error {
    Error::DoesNotFit { tensor: tensor.name.clone(), dtype: tensor.dtype, row, found }
}
