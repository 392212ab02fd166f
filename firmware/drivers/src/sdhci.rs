//! SD cards behind a standard host controller (SDHCI): the Arasan of the Pi 3, EMMC2 of the Pi 4, the BCM2712's on the Pi 5.
//!
//! Data moves by programmed reads in bursts, a block at a time as the controller's buffer fills: the Pi 3's controller has no DMA of
//! its own, and a core reads its port faster than a card delivers.
//!
//! Source: SD Host Controller Simplified Specification 3.00; SD Physical Layer Simplified Specification 6.00, 4 and 5.

mod card;

use core::cell::Cell;
use core::fmt;

use embedded_sdmmc::{Block, BlockCount, BlockDevice, BlockIdx};

use crate::registers::Registers;
pub use card::{Card, capacity_of};

const BLOCKS: usize = 0x04;
const ARGUMENT: usize = 0x08;
const COMMAND: usize = 0x0c;
const RESPONSE: usize = 0x10;
const DATA: usize = 0x20;
const STATE: usize = 0x24;
const CONTROL_0: usize = 0x28;
const CONTROL_1: usize = 0x2c;
const INTERRUPTS: usize = 0x30;
const INTERRUPT_MASK: usize = 0x34;
const INTERRUPT_SIGNALS: usize = 0x38;

const COMMAND_DONE: u32 = 1;
const TRANSFER_DONE: u32 = 1 << 1;
const WRITE_READY: u32 = 1 << 4;
const READ_READY: u32 = 1 << 5;
const ERRORS: u32 = 0xffff_8000;
const COMMAND_BUSY: u32 = 1;
const DATA_BUSY: u32 = 1 << 1;
const RESET_ALL: u32 = 1 << 24;
const RESET_LINES: u32 = 3 << 25;
const FOUR_BITS: u32 = 1 << 1;
const FAST: u32 = 1 << 2;
const POWER_3V3: u32 = 0xf << 8;

/// Blocks of one command.
const MOST_BLOCKS: usize = 0xffff;
/// A command answers within this.
const COMMAND_MICROS: u64 = 100_000;
/// A block comes or goes within this.
const BLOCK_MICROS: u64 = 1_000_000;
const IDENTIFY_HZ: u32 = 400_000;

/// What a controller is like.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// What it divides to get the card's clock.
    pub clock_hz: u32,
    /// The fastest that the card's clock may be.
    pub max_hz: u32,
    /// Microseconds to wait after each write while the clock is slow: the Arasan loses writes that follow each other within two
    /// of the card's clocks.
    pub write_gap_us: u32,
    /// Microseconds since some time.
    pub now_us: fn() -> u64,
}

/// Why a card cannot be used, or did not do what it was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Error {
    /// No card answers.
    NoCard,
    /// The controller does not come to rest.
    Controller {
        /// Its state.
        state: u32,
    },
    /// A command failed.
    Command {
        /// Its number.
        index: u32,
        /// The controller's word for it.
        interrupts: u32,
    },
    /// A transfer failed.
    Data {
        /// The block of the transfer, counted from 0.
        block: u32,
        /// The controller's word for it.
        interrupts: u32,
    },
    /// The card does not take this voltage or does not get ready.
    NotReady,
    /// Blocks beyond the end.
    Range {
        /// First block not asked for.
        end: u64,
        /// Blocks there are.
        have: u64,
    },
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::NoCard => f.write_str("no card: need an answer, found none"),
            Self::Controller { state } => write!(f, "card controller: need it idle, found state {state:#010x}"),
            Self::Command { index, interrupts } => {
                write!(f, "card command {index}: need an answer, found interrupts {interrupts:#010x}")
            }
            Self::Data { block, interrupts } => {
                write!(f, "card transfer: need block {block}, found interrupts {interrupts:#010x}")
            }
            Self::NotReady => f.write_str("card: need it ready within 1 s, found it busy"),
            Self::Range { end, have } => write!(f, "card: need {end} blocks, have {have}"),
        }
    }
}

impl core::error::Error for Error {}

/// What a command's answer looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Answer {
    None,
    Short,
    /// Short, then busy for a while.
    Busy,
    /// Short, without checksum and index.
    Unchecked,
    Long,
}

impl Answer {
    const fn bits(self) -> u32 {
        match self {
            Self::None => 0,
            Self::Short => 2 << 16 | 1 << 19 | 1 << 20,
            Self::Busy => 3 << 16 | 1 << 19 | 1 << 20,
            Self::Unchecked => 2 << 16,
            Self::Long => 1 << 16 | 1 << 19,
        }
    }
}

/// How data follows a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Transfer {
    None,
    Read { blocks: u32, bytes: u32 },
    Write { blocks: u32 },
}

/// A controller and the card in it.
#[derive(Debug)]
pub struct Sdhci<R> {
    registers: R,
    config: Config,
    /// The card, once it was met; none after it was lost.
    card: Cell<Option<Card>>,
    /// The gap after writes at the present clock.
    gap_us: Cell<u32>,
}

impl<R: Registers> Sdhci<R> {
    /// On these registers; the card is met at the first use, or by [`Self::card`].
    pub const fn new(registers: R, config: Config) -> Self {
        Self { registers, config, card: Cell::new(None), gap_us: Cell::new(0) }
    }

    /// The card: what was met, else a new one is looked for.
    ///
    /// # Errors
    /// [`Error`].
    pub fn card(&self) -> Result<Card, Error> {
        if let Some(card) = self.card.get() {
            return Ok(card);
        }
        let card = self.meet()?;
        self.card.set(Some(card));
        Ok(card)
    }

    fn set(&self, offset: usize, value: u32) {
        self.registers.write(offset, value);
        self.wait_us(u64::from(self.gap_us.get()));
    }

    fn wait_us(&self, us: u64) {
        if us > 0 {
            let end = (self.config.now_us)() + us;
            while (self.config.now_us)() < end {
                core::hint::spin_loop();
            }
        }
    }

    /// Waits until `done`, within `us`.
    fn wait_for(&self, us: u64, done: impl Fn() -> bool) -> bool {
        // The clock is asked now and then only: most waits are short.
        let mut end = None;
        loop {
            for _ in 0..64 {
                if done() {
                    return true;
                }
                core::hint::spin_loop();
            }
            let now = (self.config.now_us)();
            if now > *end.get_or_insert(now + us) {
                return done();
            }
        }
    }

    /// Resets the controller and finds out what card is in it.
    fn meet(&self) -> Result<Card, Error> {
        self.gap_us.set(self.config.write_gap_us);
        self.set(CONTROL_0, 0);
        self.set(CONTROL_1, RESET_ALL);
        self.settle(RESET_ALL)?;
        self.set(CONTROL_0, POWER_3V3);
        self.set(INTERRUPT_SIGNALS, 0);
        self.set(INTERRUPT_MASK, u32::MAX);
        self.set_clock(IDENTIFY_HZ)?;
        // Power, then at least 74 clocks.
        self.wait_us(1000);
        card::identify(self)
    }

    /// Waits until bits of the second control register clear themselves.
    fn settle(&self, bits: u32) -> Result<(), Error> {
        let idle = self.wait_for(COMMAND_MICROS, || self.registers.read(CONTROL_1) & bits == 0);
        if idle { Ok(()) } else { Err(Error::Controller { state: self.registers.read(STATE) }) }
    }

    /// Sets the card's clock to at most `hz`.
    fn set_clock(&self, hz: u32) -> Result<(), Error> {
        const INTERNAL: u32 = 1;
        const STABLE: u32 = 1 << 1;
        const TO_CARD: u32 = 1 << 2;
        const LONGEST_TIMEOUT: u32 = 0xe << 16;
        self.set(CONTROL_1, LONGEST_TIMEOUT | INTERNAL);
        // The clock is divided by twice the divisor, and not at all by 0.
        let divisor = if self.config.clock_hz <= hz { 0 } else { self.config.clock_hz.div_ceil(2 * hz).min(0x3ff) };
        let word = LONGEST_TIMEOUT | (divisor & 0xff) << 8 | (divisor >> 8) << 6 | INTERNAL;
        self.set(CONTROL_1, word);
        if !self.wait_for(COMMAND_MICROS, || self.registers.read(CONTROL_1) & STABLE != 0) {
            return Err(Error::Controller { state: self.registers.read(STATE) });
        }
        self.set(CONTROL_1, word | TO_CARD);
        if hz > IDENTIFY_HZ {
            // Two clocks of the card are far less than the time of a write now.
            self.gap_us.set(0);
        }
        self.wait_us(10);
        Ok(())
    }

    /// Sends a command and takes its answer.
    fn command(&self, index: u32, argument: u32, answer: Answer, transfer: Transfer) -> Result<[u32; 4], Error> {
        let waits_for_data = transfer != Transfer::None || answer == Answer::Busy;
        let busy = if waits_for_data { COMMAND_BUSY | DATA_BUSY } else { COMMAND_BUSY };
        if !self.wait_for(BLOCK_MICROS, || self.registers.read(STATE) & busy == 0) {
            return Err(Error::Controller { state: self.registers.read(STATE) });
        }
        self.set(INTERRUPTS, u32::MAX);
        let mode = match transfer {
            Transfer::None => 0,
            Transfer::Read { blocks, bytes } => {
                self.set(BLOCKS, blocks << 16 | bytes);
                1 << 21 | 1 << 4 | several(blocks)
            }
            Transfer::Write { blocks } => {
                self.set(BLOCKS, blocks << 16 | Block::LEN_U32);
                1 << 21 | several(blocks)
            }
        };
        self.set(ARGUMENT, argument);
        self.set(COMMAND, index << 24 | answer.bits() | mode);
        self.wait_for(COMMAND_MICROS, || self.registers.read(INTERRUPTS) & (COMMAND_DONE | ERRORS) != 0);
        let interrupts = self.registers.read(INTERRUPTS);
        if interrupts & ERRORS != 0 || interrupts & COMMAND_DONE == 0 {
            self.recover();
            return Err(Error::Command { index, interrupts });
        }
        self.set(INTERRUPTS, COMMAND_DONE);
        if answer == Answer::Busy && transfer == Transfer::None {
            self.wait_for(BLOCK_MICROS, || self.registers.read(STATE) & DATA_BUSY == 0);
            self.set(INTERRUPTS, TRANSFER_DONE);
        }
        Ok([0, 4, 8, 12].map(|word| self.registers.read(RESPONSE + word)))
    }

    /// Frees the command and data lines after an error.
    fn recover(&self) {
        let control = self.registers.read(CONTROL_1);
        self.set(CONTROL_1, control | RESET_LINES);
        // Where that fails the next command says so.
        let _ = self.settle(RESET_LINES);
        self.set(INTERRUPTS, u32::MAX);
    }

    /// Waits for an interrupt of a transfer, at its block `block`.
    fn wait_data(&self, bit: u32, block: u32) -> Result<(), Error> {
        self.wait_for(BLOCK_MICROS, || self.registers.read(INTERRUPTS) & (bit | ERRORS) != 0);
        let interrupts = self.registers.read(INTERRUPTS);
        if interrupts & ERRORS != 0 || interrupts & bit == 0 {
            return Err(Error::Data { block, interrupts });
        }
        self.registers.write(INTERRUPTS, bit);
        Ok(())
    }

    /// Reads what a command with a short data block (64 bytes at most, a multiple of 4) brings.
    fn read_small(&self, index: u32, argument: u32, out: &mut [u32]) -> Result<(), Error> {
        let bytes = size_of_val(out) as u32;
        self.command(index, argument, Answer::Short, Transfer::Read { blocks: 1, bytes })?;
        let result = self.wait_data(READ_READY, 0).and_then(|()| {
            out.iter_mut().for_each(|word| *word = self.registers.read(DATA));
            self.wait_data(TRANSFER_DONE, 0)
        });
        result.inspect_err(|_| self.recover())
    }

    fn read_blocks(&self, card: &Card, blocks: &mut [Block], first: u32) -> Result<(), Error> {
        let index = if blocks.len() > 1 { 18 } else { 17 };
        let transfer = Transfer::Read { blocks: blocks.len() as u32, bytes: Block::LEN_U32 };
        self.command(index, card.address(first), Answer::Short, transfer)?;
        for (i, block) in blocks.iter_mut().enumerate() {
            self.wait_data(READ_READY, i as u32)?;
            for word in block.contents.as_chunks_mut::<4>().0 {
                *word = self.registers.read(DATA).to_le_bytes();
            }
        }
        self.wait_data(TRANSFER_DONE, blocks.len() as u32)
    }

    fn write_blocks(&self, card: &Card, blocks: &[Block], first: u32) -> Result<(), Error> {
        let index = if blocks.len() > 1 { 25 } else { 24 };
        let transfer = Transfer::Write { blocks: blocks.len() as u32 };
        self.command(index, card.address(first), Answer::Short, transfer)?;
        for (i, block) in blocks.iter().enumerate() {
            self.wait_data(WRITE_READY, i as u32)?;
            for word in block.contents.as_chunks::<4>().0 {
                self.registers.write(DATA, u32::from_le_bytes(*word));
            }
        }
        self.wait_data(TRANSFER_DONE, blocks.len() as u32)
    }

    /// After a transfer that failed: the card stops sending, or is met anew at the next use.
    fn abort(&self, card: &Card) {
        self.recover();
        let stopped = self.command(12, 0, Answer::Busy, Transfer::None);
        let ready = self.command(13, card.rca(), Answer::Short, Transfer::None);
        if stopped.is_err() && ready.is_err() {
            self.card.set(None);
        }
    }

    fn check(card: &Card, first: BlockIdx, n: usize) -> Result<(), Error> {
        let (end, have) = (u64::from(first.0) + n as u64, u64::from(card.n_blocks()));
        if end > have { Err(Error::Range { end, have }) } else { Ok(()) }
    }
}

/// Bits of a command that moves so many blocks: counted, and ended by the controller itself.
const fn several(blocks: u32) -> u32 {
    if blocks > 1 { 1 << 1 | 1 << 2 | 1 << 5 } else { 0 }
}

impl<R: Registers> BlockDevice for Sdhci<R> {
    type Error = Error;

    fn read(&self, blocks: &mut [Block], start: BlockIdx) -> Result<(), Error> {
        let card = self.card()?;
        Self::check(&card, start, blocks.len())?;
        let mut first = start.0;
        for part in blocks.chunks_mut(MOST_BLOCKS) {
            self.read_blocks(&card, part, first).inspect_err(|_| self.abort(&card))?;
            first += part.len() as u32;
        }
        Ok(())
    }

    fn write(&self, blocks: &[Block], start: BlockIdx) -> Result<(), Error> {
        let card = self.card()?;
        Self::check(&card, start, blocks.len())?;
        let mut first = start.0;
        for part in blocks.chunks(MOST_BLOCKS) {
            self.write_blocks(&card, part, first).inspect_err(|_| self.abort(&card))?;
            first += part.len() as u32;
        }
        Ok(())
    }

    fn num_blocks(&self) -> Result<BlockCount, Error> {
        self.card().map(|card| BlockCount(card.n_blocks()))
    }
}

#[cfg(test)]
mod tests;
