//! Second moments of the inputs of every product: `H = Σ x·xᵀ / n`, summed a block of tokens at a time.
//!
//! Columns are cut into spans of at most [`SPAN`], and only moments within a span are kept: what a weight's error costs is then
//! made good by the weights of its own span alone. Of each span only the lower triangle is summed, by the kernels' own float
//! products: a block of inputs `[n, cols]` is the float tiles of its transpose as it lies.

use bourn_format::Dtype;
use bourn_format::layout::{GROUP, TILE_ROWS};
use bourn_kernels::Kernels;
use bourn_kernels::rows::{Block, Rows};
use bourn_kernels::table::Tiles;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;

/// Most columns whose errors make each other good.
const SPAN: usize = 2048;

/// The spans of a matrix with `cols` columns: equal, whole groups, the last one shorter.
pub(crate) fn spans(cols: usize) -> Vec<Range<usize>> {
    let padded = cols.next_multiple_of(GROUP);
    let len = padded.div_ceil(padded.div_ceil(SPAN)).next_multiple_of(GROUP);
    (0..padded).step_by(len).map(|first| first..(first + len).min(padded)).collect()
}

/// Floats that the moments of a product with `cols` columns take.
pub(crate) fn floats(cols: usize) -> usize {
    spans(cols).iter().map(|span| triangle(span.len() / TILE_ROWS)).sum()
}

/// Floats of `n_tiles` columns of tiles, each as long as the triangle reaches.
const fn triangle(n_tiles: usize) -> usize {
    TILE_ROWS * TILE_ROWS * n_tiles * (n_tiles + 1) / 2
}

/// Moments of one product's inputs.
#[derive(Clone, Debug, Default)]
pub(crate) struct Moments {
    cols: usize,
    /// Inputs summed.
    n: usize,
    /// Of each span, for each tile of 16 columns `c`: `H[j][c]` for all `j` up to the tile's last column, `[j][16]`.
    spans: Vec<Vec<f32>>,
}

impl Moments {
    pub(crate) fn new(cols: usize) -> Self {
        let spans = spans(cols).iter().map(|span| vec![0.0; triangle(span.len() / TILE_ROWS)]).collect();
        Self { cols, n: 0, spans }
    }

    /// Columns of the product.
    pub(crate) fn cols(&self) -> usize {
        self.cols
    }

    /// `+= xᵀ·x` of inputs `x [n, cols]`; the longest tiles go first, so that all workers finish together.
    pub(crate) fn add(&mut self, x: &[f32], kernels: &'static Kernels, rows: &dyn Rows) {
        let n = x.len() / self.cols;
        self.n += n;
        for (range, sums) in spans(self.cols).iter().zip(&mut self.spans) {
            let span = Span::new(x, self.cols, n, range);
            let n_tiles = span.len / TILE_ROWS;
            let mut tiles = Vec::new();
            let mut rest = &mut sums[..];
            for tile in 0..n_tiles {
                let (first, others) = rest.split_at_mut(TILE_ROWS * TILE_ROWS * (tile + 1));
                tiles.push(Mutex::new(first));
                rest = others;
            }
            rows.each(n_tiles, &|i| {
                let tile = n_tiles - 1 - i;
                // Everyone has tiles of their own: nobody waits, and a poisoned lock would have ended the run.
                span.add_tile(tile, &mut tiles[tile].lock().unwrap_or_else(PoisonError::into_inner), kernels);
            });
        }
    }

    /// Mean squares of the columns of a span, zeros for those that only fill it.
    pub(crate) fn diagonal(&self, span: usize) -> Vec<f64> {
        let len = spans(self.cols)[span].len();
        (0..len).map(|c| self.at(span, c, c)).collect()
    }

    /// `H[j][c]` within a span, `j ≤ c`.
    pub(crate) fn at(&self, span: usize, j: usize, c: usize) -> f64 {
        let (tile, lane) = (c / TILE_ROWS, c % TILE_ROWS);
        f64::from(self.spans[span][triangle(tile) + TILE_ROWS * j + lane]) / self.n.max(1) as f64
    }
}

/// A span of a block of inputs, as the product wants it.
struct Span {
    len: usize,
    n: usize,
    /// Float tiles of the transpose: `[tile][n][16]`.
    tiles: Vec<f32>,
    /// The transpose: `[len][n]`.
    rows: Vec<f32>,
}

impl Span {
    fn new(x: &[f32], cols: usize, n: usize, span: &Range<usize>) -> Self {
        let len = span.len();
        let (mut tiles, mut rows) = (vec![0.0; len * n], vec![0.0; len * n]);
        for (t, x) in x.chunks_exact(cols).enumerate() {
            for (c, v) in x[span.start..span.end.min(cols)].iter().enumerate() {
                tiles[(c / TILE_ROWS * n + t) * TILE_ROWS + c % TILE_ROWS] = *v;
                rows[c * n + t] = *v;
            }
        }
        Self { len, n, tiles, rows }
    }

    fn add_tile(&self, tile: usize, sums: &mut [f32], kernels: &Kernels) {
        let size = TILE_ROWS * self.n;
        let values = &self.tiles[tile * size..][..size];
        let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        let w = Tiles { dtype: Dtype::F32, bytes: &bytes, cols: self.n, table: [0; 16] };
        let mut part = vec![0.0; sums.len()];
        let vectors = TILE_ROWS * (tile + 1);
        (kernels.mul_float)(&w, &self.rows, self.n, &mut Block::new(&mut part, vectors, TILE_ROWS, TILE_ROWS));
        sums.iter_mut().zip(&part).for_each(|(sum, v)| *sum += v);
    }
}

/// Gives each of `jobs` to one of `threads` threads; results in order.
pub(crate) fn shared<J: Sync, T: Send>(jobs: &[J], threads: usize, work: impl Fn(&J) -> T + Sync) -> Vec<T> {
    let next = AtomicUsize::new(0);
    let worker = || {
        let mut done = Vec::new();
        loop {
            let i = next.fetch_add(1, Ordering::Relaxed);
            let Some(job) = jobs.get(i) else { return done };
            done.push((i, work(job)));
        }
    };
    let mut results: Vec<(usize, T)> = thread::scope(|scope| {
        let workers: Vec<_> = (0..threads.clamp(1, jobs.len().max(1))).map(|_| scope.spawn(worker)).collect();
        workers.into_iter().flat_map(|w| w.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))).collect()
    });
    results.sort_by_key(|(i, _)| *i);
    results.into_iter().map(|(_, t)| t).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use bourn_host::Pool;
    use bourn_kernels::OneCore;

    #[test]
    fn sums_are_those_of_the_definition_on_any_number_of_threads() {
        for cols in [20, 64, 100] {
            let n = 37;
            let x: Vec<f32> = (0..n * cols).map(|i| ((i * 7919 % 1000) as f32 - 500.0) / 250.0).collect();
            let kernels = bourn_kernels::best();
            let mut moments = Moments::new(cols);
            moments.add(&x, kernels, &OneCore);
            moments.add(&x[..5 * cols], kernels, &Pool::new(3).limited(3));
            let mut again = Moments::new(cols);
            again.add(&x, kernels, &Pool::new(4).limited(4));
            again.add(&x[..5 * cols], kernels, &OneCore);
            assert_eq!(moments.spans, again.spans);
            for c in 0..cols {
                for j in 0..=c {
                    let rows = (0..n).chain(0..5);
                    let want: f64 = rows.map(|t| f64::from(x[t * cols + j]) * f64::from(x[t * cols + c])).sum::<f64>() / 42.0;
                    assert!((moments.at(0, j, c) - want).abs() < 1e-5, "{cols}: {j}, {c}");
                }
            }
            assert!(moments.diagonal(0)[cols..].iter().all(|v| *v == 0.0));
        }
    }

    #[test]
    fn spans_cover_all_columns_in_whole_groups() {
        for cols in [1, 31, 32, 576, 2048, 2049, 3072, 4864, 8192, 18_944] {
            let spans = spans(cols);
            assert!(spans.iter().all(|s| s.len() <= SPAN && s.len() % GROUP == 0), "{cols}");
            assert!(spans.windows(2).all(|w| w[0].end == w[1].start));
            assert_eq!((spans[0].start, spans[spans.len() - 1].end), (0, cols.next_multiple_of(GROUP)));
        }
    }
}
