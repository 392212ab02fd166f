//! Hidden state → logits: every row of the head, or a coarse look at all of them and an exact one at the best.
//!
//! ```text
//! h = norm(x, final_norm)
//! screened:  y = map·(h − mean);  score[r] = bias[r] + Σ_s book_s[code(r, s)]·y_s          all rows
//!            logit[r] = head[r]·h  for rows whose score is among the best, score[r] for the others
//! ```
//!
//! A candidate's logit has the bits that a head read whole gives it. So the best token is the whole head's whenever it is a candidate.

use super::{Engine, Input, Matrix, Pass, Session};
use crate::Error;
use crate::workspace::{HeadPlan, Plan};
use bourn_format::{Dtype, Image, Role, Screen, layout};
use bourn_kernels::rows::{Block, Rows, split};
use bourn_kernels::table::{Kernels, Q8Rows, ScreenTables, ScreenTiles, Tiles};

/// Which rows of the head are read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum HeadMode {
    /// Of a screened head the coarse part and the candidates' rows; of any other all.
    #[default]
    Screened,
    /// All rows.
    Exact,
}

/// Rows that are gathered before they are multiplied.
pub(crate) const GATHER: usize = 256;
/// Rows of the head that are asked for before they are copied: as many as a core waits for at the same time.
const AHEAD: usize = 4;
/// Most rows of scores that one piece of work computes.
const PIECE_ROWS: usize = 4096;
/// Halvings of the interval in which the threshold lies.
const HALVINGS: usize = 24;

/// The buffers of a screened head, carved out of one.
struct Room<'a> {
    /// `h − mean`: `[n, hidden]`.
    centred: &'a mut [f32],
    tables: TableRoom<'a>,
    gather: GatherRoom<'a>,
}

/// The tables of every token.
struct TableRoom<'a> {
    /// `y`: `[n, dims]`, rows padded to tiles.
    mapped: &'a mut [f32],
    /// A token's tables before rounding.
    values: &'a mut [f32],
    /// `lsb`, `base` of each token.
    scales: &'a mut [f32],
    low: &'a mut [u8],
    high: &'a mut [u8],
}

/// Some candidates' rows and their logits.
struct GatherRoom<'a> {
    rows: &'a mut [u8],
    logits: &'a mut [f32],
}

impl<'a> Room<'a> {
    fn carve(plan: &HeadPlan, all: &'a mut [u8]) -> Option<Self> {
        let mut rest = all;
        let mut parts = plan.lengths().map(|n| (n, None));
        for (n, part) in &mut parts {
            let (head, tail) = rest.split_at_mut_checked(*n)?;
            (*part, rest) = (Some(head), tail);
        }
        let [a, b, c, d, e, low, high, rows] = parts.map(|(_, part)| part.unwrap_or_default());
        let f32s = |bytes: &'a mut [u8]| bytemuck::try_cast_slice_mut::<u8, f32>(bytes).ok();
        Some(Self {
            centred: f32s(a)?,
            tables: TableRoom { mapped: f32s(b)?, values: f32s(c)?, scales: f32s(d)?, low, high },
            gather: GatherRoom { rows, logits: f32s(e)? },
        })
    }
}

impl Session<'_> {
    /// Chooses which rows of the head are read from now on.
    pub fn set_head_mode(&mut self, mode: HeadMode) {
        self.head_mode = mode;
    }

    /// Reads `tokens` and returns the logits `[vocab]` after the last of the tokens `allowed`, −∞ for all others: no other row
    /// of the head is read.
    ///
    /// # Errors
    /// [`Error`]; [`Error::Token`] if an id is not below the vocabulary.
    pub fn prefill_allowed(&mut self, engine: &mut Engine<'_>, tokens: &[u32], allowed: &[u32]) -> Result<&mut [f32], Error> {
        let vocab = engine.image.shape().vocab;
        if let Some(&id) = allowed.iter().find(|&&id| id >= vocab) {
            return Err(Error::Token { id, vocab });
        }
        self.check(engine.image, tokens)?;
        let mut last = 0;
        for block in tokens.chunks(self.plan.block) {
            self.forward(engine, block)?;
            last = block.len() - 1;
        }
        self.final_norm(engine, last, 1)?;
        self.rows = 1;
        let (plan, b, image) = (&self.plan, &mut self.buffers, engine.image);
        let mut input = Input { q8: b.q8, scale: b.q8_scale, sum: b.q8_sum, float: b.normed, cols: plan.hidden, n: 1 };
        input.quantize_for_head(engine.kernels, image);
        let logits = &mut b.logits[..vocab as usize];
        logits.fill(f32::NEG_INFINITY);
        for &id in allowed {
            let logit = one_row(engine, &input, id)?;
            logits[id as usize] = logit;
        }
        self.logits(engine.kernels, image, 0)
    }

    /// The last segment that a head reads whole.
    pub(super) fn head_end(&self, image: &Image<'_>) -> Option<usize> {
        let screened = image.screen().is_some() && self.head_mode == HeadMode::Screened;
        let role = if screened { Role::ScreenCodes } else { Role::Head };
        image.parts(role).last().map(|t| t.segment)
    }

    /// Logits of tokens `first..first + n` of the last block into the first `n` rows of the logits buffer.
    pub(super) fn head(&mut self, engine: &mut Engine<'_>, first: usize, n: usize) -> Result<(), Error> {
        self.final_norm(engine, first, n)?;
        self.rows = n;
        let image = engine.image;
        match image.screen() {
            Some(screen) if self.head_mode == HeadMode::Screened => self.screened(engine, screen, n)?,
            _ => self.all_rows(engine, n)?,
        }
        let cap = image.shape().final_softcap;
        if cap != 0.0 {
            let vocab = image.shape().vocab as usize;
            for row in self.buffers.logits.chunks_mut(self.plan.vocab_rows).take(n) {
                (engine.kernels.softcap)(&mut row[..vocab], cap);
            }
        }
        Ok(())
    }

    /// `norm(x, final_norm)` of tokens `first..first + n` of the last block into the first `n` normed rows.
    pub(super) fn final_norm(&mut self, engine: &mut Engine<'_>, first: usize, n: usize) -> Result<(), Error> {
        let (plan, b, image) = (&self.plan, &mut self.buffers, engine.image);
        let pass = pass(engine.kernels, engine.prefill, image, n);
        let norm = image.final_norm();
        let segment = image.segment(norm.segment);
        let weight = norm.within(&segment, engine.stream.segment(norm.segment)?);
        pass.norm(&b.residual[first * plan.hidden..], weight, b.normed, plan.hidden, n);
        Ok(())
    }

    fn all_rows(&mut self, engine: &mut Engine<'_>, n: usize) -> Result<(), Error> {
        let (plan, b, image) = (&self.plan, &mut self.buffers, engine.image);
        let pass = pass(engine.kernels, if n == 1 { engine.decode } else { engine.prefill }, image, n);
        let mut input = Input { q8: b.q8, scale: b.q8_scale, sum: b.q8_sum, float: b.normed, cols: plan.hidden, n };
        input.quantize_for_head(engine.kernels, image);
        for part in image.parts(Role::Head) {
            let segment = image.segment(part.segment);
            let bytes = part.within(&segment, engine.stream.segment(part.segment)?);
            let y = &mut b.logits[part.first_row..];
            pass.multiply(&[Matrix { tensor: part, bytes }], &input, plan.hidden, y, plan.vocab_rows);
        }
        Ok(())
    }

    fn screened(&mut self, engine: &mut Engine<'_>, screen: &Screen<'_>, n: usize) -> Result<(), Error> {
        let (plan, b, image) = (&self.plan, &mut self.buffers, engine.image);
        let rows = if n == 1 { engine.decode } else { engine.prefill };
        let pass = pass(engine.kernels, rows, image, n);
        let too_small = Error::Workspace { need: plan.bytes() as u64, have: 0 };
        let mut room = Room::carve(&plan.head, b.head).ok_or(too_small)?;
        centre(engine, plan, b.normed, n, &mut room)?;
        let centred = Input { q8: b.q8, scale: b.q8_scale, sum: b.q8_sum, float: room.centred, cols: plan.hidden, n };
        tables(engine, &pass, screen, &centred, &mut room.tables)?;
        scores(engine, rows, screen, plan, &room.tables, n, b.logits)?;
        let mut input = Input { q8: b.q8, scale: b.q8_scale, sum: b.q8_sum, float: b.normed, cols: plan.hidden, n };
        input.quantize_for_head(engine.kernels, image);
        let vocab = image.shape().vocab as usize;
        for (t, logits) in b.logits.chunks_mut(plan.vocab_rows).take(n).enumerate() {
            let x = input.vector(t);
            exact(engine, rows, screen, &x, &mut logits[..vocab], &mut room.gather)?;
        }
        Ok(())
    }
}

fn pass<'p>(kernels: &'static Kernels, rows: &'p dyn Rows, image: &'p Image<'p>, n: usize) -> Pass<'p> {
    Pass { kernels, rows, image, n, position: 0 }
}

impl Input<'_> {
    /// Makes the int8 form if a part of the head takes it.
    fn quantize_for_head(&mut self, kernels: &Kernels, image: &Image<'_>) {
        if let Some(part) = image.parts(Role::Head).find(|part| part.dtype.is_quantized()) {
            self.quantize(kernels, &[Matrix { tensor: part, bytes: &[] }], self.cols);
        }
    }

    /// The int8 form of vector `t`.
    fn vector(&self, t: usize) -> Q8Rows<'_> {
        let padded = layout::padded_cols(self.cols);
        let groups = padded / layout::GROUP;
        Q8Rows {
            n: 1,
            q: &self.q8[t * padded..][..padded],
            scale: &self.scale[t * groups..][..groups],
            sum: &self.sum[t * groups..][..groups],
        }
    }
}

/// `h − mean` of every token.
fn centre(engine: &mut Engine<'_>, plan: &Plan, normed: &[f32], n: usize, room: &mut Room<'_>) -> Result<(), Error> {
    let mean = engine.image.screen_tensor(Role::ScreenMean);
    let segment = engine.image.segment(mean.segment);
    let mean = mean.within(&segment, engine.stream.segment(mean.segment)?).as_chunks::<4>().0;
    for (h, d) in normed.chunks(plan.hidden).zip(room.centred.chunks_mut(plan.hidden)).take(n) {
        for ((h, m), d) in h.iter().zip(mean).zip(d) {
            *d = h - f32::from_le_bytes(*m);
        }
    }
    Ok(())
}

/// The look-up tables of every token.
fn tables(
    engine: &mut Engine<'_>,
    pass: &Pass<'_>,
    screen: &Screen<'_>,
    centred: &Input<'_>,
    room: &mut TableRoom<'_>,
) -> Result<(), Error> {
    let image = engine.image;
    let [map, books] = [Role::ScreenMap, Role::ScreenBooks].map(|role| image.screen_tensor(role));
    let segment = image.segment(map.segment);
    let bytes = engine.stream.segment(map.segment)?;
    let dims = layout::padded_rows(screen.dims());
    let map = Matrix { tensor: map, bytes: map.within(&segment, bytes) };
    pass.multiply(&[map], centred, centred.cols, room.mapped, dims);
    let books = books.within(&segment, bytes);
    let (n_low, n_high) = (16 * screen.n_subs(), 16 * screen.n_wide());
    for t in 0..centred.n {
        let y = &room.mapped[t * dims..][..dims];
        let (low, high) = (&mut room.low[t * n_low..][..n_low], &mut room.high[t * n_high..][..n_high]);
        let (lsb, base) = (engine.kernels.screen_tables)(screen, books, y, room.values, low, high);
        room.scales[2 * t..2 * t + 2].copy_from_slice(&[lsb, base]);
    }
    Ok(())
}

/// The coarse scores of all rows for every token.
fn scores(
    engine: &mut Engine<'_>,
    rows: &dyn Rows,
    screen: &Screen<'_>,
    plan: &Plan,
    room: &TableRoom<'_>,
    n: usize,
    logits: &mut [f32],
) -> Result<(), Error> {
    let (image, kernels) = (engine.image, engine.kernels);
    let (n_subs, tile) = (screen.n_subs(), layout::tile_bytes(Dtype::U4, screen.n_subs()));
    let (low, high) = (16 * n_subs, 16 * screen.n_wide());
    for (codes, bias) in image.parts(Role::ScreenCodes).zip(image.parts(Role::ScreenBias)) {
        let segment = image.segment(codes.segment);
        let bytes = engine.stream.segment(codes.segment)?;
        let (first, len) = (codes.first_row, layout::padded_rows(codes.rows));
        let (codes, bias) = (codes.within(&segment, bytes), bias.within(&segment, bytes));
        let piece = match rows.workers() {
            1 => PIECE_ROWS,
            workers => (len / (workers * 4)).clamp(layout::TILE_ROWS, PIECE_ROWS),
        };
        let piece = piece.next_multiple_of(4 * layout::TILE_ROWS);
        split(rows, Block::new(&mut logits[first..], n, plan.vocab_rows, len), n, piece, &|t0, r, mut y| {
            let tiles = r / layout::TILE_ROWS..(r + y.len()) / layout::TILE_ROWS;
            let w = ScreenTiles {
                codes: &codes[tiles.start * tile..tiles.end * tile],
                bias: &bias[2 * r..2 * (r + y.len())],
                n_subs,
            };
            for t in 0..y.n() {
                let at = t0 + t;
                let tables = ScreenTables {
                    low: &room.low[at * low..][..low],
                    high: &room.high[at * high..][..high],
                    lsb: room.scales[2 * at],
                    base: room.scales[2 * at + 1],
                };
                (kernels.screen_scores)(&w, &tables, y.row(t));
            }
        });
    }
    Ok(())
}

/// Replaces the candidates' scores by their logits.
fn exact(
    engine: &mut Engine<'_>,
    rows: &dyn Rows,
    screen: &Screen<'_>,
    x: &Q8Rows<'_>,
    logits: &mut [f32],
    room: &mut GatherRoom<'_>,
) -> Result<(), Error> {
    let (image, kernels) = (engine.image, engine.kernels);
    let hidden = image.shape().hidden as usize;
    let bytes = layout::row_bytes(hidden);
    let threshold = threshold(kernels, logits, screen.candidates(), screen.margin());
    let (mut ids, mut offsets, mut left, mut next) = ([0; GATHER], [0; GATHER], screen.candidates(), 0);
    let (mut best, mut best_row) = (f32::NEG_INFINITY, 0);
    // Candidates come in rising order, and so do the parts that hold them.
    let mut parts = image.parts(Role::Head);
    let mut part = parts.next();
    while left > 0 && next < logits.len() {
        let n;
        (n, next) = candidates(logits, threshold, next, &mut ids[..left.min(GATHER)]);
        left -= n;
        for (&row, offset) in ids.iter().zip(&mut offsets).take(n) {
            while part.is_some_and(|p| row >= p.first_row + p.rows) {
                part = parts.next();
            }
            let Some(p) = part else { break };
            *offset = p.offset + ((row - p.first_row) * bytes) as u64;
        }
        for (i, place) in room.rows.chunks_exact_mut(bytes).enumerate().take(n) {
            if i + AHEAD < n {
                engine.stream.soon(offsets[i + AHEAD], bytes);
            }
            place.copy_from_slice(engine.stream.read(offsets[i], bytes)?);
        }
        let piece = n.div_ceil(rows.workers()).next_multiple_of(layout::TILE_ROWS).max(layout::TILE_ROWS);
        let gathered = &room.rows[..n * bytes];
        split(rows, Block::new(room.logits, 1, GATHER, n), 1, piece, &|_, first, mut y| {
            let bytes = &gathered[first * bytes..(first + y.len()) * bytes];
            (kernels.mul_rows)(&Tiles { dtype: Dtype::Q8R, bytes, cols: hidden, table: [0; 16] }, x, &mut y);
        });
        for (&row, &logit) in ids.iter().zip(&*room.logits).take(n) {
            logits[row] = logit;
            if logit > best || logit.is_nan() {
                (best, best_row) = (logit, row);
            }
            if logit.is_nan() {
                break;
            }
        }
        if best.is_nan() {
            break;
        }
    }
    if !best.is_finite() {
        // Weights that are not numbers: it must show.
        logits.fill(f32::NAN);
    } else if best <= threshold {
        // A row that was not read never wins over one that was.
        for (row, logit) in logits.iter_mut().enumerate() {
            if *logit > best || (*logit == best && row < best_row) {
                *logit = best.next_down();
            }
        }
    }
    Ok(())
}

/// The score that at most `most` rows reach and no row farther than `margin` below the best. (Of equal scores more may: the
/// first `most` count.)
fn threshold(kernels: &Kernels, scores: &[f32], most: usize, margin: f32) -> f32 {
    let best = scores.get((kernels.argmax)(scores)).copied().unwrap_or(f32::NAN);
    let (mut low, mut high) = (best - margin, best);
    if (kernels.count_at_least)(scores, low) <= most {
        return low;
    }
    for _ in 0..HALVINGS {
        let middle = 0.5 * (low + high);
        if !(low < middle && middle < high) {
            break;
        }
        let n = (kernels.count_at_least)(scores, middle);
        if n > most {
            low = middle;
            continue;
        }
        high = middle;
        if n >= most - most / 16 {
            break;
        }
    }
    high
}

/// Rows from `start` on whose score reaches `threshold`, as many as `ids` takes, and the row after the last one looked at.
fn candidates(scores: &[f32], threshold: f32, start: usize, ids: &mut [usize]) -> (usize, usize) {
    let (mut n, mut row) = (0, start);
    while row < scores.len() && n < ids.len() {
        let run = &scores[row..(row + layout::TILE_ROWS).min(scores.len())];
        if !run.iter().fold(false, |any, &s| any | (s >= threshold)) {
            row += run.len();
            continue;
        }
        for &s in run {
            if s >= threshold {
                if n == ids.len() {
                    return (n, row);
                }
                ids[n] = row;
                n += 1;
            }
            row += 1;
        }
    }
    (n, row)
}

/// The logit of one row, whatever type the head has.
fn one_row(engine: &mut Engine<'_>, input: &Input<'_>, id: u32) -> Result<f32, Error> {
    let (image, row) = (engine.image, id as usize);
    let part = image.parts(Role::Head).find(|p| row < p.first_row + p.rows);
    let part = part.ok_or(Error::Token { id, vocab: image.shape().vocab })?;
    let size = layout::tile_bytes(part.dtype, part.cols);
    let tile = (row - part.first_row) / layout::TILE_ROWS;
    let bytes = engine.stream.read(part.offset + (tile * size) as u64, size)?;
    let tile = Tiles { dtype: part.dtype, bytes, cols: part.cols, table: part.table };
    let mut y = [0.0; layout::TILE_ROWS];
    let mut block = Block::new(&mut y, 1, layout::TILE_ROWS, layout::TILE_ROWS);
    match part.dtype {
        Dtype::Q8R => (engine.kernels.mul_rows)(&tile, &input.vector(0), &mut block),
        dtype if dtype.is_quantized() => (engine.kernels.mul_quantized)(&tile, &input.vector(0), &mut block),
        _ => (engine.kernels.mul_float)(&tile, input.float, input.cols, &mut block),
    }
    let cap = image.shape().final_softcap;
    if cap != 0.0 {
        (engine.kernels.softcap)(&mut y, cap);
    }
    Ok(y[row % layout::TILE_ROWS])
}
