//! What a head meets: a calibration text through the model in 8 bits, and what its last hidden states are like.

use super::matrix::{Panels, Symmetric, multiply};
use crate::{Error, Options, Progress, Screening, Weights};
use bourn_checkpoint::Checkpoint;
use bourn_core::text::{EncodeOptions, Tokenizer};
use bourn_core::{Engine, KvDtype, Options as CoreOptions};
use bourn_format::{Image, Shape};
use bourn_host::{ImageFile, OwnedSession, Pool, StreamKind};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;

/// The built-in calibration text: answers that Gemma 3 270M and SmolLM2 135M gave to plain prompts, in turns with pages and sources of
/// Bourn. A text that a model wrote itself alone is too easy for it: it shows too little of the tail.
const CALIBRATION: &str = include_str!("calibration.txt");

/// Tokens of a window.
const WINDOW: usize = 512;
/// Tokens that are pushed through the layers at once.
const BLOCK: usize = 64;
/// Positions whose logits are computed at once.
const LOGIT_ROWS: usize = 16;
/// Every so many windows all logits are looked at.
const LOGITS_EVERY: usize = 8;
/// Positions that are held back.
const HELD: usize = 128;
/// One window in so many, and the last, is held back.
const HELD_EVERY: usize = 16;
/// Fewest tokens that say anything.
const FEWEST: usize = 1024;
/// Weights times tokens that a calibration run may cost.
const WORK: u64 = 8_000_000_000_000;
/// Eigenvalues below this part of the largest count as this.
const FLOOR: f64 = 1e-7;

/// What was gathered.
#[derive(Debug)]
pub(crate) struct Statistics {
    pub shape: Shape,
    /// Of the hidden states.
    pub mean: Vec<f64>,
    covariance: Symmetric,
    /// Mean probability of each row.
    pub probabilities: Vec<f64>,
    /// States held back `[n, hidden]`: part of no statistic.
    pub held: Vec<f32>,
    /// Their logits `[n, vocab]`.
    pub logits: Vec<f32>,
}

impl Statistics {
    /// `C^½` and `C^-½` of the covariance.
    pub(crate) fn roots(&self) -> (Symmetric, Symmetric) {
        let eigen = self.covariance.eigen();
        let floor = eigen.0.first().map_or(1.0, |most| (most * FLOOR).max(1e-30));
        let root = |v: f64| v.max(floor).sqrt();
        (Symmetric::composed(&eigen, root), Symmetric::composed(&eigen, |v| 1.0 / root(v)))
    }
}

/// The image of the run, removed when dropped.
struct Temporary(PathBuf);

impl Drop for Temporary {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// Packs the checkpoint in 8 bits beside `out`, runs the calibration text through it, and removes it.
pub(crate) fn gather(
    src: &Checkpoint,
    out: &Path,
    options: &Options,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<Statistics, Error> {
    let name = out.file_name().unwrap_or_default().to_string_lossy();
    let temporary = Temporary(out.with_file_name(format!(".{name}.{}.calibration", std::process::id())));
    let plain = Options { weights: Weights::Q8, head: None, screening: Screening::Never, ..options.clone() };
    crate::pack(src, &temporary.0, &plain, progress)?;
    let file = ImageFile::open(&temporary.0, StreamKind::Mapped).map_err(|e| Error::Calibration { what: e.to_string() })?;
    let text = options.calibration.as_deref().unwrap_or(CALIBRATION);
    Run::new(&file, text, options)?.gather(progress)
}

/// A run under way.
struct Run<'a> {
    file: &'a ImageFile,
    options: &'a Options,
    session: OwnedSession,
    pool: Pool,
    threads: usize,
    windows: Vec<Vec<u32>>,
    /// Positions at the beginning of a window that stand for no text.
    skipped: usize,
    sums: Sums,
}

/// Sums over states, `shift` taken from each for accuracy.
struct Sums {
    n: usize,
    shift: Vec<f32>,
    sum: Vec<f64>,
    squares: Symmetric,
    probabilities: Vec<f64>,
    positions: usize,
}

fn failed(e: bourn_core::Error) -> Error {
    Error::Calibration { what: e.to_string() }
}

impl<'a> Run<'a> {
    fn new(file: &'a ImageFile, text: &str, options: &'a Options) -> Result<Self, Error> {
        let (image, shape) = (file.image(), file.image().shape());
        let hidden = shape.hidden as usize;
        let (ids, prefix) = encode(image, text)?;
        let window = WINDOW.min(shape.max_context as usize);
        let body = image.parameters().saturating_sub(u64::from(shape.vocab) * hidden as u64).max(1);
        let most = (WORK / body).clamp(4096, 32_768) as usize;
        let step = window - prefix.len().min(window - 1);
        let chunks = ids[..ids.len().min(most)].chunks(step).filter(|chunk| chunk.len() > step / 2);
        let windows: Vec<Vec<u32>> = chunks.map(|chunk| prefix.iter().chain(chunk).copied().collect()).collect();
        if ids.len() < FEWEST || windows.len() < 2 {
            return Err(Error::Calibration {
                what: format!("text too short: need at least {FEWEST} tokens, have {}", ids.len()),
            });
        }
        let core = CoreOptions { context: window, prefill_block: BLOCK, kv: KvDtype::F16, logit_rows: LOGIT_ROWS, retain: 0 };
        let threads = crate::tiles::threads(options);
        let vocab = shape.vocab as usize;
        Ok(Self {
            file,
            options,
            session: OwnedSession::new(image, &core).map_err(failed)?,
            pool: Pool::new(threads),
            threads,
            windows,
            skipped: prefix.len(),
            sums: Sums {
                n: 0,
                shift: vec![0.0; hidden],
                sum: vec![0.0; hidden],
                squares: Symmetric::zeros(hidden),
                probabilities: vec![0.0; vocab],
                positions: 0,
            },
        })
    }

    fn gather(mut self, progress: &mut dyn FnMut(Progress<'_>)) -> Result<Statistics, Error> {
        let windows = std::mem::take(&mut self.windows);
        let held_back = |i: usize| i % HELD_EVERY == HELD_EVERY / 2 || i + 1 == windows.len();
        let held: Vec<&Vec<u32>> = (0..windows.len()).filter(|&i| held_back(i)).map(|i| &windows[i]).collect();
        let total = windows.iter().map(|w| w.len() as u64).sum();
        let mut done = 0;
        for (i, ids) in windows.iter().enumerate().filter(|(i, _)| !held_back(*i)) {
            if self.options.cancel.load(Ordering::Relaxed) {
                return Err(Error::Cancelled);
            }
            let states = self.states(ids)?;
            if i.is_multiple_of(LOGITS_EVERY) || i == 1 {
                self.logits(ids)?;
            }
            self.sums.add(&states);
            done += ids.len() as u64;
            progress(Progress { tensor: "calibration", done, total });
        }
        let every = (held.iter().map(|ids| ids.len()).sum::<usize>() / HELD).max(1);
        let (mut states, mut logits) = (Vec::new(), Vec::new());
        let hidden = self.sums.shift.len();
        for ids in held {
            let wanted = |p: usize| p.is_multiple_of(every);
            let all = self.states(ids)?;
            all.chunks_exact(hidden).enumerate().filter(|(p, _)| wanted(*p)).for_each(|(_, h)| states.extend_from_slice(h));
            let skipped = self.skipped;
            self.run(ids, |session, engine| {
                session.logits_of_all(engine, ids, &mut |position, row| {
                    if position >= skipped && wanted(position - skipped) {
                        logits.extend_from_slice(row);
                    }
                })
            })?;
        }
        let shape = *self.file.image().shape();
        let Sums { n, shift, sum, mut squares, mut probabilities, positions, .. } = self.sums;
        let n = n.max(1) as f64;
        squares.values.iter_mut().for_each(|v| *v /= n);
        let offset: Vec<f64> = sum.iter().map(|s| s / n).collect();
        squares.take_square(&offset);
        probabilities.iter_mut().for_each(|p| *p /= positions.max(1) as f64);
        let mean = offset.iter().zip(&shift).map(|(o, s)| o + f64::from(*s)).collect();
        let finite = states.iter().chain(&logits).all(|v| v.is_finite()) && squares.values.iter().all(|v| v.is_finite());
        if !finite {
            return Err(Error::Calibration {
                what: "the model's states are not finite: need numbers, found NaN or infinity".into(),
            });
        }
        Ok(Statistics { shape, mean, covariance: squares, probabilities, held: states, logits })
    }

    /// Hidden states of a window, those of the prefix left out.
    fn states(&mut self, ids: &[u32]) -> Result<Vec<f32>, Error> {
        let (skipped, hidden) = (self.skipped, self.sums.shift.len());
        let mut states = Vec::with_capacity(ids.len() * hidden);
        self.run(ids, |session, engine| {
            session.hidden_of_all(engine, ids, &mut |position, h| {
                if position >= skipped {
                    states.extend_from_slice(h);
                }
            })
        })?;
        Ok(states)
    }

    /// Adds the probabilities of a window's positions.
    fn logits(&mut self, ids: &[u32]) -> Result<(), Error> {
        let mut sums = std::mem::take(&mut self.sums.probabilities);
        let mut positions = 0;
        let result = self.run(ids, |session, engine| {
            let max_sum_exp = engine.kernels.max_sum_exp;
            session.logits_of_all(engine, ids, &mut |_, logits| {
                let (max, sum) = max_sum_exp(logits);
                positions += 1;
                for (p, &logit) in sums.iter_mut().zip(logits) {
                    // e^-20 of the best counts for nothing.
                    if logit > max - 20.0 {
                        *p += f64::from(libm::expf(logit - max) / sum);
                    }
                }
            })
        });
        self.sums.probabilities = sums;
        self.sums.positions += positions;
        result
    }

    fn run(
        &mut self,
        _ids: &[u32],
        f: impl FnOnce(&mut OwnedSession, &mut Engine<'_>) -> Result<(), bourn_core::Error>,
    ) -> Result<(), Error> {
        let image = self.file.image();
        self.session.rewind(image, 0).map_err(failed)?;
        let mut stream = self.file.stream();
        let rows = self.pool.limited(self.threads);
        let kernels = bourn_kernels::best();
        let mut engine = Engine { image, stream: &mut stream, kernels, decode: &rows, prefill: &rows };
        f(&mut self.session, &mut engine).map_err(failed)
    }
}

impl Sums {
    fn add(&mut self, states: &[f32]) {
        let hidden = self.shift.len();
        let n = states.len() / hidden;
        if self.n == 0 && n > 0 {
            for (c, shift) in self.shift.iter_mut().enumerate() {
                *shift = (states.iter().skip(c).step_by(hidden).map(|v| f64::from(*v)).sum::<f64>() / n as f64) as f32;
            }
        }
        let mut centred = states.to_vec();
        for h in centred.chunks_exact_mut(hidden) {
            for ((v, shift), sum) in h.iter_mut().zip(&self.shift).zip(&mut self.sum) {
                *v -= shift;
                *sum += f64::from(*v);
            }
        }
        let mut gram = vec![0.0; hidden * hidden];
        multiply(&Panels::of_rows(&centred, hidden, |_| 1.0), &Panels::of_rows(&centred, hidden, |_| 1.0), &mut gram);
        self.squares.add(&gram);
        self.n += n;
    }
}

/// Ids of the text, and those that begin a text.
fn encode(image: &Image<'_>, text: &str) -> Result<(Vec<u32>, Vec<u32>), Error> {
    let missing = || Error::Calibration { what: "the checkpoint has no tokenizer: need one for the text".into() };
    let tokenizer = Tokenizer::new(image.tokenizer().ok_or_else(missing)?);
    let mut scratch = vec![0; tokenizer.scratch_bytes(text.len())];
    let mut ids = Vec::new();
    tokenizer.encode(text, EncodeOptions::default(), &mut scratch, &mut |id| ids.push(id)).map_err(failed)?;
    let vocab = image.shape().vocab;
    ids.retain(|id| *id < vocab);
    Ok((ids, tokenizer.prefix().filter(|id| *id < vocab).collect()))
}
