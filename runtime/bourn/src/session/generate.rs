//! Prompt in, text out: the loop.

use super::{BLOCKS_AT_ONCE, Session, TEXT_BYTES};
use crate::stop::{Held, StopFilter};
use crate::{Error, Message};
use bourn_core::text::{Decoder, Tokenizer};
use bourn_core::{Engine, Sampler, SamplerOptions};
use bourn_format::Image;
use std::ops::ControlFlow;
use std::time::{Duration, Instant};

/// How to write.
#[derive(Clone, Debug)]
pub struct GenerateOptions {
    /// Most tokens; `None`: until the text ends or the context is full.
    pub max_tokens: Option<usize>,
    /// How to choose tokens.
    pub sampling: SamplerOptions,
    /// Texts that end the text and are not part of it.
    pub stop: Vec<String>,
    /// Write on after an end-of-text token.
    pub ignore_eos: bool,
}

impl Default for GenerateOptions {
    /// Greedy, to the end.
    fn default() -> Self {
        Self { max_tokens: None, sampling: SamplerOptions::default(), stop: Vec::new(), ignore_eos: false }
    }
}

/// Why the text ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finish {
    /// The model ended it.
    EndOfText,
    /// A stop string came.
    StopString,
    /// As many tokens as asked for.
    Length,
    /// No position is left.
    ContextFull,
    /// The callback said so.
    Cancelled,
}

/// What a generation took.
#[derive(Clone, Copy, Debug)]
pub struct Stats {
    /// Tokens read.
    pub prompt_tokens: usize,
    /// Tokens written, the ending one counted.
    pub generated_tokens: usize,
    /// From the call to the first token.
    pub first_token: Duration,
    /// Prompt tokens per second.
    pub prefill_tok_s: f64,
    /// Tokens per second after the first; 0 if there was only one.
    pub decode_tok_s: f64,
    /// Passes over the weights that wrote the tokens after the first.
    pub passes: usize,
    /// Tokens drafted and verified.
    pub drafted: usize,
    /// Drafted tokens that were right.
    pub accepted: usize,
    /// Why it ended.
    pub finish: Finish,
}

impl Stats {
    /// Tokens that a pass wrote on average; 1 before there was any.
    pub fn tokens_per_pass(&self) -> f64 {
        if self.passes == 0 { 1.0 } else { (self.generated_tokens - 1) as f64 / self.passes as f64 }
    }
}

/// What ends a text and what of it is shown.
struct Ending<'a> {
    options: &'a GenerateOptions,
    filter: StopFilter<'a>,
    decoding: Option<(Tokenizer<'a>, Decoder)>,
}

impl Ending<'_> {
    /// Shows what token `id` adds, and says whether the text ends with it. `n` tokens are written, `position` of all are read.
    fn after(
        &mut self,
        session: (&Image<'_>, &mut String),
        id: u32,
        n: usize,
        (position, context): (usize, usize),
        on_text: &mut dyn FnMut(&str) -> ControlFlow<()>,
    ) -> Option<Finish> {
        let (image, held) = session;
        if !self.options.ignore_eos && image.generation().eos().any(|e| e == id) {
            return Some(Finish::EndOfText);
        }
        if let Some((tokenizer, decoder)) = &mut self.decoding {
            decoder.push(tokenizer, id, &mut |text| held.push_str(text));
        }
        match self.filter.judge(held) {
            Held::Stop(at) => {
                held.truncate(at);
                return Some(Finish::StopString);
            }
            Held::Free(free) => {
                let flow = on_text(&held[..free]);
                held.drain(..free);
                if flow.is_break() {
                    held.clear();
                    return Some(Finish::Cancelled);
                }
            }
        }
        if self.options.max_tokens.is_some_and(|most| n >= most) {
            return Some(Finish::Length);
        }
        (position >= context).then_some(Finish::ContextFull)
    }

    /// Shows what was held back.
    fn flush(&mut self, finish: Finish, held: &mut String, on_text: &mut dyn FnMut(&str) -> ControlFlow<()>) {
        if matches!(finish, Finish::EndOfText | Finish::Length | Finish::ContextFull) {
            if let Some((_, decoder)) = &mut self.decoding {
                decoder.finish(&mut |text| held.push_str(text));
            }
            if let Held::Stop(at) = self.filter.judge(held) {
                held.truncate(at);
            }
        }
        if !held.is_empty() {
            let _ = on_text(held);
            held.clear();
        }
    }
}

impl<'m> Session<'m> {
    /// Reads `prompt` after what was read before and writes on, giving text to `on_text` as it comes.
    ///
    /// `on_text` is also called with the empty text: for every token that shows nothing yet, and now and then while a long
    /// prompt is read. So it can always end the work soon; what of the prompt was not read by then is read by the next call.
    ///
    /// What the session knows already is not read again: if `prompt` begins with tokens that are in the cache, pass it to
    /// [`Self::generate_from`] instead.
    ///
    /// # Errors
    /// [`Error::EmptyPrompt`], [`Error::Core`].
    pub fn generate(
        &mut self,
        prompt: &[u32],
        options: &GenerateOptions,
        on_text: &mut dyn FnMut(&str) -> ControlFlow<()>,
    ) -> Result<Stats, Error> {
        let start = Instant::now();
        if prompt.is_empty() {
            return Err(Error::EmptyPrompt);
        }
        let mut sampler = Sampler::new(options.sampling)?;
        let filter = StopFilter::new(&options.stop);
        self.held.clear();
        self.held.reserve(filter.longest() + TEXT_BYTES);
        // The token drawn last by a generation that ended there has not been read yet.
        let unread = self.memory.position();
        let first = self.tokens.len();
        let (need, context) = (first + prompt.len(), self.memory.context());
        if need > context {
            return Err(bourn_core::Error::ContextFull { need: need as u64, context: context as u64 }.into());
        }
        self.tokens.extend_from_slice(prompt);
        self.answer = self.tokens.len();
        let prompt_tokens = self.tokens.len() - unread;

        let model = self.model;
        let image = model.image();
        let decoding = image.tokenizer().map(Tokenizer::new).map(|t| (t, Decoder::new(&t, true)));
        let mut ending = Ending { options, filter, decoding };
        let mut stream = model.file().stream();
        let (decode, prefill) = (model.pool().limited(self.threads.decode), model.pool().limited(self.threads.prefill));
        let mut engine = Engine { image, stream: &mut stream, kernels: model.kernels(), decode: &decode, prefill: &prefill };
        let at_once = self.prefill_block * BLOCKS_AT_ONCE;
        while self.tokens.len() - self.memory.position() > at_once {
            let from = self.memory.position();
            if let Err(e) = self.memory.read(&mut engine, &self.tokens[from..from + at_once]) {
                self.go_back(unread, first)?;
                return Err(e);
            }
            if on_text("").is_break() {
                let (read, took) = (self.memory.position() - unread, start.elapsed());
                return Ok(Stats {
                    prompt_tokens: read,
                    generated_tokens: 0,
                    first_token: took,
                    prefill_tok_s: per_second(read, took),
                    decode_tok_s: 0.0,
                    passes: 0,
                    drafted: 0,
                    accepted: 0,
                    finish: Finish::Cancelled,
                });
            }
        }
        let from = self.memory.position();
        if let Err(e) = self.memory.read(&mut engine, &self.tokens[from..]) {
            self.go_back(unread, first)?;
            return Err(e);
        }
        let prefilled = start.elapsed();
        self.speculation.prefilled(prompt_tokens, prefilled);
        let mut first_token = prefilled;
        let (mut n, mut passes, mut drafted, mut accepted) = (0, 0, 0, 0);
        // Drafted tokens of the pass whose logits are at hand.
        let mut drafts = 0;
        let finish = 'text: loop {
            let read = self.memory.position() - drafts;
            for row in 0..=drafts {
                // As far as plain decoding would have read when it draws this token.
                let position = read + row;
                let drawn = match self.draw_on_device(image, &mut sampler, drafts) {
                    Ok(Some(id)) => Ok(id),
                    Ok(None) => self
                        .memory
                        .logits(model.kernels(), image, row)
                        .and_then(|logits| Ok(sampler.sample(model.kernels(), logits, &self.tokens, &mut self.candidates)?)),
                    Err(e) => Err(e),
                };
                let id = match drawn {
                    Ok(id) => id,
                    Err(e) => {
                        self.memory.rewind(image, position)?;
                        return Err(e);
                    }
                };
                if n == 0 {
                    first_token = start.elapsed();
                }
                n += 1;
                self.tokens.push(id);
                let right = self.speculation.judge(row, id);
                accepted += usize::from(right);
                let end = ending.after((image, &mut self.held), id, n, (position, context), on_text);
                if end.is_some() || !right {
                    self.memory.rewind(image, position)?;
                }
                match end {
                    Some(finish) => break 'text finish,
                    None if !right => break,
                    None => {}
                }
            }
            let left = options.max_tokens.map_or(usize::MAX, |most| most - n - 1);
            let room = left.min(context - self.memory.position() - 1);
            let pass = self.speculation.next(model, &decode, &mut self.tokens, room, &sampler, &mut self.candidates)?;
            drafts = pass.len() - 1;
            let before = Instant::now();
            self.memory.verify(&mut engine, pass)?;
            self.speculation.pass_took(1 + drafts, before.elapsed());
            (passes, drafted) = (passes + 1, drafted + drafts);
        };
        let total = start.elapsed();
        ending.flush(finish, &mut self.held, on_text);
        Ok(Stats {
            prompt_tokens,
            generated_tokens: n,
            first_token,
            prefill_tok_s: per_second(prompt_tokens, prefilled),
            decode_tok_s: per_second(n - 1, total - first_token),
            passes,
            drafted,
            accepted,
            finish,
        })
    }

    /// The token that comes next, from the best or the few best logits; `None` where it takes all of them.
    fn draw_on_device(&mut self, image: &Image<'_>, sampler: &mut Sampler, drafts: usize) -> Result<Option<u32>, Error> {
        if drafts > 0 {
            return Ok(None);
        }
        if sampler.is_greedy() {
            return self.memory.best(image).transpose();
        }
        let Some(n) = sampler.n_best() else { return Ok(None) };
        match self.memory.few_best(image, n)? {
            Some(best) => Ok(sampler.sample_best(best, &self.tokens)?),
            None => Ok(None),
        }
    }

    /// As [`Self::generate`] with the whole text: the part that the cache holds already is not read again.
    ///
    /// # Errors
    /// As [`Self::generate`].
    pub fn generate_from(
        &mut self,
        text: &[u32],
        options: &GenerateOptions,
        on_text: &mut dyn FnMut(&str) -> ControlFlow<()>,
    ) -> Result<Stats, Error> {
        let read = &self.tokens[..self.memory.position().min(self.tokens.len())];
        let same = read.iter().zip(text).take_while(|(a, b)| a == b).count().min(text.len().saturating_sub(1));
        self.go_back(same, same)?;
        self.generate(&text[self.tokens.len()..], options, on_text)
    }

    /// Answers a conversation through the model's chat template.
    ///
    /// # Errors
    /// As [`crate::Model::chat_prompt`] and [`Self::generate`].
    pub fn chat(
        &mut self,
        messages: &[Message],
        options: &GenerateOptions,
        on_text: &mut dyn FnMut(&str) -> ControlFlow<()>,
    ) -> Result<Stats, Error> {
        let prompt = self.model.chat_prompt(messages)?;
        self.generate_from(&prompt, options, on_text)
    }
}

/// How many of `n` in a second; 0 if no time has passed.
fn per_second(n: usize, d: Duration) -> f64 {
    if d.is_zero() { 0.0 } else { n as f64 / d.as_secs_f64() }
}
