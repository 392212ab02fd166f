//! Prompt in, tokens out: the loop, and the text that is kept until the host has it.

use crate::board::Board;
use crate::desk::{Desk, Job};
use crate::link::Link;
use crate::model::Watched;
use crate::trouble::Trouble;
use bourn_core::text::{Decoder, EncodeOptions, Tokenizer};
use bourn_core::{Candidate, Engine, Sampler, SamplerOptions, Session, WeightStream};
use bourn_format::{Image, checksum};
use bourn_protocol::frame::CHUNK;
use bourn_protocol::message::{Answer, Done, Finish, Form, Generate, Part, Why, answer_crc, prompt_crc};
use embedded_io::{Read, ReadReady, Write};

/// Bytes of text in one piece.
const PIECE: usize = 256;
/// Positions of the repetition penalty.
const REPEAT_LAST_N: u32 = 64;

/// What was written: ids, text, and where the text of each token ends.
#[derive(Debug)]
pub(crate) struct Text<'m> {
    bytes: &'m mut [u8],
    n_bytes: usize,
    ids: &'m mut [u32],
    /// `ends[i]`: bytes of text after token `i`.
    ends: &'m mut [u32],
    n: usize,
}

impl<'m> Text<'m> {
    pub const fn new(bytes: &'m mut [u8], ids: &'m mut [u32], ends: &'m mut [u32]) -> Self {
        Self { bytes, n_bytes: 0, ids, ends, n: 0 }
    }

    fn clear(&mut self) {
        (self.n, self.n_bytes) = (0, 0);
    }

    /// A token; false if there is no room for it.
    fn token(&mut self, id: u32) -> bool {
        let (Some(place), Some(end)) = (self.ids.get_mut(self.n), self.ends.get_mut(self.n)) else { return false };
        (*place, *end) = (id, self.n_bytes as u32);
        self.n += 1;
        true
    }

    /// Text of the last token; false if there is no room for it.
    fn push(&mut self, text: &str) -> bool {
        let Some(room) = self.bytes.get_mut(self.n_bytes..self.n_bytes + text.len()) else { return false };
        room.copy_from_slice(text.as_bytes());
        self.n_bytes += text.len();
        if let Some(end) = self.n.checked_sub(1).and_then(|last| self.ends.get_mut(last)) {
            *end = self.n_bytes as u32;
        }
        true
    }

    /// Sends everything after `tokens` tokens and `text` bytes.
    pub fn resend<S: Read + Write + ReadReady>(&self, link: &mut Link<S>, sequence: u16, tokens: u32, text: u32) {
        let (tokens, text) = ((tokens as usize).min(self.n), (text as usize).min(self.n_bytes));
        for i in tokens.saturating_sub(1)..self.n {
            let start = i.checked_sub(1).map_or(0, |before| self.ends[before] as usize).max(text);
            let end = self.ends[i] as usize;
            if i >= tokens || start < end {
                self.send(link, sequence, i, start, end);
            }
        }
    }

    /// Sends token `i` with its text `start..end`, in one piece or more.
    fn send<S: Read + Write + ReadReady>(&self, link: &mut Link<S>, sequence: u16, i: usize, start: usize, end: usize) {
        let mut at = start.min(end);
        loop {
            let to = (at + PIECE).min(end);
            let piece = Answer::Piece { token: i as u32, id: self.ids[i], offset: at as u32, text: &self.bytes[at..to] };
            link.answer(sequence, &piece);
            at = to;
            if at >= end {
                return;
            }
        }
    }

    fn crc(&self) -> u32 {
        answer_crc(self.ids[..self.n].iter().copied(), &self.bytes[..self.n_bytes])
    }
}

/// An open model: its session and the room for prompt and answer.
pub(crate) struct Open<'i, 'w> {
    pub image: &'i Image<'i>,
    pub session: Session<'w>,
    pub candidates: &'w mut [Candidate],
    pub prompt: &'w mut [u8],
    pub scratch: &'w mut [u8],
    /// The text so far, `known` tokens; of them `session.position()` are in the cache.
    pub tokens: &'w mut [u32],
    pub known: usize,
    /// The prompt's ids.
    pub ids: &'w mut [u32],
    pub text: Text<'w>,
    /// Rows of logits, and the checksum of them.
    pub sum: (u32, u64),
}

impl<'i> Open<'i, '_> {
    fn tokenizer(&self) -> Result<Tokenizer<'i>, Trouble> {
        let tables = self.image.tokenizer();
        tables.map(Tokenizer::new).ok_or_else(|| Trouble::new(Why::Image, format_args!("the image has no tokenizer: send ids")))
    }

    /// Puts a part of a prompt in its place.
    pub fn put(&mut self, offset: u32, bytes: &[u8]) -> Result<(), Trouble> {
        let have = self.prompt.len();
        let need = (offset as usize).saturating_add(bytes.len());
        let place = self.prompt.get_mut(offset as usize..need);
        let place =
            place.ok_or_else(|| Trouble::new(Why::Context, format_args!("prompt too long: need {need} bytes, have {have}")))?;
        place.copy_from_slice(bytes);
        Ok(())
    }

    /// Answers with a part of one of the image's texts.
    pub fn read<B: Board, S: Read + Write + ReadReady>(&self, desk: &mut Desk<'_, B, S>, sequence: u16, part: Part, offset: u32) {
        let special = |id: fn(&Tokenizer<'i>) -> Option<u32>| {
            let tokenizer = self.tokenizer().ok();
            tokenizer.and_then(|t| Some(t.token_bytes(id(&t)?))).unwrap_or_default()
        };
        let text = match part {
            Part::ChatTemplate => self.image.chat_template().unwrap_or_default().as_bytes(),
            Part::Provenance => self.image.provenance().as_bytes(),
            Part::License => self.image.license().as_bytes(),
            Part::Bos => special(|t| t.bos()),
            Part::Eos => special(|t| t.eos()),
        };
        let start = (offset as usize).min(text.len());
        let bytes = &text[start..(start + CHUNK).min(text.len())];
        desk.answer(sequence, &Answer::Bytes { offset: start as u32, of: text.len() as u32, bytes });
    }

    /// The prompt's ids into `ids`; how many.
    fn encode(&mut self, generate: &Generate) -> Result<usize, Trouble> {
        let (need, have) = (generate.prompt_bytes as usize, self.prompt.len());
        let Some(prompt) = self.prompt.get(..need) else {
            return Err(Trouble::new(Why::Context, format_args!("prompt too long: need {need} bytes, have {have}")));
        };
        let (need, found) = (generate.prompt_crc, prompt_crc(prompt));
        if need != found {
            return Err(Trouble::new(
                Why::Prompt,
                format_args!("the prompt did not arrive whole: CRC {need:08x} needed, {found:08x} found"),
            ));
        }
        let mut n = 0usize;
        let ids = &mut *self.ids;
        let mut push = |id: u32| {
            if let Some(place) = ids.get_mut(n) {
                *place = id;
            }
            n += 1;
        };
        match generate.form {
            Form::Ids => {
                let (words, rest) = prompt.as_chunks::<4>();
                if !rest.is_empty() {
                    let found = prompt.len();
                    return Err(Trouble::new(Why::Prompt, format_args!("ids need a multiple of 4 bytes, found {found}")));
                }
                words.iter().for_each(|w| push(u32::from_le_bytes(*w)));
            }
            Form::Text { add_special, parse_special } => {
                let text = core::str::from_utf8(prompt)
                    .map_err(|e| Trouble::new(Why::Prompt, format_args!("the prompt is no UTF-8 at byte {}", e.valid_up_to())))?;
                let tables = self.image.tokenizer();
                let tokenizer = tables.map(Tokenizer::new);
                let tokenizer =
                    tokenizer.ok_or_else(|| Trouble::new(Why::Image, format_args!("the image has no tokenizer: send ids")))?;
                let options = EncodeOptions { add_special, parse_special };
                tokenizer.encode(text, options, self.scratch, &mut push)?;
            }
        }
        let context = self.session.context();
        if n > context {
            return Err(bourn_core::Error::ContextFull { need: n as u64, context: context as u64 }.into());
        }
        if n == 0 {
            return Err(bourn_core::Error::Empty.into());
        }
        Ok(n)
    }

    /// Takes the prompt in place of the text so far; what both begin with is not read again. How many tokens that is.
    fn take(&mut self, n: usize) -> Result<usize, Trouble> {
        let read = self.session.position().min(self.known);
        let same = self.tokens[..read].iter().zip(&self.ids[..n]).take_while(|(a, b)| a == b).count().min(n - 1);
        let same = match self.session.rewind(self.image, same) {
            Ok(()) => same,
            // A sliding layer has overwritten what lies there.
            Err(_) => self.session.rewind(self.image, 0).map(|()| 0)?,
        };
        self.tokens[..n].copy_from_slice(&self.ids[..n]);
        self.known = n;
        Ok(same)
    }

    /// Reads the prompt that has come and writes on, piece by piece to the host.
    pub fn generate<B: Board, S: Read + Write + ReadReady, W: WeightStream>(
        &mut self,
        desk: &mut Desk<'_, B, S>,
        stream: &mut W,
        job: &mut Job,
        generate: &Generate,
    ) -> Result<Done, Trouble> {
        let start = desk.board.now_us();
        let mut sampler = Sampler::new(SamplerOptions {
            temperature: generate.temperature,
            top_k: generate.top_k,
            top_p: generate.top_p,
            min_p: generate.min_p,
            repetition_penalty: generate.repetition_penalty,
            repeat_last_n: REPEAT_LAST_N,
            seed: generate.seed,
        })?;
        self.text.clear();
        self.sum = (0, 0);
        let n_prompt = self.encode(generate)?;
        let reused = self.take(n_prompt)?;
        let decoding = self.image.tokenizer().map(Tokenizer::new);
        let mut decoding = decoding.map(|t| (t, Decoder::new(&t, true)));
        let of = (n_prompt - reused).div_ceil(64) * self.image.n_segments();
        (job.done, job.of) = (0, of as u64);
        let (mut prefill_us, mut first_token_us) = (0, 0);
        let mut from = reused;
        desk.stats.generations = desk.stats.generations.wrapping_add(1);
        let finish = loop {
            let to = self.known;
            let stepped = self.step(desk, stream, job, from..to, generate.sum);
            match stepped {
                Ok(()) => {}
                Err(bourn_core::Error::Cancelled) => {
                    // The token drawn last stands in the text, and is read with the next prompt if that goes on from it.
                    self.settle();
                    break Finish::Cancelled;
                }
                Err(e) => {
                    self.settle();
                    return Err(e.into());
                }
            }
            desk.stats.tokens_read += (to - from) as u64;
            let now = desk.board.now_us().saturating_sub(start);
            if self.text.n == 0 {
                prefill_us = now;
            }
            let logits = self.session.logits(desk.kernels(), self.image, 0);
            let drawn = logits.and_then(|l| sampler.sample(desk.kernels(), l, &self.tokens[..to], self.candidates));
            let id = match drawn {
                Ok(id) => id,
                Err(e) => {
                    self.settle();
                    return Err(e.into());
                }
            };
            if self.text.n == 0 {
                first_token_us = desk.board.now_us().saturating_sub(start);
            }
            desk.stats.tokens_written += 1;
            let mut room = self.text.token(id);
            let ended = !generate.ignore_eos && self.image.generation().eos().any(|e| e == id);
            if !ended && let Some((tokenizer, decoder)) = &mut decoding {
                let text = &mut self.text;
                decoder.push(tokenizer, id, &mut |piece| room &= text.push(piece));
            }
            let last = self.text.n - 1;
            let begun = last.checked_sub(1).map_or(0, |before| self.text.ends[before] as usize);
            self.text.send(&mut desk.link, job.sequence, last, begun, self.text.n_bytes);
            let full = to >= self.session.context() || !room;
            if let Some(place) = self.tokens.get_mut(to) {
                *place = id;
                self.known = to + 1;
            }
            desk.look(job);
            if let Some((tokens, text)) = job.resend.take() {
                self.text.resend(&mut desk.link, job.sequence, tokens, text);
            }
            job.done += 1;
            if ended {
                break Finish::EndOfText;
            } else if generate.max_tokens > 0 && self.text.n >= generate.max_tokens as usize {
                break Finish::Length;
            } else if full {
                break Finish::ContextFull;
            } else if job.cancelled {
                break Finish::Cancelled;
            }
            from = to;
        };
        self.finish(desk, job, &mut decoding);
        Ok(Done {
            finish,
            prompt_tokens: n_prompt as u32,
            reused_tokens: reused as u32,
            tokens: self.text.n as u32,
            text_bytes: self.text.n_bytes as u32,
            crc: self.text.crc(),
            prefill_us,
            first_token_us,
            total_us: desk.board.now_us().saturating_sub(start),
        })
    }

    /// Text that was held back for its next token.
    fn finish<B: Board, S: Read + Write + ReadReady>(
        &mut self,
        desk: &mut Desk<'_, B, S>,
        job: &Job,
        decoding: &mut Option<(Tokenizer<'_>, Decoder)>,
    ) {
        let Some(((_, decoder), last)) = decoding.as_mut().zip(self.text.n.checked_sub(1)) else { return };
        let begun = self.text.n_bytes;
        let text = &mut self.text;
        decoder.finish(&mut |piece| {
            text.push(piece);
        });
        if self.text.n_bytes > begun {
            self.text.send(&mut desk.link, job.sequence, last, begun, self.text.n_bytes);
        }
    }

    /// Reads tokens `range` of the text; the line is looked at before each segment.
    fn step<B: Board, S: Read + Write + ReadReady, W: WeightStream>(
        &mut self,
        desk: &mut Desk<'_, B, S>,
        stream: &mut W,
        job: &mut Job,
        range: core::ops::Range<usize>,
        sum: bool,
    ) -> Result<(), bourn_core::Error> {
        let (kernels, decode, prefill) = (desk.kernels(), desk.decode, desk.prefill);
        let mut look = || {
            job.done += 1;
            desk.look(job);
            job.cancelled
        };
        let mut stream = Watched { inner: stream, look: &mut look };
        let mut engine = Engine { image: self.image, stream: &mut stream, kernels, decode, prefill };
        let logits = self.session.prefill(&mut engine, &self.tokens[range])?;
        if sum {
            let row = checksum(bytemuck::cast_slice(logits));
            let mut both = [0; 16];
            both[..8].copy_from_slice(&self.sum.1.to_le_bytes());
            both[8..].copy_from_slice(&row.to_le_bytes());
            self.sum = (self.sum.0 + 1, checksum(&both));
        }
        Ok(())
    }

    /// After work that was broken off: what the session has read is known, and nothing else.
    fn settle(&mut self) {
        let position = self.session.position().min(self.known);
        if self.session.rewind(self.image, position).is_err() {
            let _ = self.session.rewind(self.image, 0);
        }
        self.known = self.session.position();
    }
}
