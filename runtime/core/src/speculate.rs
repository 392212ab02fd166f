//! Which tokens may come next, guessed from the text so far, and how many guesses are worth a pass.
//!
//! A pass over the weights costs little more for several tokens than for one, least of all where weights are streamed. So
//! likely next tokens are drafted, read together with the one that is due, and kept as long as the model draws the same:
//! every kept one saved a pass. Which tokens are drafted changes the speed, never the text: the model draws each token from
//! the same logits and the same random numbers as without drafts, and a draft is only ever compared with what was drawn.
//!
//! Drafts come from the text itself ([`lookup`]: what followed the last time these tokens stood here), or from a small model.
//! [`Speculator`] weighs them: tokens expected from a pass, by how drafts like these have fared, against what passes cost.
//! Source: prompt lookup decoding (A. Saxena, 2023); speculative decoding (Leviathan et al., arXiv 2211.17192).

/// Most drafted tokens of a pass.
pub const MAX_DRAFT: usize = 31;

/// Longest end of the text that is looked up: longer ones do not foretell more.
const LONGEST: usize = 16;
/// Passes after which a draft model that does not pay is tried again.
const RETRY: u32 = 64;
/// Speculation must promise this much more tokens per second than a plain pass.
const GAIN: f32 = 1.02;

/// Guesses what follows `history`: looks for the last place where its longest repeated end stood before, at most 16 tokens of
/// it, and copies what came after into `out`, around again where the copy runs into the end. Returns how many of the tokens
/// at the end were found there, or 0 if even the last token is new; `out` is then untouched, else filled.
pub fn lookup(history: &[u32], out: &mut [u32]) -> usize {
    let Some((last, before)) = history.split_last() else { return 0 };
    let (mut longest, mut from) = (0, 0);
    let mut end = before.len();
    while let Some(at) = before[..end].iter().rposition(|id| id == last) {
        let same = before[..at].iter().rev().zip(before.iter().rev()).take(LONGEST - 1);
        let length = 1 + same.take_while(|(a, b)| a == b).count();
        if length > longest {
            (longest, from) = (length, at + 1);
        }
        if longest == LONGEST {
            break;
        }
        end = at;
    }
    if longest > 0 {
        let period = history.len() - from;
        for i in 0..out.len() {
            out[i] = if i < period { history[from + i] } else { out[i - period] };
        }
    }
    longest
}

/// How often a kind of draft was right, the last few dozen counting most.
#[derive(Clone, Copy, Debug)]
struct Rate {
    hits: f32,
    of: f32,
}

impl Rate {
    /// A guess worth four drafts.
    const fn guess(rate: f32) -> Self {
        Self { hits: 4.0 * rate, of: 4.0 }
    }

    fn judge(&mut self, hit: bool) {
        const FADE: f32 = 1.0 - 1.0 / 32.0;
        self.hits = self.hits * FADE + if hit { 1.0 } else { 0.0 };
        self.of = self.of * FADE + 1.0;
    }

    fn value(&self) -> f32 {
        self.hits / self.of
    }
}

/// A running mean of times; a time far off (another program had the core) counts as four times the mean.
#[derive(Clone, Copy, Debug, Default)]
struct Mean(Option<f32>);

impl Mean {
    fn add(&mut self, seconds: f32) {
        self.0 = Some(self.0.map_or(seconds, |mean| mean + (seconds.min(4.0 * mean) - mean) / 8.0));
    }
}

/// How to decide on drafts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    /// As many tokens as promise the most tokens per second, none where that is a plain pass.
    Auto,
    /// As many as there are, whatever they cost: the choice does not depend on time.
    Always,
}

/// Where the drafts of a pass come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Plan {
    /// No drafts.
    Plain,
    /// This many tokens of the looked-up ones.
    Lookup(usize),
    /// This many tokens of the draft model.
    Model(usize),
}

/// Decides how many drafted tokens a pass verifies. It has no clock: the shell tells it what passes took.
#[derive(Clone, Debug)]
pub struct Speculator {
    policy: Policy,
    /// By length of the match, in the steps of [`kind`].
    rates: [Rate; 8],
    model_rate: Rate,
    /// Seconds of a pass of one token, and what each further token adds.
    pass: Mean,
    further: Mean,
    /// Seconds of a token of the draft model.
    model: Mean,
    since_model: u32,
}

/// Matches of like length fare alike: 1, 2, 3, 4, 5–6, 7–8, 9–12, more.
const fn kind(length: usize) -> usize {
    match length {
        0..=1 => 0,
        2 => 1,
        3 => 2,
        4 => 3,
        5..=6 => 4,
        7..=8 => 5,
        9..=12 => 6,
        _ => 7,
    }
}

impl Speculator {
    /// A speculator that knows nothing of the text or of the machine yet.
    pub const fn new(policy: Policy) -> Self {
        let rates = [
            Rate::guess(0.15),
            Rate::guess(0.35),
            Rate::guess(0.5),
            Rate::guess(0.6),
            Rate::guess(0.7),
            Rate::guess(0.8),
            Rate::guess(0.85),
            Rate::guess(0.9),
        ];
        let model_rate = Rate::guess(0.7);
        Self { policy, rates, model_rate, pass: Mean(None), further: Mean(None), model: Mean(None), since_model: 0 }
    }

    /// Forgets how drafts fared; what passes cost stays known.
    pub fn new_text(&mut self) {
        *self = Self { pass: self.pass, further: self.further, model: self.model, ..Self::new(self.policy) };
    }

    /// A pass of `tokens` tokens took this many seconds. Blocks of prefill count too, as long as nothing better is known.
    pub fn pass_took(&mut self, tokens: usize, seconds: f32) {
        match (tokens, self.pass.0) {
            (0, _) => {}
            // What was far slower was the first touch of weights, or another program's doing.
            (1, Some(one)) if seconds < one / 2.0 => self.pass = Mean(Some(seconds)),
            (1, _) => self.pass.add(seconds),
            (n, Some(one)) => self.further.add((seconds - one).max(0.0) / (n - 1) as f32),
            (n, None) => self.further = Mean(Some(seconds / n as f32)),
        }
    }

    /// The draft model took this many seconds for a token.
    pub fn model_took(&mut self, seconds: f32) {
        self.model.add(seconds);
    }

    /// Decides on a pass: `found` is what [`lookup`] returned, `room` the most tokens that may be drafted, `model` whether
    /// there is a draft model.
    pub fn plan(&mut self, found: usize, room: usize, model: bool) -> Plan {
        let room = room.min(MAX_DRAFT);
        if room == 0 {
            return Plan::Plain;
        }
        if self.policy == Policy::Always {
            return match (model, found) {
                (true, _) => Plan::Model(room),
                (false, 0) => Plan::Plain,
                (false, _) => Plan::Lookup(room),
            };
        }
        let (Some(one), Some(further)) = (self.pass.0, self.further.0) else {
            // One plain pass tells what passes cost; the first with drafts what drafts add.
            return if self.pass.0.is_some() && found > 1 { Plan::Lookup(room.min(3)) } else { Plan::Plain };
        };
        let mut best = (GAIN / one, Plan::Plain);
        if found > 0 {
            self.weigh(&mut best, room, one, further, |i| self.rates[kind(found + i)].value(), Plan::Lookup);
        }
        if model {
            match self.model.0 {
                Some(drafting) if self.since_model < RETRY => {
                    self.weigh(&mut best, room, one, further + drafting, |_| self.model_rate.value(), Plan::Model);
                }
                _ => best.1 = Plan::Model(room.min(4)),
            }
            self.since_model = if matches!(best.1, Plan::Model(_)) { 0 } else { self.since_model + 1 };
        }
        best.1
    }

    /// Replaces `best`, tokens per second and the plan for them, by drafts of 1 to `room` tokens if they promise more.
    fn weigh(
        &self,
        best: &mut (f32, Plan),
        room: usize,
        one: f32,
        further: f32,
        rate: impl Fn(usize) -> f32,
        plan: impl Fn(usize) -> Plan,
    ) {
        let (mut all_right, mut tokens) = (1.0, 1.0);
        for i in 0..room {
            all_right *= rate(i);
            tokens += all_right;
            let speed = tokens / (one + further * (i + 1) as f32);
            if speed > best.0 {
                *best = (speed, plan(i + 1));
            }
        }
    }

    /// Looked-up token `i`, whose match was `found` long, was right or not; those before it were right. It need not have been
    /// verified: any token that comes judges the draft that was there for it.
    pub fn judge_lookup(&mut self, found: usize, i: usize, hit: bool) {
        self.rates[kind(found + i)].judge(hit);
    }

    /// A token of the draft model was right or not; those before it in the pass were right.
    pub fn judge_model(&mut self, hit: bool) {
        self.model_rate.judge(hit);
    }
}
