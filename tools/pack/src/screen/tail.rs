//! What is fitted on states held back, with the kernels that will run: which codes need wide tables, how far below the best a
//! candidate may be, and what the scores of all other rows lack.

use super::statistics::Statistics;
use super::{Coder, Screen};
use crate::Error;
use bourn_format::Screen as View;
use bourn_format::layout::TILE_ROWS;
use bourn_kernels::table::{ScreenTables, ScreenTiles};
use half::f16;

/// Margins to choose from. The last is as good as none.
pub(super) const MARGINS: [f32; 7] = [12.0, 14.0, 16.0, 20.0, 24.0, 32.0, 1000.0];
/// A margin may make the divergence this much worse.
const WORSE: f64 = 1.02;
/// Rounding of the tables may cost a score this much, as a standard deviation, on average.
const ROUNDING: f64 = 0.08;
/// Most tables that are looked up twice.
const MOST_WIDE: usize = 64;
/// Biases of the tail: from, step, steps.
const BIASES: (f64, f64, usize) = (-2.0, 0.05, 121);

/// Puts the codes with the largest ranges first; returns how many of them need wide tables.
pub(super) fn order_by_range(coder: &mut Coder, map: &[f32], statistics: &Statistics) -> usize {
    let hidden = statistics.mean.len();
    let n = coder.stages.len();
    // Half the range of each table, position by position.
    let mut halves: Vec<Vec<f32>> = vec![Vec::new(); n];
    for h in statistics.held.chunks_exact(hidden) {
        let centred: Vec<f32> = h.iter().zip(&statistics.mean).map(|(h, m)| h - *m as f32).collect();
        let y: Vec<f32> = map.chunks_exact(hidden).map(|m| m.iter().zip(&centred).map(|(m, d)| m * d).sum()).collect();
        for (stage, halves) in coder.stages.iter().zip(&mut halves) {
            let y = &y[stage.first..stage.first + stage.n];
            let values = stage.book.chunks_exact(stage.n).map(|c| c.iter().zip(y).map(|(c, y)| c * y).sum::<f32>());
            let (least, most) = values.fold((f32::MAX, f32::MIN), |(a, b), v| (a.min(v), b.max(v)));
            halves.push(0.5 * (most - least));
        }
    }
    let largest = |i: usize| halves[i].iter().fold(0.0f32, |m, v| m.max(*v));
    let mut order: Vec<usize> = (0..n).collect();
    order.sort_by(|&a, &b| largest(b).total_cmp(&largest(a)).then(a.cmp(&b)));
    coder.stages = order.iter().map(|&i| coder.stages[i].clone()).collect();
    let rounding = |n_wide: usize| {
        let positions = statistics.held.len() / hidden;
        let steps = (0..positions).map(|p| {
            let most = |range: &[usize]| range.iter().fold(0.0f32, |m, &i| m.max(halves[i][p]));
            f64::from((most(&order[n_wide..]) / 63.0).max(most(&order[..n_wide]) / 4063.0))
        });
        steps.sum::<f64>() / positions.max(1) as f64 * (n as f64 / 12.0).sqrt()
    };
    let most = n.min(MOST_WIDE);
    (0..=most).step_by(2).find(|&n_wide| rounding(n_wide) <= ROUNDING).unwrap_or(most / 2 * 2)
}

/// One position with one margin: log-sums of the candidates' logits and of the others' scores, the others' true probability, and
/// how far their scores are from their logits on average of it.
#[derive(Clone, Copy)]
struct Split {
    candidates: f64,
    others: f64,
    mass: f64,
    lack: f64,
    whole: f64,
}

impl Split {
    /// Divergence of the logits that are put together from the whole head's, with `bias` on the others.
    fn divergence(&self, bias: f64) -> f64 {
        let (a, b) = (self.candidates, self.others + bias);
        let most = a.max(b);
        let sum = most + ((a - most).exp() + (b - most).exp()).ln();
        sum - self.whole + self.lack - bias * self.mass
    }
}

/// Chooses margin and tail bias; the bias is added to every row's.
pub(super) fn fit(screen: &mut Screen, statistics: &Statistics) -> Result<(), Error> {
    let (hidden, vocab) = (statistics.mean.len(), screen.bias.len());
    let section = screen.section();
    let view = View::new_checked(&section, &statistics.shape).map_err(Error::Image)?;
    let kernels = bourn_kernels::best();
    let n_subs = screen.subs.len();
    let books: Vec<u8> = screen.books.iter().flat_map(|v| v.to_le_bytes()).collect();
    let mut padded = screen.bias.clone();
    padded.resize(vocab.next_multiple_of(TILE_ROWS), 0.0);
    let bias: Vec<u8> = padded.iter().flat_map(|v| f16::from_f32(*v).to_le_bytes()).collect();
    let (mut low, mut high) = (vec![0; 16 * n_subs], vec![0; 16 * screen.n_wide]);
    let (mut values, mut scores) = (vec![0.0; 16 * n_subs], vec![0.0; padded.len()]);
    let mut splits: Vec<Vec<Split>> = vec![Vec::new(); MARGINS.len()];
    let mut deficit = 0.0f32;
    for (h, logits) in statistics.held.chunks_exact(hidden).zip(statistics.logits.chunks_exact(vocab)) {
        let centred: Vec<f32> = h.iter().zip(&screen.mean).map(|(h, m)| h - m).collect();
        let y: Vec<f32> = screen.map.chunks_exact(hidden).map(|m| m.iter().zip(&centred).map(|(m, d)| m * d).sum()).collect();
        let (lsb, base) = (kernels.screen_tables)(&view, &books, &y, &mut values, &mut low, &mut high);
        let tables = ScreenTables { low: &low, high: &high, lsb, base };
        (kernels.screen_scores)(&ScreenTiles { codes: &screen.codes, bias: &bias, n_subs }, &tables, &mut scores);
        let scores = &mut scores[..vocab];
        let best = scores[(kernels.argmax)(scores)];
        deficit = deficit.max(best - scores[(kernels.argmax)(logits)]);
        let mut sorted = scores.to_vec();
        let at = screen.candidates.min(vocab) - 1;
        let (_, fewest, _) = sorted.select_nth_unstable_by(at, |a, b| b.total_cmp(a));
        let fewest = *fewest;
        let (max, sum) = (kernels.max_sum_exp)(logits);
        let whole = f64::from(max) + f64::from(sum).ln();
        let cap = statistics.shape.final_softcap;
        for (margin, splits) in MARGINS.iter().zip(&mut splits) {
            let threshold = fewest.max(best - margin);
            let (mut candidates, mut others, mut mass, mut lack) = (0.0, 0.0, 0.0, 0.0);
            for (&score, &logit) in scores.iter().zip(logits) {
                if score >= threshold {
                    candidates += f64::from(libm::expf(logit - max));
                } else {
                    let score = if cap == 0.0 { score } else { cap * libm::tanhf(score / cap) };
                    let p = f64::from(libm::expf(logit - max));
                    others += f64::from(libm::expf(score - max));
                    mass += p;
                    lack += p * f64::from(logit - score);
                }
            }
            let total = f64::from(sum);
            splits.push(Split {
                candidates: f64::from(max) + candidates.ln(),
                others: f64::from(max) + others.max(1e-300).ln(),
                mass: mass / total,
                lack: lack / total,
                whole,
            });
        }
    }
    let fitted: Vec<(f64, f64)> = splits.iter().map(|splits| best_bias(splits)).collect();
    let none = fitted[MARGINS.len() - 1].1;
    let chosen = (0..MARGINS.len()).find(|&i| fitted[i].1 <= WORSE * none + 1e-6 && MARGINS[i] >= 2.0 * deficit + 2.0);
    let chosen = chosen.unwrap_or(MARGINS.len() - 1);
    screen.margin = MARGINS[chosen];
    screen.loss = fitted[chosen].1;
    screen.bias.iter_mut().for_each(|b| *b += fitted[chosen].0 as f32);
    Ok(())
}

/// The bias of the least mean divergence, and that.
fn best_bias(splits: &[Split]) -> (f64, f64) {
    let (from, step, n) = BIASES;
    let mean = |bias: f64| splits.iter().map(|s| s.divergence(bias)).sum::<f64>() / splits.len().max(1) as f64;
    let tried = (0..n).map(|i| from + step * i as f64).map(|bias| (bias, mean(bias)));
    tried.fold((0.0, f64::INFINITY), |best, now| if now.1 < best.1 { now } else { best })
}
