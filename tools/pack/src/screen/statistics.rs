//! What a head meets: the last hidden states of a calibration run, and how likely each row is.

use crate::Error;
use crate::matrix::{Panels, Symmetric, multiply};
use bourn_format::Shape;

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

/// Sums over states, `shift` taken from each for accuracy.
#[derive(Debug)]
pub(crate) struct Sums {
    n: usize,
    shift: Vec<f32>,
    sum: Vec<f64>,
    squares: Symmetric,
    probabilities: Vec<f64>,
    positions: usize,
}

impl Sums {
    pub(crate) fn new(shape: &Shape) -> Self {
        let (hidden, vocab) = (shape.hidden as usize, shape.vocab as usize);
        Self {
            n: 0,
            shift: vec![0.0; hidden],
            sum: vec![0.0; hidden],
            squares: Symmetric::zeros(hidden),
            probabilities: vec![0.0; vocab],
            positions: 0,
        }
    }

    /// Adds hidden states `[n, hidden]`.
    pub(crate) fn add(&mut self, states: &[f32]) {
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

    /// Adds the probabilities of a position; `max_sum_exp` as in the kernels' table.
    pub(crate) fn add_probabilities(&mut self, logits: &[f32], max_sum_exp: fn(&[f32]) -> (f32, f32)) {
        let (max, sum) = max_sum_exp(logits);
        self.positions += 1;
        for (p, &logit) in self.probabilities.iter_mut().zip(logits) {
            // e^-20 of the best counts for nothing.
            if logit > max - 20.0 {
                *p += f64::from(libm::expf(logit - max) / sum);
            }
        }
    }

    /// The statistics, with states held back and their logits.
    pub(crate) fn finish(self, shape: Shape, held: Vec<f32>, logits: Vec<f32>) -> Result<Statistics, Error> {
        let Self { n, shift, sum, mut squares, mut probabilities, positions } = self;
        let n = n.max(1) as f64;
        squares.values.iter_mut().for_each(|v| *v /= n);
        let offset: Vec<f64> = sum.iter().map(|s| s / n).collect();
        squares.take_square(&offset);
        probabilities.iter_mut().for_each(|p| *p /= positions.max(1) as f64);
        let mean = offset.iter().zip(&shift).map(|(o, s)| o + f64::from(*s)).collect();
        let finite = held.iter().chain(&logits).all(|v| v.is_finite()) && squares.values.iter().all(|v| v.is_finite());
        if !finite {
            return Err(Error::Calibration {
                what: "the model's states are not finite: need numbers, found NaN or infinity".into(),
            });
        }
        Ok(Statistics { shape, mean, covariance: squares, probabilities, held, logits })
    }
}
