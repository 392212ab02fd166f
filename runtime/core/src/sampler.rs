//! Logits → token. Chain: repetition penalty → temperature → top-k → top-p → min-p → draw; greedy at temperature 0.

use crate::Error;
use bourn_kernels::table::Kernels;
use core::cmp::Ordering;

/// How to choose a token.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SamplerOptions {
    /// Logits are divided by this; 0 = always the most likely token.
    pub temperature: f32,
    /// Keep the k most likely; 0 = all.
    pub top_k: u32,
    /// Keep the fewest tokens whose probability reaches this; 1 = all.
    pub top_p: f32,
    /// Keep tokens at least this times as likely as the most likely; 0 = all.
    pub min_p: f32,
    /// Logits of recent tokens are divided by this if positive, else multiplied (CTRL); 1 = off.
    pub repetition_penalty: f32,
    /// How many tokens back the penalty looks.
    pub repeat_last_n: u32,
    /// Same seed, same text.
    pub seed: u64,
}

impl Default for SamplerOptions {
    fn default() -> Self {
        Self { temperature: 0.0, top_k: 0, top_p: 1.0, min_p: 0.0, repetition_penalty: 1.0, repeat_last_n: 64, seed: 0 }
    }
}

/// A token that may be drawn.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[repr(C)]
pub struct Candidate {
    /// Logit ÷ temperature.
    pub logit: f32,
    /// Token id.
    pub id: u32,
}

/// The chain and its random state (SplitMix64: 2⁶⁴ period, the same numbers on every board).
#[derive(Clone, Debug)]
pub struct Sampler {
    options: SamplerOptions,
    state: u64,
}

/// Candidates sorted at a time: the nucleus of most distributions fits the first run.
const RUN: usize = 256;

impl Sampler {
    /// A sampler at its seed.
    ///
    /// # Errors
    /// [`Error::Sampling`] for a negative or non-finite temperature, a probability outside 0..=1, or a penalty ≤ 0.
    pub fn new(options: SamplerOptions) -> Result<Self, Error> {
        let out = |what, need, found: f32| Err(Error::Sampling { what, need, found_bits: found.to_bits() });
        let o = &options;
        if !(o.temperature >= 0.0 && o.temperature.is_finite()) {
            return out("temperature", "0 or more", o.temperature);
        }
        if !(o.top_p > 0.0 && o.top_p <= 1.0) {
            return out("top_p", "more than 0, at most 1", o.top_p);
        }
        if !(0.0..=1.0).contains(&o.min_p) {
            return out("min_p", "0 to 1", o.min_p);
        }
        if !(o.repetition_penalty > 0.0 && o.repetition_penalty.is_finite()) {
            return out("repetition_penalty", "more than 0", o.repetition_penalty);
        }
        Ok(Self { options, state: options.seed })
    }

    /// Whether every draw is the most likely token as the logits stand: nothing else of them is looked at.
    pub fn is_greedy(&self) -> bool {
        (self.options.temperature == 0.0 || self.options.top_k == 1) && self.options.repetition_penalty == 1.0
    }

    /// Draws a token. `logits` `[vocab]` are changed; `recent` are the tokens so far; `scratch` needs `vocab` candidates
    /// unless the temperature is 0.
    ///
    /// # Errors
    /// [`Error::Workspace`] when `scratch` is shorter, [`Error::NotFinite`] when a logit is NaN.
    pub fn sample(
        &mut self,
        kernels: &Kernels,
        logits: &mut [f32],
        recent: &[u32],
        scratch: &mut [Candidate],
    ) -> Result<u32, Error> {
        self.penalize(logits, recent);
        if self.options.temperature == 0.0 || self.options.top_k == 1 || logits.is_empty() {
            return Ok((kernels.argmax)(logits) as u32);
        }
        let have = size_of_val(scratch) as u64;
        let need = (logits.len() * size_of::<Candidate>()) as u64;
        let all = scratch.get_mut(..logits.len()).ok_or(Error::Workspace { need, have })?;
        // The largest becomes 0, so that no temperature, however small, makes an infinity of it.
        let largest = logits[(kernels.argmax)(logits)];
        for logit in logits.iter_mut() {
            *logit = (*logit - largest) / self.options.temperature;
        }
        let (max, sum) = (kernels.max_sum_exp)(logits);
        if !sum.is_finite() {
            return Err(Error::NotFinite { position: (recent.len() as u64).saturating_sub(1) });
        }
        let floor = self.floor(max);
        let mut n = 0;
        for (id, &logit) in logits.iter().enumerate() {
            if logit >= floor {
                all[n] = Candidate { logit, id: id as u32 };
                n += 1;
            }
        }
        let kept = &mut all[..n];
        let k = self.options.top_k as usize;
        if k > 0 && k < kept.len() {
            kept.select_nth_unstable_by(k, by_logit);
            return Ok(self.draw_of_top(&mut kept[..k], max));
        }
        let n = nucleus(kept, max, sum * self.options.top_p);
        Ok(self.draw(&kept[..n], max))
    }

    /// How many of the best logits [`Self::sample_best`] is to be given, where it does not take all of them to draw.
    pub fn n_best(&self) -> Option<usize> {
        let o = &self.options;
        let k = if o.temperature == 0.0 { 1 } else { o.top_k as usize };
        if k == 0 || o.repetition_penalty < 1.0 {
            return None;
        }
        // One more than are kept shows that there are more; and every token that is penalized may leave the best.
        let penalized = if o.repetition_penalty == 1.0 { 0 } else { o.repeat_last_n as usize };
        Some(k.saturating_add(1).saturating_add(penalized))
    }

    /// Draws the token that [`Self::sample`] would draw from all logits, from the [`Self::n_best`] best of them, of equals those with the
    /// lower ids. `best` is changed. `None`, and nothing drawn, where they do not tell: it takes all logits.
    ///
    /// # Errors
    /// [`Error::NotFinite`] when a logit is not a number or the largest not finite.
    pub fn sample_best(&mut self, best: &mut [Candidate], recent: &[u32]) -> Result<Option<u32>, Error> {
        let o = self.options;
        if self.n_best().is_none_or(|n| n > best.len()) {
            return Ok(None);
        }
        if o.repetition_penalty != 1.0 {
            for c in best.iter_mut().filter(|c| self.recent(recent).contains(&c.id)) {
                c.logit = self.penalized(c.logit);
            }
        }
        let largest = best.iter().fold(f32::NEG_INFINITY, |m, c| if c.logit > m { c.logit } else { m });
        if !largest.is_finite() || best.iter().any(|c| c.logit.is_nan()) {
            return Err(Error::NotFinite { position: (recent.len() as u64).saturating_sub(1) });
        }
        let greedy = o.temperature == 0.0 || o.top_k == 1;
        if !greedy {
            best.iter_mut().for_each(|c| c.logit = (c.logit - largest) / o.temperature);
        }
        best.sort_unstable_by(by_logit);
        let k = if greedy { 1 } else { o.top_k as usize };
        // What is as likely as the last one kept may have an equal that is not here; what is unlikely makes min-p keep fewer than k.
        let (last, next) = (best[k - 1].logit, best[k].logit);
        if last == next || (!greedy && next < self.floor(0.0)) {
            return Ok(None);
        }
        Ok(Some(if greedy { best[0].id } else { self.draw_of_top(&mut best[..k], 0.0) }))
    }

    /// The scaled logit below which none passes min-p; at the very least it must have a probability that f32 can hold.
    fn floor(&self, max: f32) -> f32 {
        if self.options.min_p > 0.0 { max + libm::logf(self.options.min_p) } else { max - 100.0 }
    }

    /// Draws from what top-k has left: top-p then counts the probability of that alone.
    fn draw_of_top(&mut self, kept: &mut [Candidate], max: f32) -> u32 {
        kept.sort_unstable_by(by_logit);
        let mass: f32 = kept.iter().map(|c| libm::expf(c.logit - max)).sum();
        let n = nucleus(kept, max, mass * self.options.top_p);
        self.draw(&kept[..n], max)
    }

    /// The tokens that the penalty looks at.
    fn recent<'r>(&self, tokens: &'r [u32]) -> &'r [u32] {
        &tokens[tokens.len().saturating_sub(self.options.repeat_last_n as usize)..]
    }

    fn penalized(&self, logit: f32) -> f32 {
        let penalty = self.options.repetition_penalty;
        if logit > 0.0 { logit / penalty } else { logit * penalty }
    }

    fn penalize(&self, logits: &mut [f32], recent: &[u32]) {
        if self.options.repetition_penalty == 1.0 {
            return;
        }
        let recent = self.recent(recent);
        for (i, &id) in recent.iter().enumerate() {
            if recent[..i].contains(&id) {
                continue;
            }
            if let Some(logit) = logits.get_mut(id as usize) {
                *logit = self.penalized(*logit);
            }
        }
    }

    /// Draws from `kept` in its order, which is the order of likelihood.
    fn draw(&mut self, kept: &[Candidate], max: f32) -> u32 {
        let weight = |c: &Candidate| libm::expf(c.logit - max);
        let mut left = self.uniform() * kept.iter().map(weight).sum::<f32>();
        for c in kept {
            left -= weight(c);
            if left < 0.0 {
                return c.id;
            }
        }
        kept.last().map_or(0, |c| c.id)
    }

    /// Uniform in 0..1, 24 bits.
    fn uniform(&mut self) -> f32 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 40) as f32 / (1u64 << 24) as f32
    }
}

/// Falling logits; of equals the lower id first.
fn by_logit(a: &Candidate, b: &Candidate) -> Ordering {
    b.logit.total_cmp(&a.logit).then(a.id.cmp(&b.id))
}

/// Sorts just as many candidates to the front as `Σ exp(logit − max)` needs to reach `mass`, and returns how many.
fn nucleus(kept: &mut [Candidate], max: f32, mass: f32) -> usize {
    let (mut sum, mut done, mut run) = (0.0, 0, RUN);
    while done < kept.len() {
        let end = done.saturating_add(run).min(kept.len());
        if end < kept.len() {
            kept[done..].select_nth_unstable_by(end - done, by_logit);
        }
        kept[done..end].sort_unstable_by(by_logit);
        for (i, c) in kept[done..end].iter().enumerate() {
            sum += libm::expf(c.logit - max);
            if sum >= mass {
                return done + i + 1;
            }
        }
        (done, run) = (end, run.saturating_mul(4));
    }
    kept.len()
}
