//! How many threads help: a short timed run decides, one count for decode and one for prefill.

use std::fmt;
use std::time::{Duration, Instant};

/// Threads for the two phases.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Threads {
    /// For one token at a time: as many as fill the memory bus.
    pub decode: usize,
    /// For blocks of tokens: as many as compute.
    pub prefill: usize,
}

impl Threads {
    /// The same count for both.
    pub const fn both(n: usize) -> Self {
        Self { decode: n, prefill: n }
    }
}

impl fmt::Display for Threads {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.decode == self.prefill { write!(f, "{}", self.decode) } else { write!(f, "{}/{}", self.decode, self.prefill) }
    }
}

/// A fewer threads win unless more are faster by this much: they leave cores to others and draw less power.
const GAIN: f64 = 0.97;
/// Timed runs of each count while time is left.
const ROUNDS: usize = 3;

/// The smallest count in `1..=most` whose `run` is within 3 % of the fastest, by what fits into `budget`.
///
/// `run(threads)` does one unit of work (a token, a block) and is called once untimed first, for warming up. Counts are
/// tried from the largest down in rounds, so that whatever was measured when the budget ends is comparable.
///
/// # Errors
/// The first error of `run`.
pub fn fastest<E>(most: usize, budget: Duration, run: impl FnMut(usize) -> Result<(), E>) -> Result<usize, E> {
    let begin = Instant::now();
    fastest_by(most, budget, run, || begin.elapsed())
}

/// [`fastest`] by any clock: `now()` is the time since some beginning.
fn fastest_by<E>(
    most: usize,
    budget: Duration,
    mut run: impl FnMut(usize) -> Result<(), E>,
    now: impl Fn() -> Duration,
) -> Result<usize, E> {
    if most <= 1 {
        return Ok(1);
    }
    run(most)?;
    let mut counts: Vec<usize> = (1..=most).filter(|&n| n <= 4 || n % 2 == 0 || n == most).collect();
    counts.reverse();
    let mut best = vec![f64::INFINITY; counts.len()];
    let begin = now();
    'rounds: for _ in 0..ROUNDS {
        for (count, best) in counts.iter().zip(&mut best) {
            let start = now();
            run(*count)?;
            let took = now().saturating_sub(start);
            *best = best.min(took.as_secs_f64());
            if now().saturating_sub(begin) + took > budget {
                break 'rounds;
            }
        }
    }
    let fastest = best.iter().copied().fold(f64::INFINITY, f64::min);
    Ok(counts.iter().zip(&best).rev().find(|&(_, &time)| time * GAIN <= fastest).map_or(most, |(&n, _)| n))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    /// The choice when a run with `n` threads takes `times_us[n - 1]`, by a clock that only runs move.
    fn taking(times_us: &[u64]) -> usize {
        let clock = Cell::new(Duration::ZERO);
        let run = |n: usize| {
            clock.set(clock.get() + Duration::from_micros(times_us[n - 1]));
            Ok::<(), ()>(())
        };
        fastest_by(times_us.len(), Duration::from_millis(200), run, || clock.get()).unwrap()
    }

    #[test]
    fn takes_more_threads_only_when_they_help() {
        assert_eq!(taking(&[8000, 4000, 4000, 6000]), 2);
        assert_eq!(taking(&[3000, 9000]), 1);
        assert_eq!(taking(&[9000, 3000]), 2);
        assert_eq!(taking(&[1]), 1);
        // Two per cent are not worth a thread.
        assert_eq!(taking(&[1000, 980]), 1);
    }

    #[test]
    fn a_spent_budget_ends_the_runs() {
        // The first count tried, the largest, takes all of it: nothing else was timed.
        assert_eq!(taking(&[1000, 1000, 300_000]), 3);
    }

    #[test]
    fn hands_an_error_on() {
        assert_eq!(fastest(4, Duration::from_millis(10), |_| Err("no")), Err("no"));
    }

    #[test]
    fn prints_one_count_or_two() {
        assert_eq!(Threads::both(4).to_string(), "4");
        assert_eq!(Threads { decode: 2, prefill: 4 }.to_string(), "2/4");
    }
}
