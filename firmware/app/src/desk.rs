//! The board's side of the line: requests that can be read, answers, how long work ended, what the host may ask at any time.

use crate::board::Board;
use crate::card::Contents;
use crate::link::{Link, Message};
use crate::selftest;
use crate::trouble::Trouble;
use bourn_kernels::{Kernels, Rows};
use bourn_protocol::VERSION;
use bourn_protocol::message::{Answer, Build, Done, Hello, Info, Model, Request, Stats, Why};
use core::fmt;
use embedded_io::{Read, ReadReady, Write};
use embedded_sdmmc::BlockDevice;

/// Bytes of log moved at a time.
const LOG: usize = 256;

/// How the last long work ended: said again to a host that did not hear it.
#[derive(Clone, Debug)]
pub(crate) enum Ending {
    Accepted,
    Done(Done),
    Update { slot: u8, next: u64, window: u8 },
    Refused(Trouble),
}

/// Long work that is going on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Job {
    pub sequence: u16,
    /// Nobody asked for it: who asks for something else waits.
    pub unasked: bool,
    pub done: u64,
    pub of: u64,
    /// Its host, or another, wants it to end.
    pub cancelled: bool,
    /// Pieces of its answer were lost: tokens and bytes of text that arrived.
    pub resend: Option<(u32, u32)>,
}

impl Job {
    pub const fn new(sequence: u16) -> Self {
        Self { sequence, unasked: false, done: 0, of: 0, cancelled: false, resend: None }
    }
}

/// The board's side of the line, and what the host may ask about at any time.
pub(crate) struct Desk<'a, B, S> {
    pub board: B,
    pub link: Link<S>,
    pub name: &'a str,
    pub firmware: &'a str,
    pub build: Build,
    pub tiers: &'a [&'static Kernels],
    pub decode: &'a dyn Rows,
    pub prefill: &'a dyn Rows,
    pub window: u8,
    pub stats: Stats,
    pub memo: Option<(u16, Ending)>,
}

impl<B: Board, S: Read + Write + ReadReady> Desk<'_, B, S> {
    pub fn kernels(&self) -> &'static Kernels {
        self.tiers.first().copied().unwrap_or(&bourn_kernels::scalar::TABLE)
    }

    pub fn log(&mut self, line: fmt::Arguments<'_>) {
        self.board.log(line);
        self.flush_log();
    }

    pub fn flush_log(&mut self) {
        let mut bytes = [0; LOG];
        loop {
            let n = self.board.take_log(&mut bytes).min(LOG);
            if n == 0 {
                return;
            }
            self.link.log(&bytes[..n]);
        }
    }

    pub fn answer(&mut self, sequence: u16, answer: &Answer<'_>) {
        self.link.answer(sequence, answer);
    }

    pub fn refuse(&mut self, sequence: u16, trouble: &Trouble) {
        self.answer(sequence, &Answer::Refused { why: trouble.why, text: &trouble.text });
    }

    /// Says how long work ended, and keeps it.
    pub fn end(&mut self, sequence: u16, ending: Ending) {
        self.memo = Some((sequence, ending));
        self.remind(sequence);
    }

    /// Says again how the work of this number ended; false if it is not the last.
    pub fn remind(&mut self, sequence: u16) -> bool {
        let Some((known, ending)) = &self.memo else { return false };
        if *known != sequence {
            return false;
        }
        match ending {
            Ending::Accepted => self.link.answer(sequence, &Answer::Accepted),
            Ending::Done(done) => self.link.answer(sequence, &Answer::Done(*done)),
            Ending::Update { slot, next, window } => {
                self.link.answer(sequence, &Answer::Update { slot: *slot, next: *next, window: *window });
            }
            Ending::Refused(t) => self.link.answer(sequence, &Answer::Refused { why: t.why, text: &t.text }),
        }
        true
    }

    /// The next request that this version can read. Others are refused here.
    pub fn next(&mut self) -> Option<Message> {
        let message = self.link.next()?;
        if message.version != VERSION {
            let trouble = Trouble::new(
                Why::Version,
                format_args!("the firmware speaks version {VERSION} of the protocol, the host version {}", message.version),
            );
            self.refuse(message.sequence, &trouble);
            return None;
        }
        if postcard::from_bytes::<Request<'_>>(&message.body).is_err() {
            let bytes = message.body.len();
            self.refuse(message.sequence, &Trouble::new(Why::Unknown, format_args!("no such request ({bytes} bytes)")));
            return None;
        }
        Some(message)
    }

    /// Waits for the next request; none if the board is to start anew.
    pub fn wait(&mut self) -> Option<Message> {
        loop {
            self.flush_log();
            if let Some(message) = self.next() {
                return Some(message);
            }
            if self.board.wants_reboot() {
                return None;
            }
            self.board.idle();
        }
    }

    fn greet(&mut self, sequence: u16, nonce: u32) {
        self.memo = None;
        let log = self.board.log_kind();
        let hello = Hello { nonce, board: self.name, firmware: self.firmware, log, build: self.build };
        self.link.answer(sequence, &Answer::Hello(hello));
    }

    fn tell_stats(&mut self, sequence: u16, card_bytes: u64) {
        let health = self.board.health();
        let faults = self.link.faults();
        let stats = Stats {
            uptime_us: self.board.now_us(),
            card_bytes,
            frames_good: faults.good,
            frames_bad: faults.corrupt.saturating_add(faults.oversized),
            millicelsius: health.millicelsius,
            core_hz: health.core_hz,
            throttled: health.throttled,
            ..self.stats
        };
        self.link.answer(sequence, &Answer::Stats(stats));
    }

    /// Looks at the line while work goes on.
    pub fn look(&mut self, job: &mut Job) {
        self.flush_log();
        job.cancelled |= self.board.wants_reboot();
        while let Some(message) = self.next() {
            let Ok(request) = postcard::from_bytes::<Request<'_>>(&message.body) else { continue };
            let ours = message.sequence == job.sequence;
            match request {
                Request::Hello { nonce } => {
                    job.cancelled |= !job.unasked;
                    self.greet(message.sequence, nonce);
                }
                Request::Cancel if ours => job.cancelled = true,
                Request::Cancel => self.answer(message.sequence, &Answer::Accepted),
                Request::Reboot { .. } => {
                    // Asked again when there is nothing else to do.
                    job.cancelled = true;
                    self.answer(message.sequence, &Answer::Progress { done: job.done, of: job.of });
                }
                Request::Resend { tokens, text } if ours => job.resend = Some((tokens, text)),
                Request::Stats => self.tell_stats(message.sequence, self.stats.card_bytes),
                _ if ours || job.unasked => self.answer(message.sequence, &Answer::Progress { done: job.done, of: job.of }),
                _ => self.refuse(
                    message.sequence,
                    &Trouble::new(Why::Busy, format_args!("the board is busy with request {}", job.sequence)),
                ),
            }
        }
    }

    /// Requests that are answered the same whether a model is open or not.
    pub fn common(&mut self, sequence: u16, request: &Request<'_>, card_bytes: u64, trouble: Option<&Trouble>) {
        match request {
            Request::Hello { nonce } => self.greet(sequence, *nonce),
            Request::Stats => self.tell_stats(sequence, card_bytes),
            Request::Cancel => {
                if !self.remind(sequence) {
                    self.answer(sequence, &Answer::Accepted);
                }
            }
            Request::Chunk { .. } | Request::Verify | Request::Switch => {
                if !self.remind(sequence) {
                    self.refuse(sequence, &Trouble::new(Why::Update, format_args!("no update is on its way: begin one")));
                }
            }
            _ => {
                if !self.remind(sequence) {
                    match trouble {
                        Some(trouble) => self.answer(sequence, &Answer::Refused { why: Why::NoModel, text: &trouble.text }),
                        None => self.refuse(sequence, &Trouble::new(Why::Busy, format_args!("not now"))),
                    }
                }
            }
        }
    }

    /// Tells what the board is, what is on its card, and which model is open or why none is.
    pub fn tell_info<D: BlockDevice>(
        &mut self,
        sequence: u16,
        ram_bytes: u64,
        contents: Option<(Contents, &D)>,
        model: Option<Model>,
        trouble: Option<&Trouble>,
    ) {
        let slots = contents.as_ref().and_then(|(c, card)| c.slots?.describe(*card).ok());
        let info = Info {
            isa: self.kernels().isa,
            cores: self.decode.workers().min(255) as u8,
            ram_bytes,
            card_blocks: contents.map_or(0, |(c, _)| c.n_blocks),
            model,
            trouble: trouble.map_or("", |t| t.text.as_str()),
            slots,
            tests: selftest::count(self.tiers),
        };
        self.link.answer(sequence, &Answer::Info(info));
    }
}
