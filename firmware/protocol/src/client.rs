//! The host's side: asks, waits, asks again, puts answers together.
//!
//! A request is sent again with the same sequence number until its answer comes: every request may arrive twice without harm.

use crate::Error;
use crate::frame::{CHUNK, Channel, Faults, MAX_WIRE, Receiver, VERSION, encode};
use crate::message::{Answer, Done, Generate, Hello, Load, Part, Request, prompt_crc};
use core::ops::ControlFlow;
use heapless::{Deque, String};

/// A line to a board, and a clock.
pub trait Transport {
    /// What the line says when it fails.
    type Error;
    /// Sends all of `bytes`.
    ///
    /// # Errors
    /// The line's own.
    fn write(&mut self, bytes: &[u8]) -> Result<(), Self::Error>;
    /// Receives what is there, waiting at most `limit_us` for the first byte; 0 bytes if none came.
    ///
    /// # Errors
    /// The line's own; one that has ended is an error.
    fn read(&mut self, bytes: &mut [u8], limit_us: u64) -> Result<usize, Self::Error>;
    /// Microseconds since any moment.
    fn now_us(&self) -> u64;
}

/// How long to wait, how often to ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Patience {
    /// Until a request is sent again.
    pub answer_us: u64,
    /// Times that a request is sent without any answer before the board is given up.
    pub tries: u32,
}

impl Default for Patience {
    /// Half a second, twenty times: a board may be busy with a token.
    fn default() -> Self {
        Self { answer_us: 500_000, tries: 20 }
    }
}

/// Fills bytes from an offset.
pub type ReadAt<'r, E> = dyn FnMut(u64, &mut [u8]) -> Result<(), E> + 'r;

/// What is to be done after an answer.
enum Next<'a, R, E> {
    /// It was the last.
    Return(R),
    /// It is no answer.
    Fail(Error<E>),
    /// More will come.
    Wait,
    /// This must be said first.
    Say(Request<'a>),
}

/// Bytes of log kept until they are taken.
const LOG: usize = 8192;
/// How long the line is waited for at a time: as often the caller is asked whether to go on.
const SLICE_US: u64 = 20_000;

/// A board at the other end of a line.
#[derive(Debug)]
pub struct Client<T> {
    transport: T,
    receiver: Receiver,
    /// Received, not looked at.
    input: Deque<u8, 1024>,
    sequence: u16,
    patience: Patience,
    log: Deque<u8, LOG>,
    lost_log: u64,
}

impl<T: Transport> Client<T> {
    /// A client that has said nothing yet.
    pub const fn new(transport: T, patience: Patience) -> Self {
        Self { transport, receiver: Receiver::new(), input: Deque::new(), sequence: 0, patience, log: Deque::new(), lost_log: 0 }
    }

    /// The line.
    pub const fn transport(&mut self) -> &mut T {
        &mut self.transport
    }

    /// What has come over the line.
    pub const fn faults(&self) -> Faults {
        self.receiver.faults()
    }

    /// Gives out what the board has logged since the last call; bytes lost for want of room are counted in the result.
    pub fn take_log(&mut self, out: &mut dyn FnMut(&[u8])) -> u64 {
        let (a, b) = self.log.as_slices();
        for part in [a, b] {
            if !part.is_empty() {
                out(part);
            }
        }
        self.log.clear();
        core::mem::take(&mut self.lost_log)
    }

    /// Says who asks and learns who answers; `nonce` differs from one program run to the next. The name of the board goes to `board`.
    ///
    /// # Errors
    /// [`Error::Line`], [`Error::Silent`], [`Error::Version`], [`Error::Refused`].
    pub fn hello(&mut self, nonce: u32, board: &mut dyn FnMut(&Hello<'_>)) -> Result<(), Error<T::Error>> {
        // Answers to an earlier program are not taken for ours.
        self.sequence = nonce as u16;
        self.ask("hello", &Request::Hello { nonce }, &mut |answer| match answer {
            Answer::Hello(hello) if hello.nonce == nonce => {
                board(hello);
                Some(())
            }
            _ => None,
        })
    }

    /// Asks for one thing; `take` picks what is wanted from the answer.
    ///
    /// # Errors
    /// [`Error`].
    pub fn ask<R>(
        &mut self,
        asked: &'static str,
        request: &Request<'_>,
        take: &mut dyn FnMut(&Answer<'_>) -> Option<R>,
    ) -> Result<R, Error<T::Error>> {
        self.ask_long(asked, request, &mut |_, _| ControlFlow::Continue(()), take)
    }

    /// The same for work that takes long: `progress(done, of)` is told how far it is, and may end the waiting.
    ///
    /// # Errors
    /// [`Error`].
    pub fn ask_long<R>(
        &mut self,
        asked: &'static str,
        request: &Request<'_>,
        progress: &mut dyn FnMut(u64, u64) -> ControlFlow<()>,
        take: &mut dyn FnMut(&Answer<'_>) -> Option<R>,
    ) -> Result<R, Error<T::Error>> {
        self.exchange(request, &mut || ControlFlow::Continue(()), &mut |answer| match answer {
            Answer::Progress { done, of } if progress(*done, *of).is_break() => Next::Fail(Error::Stopped),
            Answer::Progress { .. } => Next::Wait,
            other => take(other).map_or(Next::Fail(Error::Unexpected { asked }), Next::Return),
        })
    }

    /// Opens the model.
    ///
    /// # Errors
    /// [`Error`].
    pub fn load(&mut self, load: Load, progress: &mut dyn FnMut(u64, u64) -> ControlFlow<()>) -> Result<(), Error<T::Error>> {
        self.ask_long("load", &Request::Load(load), progress, &mut |a| matches!(a, Answer::Accepted).then_some(()))
    }

    /// One of the image's texts, given to `out` part by part.
    ///
    /// # Errors
    /// [`Error`].
    pub fn read_part(&mut self, part: Part, out: &mut dyn FnMut(&[u8])) -> Result<(), Error<T::Error>> {
        let mut at = 0;
        loop {
            let (n, end) = self.ask("read", &Request::Read { part, offset: at }, &mut |answer| match answer {
                Answer::Bytes { offset, of, bytes } if *offset == at => {
                    out(bytes);
                    let n = bytes.len() as u32;
                    Some((n, n == 0 || at.saturating_add(n) >= *of))
                }
                _ => None,
            })?;
            at = at.saturating_add(n);
            if end {
                return Ok(());
            }
        }
    }

    /// Sends a prompt and follows the answer. `generate` need not hold length and CRC of the prompt. `on_piece(id, text)` is called for every
    /// token as it comes (text is UTF-8 cut anywhere, `None` for more text of the same token); `stop` is asked all the time.
    /// `ids` and `text` hold the answer and check it.
    ///
    /// # Errors
    /// [`Error`].
    pub fn generate(
        &mut self,
        prompt: &[u8],
        generate: &Generate,
        answer: &mut dyn Answered,
        stop: &mut dyn FnMut() -> bool,
    ) -> Result<Done, Error<T::Error>> {
        for (i, bytes) in prompt.chunks(CHUNK).enumerate() {
            let offset = (i * CHUNK) as u32;
            self.ask("prompt", &Request::Prompt { offset, bytes }, &mut |a| matches!(a, Answer::Accepted).then_some(()))?;
        }
        let request =
            Request::Generate(Generate { prompt_bytes: prompt.len() as u32, prompt_crc: prompt_crc(prompt), ..*generate });
        let (mut tokens, mut bytes) = (0u32, 0u32);
        // Set while lost pieces are on their way: they are asked for once, then again only when nothing comes.
        let mut asked_at = None;
        let done = self.exchange(&request, &mut || stop_if(stop()), &mut |frame| match frame {
            Answer::Piece { token, id, offset, text } => {
                let new = *token == tokens;
                if *offset == bytes && (new || token.checked_add(1) == Some(tokens)) {
                    answer.piece(new.then_some(*id), text);
                    tokens += u32::from(new);
                    bytes = bytes.saturating_add(text.len() as u32);
                    asked_at = None;
                } else if (*token > tokens || *offset > bytes) && asked_at != Some((tokens, bytes)) {
                    asked_at = Some((tokens, bytes));
                    return Next::Say(Request::Resend { tokens, text: bytes });
                }
                Next::Wait
            }
            Answer::Done(done) if (done.tokens, done.text_bytes) == (tokens, bytes) => Next::Return(*done),
            // All pieces have been sent, not all are here. Asked again, the board says this again at their end.
            Answer::Done(_) => Next::Say(Request::Resend { tokens, text: bytes }),
            Answer::Progress { .. } => Next::Wait,
            _ => Next::Fail(Error::Unexpected { asked: "generate" }),
        })?;
        let found = answer.crc();
        if found == done.crc { Ok(done) } else { Err(Error::Garbled { need: done.crc, found }) }
    }

    /// Sends a new image into the slot that is not in use, has it checked, and switches to it. `read(offset, bytes)` gives the image's bytes.
    /// Returns the slot. An update that was broken off goes on where it stopped, as long as the board was not switched off.
    ///
    /// # Errors
    /// [`Error`]; the old image is then in use as before, unless the very last answer was lost.
    pub fn flash<E>(
        &mut self,
        bytes: u64,
        sum: u64,
        read: &mut ReadAt<'_, E>,
        progress: &mut dyn FnMut(Stage, u64, u64) -> ControlFlow<()>,
    ) -> Result<Result<u8, E>, Error<T::Error>> {
        let (mut slot, mut next, window) =
            self.ask_long("begin", &Request::Begin { bytes, sum }, &mut |d, of| progress(Stage::Prepare, d, of), &mut update)?;
        let mut chunk = [0; CHUNK];
        let mut sent = next;
        let (mut silent, mut again_from) = (0, None);
        let start = self.transport.now_us();
        while next < bytes {
            if progress(Stage::Send, next, bytes).is_break() {
                return Err(Error::Stopped);
            }
            while sent < bytes && sent < next + u64::from(window.max(1)) * CHUNK as u64 {
                let n = (bytes - sent).min(CHUNK as u64) as usize;
                if let Err(e) = read(sent, &mut chunk[..n]) {
                    return Ok(Err(e));
                }
                self.sequence = self.sequence.wrapping_add(1);
                self.say(&Request::Chunk { offset: sent, bytes: &chunk[..n] })?;
                sent += n as u64;
            }
            match self.wait_update(window)? {
                Some((s, wanted)) => {
                    (slot, silent) = (s, 0);
                    if wanted > next {
                        next = wanted.min(bytes);
                        sent = sent.max(next);
                    } else if wanted == next && again_from != Some(next) {
                        // Lost on the way. Every chunk sent after it says so once more: back once.
                        (sent, again_from) = (next, Some(next));
                    }
                }
                None => {
                    silent += 1;
                    (sent, again_from) = (next, None);
                    if silent > self.patience.tries {
                        let millis = (self.transport.now_us() - start) / 1000;
                        return Err(Error::Silent { tries: silent, millis, corrupt: self.receiver.faults().corrupt });
                    }
                }
            }
        }
        self.ask_long("verify", &Request::Verify, &mut |d, of| progress(Stage::Verify, d, of), &mut update)?;
        let switched = self.ask("switch", &Request::Switch, &mut |a| match a {
            Answer::Switched { slot, .. } => Some(*slot),
            _ => None,
        })?;
        debug_assert_eq!(slot, switched);
        Ok(Ok(switched))
    }

    /// The next word on how far an update is, whichever of the last chunks it answers; nothing if none comes in time.
    fn wait_update(&mut self, window: u8) -> Result<Option<(u8, u64)>, Error<T::Error>> {
        let deadline = self.transport.now_us().saturating_add(self.patience.answer_us);
        loop {
            while self.next_frame()? {
                let Some(frame) = self.receiver.frame() else { continue };
                match postcard::from_bytes(frame.body) {
                    Ok(Answer::Update { slot, next, .. }) => return Ok(Some((slot, next))),
                    Ok(Answer::Refused { why, text }) if self.sequence.wrapping_sub(frame.sequence) <= 2 * u16::from(window) => {
                        return Err(refused(why, text));
                    }
                    _ => {}
                }
            }
            if self.transport.now_us() >= deadline {
                return Ok(None);
            }
            self.fill(deadline)?;
        }
    }

    /// Listens to the log for at most `limit_us`.
    ///
    /// # Errors
    /// [`Error::Line`].
    pub fn listen(&mut self, limit_us: u64) -> Result<(), Error<T::Error>> {
        let deadline = self.transport.now_us().saturating_add(limit_us);
        loop {
            while self.next_frame()? {}
            if self.transport.now_us() >= deadline {
                return Ok(());
            }
            self.fill(deadline)?;
        }
    }

    /// Says `request`, and again when nothing comes, until `take` has what it wants.
    fn exchange<R>(
        &mut self,
        request: &Request<'_>,
        stop: &mut dyn FnMut() -> ControlFlow<()>,
        take: &mut dyn FnMut(&Answer<'_>) -> Next<'static, R, T::Error>,
    ) -> Result<R, Error<T::Error>> {
        self.sequence = self.sequence.wrapping_add(1);
        let start = self.transport.now_us();
        let corrupt = self.receiver.faults().corrupt;
        let (mut tries, mut deadline) = (0, 0);
        let mut cancelled = false;
        loop {
            let now = self.transport.now_us();
            if !cancelled && stop().is_break() {
                cancelled = true;
                self.say(&Request::Cancel)?;
            }
            if now >= deadline {
                if tries == self.patience.tries {
                    let corrupt = self.receiver.faults().corrupt - corrupt;
                    return Err(Error::Silent { tries, millis: (now - start) / 1000, corrupt });
                }
                tries += 1;
                self.say(if cancelled && tries > 1 { &Request::Cancel } else { request })?;
                deadline = self.transport.now_us().saturating_add(self.patience.answer_us);
            }
            while self.next_frame()? {
                let Some(frame) = self.receiver.frame() else { continue };
                if frame.sequence != self.sequence {
                    continue;
                }
                if frame.version != VERSION {
                    return Err(Error::Version { need: VERSION, found: frame.version });
                }
                let next = match postcard::from_bytes(frame.body) {
                    Ok(Answer::Refused { why, text }) => return Err(refused(why, text)),
                    // Nothing of ours is going on: the request never arrived, or the board was started anew.
                    Ok(Answer::Accepted) if cancelled => return Err(Error::Stopped),
                    Ok(answer) => take(&answer),
                    // Newer words of the same version do not exist; a frame that is right but says nothing is a fault of the board.
                    Err(_) => continue,
                };
                (tries, deadline) = (1, self.transport.now_us().saturating_add(self.patience.answer_us));
                match next {
                    Next::Return(r) => return Ok(r),
                    Next::Fail(e) => return Err(e),
                    Next::Wait => {}
                    Next::Say(request) => self.say(&request)?,
                }
            }
            self.fill(deadline)?;
        }
    }

    fn say(&mut self, request: &Request<'_>) -> Result<(), Error<T::Error>> {
        let mut wire = [0; MAX_WIRE];
        let bytes = encode(self.sequence, request, &mut wire).ok_or(Error::TooLong)?;
        self.transport.write(bytes).map_err(Error::Line)
    }

    /// Whether a control frame has come; log frames are put aside.
    fn next_frame(&mut self) -> Result<bool, Error<T::Error>> {
        while let Some(byte) = self.input.pop_front() {
            if !self.receiver.push(byte) {
                continue;
            }
            let Some(frame) = self.receiver.frame() else { continue };
            match frame.channel() {
                Some(Channel::Control) => return Ok(true),
                Some(Channel::Log) => {
                    for &byte in frame.body {
                        self.lost_log += u64::from(self.log.push_back(byte).is_err());
                    }
                }
                None => {}
            }
        }
        Ok(false)
    }

    /// Waits for bytes, not beyond `deadline`.
    fn fill(&mut self, deadline: u64) -> Result<(), Error<T::Error>> {
        let limit = deadline.saturating_sub(self.transport.now_us()).min(SLICE_US);
        let mut bytes = [0; 512];
        let n = self.transport.read(&mut bytes, limit).map_err(Error::Line)?;
        for &byte in &bytes[..n.min(512)] {
            // There is room: it is emptied before this is called.
            let _ = self.input.push_back(byte);
        }
        Ok(())
    }
}

/// Where an answer is put together.
pub trait Answered {
    /// A token's id and text; without an id more text of the token before.
    fn piece(&mut self, id: Option<u32>, text: &[u8]);
    /// CRC-32 of all ids, then all text ([`crate::message::answer_crc`]).
    fn crc(&self) -> u32;
}

/// What an update is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// The board gives up what was in the slot.
    Prepare,
    /// Bytes are sent.
    Send,
    /// The board reads all back and checks it.
    Verify,
}

fn update(answer: &Answer<'_>) -> Option<(u8, u64, u8)> {
    match answer {
        Answer::Update { slot, next, window } => Some((*slot, *next, *window)),
        _ => None,
    }
}

fn stop_if(stop: bool) -> ControlFlow<()> {
    if stop { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
}

fn refused<E>(why: crate::message::Why, text: &str) -> Error<E> {
    let mut kept = String::new();
    for c in text.chars() {
        if kept.push(c).is_err() {
            break;
        }
    }
    Error::Refused { why, text: kept }
}
