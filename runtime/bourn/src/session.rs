//! One text being read and written: prompt in, text out, piece by piece.

use crate::stop::{Held, StopFilter};
use crate::{Error, Message, Model};
use bourn_core::text::{Decoder, Tokenizer};
use bourn_core::{Candidate, Engine, KvDtype, Options, Sampler, SamplerOptions};
use bourn_host::{OwnedSession, Threads, calibrate, machine};
use std::ops::ControlFlow;
use std::time::{Duration, Instant};

/// Default context where the model allows more: memory for it is taken only as it fills.
const DEFAULT_CONTEXT: usize = 4096;
/// Default block of prefill.
const DEFAULT_BLOCK: usize = 64;
/// Blocks that prefill reads before it asks whether to go on: each asking costs the logits of one position.
const BLOCKS_AT_ONCE: usize = 8;
/// Time for finding one thread count.
const CALIBRATION: Duration = Duration::from_millis(40);
/// Tokens of the block that prefill is timed with.
const CALIBRATION_BLOCK: usize = 16;
/// Room for text between a token and the callback; as much again for stop strings, beyond which a generation allocates once.
const TEXT_BYTES: usize = 4096;

/// How to open a session.
#[derive(Clone, Copy, Debug, Default)]
pub struct SessionOptions {
    /// Positions; `None`: the model's, at most 4096.
    pub context: Option<usize>,
    /// Type of the KV cache; `None`: [`Model::default_kv`].
    pub kv: Option<KvDtype>,
    /// Tokens that prefill takes at once; `None`: 64.
    pub prefill_block: Option<usize>,
    /// Positions whose logits are computed together by [`Session::logits_of_all`]; `None`: 1.
    pub logit_rows: Option<usize>,
}

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
    /// Why it ended.
    pub finish: Finish,
}

/// One text being read and written.
pub struct Session<'m> {
    model: &'m Model,
    memory: OwnedSession,
    threads: Threads,
    kv: KvDtype,
    prefill_block: usize,
    /// Every token of the text, those of the prompt and the last one drawn included.
    tokens: Vec<u32>,
    /// Where the last answer begins in `tokens`.
    answer: usize,
    candidates: Vec<Candidate>,
    held: String,
}

impl std::fmt::Debug for Session<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session")
            .field("threads", &self.threads)
            .field("kv", &self.kv)
            .field("tokens", &self.tokens.len())
            .finish()
    }
}

impl<'m> Session<'m> {
    pub(crate) fn new(model: &'m Model, options: &SessionOptions) -> Result<Self, Error> {
        let image = model.image();
        let vocab = image.shape().vocab as usize;
        let context = options.context.unwrap_or(DEFAULT_CONTEXT.min(image.shape().max_context as usize));
        let kv = options.kv.unwrap_or_else(|| model.default_kv());
        let core = Options {
            context,
            prefill_block: options.prefill_block.unwrap_or(DEFAULT_BLOCK),
            kv,
            logit_rows: options.logit_rows.unwrap_or(1),
        };
        let mut session = Self {
            model,
            memory: OwnedSession::new(image, &core)?,
            threads: Threads::both(1),
            kv,
            prefill_block: core.prefill_block,
            tokens: Vec::with_capacity(context + 1),
            answer: 0,
            candidates: vec![Candidate::default(); vocab],
            held: String::with_capacity(2 * TEXT_BYTES),
        };
        model.pool().wait_started();
        session.threads = match model.threads() {
            Some(threads) => threads,
            None => {
                let found = session.calibrate()?;
                *model.threads_cell().get_or_init(|| found)
            }
        };
        Ok(session)
    }

    /// Times a token and a block with every count of threads that may help.
    fn calibrate(&mut self) -> Result<Threads, Error> {
        let most = machine::usable_cores();
        let block = [0; CALIBRATION_BLOCK];
        let context = self.memory.context();
        let mut timed = |tokens: &[u32]| {
            calibrate::fastest(most, CALIBRATION, |n| {
                self.threads = Threads::both(n);
                self.memory.rewind(self.model.image(), 0)?;
                self.run(|memory, engine| memory.prefill(engine, tokens).map(|_| ()))
            })
        };
        let found = Threads { decode: timed(&block[..1])?, prefill: timed(&block[..CALIBRATION_BLOCK.min(context)])? };
        self.memory.rewind(self.model.image(), 0)?;
        Ok(found)
    }

    /// Runs `f` with an engine made for the moment.
    fn run<T>(&mut self, f: impl FnOnce(&mut OwnedSession, &mut Engine<'_>) -> Result<T, bourn_core::Error>) -> Result<T, Error> {
        let mut stream = self.model.file().stream();
        let (decode, prefill) = (self.model.pool().limited(self.threads.decode), self.model.pool().limited(self.threads.prefill));
        let mut engine = Engine {
            image: self.model.image(),
            stream: &mut stream,
            kernels: self.model.kernels(),
            decode: &decode,
            prefill: &prefill,
        };
        Ok(f(&mut self.memory, &mut engine)?)
    }

    /// Threads in use.
    pub fn threads(&self) -> Threads {
        self.threads
    }

    /// Type of the KV cache.
    pub fn kv(&self) -> KvDtype {
        self.kv
    }

    /// Positions.
    pub fn context(&self) -> usize {
        self.memory.context()
    }

    /// Bytes of KV cache and buffers, touched or not.
    pub fn workspace_bytes(&self) -> usize {
        self.memory.workspace_bytes()
    }

    /// Tokens of the last answer.
    pub fn answer(&self) -> &[u32] {
        &self.tokens[self.answer..]
    }

    /// Every token so far.
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// Forgets the text.
    ///
    /// # Errors
    /// Never: every session can return to its beginning.
    pub fn clear(&mut self) -> Result<(), Error> {
        self.memory.rewind(self.model.image(), 0)?;
        self.tokens.clear();
        self.answer = 0;
        Ok(())
    }

    /// Reads `tokens` after what was read before and calls `sink(position, logits)` for each.
    ///
    /// # Errors
    /// [`Error::Core`]; the session is then as before, or, where that is overwritten, cleared.
    pub fn logits_of_all(&mut self, tokens: &[u32], sink: &mut dyn FnMut(usize, &[f32])) -> Result<(), Error> {
        let (position, known) = (self.memory.position(), self.tokens.len());
        if let Err(e) = self.run(|memory, engine| memory.logits_of_all(engine, tokens, sink)) {
            self.go_back(position, known)?;
            return Err(e);
        }
        self.tokens.truncate(self.memory.position() - tokens.len());
        self.tokens.extend_from_slice(tokens);
        self.answer = self.tokens.len();
        Ok(())
    }

    /// Returns to `position`, at which `known` tokens were known, or to the beginning where a ring has overwritten what lies there.
    fn go_back(&mut self, position: usize, known: usize) -> Result<(), Error> {
        let known = match self.memory.rewind(self.model.image(), position) {
            Ok(()) => known,
            Err(_) => self.memory.rewind(self.model.image(), 0).map(|()| 0)?,
        };
        self.tokens.truncate(known);
        self.answer = self.answer.min(known);
        Ok(())
    }

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
        let mut decoding = model.image().tokenizer().map(Tokenizer::new).map(|t| (t, Decoder::new(&t, true)));
        let mut stream = model.file().stream();
        let (decode, prefill) = (model.pool().limited(self.threads.decode), model.pool().limited(self.threads.prefill));
        let mut engine =
            Engine { image: model.image(), stream: &mut stream, kernels: model.kernels(), decode: &decode, prefill: &prefill };
        let at_once = self.prefill_block * BLOCKS_AT_ONCE;
        while self.tokens.len() - self.memory.position() > at_once {
            let from = self.memory.position();
            if let Err(e) = self.memory.prefill(&mut engine, &self.tokens[from..from + at_once]) {
                self.go_back(unread, first)?;
                return Err(e.into());
            }
            if on_text("").is_break() {
                let (read, took) = (self.memory.position() - unread, start.elapsed());
                return Ok(Stats {
                    prompt_tokens: read,
                    generated_tokens: 0,
                    first_token: took,
                    prefill_tok_s: per_second(read, took),
                    decode_tok_s: 0.0,
                    finish: Finish::Cancelled,
                });
            }
        }
        let from = self.memory.position();
        let mut logits = match self.memory.prefill(&mut engine, &self.tokens[from..]) {
            Ok(logits) => logits,
            Err(e) => {
                self.go_back(unread, first)?;
                return Err(e.into());
            }
        };
        let prefilled = start.elapsed();
        let mut first_token = prefilled;
        let mut n = 0;
        let finish = loop {
            let id = sampler.sample(model.kernels(), logits, &self.tokens, &mut self.candidates)?;
            if n == 0 {
                first_token = start.elapsed();
            }
            n += 1;
            self.tokens.push(id);
            if !options.ignore_eos && model.image().generation().eos().any(|e| e == id) {
                break Finish::EndOfText;
            }
            if let Some((tokenizer, decoder)) = &mut decoding {
                let held = &mut self.held;
                decoder.push(tokenizer, id, &mut |text| held.push_str(text));
            }
            match filter.judge(&self.held) {
                Held::Stop(at) => {
                    self.held.truncate(at);
                    break Finish::StopString;
                }
                Held::Free(free) => {
                    let flow = on_text(&self.held[..free]);
                    self.held.drain(..free);
                    if flow.is_break() {
                        self.held.clear();
                        break Finish::Cancelled;
                    }
                }
            }
            if options.max_tokens.is_some_and(|most| n >= most) {
                break Finish::Length;
            }
            if self.memory.position() >= context {
                break Finish::ContextFull;
            }
            logits = self.memory.prefill(&mut engine, &[id])?;
        };
        let total = start.elapsed();
        if matches!(finish, Finish::EndOfText | Finish::Length | Finish::ContextFull) {
            if let Some((_, decoder)) = &mut decoding {
                let held = &mut self.held;
                decoder.finish(&mut |text| held.push_str(text));
            }
            if let Held::Stop(at) = filter.judge(&self.held) {
                self.held.truncate(at);
            }
        }
        if !self.held.is_empty() {
            let _ = on_text(&self.held);
            self.held.clear();
        }
        Ok(Stats {
            prompt_tokens,
            generated_tokens: n,
            first_token,
            prefill_tok_s: per_second(prompt_tokens, prefilled),
            decode_tok_s: per_second(n - 1, total - first_token),
            finish,
        })
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
    /// As [`Model::chat_prompt`] and [`Self::generate`].
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
