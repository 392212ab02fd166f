//! Drafts for the next pass: from the text so far, or from a small model.

use super::{BLOCKS_AT_ONCE, DEFAULT_BLOCK};
use crate::{Error, Model};
use bourn_core::speculate::{MAX_DRAFT, Plan, Policy, Speculator, lookup};
use bourn_core::text::Tokenizer;
use bourn_core::{Candidate, Engine, Options, Sampler};
use bourn_host::OwnedSession;
use bourn_kernels::Rows;
use std::time::{Duration, Instant};

/// Drafted tokens of a pass where none were asked for …
const AUTO_DRAFT: usize = 15;
/// … as long as their logits take at most this much memory.
const AUTO_BYTES: usize = 8 << 20;

/// Whether a pass may write several tokens: likely ones are drafted and verified together with the one that is due.
///
/// The text is the same in any case: a draft is kept only where the model draws that very token.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Speculate {
    /// As many drafts as pay by what passes take here, none where they do not.
    #[default]
    Auto,
    /// One token at a time.
    Off,
    /// At most this many drafted tokens (1 to 31) in every pass, whether they pay or not.
    Tokens(usize),
}

impl Speculate {
    /// Most drafted tokens of a pass.
    pub(crate) fn most(self, vocab: usize, prefill_block: usize) -> usize {
        let most = match self {
            Self::Off => 0,
            Self::Auto => (AUTO_BYTES / (4 * vocab.max(1))).clamp(2, AUTO_DRAFT + 1) - 1,
            Self::Tokens(n) => n.min(MAX_DRAFT),
        };
        most.min(prefill_block.saturating_sub(1))
    }
}

/// The drafts of a session.
#[derive(Debug)]
pub(super) struct Speculation<'m> {
    most: usize,
    speculator: Speculator,
    /// The token that is due, then drafts.
    pass: [u32; MAX_DRAFT + 1],
    plan: Plan,
    /// Tokens at the end of the text that the drafts were looked up with; 0: there are none.
    found: usize,
    draft: Option<Draft<'m>>,
}

impl<'m> Speculation<'m> {
    pub fn new(speculate: Speculate, most: usize) -> Self {
        let policy = if let Speculate::Tokens(_) = speculate { Policy::Always } else { Policy::Auto };
        Self { most, speculator: Speculator::new(policy), pass: [0; MAX_DRAFT + 1], plan: Plan::Plain, found: 0, draft: None }
    }

    pub fn use_draft(&mut self, model: &Model, draft: &'m Model, context: usize) -> Result<(), Error> {
        same_vocabulary(model, draft)?;
        self.draft = Some(Draft::new(draft, context)?);
        Ok(())
    }

    /// Another text begins.
    pub fn new_text(&mut self) {
        self.speculator.new_text();
    }

    /// Prefill has left the logits of one token, for which nothing was drafted; it took so long.
    pub fn prefilled(&mut self, tokens: usize, took: Duration) {
        (self.plan, self.found) = (Plan::Plain, 0);
        self.pass_took(tokens, took);
    }

    /// A pass of `tokens` tokens took so long.
    pub fn pass_took(&mut self, tokens: usize, took: Duration) {
        self.speculator.pass_took(tokens, took.as_secs_f32());
    }

    /// The tokens of the next pass: the last of `tokens`, which is not read yet, and at most `room` drafted ones.
    pub fn next(
        &mut self,
        model: &Model,
        rows: &dyn Rows,
        tokens: &mut Vec<u32>,
        room: usize,
        sampler: &Sampler,
        candidates: &mut [Candidate],
    ) -> Result<&[u32], Error> {
        let room = room.min(self.most);
        self.pass[0] = tokens.last().copied().unwrap_or(0);
        self.plan = Plan::Plain;
        self.found = 0;
        if room > 0 {
            self.found = lookup(tokens, &mut self.pass[1..]);
            self.plan = self.speculator.plan(self.found, room, self.draft.is_some());
        }
        let drafts = match (self.plan, &mut self.draft) {
            (Plan::Lookup(n), _) => n,
            (Plan::Model(n), Some(draft)) => {
                let start = Instant::now();
                let (n, caught_up) = draft.write(model, rows, tokens, sampler, candidates, &mut self.pass[1..=n])?;
                self.plan = Plan::Model(n);
                if n > 0 && caught_up {
                    self.speculator.model_took(start.elapsed().as_secs_f32() / n as f32);
                }
                n
            }
            _ => 0,
        };
        Ok(&self.pass[..=drafts])
    }

    /// Whether the draft of row `row` is the token that was drawn there; rows are judged in order up to the first that is wrong.
    pub fn judge(&mut self, row: usize, drawn: u32) -> bool {
        let Some(&drafted) = self.pass.get(row + 1) else { return false };
        let hit = drafted == drawn;
        match self.plan {
            Plan::Model(n) => {
                if row < n {
                    self.speculator.judge_model(hit);
                }
                row < n && hit
            }
            Plan::Lookup(_) | Plan::Plain => {
                let n = if let Plan::Lookup(n) = self.plan { n } else { 0 };
                if self.found > 0 {
                    self.speculator.judge_lookup(self.found, row, hit);
                }
                row < n && hit
            }
        }
    }
}

/// A draft model and its reading of the text.
#[derive(Debug)]
struct Draft<'m> {
    model: &'m Model,
    memory: OwnedSession,
    /// The tokens in its cache.
    read: Vec<u32>,
}

impl<'m> Draft<'m> {
    fn new(model: &'m Model, context: usize) -> Result<Self, Error> {
        let context = context.min(model.image().shape().max_context as usize);
        let options = Options { context, prefill_block: DEFAULT_BLOCK, retain: 0, kv: model.default_kv(), logit_rows: 1 };
        let memory = OwnedSession::new(model.image(), &options)?;
        Ok(Self { model, memory, read: Vec::with_capacity(context) })
    }

    /// Writes at most `out.len()` tokens after `tokens`; returns how many, and whether it had only just written ones to read.
    ///
    /// It draws with a copy of the target's sampler, so with the very random numbers that the target will use: where the two
    /// distributions are alike, so are the tokens drawn.
    fn write(
        &mut self,
        target: &Model,
        rows: &dyn Rows,
        tokens: &mut Vec<u32>,
        sampler: &Sampler,
        candidates: &mut [Candidate],
        out: &mut [u32],
    ) -> Result<(usize, bool), Error> {
        let (model, image) = (self.model, self.model.image());
        let same = self.read.iter().zip(tokens.iter()).take_while(|(a, b)| a == b).count().min(tokens.len() - 1);
        let same = if self.memory.rewind(image, same).is_ok() { same } else { 0 };
        if same == 0 {
            self.memory.rewind(image, 0)?;
        }
        self.read.truncate(same);
        let vocab = image.shape().vocab.min(target.image().shape().vocab);
        let room = out.len().min(self.memory.context().saturating_sub(tokens.len()) + 1);
        // A long prompt is read over several passes, so that none of them keeps the text waiting.
        let unread = &tokens[same..];
        let at_once = unread.len().min(BLOCKS_AT_ONCE * DEFAULT_BLOCK);
        if tokens.len() > self.memory.context() || unread.iter().any(|&id| id >= vocab) {
            return Ok((0, false));
        }
        let mut stream = model.file().stream();
        let mut engine = Engine { image, stream: &mut stream, kernels: model.kernels(), decode: rows, prefill: rows };
        let caught_up = unread.len() <= out.len() + 1;
        self.memory.prefill(&mut engine, &unread[..at_once])?;
        self.read.extend_from_slice(&unread[..at_once]);
        if at_once < tokens.len() - same {
            return Ok((0, false));
        }
        let (known, mut sampler) = (tokens.len(), sampler.clone());
        let mut drafted = Ok(0);
        for (i, out) in out.iter_mut().take(room).enumerate() {
            let id = (|| {
                if i > 0 {
                    let id = tokens[known + i - 1];
                    self.memory.prefill(&mut engine, &[id])?;
                    self.read.push(id);
                }
                let logits = self.memory.logits(model.kernels(), image, 0)?;
                sampler.sample(model.kernels(), logits, tokens, candidates)
            })();
            drafted = id.map(|_| i);
            match id {
                Ok(id) if id < vocab => {
                    *out = id;
                    tokens.push(id);
                    drafted = Ok(i + 1);
                }
                _ => break,
            }
        }
        tokens.truncate(known);
        Ok((drafted?, caught_up))
    }
}

/// Fails unless every token is the same in both.
fn same_vocabulary(model: &Model, draft: &Model) -> Result<(), Error> {
    let differ = |what: String| Err(Error::Vocabulary { what });
    let tables = |m: &'_ Model| m.image().tokenizer().is_some();
    if !tables(model) && !tables(draft) {
        let (need, found) = (model.image().shape().vocab, draft.image().shape().vocab);
        if need != found {
            return differ(format!("the model has {need} tokens, the draft model {found}"));
        }
        return Ok(());
    }
    let (a, b): (Tokenizer<'_>, Tokenizer<'_>) = (model.tokenizer()?, draft.tokenizer()?);
    if a.n_tokens() != b.n_tokens() {
        return differ(format!("the model's tokenizer has {} tokens, the draft model's {}", a.n_tokens(), b.n_tokens()));
    }
    for id in 0..a.n_tokens() as u32 {
        if a.token_bytes(id) != b.token_bytes(id) || a.is_special(id) != b.is_special(id) {
            let text = |t: &Tokenizer<'_>| String::from_utf8_lossy(t.token_bytes(id)).into_owned();
            return differ(format!("token {id} is {:?} in the model, {:?} in the draft model", text(&a), text(&b)));
        }
    }
    Ok(())
}
