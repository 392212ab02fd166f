//! A board that has said hello.

use crate::output::{hinted, note};
use crate::signal;
use anyhow::{Result, anyhow};
use bourn_protocol::client::Patience;
use bourn_protocol::message::{Answer, Build, Done, Generate, Load, LogKind, Part, Request, Why};
use bourn_protocol::port::{Line, LineError, Port, Written};
use bourn_protocol::{Client, Error};
use std::io::ErrorKind;
use std::ops::ControlFlow;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// A board that has said hello.
pub struct Board {
    pub client: Client<Port>,
    pub name: String,
    pub firmware: String,
    /// Which firmware it runs.
    pub build: Build,
    /// Its log is defmt's.
    pub defmt: bool,
    pub quiet: bool,
    /// The log is shown by the command itself.
    pub raw_log: bool,
    at: Line,
}

impl Board {
    /// Opens the line and waits for the board.
    pub fn connect(at: &Line, baud: u32, quiet: bool) -> Result<Self> {
        let port = Port::open(at, baud).map_err(|e| {
            let hint = match (e.kind(), at) {
                (ErrorKind::PermissionDenied, Line::Serial(_)) => {
                    "be of the port's group: sudo usermod -aG dialout $USER, then log in again"
                }
                (ErrorKind::NotFound, Line::Serial(_)) => {
                    "which ports there are: ls /dev/tty*; without a board: bourn device simulate"
                }
                (ErrorKind::ConnectionRefused | ErrorKind::NotFound, _) => {
                    "is the emulator running? to have a board of your own: bourn device simulate"
                }
                _ => return anyhow!("{at}: {e}"),
            };
            hinted(format!("{at}: {e}"), hint)
        })?;
        let client = Client::new(port, Patience::default());
        let mut board = Self {
            client,
            name: String::new(),
            firmware: String::new(),
            build: Build::default(),
            defmt: false,
            quiet,
            raw_log: false,
            at: at.clone(),
        };
        let nanos = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_nanos());
        let (mut name, mut firmware, mut build, mut defmt) = (String::new(), String::new(), Build::default(), false);
        let greeted = board.client.hello(nanos as u32 ^ std::process::id(), &mut |hello| {
            name = hello.board.to_owned();
            firmware = hello.firmware.to_owned();
            build = hello.build;
            defmt = hello.log == LogKind::Defmt;
        });
        // What came before is text only if the board says so.
        board.raw_log = greeted.is_err();
        (board.name, board.firmware, board.build, board.defmt) = (name, firmware, build, defmt);
        board.told(greeted)?;
        Ok(board)
    }

    /// An error of the board with what may help.
    fn told<T>(&mut self, result: Result<T, Error<LineError>>) -> Result<T> {
        self.show_log();
        result.map_err(|e| {
            let what = format!("{}: {e}", self.at);
            let hint = match &e {
                Error::Silent { corrupt: 0, .. } => {
                    "is it powered, and its transmit line on our receive line? another speed: --baud N"
                }
                Error::Silent { .. } => "bytes come, but broken: another speed (--baud N), or a shorter cable",
                Error::Line(_) => {
                    "the board or its cable went away: connect it and start again, it loses nothing but the conversation"
                }
                Error::Version { .. } => "update the firmware or this program",
                Error::Refused { why: Why::NoCard | Why::NoModel, .. } => "what is there: bourn device LINE info",
                Error::Refused { why: Why::Image, .. } => {
                    "the image on the card is damaged: bourn device LINE flash IMAGE, or copy it again"
                }
                Error::Refused { why: Why::Update, .. } => {
                    "to make a card with slots: cargo xtask firmware, or bourn device simulate --card FILE"
                }
                Error::Garbled { .. } => "try again",
                _ => return anyhow!(what),
            };
            hinted(what, hint)
        })
    }

    /// Text of the log goes to stderr as it comes, unless a command shows it itself.
    fn show_log(&mut self) {
        let (quiet, hide) = (self.quiet, self.defmt || self.raw_log);
        if hide {
            return;
        }
        let mut log = Vec::new();
        self.client.take_log(&mut |part| log.extend_from_slice(part));
        for line in String::from_utf8_lossy(&log).lines() {
            note(quiet, &format!("board: {line}"));
        }
    }

    /// [`Client::ask`].
    pub fn ask<R>(
        &mut self,
        what: &'static str,
        request: &Request<'_>,
        take: &mut dyn FnMut(&Answer<'_>) -> Option<R>,
    ) -> Result<R> {
        self.ask_long(what, request, take)
    }

    /// [`Client::ask_long`]; Ctrl-C ends the waiting.
    pub fn ask_long<R>(
        &mut self,
        what: &'static str,
        request: &Request<'_>,
        take: &mut dyn FnMut(&Answer<'_>) -> Option<R>,
    ) -> Result<R> {
        let mut go_on = |_, _| if signal::stopped() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) };
        let answer = self.client.ask_long(what, request, &mut go_on, take);
        self.told(answer)
    }

    /// [`Client::load`].
    pub fn load(&mut self, load: Load) -> Result<()> {
        self.ask_long("load", &Request::Load(load), &mut |answer| matches!(answer, Answer::Accepted).then_some(()))
    }

    /// One of the image's texts.
    pub fn read_part(&mut self, part: Part) -> Result<String> {
        let mut text = Vec::new();
        let read = self.client.read_part(part, &mut |bytes| text.extend_from_slice(bytes));
        self.told(read)?;
        Ok(String::from_utf8_lossy(&text).into_owned())
    }

    /// What came of the log within so much time.
    pub fn listen(&mut self, limit: Duration) -> Result<Vec<Vec<u8>>> {
        let heard = self.client.listen(limit.as_micros() as u64);
        let mut parts = Vec::new();
        self.client.take_log(&mut |part| parts.push(part.to_vec()));
        self.told(heard)?;
        Ok(parts)
    }

    /// [`Client::flash`].
    pub fn flash(
        &mut self,
        bytes: u64,
        sum: u64,
        read: &mut dyn FnMut(u64, &mut [u8]) -> std::io::Result<()>,
        progress: &mut dyn FnMut(bourn_protocol::client::Stage, u64, u64) -> ControlFlow<()>,
    ) -> Result<u8> {
        let flashed = self.client.flash(bytes, sum, read, progress);
        Ok(self.told(flashed)??)
    }

    /// [`Client::generate`]; `on_text` is given whole characters. None if the text is longer than the context.
    pub fn generate(
        &mut self,
        prompt: &[u8],
        options: &Generate,
        on_text: &mut dyn FnMut(&str) -> ControlFlow<()>,
    ) -> Result<Option<(Done, Written)>> {
        let mut answer = Shown { written: Written::default(), shown: 0, on_text, stop: false };
        // The closure that asks and the answer that is told share one flag.
        let stop = std::cell::Cell::new(false);
        let result = {
            let mut telling = Telling { shown: &mut answer, stop: &stop };
            self.client.generate(prompt, options, &mut telling, &mut || signal::stopped() || stop.get())
        };
        answer.rest();
        let written = answer.written;
        match result {
            Err(Error::Refused { why: Why::Context, .. }) => Ok(None),
            other => self.told(other).map(|done| Some((done, written))),
        }
    }
}

/// Text that is shown as its characters become whole.
struct Shown<'s> {
    written: Written,
    /// Bytes of text shown.
    shown: usize,
    on_text: &'s mut dyn FnMut(&str) -> ControlFlow<()>,
    stop: bool,
}

impl Shown<'_> {
    fn show(&mut self, all: bool) {
        let held = &self.written.text[self.shown..];
        let whole = match std::str::from_utf8(held) {
            Ok(_) => held.len(),
            Err(e) if !all && e.error_len().is_none() => e.valid_up_to(),
            Err(_) => held.len(),
        };
        if whole > 0 {
            let text = String::from_utf8_lossy(&held[..whole]).into_owned();
            self.shown += whole;
            self.stop |= (self.on_text)(&text).is_break();
        }
    }

    fn rest(&mut self) {
        self.show(true);
    }
}

struct Telling<'t, 's> {
    shown: &'t mut Shown<'s>,
    stop: &'t std::cell::Cell<bool>,
}

impl bourn_protocol::client::Answered for Telling<'_, '_> {
    fn piece(&mut self, id: Option<u32>, text: &[u8]) {
        self.shown.written.piece(id, text);
        self.shown.show(false);
        self.stop.set(self.shown.stop);
    }

    fn crc(&self) -> u32 {
        self.shown.written.crc()
    }
}
