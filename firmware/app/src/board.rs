//! What a board crate brings: a clock, a line, a card, memory, cores.

use bourn_core::Candidate;
use bourn_flash::Ahead;
use bourn_kernels::{Kernels, Rows};
use bourn_protocol::message::{Build, LogKind};
use core::fmt;
use embedded_sdmmc::Block;

/// What only the board can do. Everything but the clock may stay as it is here.
pub trait Board {
    /// Microseconds since the board was started.
    fn now_us(&self) -> u64;

    /// Called again and again while nothing is to be done.
    fn idle(&mut self) {
        core::hint::spin_loop();
    }

    /// Whether the board itself wants to be started anew: a button, a supply that fails. What goes on is broken off, then
    /// [`crate::run`] returns.
    fn wants_reboot(&mut self) -> bool {
        false
    }

    /// How the board is.
    fn health(&mut self) -> Health {
        Health::default()
    }

    /// What [`Self::take_log`] gives.
    fn log_kind(&self) -> LogKind {
        LogKind::Text
    }

    /// A line for the log, of a board whose log is text. Called from one core only.
    fn log(&mut self, line: fmt::Arguments<'_>) {
        let _ = line;
    }

    /// Moves bytes of the log that were not taken before to `bytes`; how many.
    fn take_log(&mut self, bytes: &mut [u8]) -> usize {
        let _ = bytes;
        0
    }
}

/// How a board is; `None` where it cannot tell.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Health {
    /// Temperature of the processor in thousandths of a degree Celsius.
    pub millicelsius: Option<i32>,
    /// Clock of the cores.
    pub core_hz: Option<u64>,
    /// The board's own word for under-voltage and throttling; 0: none.
    pub throttled: Option<u32>,
}

/// Memory that the board lends.
#[derive(Debug)]
pub struct Memory<'a> {
    /// For the model: head, weights or a part of them, KV cache, text.
    pub arena: &'a mut [u8],
    /// Blocks read or written at once: 64 and more make a card fast.
    pub blocks: &'a mut [Block],
    /// One for each token of the vocabulary; with fewer there is greedy text only.
    pub candidates: &'a mut [Candidate],
}

/// A board, brought up.
pub struct Parts<'a, B, S, D> {
    /// Its name, that of its folder in `boards/`.
    pub name: &'a str,
    /// Version of its firmware.
    pub firmware: &'a str,
    /// And which it is to the byte; the default where that cannot be told.
    pub build: Build,
    /// Clock, health, log.
    pub board: B,
    /// The line to the host.
    pub serial: S,
    /// The card, if there is one.
    pub card: Option<D>,
    /// Who fetches its blocks while the cores compute, if somebody does.
    pub ahead: Option<&'a dyn Ahead>,
    /// Tiers that this CPU can run, the fastest first.
    pub tiers: &'a [&'static Kernels],
    /// Cores for one token.
    pub decode: &'a dyn Rows,
    /// Cores for a block of tokens.
    pub prefill: &'a dyn Rows,
    /// Memory.
    pub memory: Memory<'a>,
    /// Chunks of an update that may be on the way at once: more than 1 only if the line is emptied by interrupts or DMA into at least that
    /// many times 1.2 KB.
    pub window: u8,
}
