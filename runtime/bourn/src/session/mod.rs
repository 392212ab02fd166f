//! One text being read and written: prompt in, text out, piece by piece.
//!
//! `prompt_cache` brings back what was read in another life, `generate` is the loop from prompt to text, `speculate` what makes
//! a pass of it write several tokens.

mod decoder;
mod generate;
mod prompt_cache;
mod speculate;

pub use generate::{Finish, GenerateOptions, Stats};
pub use speculate::Speculate;

use crate::ram::Room;
use crate::{Error, Model};
use bourn_core::{Candidate, Engine, KvDtype, Options};
use bourn_host::{OwnedSession, Threads, calibrate, machine};
use decoder::Decoder;
use speculate::Speculation;
use std::time::Duration;

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
    /// Positions whose logits are computed together by [`Session::logits_of_all`]; `None`: as many as speculation needs.
    pub logit_rows: Option<usize>,
    /// Whether a pass may write several tokens.
    pub speculate: Speculate,
    /// Sliding layers keep all positions, so that the session can return to any of them, and a prompt cache serves any part of
    /// its text. Costs memory, as the text grows; without sliding layers every session can.
    pub rewindable: bool,
}

impl SessionOptions {
    /// What the core is asked for: where an option is not given, the default for this model.
    pub fn core(&self, model: &Model) -> Options {
        let shape = model.image().shape();
        let prefill_block = self.prefill_block.unwrap_or(DEFAULT_BLOCK);
        Options {
            context: self.context.unwrap_or(DEFAULT_CONTEXT.min(shape.max_context as usize)),
            prefill_block,
            kv: self.kv.unwrap_or_else(|| model.default_kv()),
            retain: if self.rewindable { usize::MAX } else { 0 },
            logit_rows: self.logit_rows.unwrap_or(1).max(1 + self.speculate.most(shape.vocab as usize, prefill_block)),
        }
    }
}

/// One text being read and written.
pub struct Session<'m> {
    model: &'m Model,
    memory: Box<dyn Decoder>,
    threads: Threads,
    kv: KvDtype,
    prefill_block: usize,
    /// Every token of the text, those of the prompt and the last one drawn included.
    tokens: Vec<u32>,
    /// Where the last answer begins in `tokens`.
    answer: usize,
    speculation: Speculation<'m>,
    candidates: Vec<Candidate>,
    held: String,
    /// Of a RAM budget.
    _room: Option<Room<'m>>,
}

/// What computes the tokens of a session.
#[cfg(feature = "gpu")]
fn decoder(model: &Model, core: &Options) -> Result<Box<dyn Decoder>, Error> {
    if let Some(gpu) = model.gpu() {
        let options = bourn_gpu::GpuOptions { context: core.context, block: core.prefill_block, kv: core.kv, head: model.head() };
        return Ok(Box::new(bourn_gpu::GpuSession::new(std::sync::Arc::clone(gpu), model.image(), &options)?));
    }
    on_cpu(model, core)
}

#[cfg(not(feature = "gpu"))]
fn decoder(model: &Model, core: &Options) -> Result<Box<dyn Decoder>, Error> {
    on_cpu(model, core)
}

fn on_cpu(model: &Model, core: &Options) -> Result<Box<dyn Decoder>, Error> {
    let mut memory = OwnedSession::new(model.image(), core)?;
    memory.set_head_mode(model.head());
    Ok(Box::new(memory))
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
        // On a GPU drafts are verified in a pass of its own kind, whose price is not known: only where they are asked for.
        let speculate =
            if model.is_on_gpu() && options.speculate == Speculate::Auto { Speculate::Off } else { options.speculate };
        let options = &SessionOptions { speculate, ..*options };
        let (core, room) = model.prepare(options)?;
        let vocab = image.shape().vocab as usize;
        let memory = decoder(model, &core)?;
        let most = options.speculate.most(vocab, core.prefill_block).min(memory.verify_limit() - 1);
        let mut session = Self {
            model,
            memory,
            threads: Threads::both(1),
            kv: core.kv,
            prefill_block: core.prefill_block,
            tokens: Vec::with_capacity(core.context + 1),
            answer: 0,
            speculation: Speculation::new(options.speculate, most),
            candidates: vec![Candidate::default(); vocab],
            held: String::with_capacity(2 * TEXT_BYTES),
            _room: room,
        };
        model.pool().wait_started();
        if model.is_on_gpu() {
            return Ok(session);
        }
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
                self.run(|memory, engine| memory.read(engine, tokens))
            })
        };
        let found = Threads { decode: timed(&block[..1])?, prefill: timed(&block[..CALIBRATION_BLOCK.min(context)])? };
        self.memory.rewind(self.model.image(), 0)?;
        Ok(found)
    }

    /// Runs `f` with an engine made for the moment.
    fn run<T>(&mut self, f: impl FnOnce(&mut dyn Decoder, &mut Engine<'_>) -> Result<T, Error>) -> Result<T, Error> {
        let mut stream = self.model.file().stream();
        let (decode, prefill) = (self.model.pool().limited(self.threads.decode), self.model.pool().limited(self.threads.prefill));
        let mut engine = Engine {
            image: self.model.image(),
            stream: &mut stream,
            kernels: self.model.kernels(),
            decode: &decode,
            prefill: &prefill,
        };
        f(&mut *self.memory, &mut engine)
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
        self.memory.bytes()
    }

    /// What the GPU has done for this session; `None` on the CPU.
    #[cfg(feature = "gpu")]
    pub fn gpu_stats(&self) -> Option<bourn_gpu::GpuStats> {
        self.memory.gpu_stats()
    }

    /// [`Self::read`]s `token` and says what each kernel of the GPU took, the longest first; `None` on the CPU.
    ///
    /// # Errors
    /// As [`Self::read`]; [`Error::Gpu`] where the device has no timestamps.
    #[cfg(feature = "gpu")]
    pub fn gpu_profile(&mut self, token: u32) -> Result<Option<Vec<bourn_gpu::KernelTime>>, Error> {
        let mut times = None;
        self.reading(&[token], |memory, engine| {
            times = memory.gpu_profile(engine, token)?;
            Ok(())
        })?;
        Ok(times)
    }

    /// Tokens of the last answer.
    pub fn answer(&self) -> &[u32] {
        &self.tokens[self.answer..]
    }

    /// Every token so far.
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// Drafts with this model: a small one of the same vocabulary, best resident. It has its own KV cache.
    ///
    /// # Errors
    /// [`Error::Vocabulary`] when a token is another than in this session's model; [`Error::Core`] when memory is short.
    pub fn use_draft(&mut self, draft: &'m Model) -> Result<(), Error> {
        self.speculation.use_draft(self.model, draft, self.memory.context())?;
        self.candidates.resize(self.candidates.len().max(draft.image().shape().vocab as usize), Candidate::default());
        Ok(())
    }

    /// Forgets the text.
    ///
    /// # Errors
    /// Never: every session can return to its beginning.
    pub fn clear(&mut self) -> Result<(), Error> {
        self.memory.rewind(self.model.image(), 0)?;
        self.tokens.clear();
        self.answer = 0;
        self.speculation.new_text();
        Ok(())
    }

    /// Reads `tokens` after what was read before and calls `sink(position, logits)` for each.
    ///
    /// # Errors
    /// [`Error::Core`]; the session is then as before, or, where that is overwritten, cleared.
    pub fn logits_of_all(&mut self, tokens: &[u32], sink: &mut dyn FnMut(usize, &[f32])) -> Result<(), Error> {
        self.reading(tokens, |memory, engine| memory.logits_of_all(engine, tokens, sink))
    }

    /// Reads `tokens` after what was read before, as [`Self::logits_of_all`] does, but computes only the last one's logits and shows none.
    ///
    /// # Errors
    /// As [`Self::logits_of_all`].
    pub fn read(&mut self, tokens: &[u32]) -> Result<(), Error> {
        self.reading(tokens, |memory, engine| memory.read(engine, tokens))
    }

    /// Has `tokens` read by `read`; where that fails the session is as before.
    fn reading(
        &mut self,
        tokens: &[u32],
        read: impl FnOnce(&mut dyn Decoder, &mut Engine<'_>) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let (position, known) = (self.memory.position(), self.tokens.len());
        if let Err(e) = self.run(read) {
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
}
