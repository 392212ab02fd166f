//! The calibration run: a text through the model in 8 bits, and what its matrices and its head meet on the way.
//!
//! `moments` (second moments of the inputs of every product) → `factor` (what the error of one weight should do to the next). The
//! moments of as many layers are gathered at once as [`MEMORY`] holds; the text is read once more for the next.

mod costs;
mod factor;
mod moments;

pub(crate) use factor::{Factor, Span, factors};
pub(crate) use moments::Moments;

use crate::screen::{Statistics, Sums};
use crate::{Error, Options, Progress, Screening, Weights};
use bourn_checkpoint::Checkpoint;
use bourn_core::text::{EncodeOptions, Tokenizer};
use bourn_core::{Engine, KvDtype, Observed, Options as CoreOptions, Site};
use bourn_format::{Image, Role, Shape};
use bourn_host::{ImageFile, OwnedSession, Pool, StreamKind};
use bourn_kernels::Rows;
use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;

/// The built-in calibration text: answers that Gemma 3 270M and SmolLM2 135M gave to plain prompts, in turns with pages and sources of
/// Bourn. A text that a model wrote itself alone is too easy for it: it shows too little of the tail.
const TEXT: &str = include_str!("text.txt");

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
/// Tokens that moments of one column more are worth.
const TOKENS_PER_COLUMN: u64 = 16;
/// Bytes of moments that are held at once, at least those of one layer.
const MEMORY: usize = 1 << 30;
/// Sites of a layer.
const SITES: [Site; 4] = [Site::Attention, Site::Output, Site::FeedForward, Site::Down];

/// The image of the run, removed when dropped.
struct Temporary(PathBuf);

impl Drop for Temporary {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// A calibration run under way.
pub(crate) struct Calibration<'a> {
    file: ImageFile,
    _temporary: Temporary,
    options: &'a Options,
    session: OwnedSession,
    pool: Pool,
    threads: usize,
    windows: Vec<Vec<u32>>,
    /// Windows that are part of no statistic of the head.
    held: Vec<Vec<u32>>,
    /// Positions at the beginning of a window that stand for no text.
    skipped: usize,
    /// Layers whose moments are at hand.
    layers: Range<usize>,
    /// Of each of these layers, by site.
    moments: Vec<Vec<Moments>>,
    /// Of the layer last asked for.
    factors: (usize, Vec<Factor>),
}

fn failed(e: bourn_core::Error) -> Error {
    Error::Calibration { what: e.to_string() }
}

impl<'a> Calibration<'a> {
    /// Packs the checkpoint in 8 bits beside `out` (it is removed at the end), and makes windows of the text.
    pub(crate) fn new(
        src: &Checkpoint,
        out: &Path,
        options: &'a Options,
        progress: &mut dyn FnMut(Progress<'_>),
    ) -> Result<Self, Error> {
        let name = out.file_name().unwrap_or_default().to_string_lossy();
        let temporary = Temporary(out.with_file_name(format!(".{name}.{}.calibration", std::process::id())));
        let method = Some(crate::Method::Rtn);
        let plain = Options {
            weights: Weights::Q8,
            head: None,
            screening: Some(Screening::Never),
            method,
            bits: None,
            ..options.clone()
        };
        crate::pack(src, &temporary.0, &plain, progress)?;
        let file = ImageFile::open(&temporary.0, StreamKind::Mapped).map_err(|e| Error::Calibration { what: e.to_string() })?;
        let text = options.calibration.as_deref().unwrap_or(TEXT);
        let (windows, skipped) = windows(file.image(), text)?;
        let window = windows.iter().map(Vec::len).max().unwrap_or(0);
        let is_held = |i: usize| i % HELD_EVERY == HELD_EVERY / 2 || i + 1 == windows.len();
        let (held, read): (Vec<_>, Vec<_>) = windows.iter().cloned().enumerate().partition(|(i, _)| is_held(*i));
        let strip = |windows: Vec<(usize, Vec<u32>)>| windows.into_iter().map(|(_, w)| w).collect();
        let core = CoreOptions { context: window, prefill_block: BLOCK, kv: KvDtype::F16, logit_rows: LOGIT_ROWS, retain: 0 };
        let threads = crate::tiles::threads(options);
        Ok(Self {
            session: OwnedSession::new(file.image(), &core).map_err(failed)?,
            file,
            _temporary: temporary,
            options,
            pool: Pool::new(threads),
            threads,
            windows: strip(read),
            held: strip(held),
            skipped,
            layers: 0..0,
            moments: Vec::new(),
            factors: (usize::MAX, Vec::new()),
        })
    }

    /// What a screened head meets. The moments of the first layers are gathered on the way if the method wants them.
    pub(crate) fn statistics(&mut self, progress: &mut dyn FnMut(Progress<'_>)) -> Result<Statistics, Error> {
        let shape = *self.file.image().shape();
        let mut sums = Sums::new(&shape);
        let layers = match self.options.method {
            Some(crate::Method::Gptq) => self.layers_from(0),
            _ => 0..0,
        };
        self.pass(layers, Some(&mut sums), progress)?;
        let held = self.held.clone();
        let every = (held.iter().map(Vec::len).sum::<usize>() / HELD).max(1);
        let (mut states, mut logits) = (Vec::new(), Vec::new());
        for ids in &held {
            let skipped = self.skipped;
            let wanted = |position: usize| position >= skipped && (position - skipped).is_multiple_of(every);
            self.run(|session, engine, _| {
                session.observe(engine, ids, &mut |seen: Observed<'_>| {
                    if seen.site == Site::Head && wanted(seen.position) {
                        states.extend_from_slice(seen.values);
                    }
                })
            })?;
            self.run(|session, engine, _| session.logits_at(engine, ids, &wanted, &mut |_, row| logits.extend_from_slice(row)))?;
        }
        sums.finish(shape, states, logits)
    }

    /// How the errors of matrix `role` of a layer are made good.
    pub(crate) fn factor(
        &mut self,
        layer: usize,
        role: Role,
        progress: &mut dyn FnMut(Progress<'_>),
    ) -> Result<Option<&Factor>, Error> {
        let site = match role {
            Role::Wq | Role::Wk | Role::Wv => 0,
            Role::Wo => 1,
            Role::Gate | Role::Up => 2,
            Role::Down => 3,
            _ => return Ok(None),
        };
        if self.factors.0 != layer {
            if !self.layers.contains(&layer) {
                let layers = self.layers_from(layer);
                self.pass(layers, None, progress)?;
            }
            let moments = &self.moments[layer - self.layers.start];
            self.factors = (layer, factors(moments, self.threads));
        }
        Ok(self.factors.1.get(site))
    }

    /// Layers from `first` on whose moments fit the memory.
    fn layers_from(&self, first: usize) -> Range<usize> {
        let image = self.file.image();
        let bytes: usize = columns(image.shape()).iter().map(|cols| 4 * moments::floats(*cols)).sum();
        first..(first + (MEMORY / bytes.max(1)).max(1)).min(image.n_layers())
    }

    /// Reads the text, for the moments of `layers` and the sums of the head's states.
    fn pass(
        &mut self,
        layers: Range<usize>,
        mut sums: Option<&mut Sums>,
        progress: &mut dyn FnMut(Progress<'_>),
    ) -> Result<(), Error> {
        let columns = columns(self.file.image().shape());
        let mut moments: Vec<Vec<Moments>> = layers.clone().map(|_| columns.iter().map(|c| Moments::new(*c)).collect()).collect();
        let windows = self.windows.clone();
        let total = windows.iter().map(|w| w.len() as u64).sum();
        let mut done = 0;
        for (i, ids) in windows.iter().enumerate() {
            if self.options.cancel.load(Ordering::Relaxed) {
                return Err(Error::Cancelled);
            }
            let (skipped, first) = (self.skipped, layers.start);
            let mut states = Vec::new();
            self.run(|session, engine, rows| {
                let mut block = Block::default();
                session.observe(engine, ids, &mut |seen: Observed<'_>| {
                    if seen.position < skipped {
                        return;
                    }
                    if seen.site == Site::Head {
                        states.extend_from_slice(seen.values);
                    } else if layers.contains(&seen.layer) {
                        block.take(&seen, first, &mut moments, rows);
                    }
                })?;
                block.flush(&mut moments, rows);
                Ok(())
            })?;
            if let Some(sums) = &mut sums {
                sums.add(&states);
                if i.is_multiple_of(LOGITS_EVERY) || i == 1 {
                    self.run(|session, engine, _| {
                        let max_sum_exp = engine.kernels.max_sum_exp;
                        session.logits_of_all(engine, ids, &mut |_, logits| sums.add_probabilities(logits, max_sum_exp))
                    })?;
                }
            }
            done += ids.len() as u64;
            progress(Progress { tensor: "calibration", done, total });
        }
        (self.layers, self.moments) = (layers, moments);
        Ok(())
    }

    /// `f` on a session at position 0.
    fn run(
        &mut self,
        f: impl FnOnce(&mut OwnedSession, &mut Engine<'_>, &dyn Rows) -> Result<(), bourn_core::Error>,
    ) -> Result<(), Error> {
        let image = self.file.image();
        self.session.rewind(image, 0).map_err(failed)?;
        let mut stream = self.file.stream();
        let rows = self.pool.limited(self.threads);
        let mut engine = Engine { image, stream: &mut stream, kernels: bourn_kernels::best(), decode: &rows, prefill: &rows };
        f(&mut self.session, &mut engine, &rows).map_err(failed)
    }
}

/// Inputs of one product, as they come.
#[derive(Default)]
struct Block {
    /// Index of the layer, and of the site.
    at: (usize, usize),
    values: Vec<f32>,
}

impl Block {
    fn take(&mut self, seen: &Observed<'_>, first: usize, moments: &mut [Vec<Moments>], rows: &dyn Rows) {
        let site = SITES.iter().position(|s| *s == seen.site).unwrap_or(0);
        let at = (seen.layer - first, site);
        if at != self.at {
            self.flush(moments, rows);
            self.at = at;
        }
        self.values.extend_from_slice(seen.values);
    }

    fn flush(&mut self, moments: &mut [Vec<Moments>], rows: &dyn Rows) {
        if !self.values.is_empty() {
            moments[self.at.0][self.at.1].add(&self.values, bourn_kernels::best(), rows);
            self.values.clear();
        }
    }
}

/// Columns of the products of a layer, by site.
fn columns(shape: &Shape) -> [usize; 4] {
    let hidden = shape.hidden as usize;
    [hidden, (shape.n_heads * shape.head_dim) as usize, hidden, shape.ffn as usize]
}

/// The text in windows, each begun as the model's texts begin, and how many tokens that takes.
fn windows(image: &Image<'_>, text: &str) -> Result<(Vec<Vec<u32>>, usize), Error> {
    let shape = image.shape();
    let (ids, prefix) = encode(image, text)?;
    let window = WINDOW.min(shape.max_context as usize);
    let body = image.parameters().saturating_sub(u64::from(shape.vocab) * u64::from(shape.hidden)).max(1);
    let widest = columns(shape).into_iter().max().unwrap_or(0) as u64;
    let most = (WORK / body).min(TOKENS_PER_COLUMN * widest).clamp(4096, 32_768) as usize;
    let step = window - prefix.len().min(window - 1);
    let chunks = ids[..ids.len().min(most)].chunks(step).filter(|chunk| chunk.len() > step / 2);
    let windows: Vec<Vec<u32>> = chunks.map(|chunk| prefix.iter().chain(chunk).copied().collect()).collect();
    if ids.len() < FEWEST || windows.len() < 2 {
        return Err(Error::Calibration { what: format!("text too short: need at least {FEWEST} tokens, have {}", ids.len()) });
    }
    Ok((windows, prefix.len()))
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
