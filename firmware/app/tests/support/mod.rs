//! A board in memory: a card, a line whose bytes can be broken, and the app in a thread of its own.

#![allow(dead_code, reason = "each test file uses some of it")]
#![allow(clippy::result_large_err, reason = "that of the protocol, which has no heap")]

use bourn_app::{Board, Exit, Memory, Parts};
use bourn_core::Candidate;
use bourn_kernels::OneCore;
use bourn_protocol::Client;
use bourn_protocol::client::{Patience, Transport};
use bourn_protocol::message::Build;
use embedded_io::{ErrorType, Read, ReadReady, Write};
use embedded_sdmmc::{Block, BlockCount, BlockDevice, BlockIdx};
use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Time after which a line on which nothing moves counts as hanging.
const HANG: Duration = Duration::from_secs(120);

/// An image of the tree.
pub fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures").join(name)
}

/// xorshift64.
#[derive(Clone, Debug)]
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    pub fn below(&mut self, n: usize) -> usize {
        ((self.next() >> 33) as usize) % n.max(1)
    }
}

/// What a card's power does.
#[derive(Debug, Default)]
pub struct CardState {
    pub bytes: Vec<u8>,
    /// Blocks that may still be written before the power goes; none: for ever.
    pub left: Option<u64>,
    /// Bytes of the block that is being written then that arrive.
    pub torn: usize,
    /// Blocks written so far.
    pub written: u64,
    /// Reads that fail, counted down.
    pub failing_reads: u32,
}

/// A card in memory that can be shared.
#[derive(Clone, Debug, Default)]
pub struct Card(pub Arc<Mutex<CardState>>);

#[derive(Debug)]
pub struct CardError(&'static str);

impl std::fmt::Display for CardError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.0)
    }
}

impl std::error::Error for CardError {}

impl Card {
    pub fn of(bytes: Vec<u8>) -> Self {
        Self(Arc::new(Mutex::new(CardState { bytes, ..CardState::default() })))
    }

    pub fn state(&self) -> MutexGuard<'_, CardState> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl BlockDevice for Card {
    type Error = CardError;

    fn read(&self, blocks: &mut [Block], first: BlockIdx) -> Result<(), CardError> {
        let mut state = self.state();
        if state.failing_reads > 0 {
            state.failing_reads -= 1;
            return Err(CardError("no answer"));
        }
        if state.left == Some(0) {
            return Err(CardError("no power"));
        }
        for (i, block) in blocks.iter_mut().enumerate() {
            let at = (first.0 as usize + i) * 512;
            let from = state.bytes.get(at..at + 512).ok_or(CardError("beyond the end"))?;
            block.contents.copy_from_slice(from);
        }
        Ok(())
    }

    fn write(&self, blocks: &[Block], first: BlockIdx) -> Result<(), CardError> {
        let mut state = self.state();
        for (i, block) in blocks.iter().enumerate() {
            let at = (first.0 as usize + i) * 512;
            if state.bytes.len() < at + 512 {
                return Err(CardError("beyond the end"));
            }
            match state.left {
                Some(0) => return Err(CardError("no power")),
                Some(1) => {
                    let torn = state.torn;
                    state.bytes[at..at + torn].copy_from_slice(&block.contents[..torn]);
                    state.left = Some(0);
                    return Err(CardError("no power"));
                }
                Some(n) => state.left = Some(n - 1),
                None => {}
            }
            state.bytes[at..at + 512].copy_from_slice(&block.contents);
            state.written += 1;
        }
        Ok(())
    }

    fn num_blocks(&self) -> Result<BlockCount, CardError> {
        Ok(BlockCount((self.state().bytes.len() / 512) as u32))
    }
}

/// A card of `n_blocks` with partitions `(type, first block, blocks)`.
pub fn partitioned(n_blocks: u32, partitions: &[(u8, u32, u32)]) -> Vec<u8> {
    let mut bytes = vec![0; n_blocks as usize * 512];
    bytes[510..512].copy_from_slice(&[0x55, 0xaa]);
    for (entry, (kind, first, n)) in bytes[446..510].chunks_exact_mut(16).zip(partitions) {
        entry[4] = *kind;
        entry[8..12].copy_from_slice(&first.to_le_bytes());
        entry[12..16].copy_from_slice(&n.to_le_bytes());
    }
    bytes
}

/// Where the slots' partition begins on [`slotted`] cards, and its size.
pub const SLOTS: (u32, u32) = (2048, 5 * 2048);

/// A card with two slots of a small size, `image` in the first.
pub fn slotted(image: &[u8]) -> Card {
    let card = Card::of(vec![0; (SLOTS.0 + SLOTS.1) as usize * 512]);
    let area = bourn_app::slots::Area::on_new_card(&card, SLOTS.0 + SLOTS.1).unwrap();
    let at = area.place(0).first.0 as usize * 512;
    card.state().bytes[at..at + image.len()].copy_from_slice(image);
    card
}

/// Both directions of a line, and who waits.
#[derive(Debug, Default)]
struct Wire {
    to_board: VecDeque<u8>,
    to_host: VecDeque<u8>,
    /// The board waits for bytes, and there are none.
    board_idle: bool,
    /// The host is gone.
    closed: bool,
    /// The board has stopped.
    stopped: bool,
    noise: Option<Noise>,
}

/// How bytes are broken on their way: about one frame in `one_in`.
#[derive(Clone, Debug)]
pub struct Noise {
    pub random: Random,
    /// Writes that are broken: one in so many.
    pub one_in: usize,
    /// How many were broken.
    pub broken: u32,
    /// No more than this many.
    pub most: u32,
}

impl Noise {
    fn apply(&mut self, bytes: &[u8]) -> Vec<u8> {
        let mut bytes = bytes.to_vec();
        if self.broken >= self.most || bytes.is_empty() || self.random.below(self.one_in) != 0 {
            return bytes;
        }
        self.broken += 1;
        let at = self.random.below(bytes.len());
        match self.random.below(7) {
            // A bit, a byte, a delimiter in the middle, a delimiter lost at an end.
            0 => bytes[at] ^= 1 << self.random.below(8),
            1 => bytes[at] = self.random.next() as u8,
            2 => bytes[at] = 0,
            3 => {
                let end = if self.random.below(2) == 0 { 0 } else { bytes.len() - 1 };
                bytes.remove(end);
            }
            // All of it, a run of it, or far more than any frame.
            4 => bytes.clear(),
            5 => {
                let end = (at + 1 + self.random.below(40)).min(bytes.len());
                bytes.drain(at..end);
            }
            _ => {
                let junk: Vec<u8> = (0..self.random.below(5000)).map(|_| self.random.next() as u8 | 1).collect();
                bytes.splice(at..at, junk);
            }
        }
        bytes
    }
}

/// A line of which the board holds one end and the host the other. Time passes only when both wait.
#[derive(Clone, Debug, Default)]
pub struct Line(Arc<(Mutex<Wire>, Condvar)>);

impl Line {
    fn wire(&self) -> MutexGuard<'_, Wire> {
        self.0.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'w>(&self, wire: MutexGuard<'w, Wire>) -> MutexGuard<'w, Wire> {
        let (wire, timeout) = self.0.1.wait_timeout(wire, HANG).unwrap_or_else(PoisonError::into_inner);
        assert!(
            !timeout.timed_out(),
            "nothing moves: {} bytes to the board, {} to the host",
            wire.to_board.len(),
            wire.to_host.len()
        );
        wire
    }

    pub fn set_noise(&self, noise: Noise) {
        self.wire().noise = Some(noise);
    }

    pub fn broken(&self) -> u32 {
        self.wire().noise.as_ref().map_or(0, |n| n.broken)
    }

    fn close(&self) {
        self.wire().closed = true;
        self.0.1.notify_all();
    }
}

/// The board's end.
#[derive(Debug)]
pub struct BoardEnd(Line);

impl ErrorType for BoardEnd {
    type Error = embedded_io::ErrorKind;
}

impl Read for BoardEnd {
    fn read(&mut self, bytes: &mut [u8]) -> Result<usize, Self::Error> {
        let mut wire = self.0.wire();
        let n = bytes.len().min(wire.to_board.len());
        for (to, from) in bytes.iter_mut().zip(wire.to_board.drain(..n)) {
            *to = from;
        }
        Ok(n)
    }
}

impl ReadReady for BoardEnd {
    fn read_ready(&mut self) -> Result<bool, Self::Error> {
        Ok(!self.0.wire().to_board.is_empty())
    }
}

impl Write for BoardEnd {
    fn write(&mut self, bytes: &[u8]) -> Result<usize, Self::Error> {
        let mut wire = self.0.wire();
        let sent = wire.noise.as_mut().map(|n| n.apply(bytes));
        wire.to_host.extend(sent.as_deref().unwrap_or(bytes));
        self.0.0.1.notify_all();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> Result<(), Self::Error> {
        Ok(())
    }
}

/// The host's end, with a clock that leaps when both sides wait.
#[derive(Debug)]
pub struct HostEnd {
    line: Line,
    now_us: u64,
}

#[derive(Debug)]
pub struct Gone;

impl std::fmt::Display for Gone {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the board has stopped")
    }
}

impl Transport for HostEnd {
    type Error = Gone;

    fn write(&mut self, bytes: &[u8]) -> Result<(), Gone> {
        let mut wire = self.line.wire();
        let sent = wire.noise.as_mut().map(|n| n.apply(bytes));
        wire.to_board.extend(sent.as_deref().unwrap_or(bytes));
        self.line.0.1.notify_all();
        Ok(())
    }

    fn read(&mut self, bytes: &mut [u8], limit_us: u64) -> Result<usize, Gone> {
        self.now_us += 1;
        let mut wire = self.line.wire();
        while wire.to_host.is_empty() {
            if wire.stopped {
                return Err(Gone);
            }
            if wire.board_idle && wire.to_board.is_empty() {
                self.now_us += limit_us;
                return Ok(0);
            }
            wire = self.line.wait(wire);
        }
        let n = bytes.len().min(wire.to_host.len());
        for (to, from) in bytes.iter_mut().zip(wire.to_host.drain(..n)) {
            *to = from;
        }
        Ok(n)
    }

    fn now_us(&self) -> u64 {
        self.now_us
    }
}

/// The board itself.
#[derive(Debug)]
pub struct Sim {
    line: Line,
    start: Instant,
    log: Vec<u8>,
}

impl Board for Sim {
    fn now_us(&self) -> u64 {
        self.start.elapsed().as_micros() as u64
    }

    fn idle(&mut self) {
        let mut wire = self.line.wire();
        wire.board_idle = true;
        self.line.0.1.notify_all();
        while wire.to_board.is_empty() {
            if wire.closed {
                return;
            }
            wire = self.line.wait(wire);
        }
        wire.board_idle = false;
    }

    fn wants_reboot(&mut self) -> bool {
        self.line.wire().closed
    }

    fn log(&mut self, line: std::fmt::Arguments<'_>) {
        self.log.extend_from_slice(format!("{line}\n").as_bytes());
    }

    fn take_log(&mut self, bytes: &mut [u8]) -> usize {
        let n = bytes.len().min(self.log.len());
        bytes[..n].copy_from_slice(&self.log[..n]);
        self.log.drain(..n);
        n
    }
}

/// How a board is made.
#[derive(Clone, Debug)]
pub struct Setup {
    pub ram: usize,
    pub window: u8,
    pub blocks: usize,
}

impl Default for Setup {
    fn default() -> Self {
        Self { ram: 32 << 20, window: 1, blocks: 32 }
    }
}

/// Runs a board with this card while `host` talks to it.
pub fn with_board<T>(card: Option<Card>, setup: &Setup, host: impl FnOnce(&mut Client<HostEnd>, &Line) -> T) -> (T, Exit) {
    struct Close(Line);
    impl Drop for Close {
        fn drop(&mut self) {
            self.0.close();
        }
    }
    let line = Line::default();
    std::thread::scope(|scope| {
        let board_line = line.clone();
        let setup = setup.clone();
        let board = scope.spawn(move || {
            let _stopped = Stopped(board_line.clone());
            run_board(card, &setup, &board_line)
        });
        let closing = Close(line.clone());
        let patience = Patience { answer_us: 500_000, tries: 40 };
        let mut client = Client::new(HostEnd { line: line.clone(), now_us: 0 }, patience);
        let result = host(&mut client, &line);
        drop(closing);
        let exit = board.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        (result, exit)
    })
}

/// Tells the host that nothing will come any more.
struct Stopped(Line);

impl Drop for Stopped {
    fn drop(&mut self) {
        self.0.wire().stopped = true;
        self.0.0.1.notify_all();
    }
}

fn run_board(card: Option<Card>, setup: &Setup, line: &Line) -> Exit {
    let mut arena = vec![0; setup.ram];
    let mut blocks = vec![Block::new(); setup.blocks];
    let mut candidates = vec![Candidate::default(); 1 << 16];
    let tiers: Vec<_> = bourn_kernels::available().collect();
    let board = Sim { line: line.clone(), start: Instant::now(), log: Vec::new() };
    let parts = Parts {
        name: "sim",
        firmware: "0.0.0-test",
        build: Build { bytes: 3, crc: 0x352441c2 },
        board,
        serial: BoardEnd(line.clone()),
        card,
        ahead: None,
        tiers: &tiers,
        decode: &OneCore,
        prefill: &OneCore,
        memory: Memory { arena: &mut arena, blocks: &mut blocks, candidates: &mut candidates },
        window: setup.window,
    };
    bourn_app::run(parts).0
}

pub type HostError = bourn_protocol::Error<Gone>;
