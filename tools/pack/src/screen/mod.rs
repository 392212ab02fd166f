//! The screened head: fits the coarse codes of every row of a head to the states it will meet (FORMAT.md §5).
//!
//! `statistics` (mean, covariance, which rows are likely) → rows in the metric of the states, rotated → `books` (bits per
//! dimension, centroids) → codes and biases of all rows → what is left to fit on states held back: ranges, margin, bias of the tail.

mod books;
mod statistics;
mod tail;

pub(crate) use statistics::{Statistics, Sums};

use crate::matrix::{Panels, Symmetric, multiply};
use crate::plan::Source;
use crate::{Error, Options, Progress, source};
use books::{ENTRIES, Group, assign, centroids, groups};
use bourn_checkpoint::Checkpoint;
use bourn_format::Shape;
use bourn_format::layout::{Dtype, TILE_ROWS, code_offset, n_tiles, tile_bytes};
use bourn_format::screen::{MAX_SUBS, SCREEN_BYTES, Sub};
use std::sync::atomic::Ordering;
use std::thread;

/// Rows of the head that are worked on at once by a thread.
const CHUNK: usize = 512;
/// Rows that centroids are fitted to.
const SAMPLES: usize = 16_000;
/// A row's weight: (mean probability + this)^½.
const RARE: f64 = 1e-8;

/// What a screen may cost.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Budget {
    /// Bits of a row's code, about.
    pub bits: f64,
    /// Most rows that are read exactly.
    pub candidates: usize,
}

impl Budget {
    /// The default: a quarter of a 4-bit head's bytes at most.
    pub(crate) fn standard(shape: &Shape) -> Self {
        let hidden = f64::from(shape.hidden);
        Self { bits: 680.0f64.min(1.0625 * hidden), candidates: 6144.min(shape.vocab as usize / 8).max(1) }
    }

    /// The precise one.
    pub(crate) fn precise(shape: &Shape) -> Self {
        let hidden = f64::from(shape.hidden);
        Self { bits: 1600.0f64.min(2.5 * hidden), candidates: 24_576.min(shape.vocab as usize / 4).max(1) }
    }
}

/// A fitted screen.
#[derive(Clone, Debug)]
pub(crate) struct Screen {
    pub subs: Vec<Sub>,
    pub n_wide: usize,
    pub dims: usize,
    pub candidates: usize,
    pub margin: f32,
    /// `[hidden]`.
    pub mean: Vec<f32>,
    /// `[dims, hidden]`.
    pub map: Vec<f32>,
    /// `[sub][dimension][16]`.
    pub books: Vec<f32>,
    /// `[vocab]`.
    pub bias: Vec<f32>,
    /// U4 tiles of all rows.
    pub codes: Vec<u8>,
    /// Mean divergence from the whole head on the states held back, in nats.
    pub loss: f64,
}

impl Screen {
    /// The SCREEN section.
    pub(crate) fn section(&self) -> Vec<u8> {
        let mut out = Vec::new();
        let words = [
            self.subs.len() as u32,
            self.n_wide as u32,
            self.dims as u32,
            self.candidates as u32,
            self.margin.to_bits(),
            0,
            0,
            0,
        ];
        words.iter().for_each(|w| out.extend_from_slice(&w.to_le_bytes()));
        debug_assert_eq!(out.len(), SCREEN_BYTES);
        for sub in &self.subs {
            out.extend_from_slice(&(sub.first as u16).to_le_bytes());
            out.extend_from_slice(&(sub.n as u16).to_le_bytes());
        }
        out
    }
}

/// xorshift64*: the same numbers on every machine.
pub(crate) struct Random(u64);

impl Random {
    fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// In 0..1.
    fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }

    fn below(&mut self, n: usize) -> usize {
        ((self.unit() * n as f64) as usize).min(n - 1)
    }
}

/// Where the head's rows come from, and who works on them.
struct Head<'a> {
    src: &'a Checkpoint,
    index: usize,
    rows: usize,
    cols: usize,
    threads: usize,
    options: &'a Options,
}

impl Head<'_> {
    /// `job(first row, rows [n, cols])` for all rows, `CHUNK` at a time, results in order to `keep`.
    fn each<T: Send>(
        &self,
        job: impl Fn(usize, &[f32]) -> T + Sync,
        progress: &mut dyn FnMut(usize),
        mut keep: impl FnMut(usize, T),
    ) -> Result<(), Error> {
        let starts: Vec<usize> = (0..self.rows).step_by(CHUNK).collect();
        for batch in starts.chunks(self.threads) {
            if self.options.cancel.load(Ordering::Relaxed) {
                return Err(Error::Cancelled);
            }
            let results: Vec<Result<T, Error>> = thread::scope(|scope| {
                let work = |first: usize| {
                    let rows = first..(first + CHUNK).min(self.rows);
                    let mut values = vec![0.0; rows.len() * self.cols];
                    source::rows(self.src, self.index, rows, &mut values)?;
                    Ok(job(first, &values))
                };
                let workers: Vec<_> = batch.iter().map(|&first| scope.spawn(move || work(first))).collect();
                let join = |w: thread::ScopedJoinHandle<'_, _>| w.join().unwrap_or_else(|p| std::panic::resume_unwind(p));
                workers.into_iter().map(join).collect()
            });
            for (&first, result) in batch.iter().zip(results) {
                keep(first, result?);
            }
            progress(batch.last().map_or(0, |first| (first + CHUNK).min(self.rows)));
        }
        source::release(self.src, self.index);
        Ok(())
    }
}

/// Fits a screen to the head `source` and the states of `statistics`.
pub(crate) fn fit(
    src: &Checkpoint,
    source: &Source,
    budget: Budget,
    statistics: &Statistics,
    options: &Options,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<Screen, Error> {
    let threads = crate::tiles::threads(options);
    let head = Head { src, index: source.index, rows: source.rows, cols: source.cols, threads, options };
    let (hidden, total) = (source.cols, 2 * source.rows as u64);
    let mut told = |pass: usize, done: usize| {
        progress(Progress { tensor: "screened head", done: (pass * source.rows + done) as u64, total });
    };

    // Rows in the metric of the states: |w·(h − mean)|² has the mean |w·C^½|².
    let weights = weights(&statistics.probabilities);
    let (root, inverse) = statistics.roots();
    let (mut spread, mut mean) = (Symmetric::zeros(hidden), vec![0.0f64; hidden]);
    let moments = |first: usize, x: &[f32]| {
        let (mut gram, mut sum) = (vec![0.0; hidden * hidden], vec![0.0f64; hidden]);
        let rows = Panels::of_rows(x, hidden, |r| weights[first + r] as f32);
        multiply(&rows, &Panels::of_rows(x, hidden, |_| 1.0), &mut gram);
        for (x, w) in x.chunks_exact(hidden).zip(&weights[first..]) {
            sum.iter_mut().zip(x).for_each(|(sum, x)| *sum += w * f64::from(*x));
        }
        (gram, sum)
    };
    head.each(moments, &mut |done| told(0, done), |_, (gram, sum)| {
        spread.add(&gram);
        mean.iter_mut().zip(sum).for_each(|(m, s)| *m += s);
    })?;
    spread.take_square(&mean);
    let (variances, axes) = spread.between(&root).eigen();

    let mut groups = groups(&variances, budget.bits);
    let codes_of = |groups: &[Group]| groups.iter().map(|g| g.stages).sum::<usize>();
    while codes_of(&groups) > MAX_SUBS - 1 {
        groups.pop();
    }
    let used = groups.last().map_or(1, |g| g.first + g.n);
    // Rows times `C^½·axes` are what is coded; states times `axesᵀ·C^-½` what the codes meet.
    let mut columns = vec![0.0f32; used * hidden];
    let mut map = vec![0.0f32; used * hidden];
    for d in 0..used {
        let axis = &axes[d * hidden..][..hidden];
        for c in 0..hidden {
            let dot = |m: &Symmetric| m.values[c * hidden..][..hidden].iter().zip(axis).map(|(a, b)| a * b).sum::<f64>() as f32;
            (columns[d * hidden + c], map[d * hidden + c]) = (dot(&root), dot(&inverse));
        }
    }
    let basis: Panels<8> = Panels::of_columns(&columns, hidden);
    let project = |x: &[f32]| {
        let mut z = vec![0.0; x.len() / hidden * used];
        multiply(&Panels::of_columns(x, hidden), &basis, &mut z);
        z
    };

    let mut random = Random::new(5);
    let chosen = sample(&weights, &mut random);
    let mut points = vec![0.0; chosen.len() * used];
    for (rows, out) in chosen.chunks(CHUNK).zip(points.chunks_mut(CHUNK * used)) {
        let mut x = vec![0.0; rows.len() * hidden];
        for (&row, x) in rows.iter().zip(x.chunks_exact_mut(hidden)) {
            source::rows(src, source.index, row..row + 1, x)?;
        }
        out.copy_from_slice(&project(&x));
    }
    let mut coder = Coder::new(groups, used, &points, &mut random);
    if used < hidden {
        // Rows are not 0 on average in the dimensions that have no codes: what all of them have in common there goes into one
        // more dimension at the end, which the last book adds whatever the code.
        let mut rest = root.times(&mean);
        for axis in axes.chunks_exact(hidden).take(used) {
            let along: f64 = rest.iter().zip(axis).map(|(a, b)| a * b).sum();
            rest.iter_mut().zip(axis).for_each(|(z, a)| *z -= along * a);
        }
        map.extend(inverse.times(&rest).into_iter().map(|v| v as f32));
        coder.add_constant_dimension();
    }
    let n_wide = tail::order_by_range(&mut coder, &map, statistics);

    let n_subs = coder.stages.len();
    let tile = tile_bytes(Dtype::U4, n_subs);
    let mut screen = Screen {
        subs: coder.stages.iter().map(|s| Sub { first: s.first, n: s.width }).collect(),
        n_wide,
        dims: coder.dims,
        candidates: budget.candidates,
        margin: tail::MARGINS[tail::MARGINS.len() - 1],
        mean: statistics.mean.iter().map(|m| *m as f32).collect(),
        map,
        books: coder.books(),
        bias: vec![0.0; source.rows],
        codes: vec![0; n_tiles(source.rows) * tile],
        loss: 0.0,
    };
    let encode = |_: usize, x: &[f32]| {
        let rows = x.len() / hidden;
        let mut z = project(x);
        let mut codes = vec![0; n_tiles(rows) * tile];
        let mut of_row = vec![0; n_subs];
        for (r, z) in z.chunks_exact_mut(used).enumerate() {
            coder.encode(z, &mut of_row);
            for (s, &code) in of_row.iter().enumerate() {
                let (at, shift) = code_offset(r % TILE_ROWS, s);
                codes[r / TILE_ROWS * tile + at] |= code << shift;
            }
        }
        let bias = |w: &[f32]| w.iter().zip(&statistics.mean).map(|(w, m)| f64::from(*w) * m).sum::<f64>() as f32;
        (codes, x.chunks_exact(hidden).map(bias).collect::<Vec<f32>>())
    };
    let mut parts = Vec::new();
    head.each(encode, &mut |done| told(1, done), |first, part| parts.push((first, part)))?;
    for (first, (codes, bias)) in parts {
        screen.codes[first / TILE_ROWS * tile..][..codes.len()].copy_from_slice(&codes);
        screen.bias[first..][..bias.len()].copy_from_slice(&bias);
    }
    tail::fit(&mut screen, statistics)?;
    Ok(screen)
}

/// Each row's weight, in all 1.
fn weights(probabilities: &[f64]) -> Vec<f64> {
    let roots: Vec<f64> = probabilities.iter().map(|p| (p + RARE).sqrt()).collect();
    let sum: f64 = roots.iter().sum();
    roots.iter().map(|r| r / sum).collect()
}

/// Rows drawn by weight, with replacement.
fn sample(weights: &[f64], random: &mut Random) -> Vec<usize> {
    let mut sum = 0.0;
    let ends: Vec<f64> = weights
        .iter()
        .map(|w| {
            sum += w;
            sum
        })
        .collect();
    (0..SAMPLES)
        .map(|_| {
            let at = random.unit() * sum;
            ends.partition_point(|end| *end <= at).min(weights.len() - 1)
        })
        .collect()
}

/// One code: a book over some dimensions, of their values or of what the stage before has left of them.
#[derive(Clone, Debug)]
struct Stage {
    first: usize,
    /// Dimensions that are coded.
    n: usize,
    /// Dimensions of the book: one more where a constant is added.
    width: usize,
    /// `[16][n]`.
    book: Vec<f32>,
    /// Whether it codes what another has left.
    second: bool,
}

/// All codes of a row.
struct Coder {
    stages: Vec<Stage>,
    dims: usize,
}

impl Coder {
    fn new(groups: Vec<Group>, used: usize, points: &[f32], random: &mut Random) -> Self {
        let mut stages = Vec::new();
        for g in groups {
            let mut left: Vec<f32> = points.chunks_exact(used).flat_map(|z| &z[g.first..g.first + g.n]).copied().collect();
            for stage in 0..g.stages {
                let book = centroids(&left, g.n, random);
                for x in left.chunks_exact_mut(g.n) {
                    let e = assign(x, &book);
                    x.iter_mut().zip(&book[e * g.n..]).for_each(|(x, c)| *x -= c);
                }
                stages.push(Stage { first: g.first, n: g.n, width: g.n, book, second: stage > 0 });
            }
        }
        if !stages.len().is_multiple_of(2) {
            // Codes come in pairs: one that says nothing.
            stages.push(Stage { first: used - 1, n: 1, width: 1, book: vec![0.0; ENTRIES], second: true });
        }
        Self { stages, dims: used }
    }

    /// Codes of a row `z`, of which only the dimensions that are coded are looked at; `z` is left what no code says.
    fn encode(&self, z: &mut [f32], out: &mut [u8]) {
        for second in [false, true] {
            for (stage, out) in self.stages.iter().zip(&mut *out).filter(|(stage, _)| stage.second == second) {
                let x = &mut z[stage.first..stage.first + stage.n];
                let e = assign(x, &stage.book);
                x.iter_mut().zip(&stage.book[e * stage.n..]).for_each(|(x, c)| *x -= c);
                *out = e as u8;
            }
        }
    }

    /// A dimension after the last, whose value every row's score gets.
    fn add_constant_dimension(&mut self) {
        if let Some(last) = self.stages.iter_mut().find(|s| s.first + s.n == self.dims) {
            last.width += 1;
            self.dims += 1;
        }
    }

    /// `[sub][dimension][16]`.
    fn books(&self) -> Vec<f32> {
        let mut out = Vec::new();
        for s in &self.stages {
            for d in 0..s.width {
                out.extend((0..ENTRIES).map(|e| if d < s.n { s.book[e * s.n + d] } else { 1.0 }));
            }
        }
        out
    }
}
