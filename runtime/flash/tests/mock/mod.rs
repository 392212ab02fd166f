//! A NOR flash chip as its data sheet describes it, and a memory card, both watched.

#![allow(dead_code, reason = "each test file uses some of it")]

use std::cell::RefCell;
use std::rc::Rc;

use embedded_hal::delay::DelayNs;
use embedded_hal::spi::{ErrorKind, ErrorType, Operation, SpiDevice};
use embedded_sdmmc::{Block, BlockCount, BlockDevice, BlockIdx};

pub const PAGE: usize = 256;
pub const SECTOR: usize = 4096;
const WRITE_ENABLED: u8 = 2;

/// What went over the bus.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub transactions: u64,
    pub reads: u64,
    pub programs: u64,
    pub erases: u64,
    pub bytes_out: u64,
    pub bytes_in: u64,
}

/// A chip, as it is between two transactions.
#[derive(Clone, Debug)]
pub struct Chip {
    pub memory: Vec<u8>,
    pub id: [u8; 3],
    /// Its tables, if it has any.
    pub sfdp: Option<Vec<u8>>,
    /// Old commands carry four address bytes.
    pub four_always: bool,
    pub asleep: bool,
    pub protected: bool,
    /// Looks at the status after which an erase or program is done.
    pub slowness: u32,
    pub counts: Counts,
    /// Programs and erases until the power goes.
    pub power: Option<u64>,
    /// A read of this transaction fails, once.
    pub fail_read: Option<u64>,
    /// Bit 0 of this address reads wrong this many times.
    pub noise: (usize, u32),
    /// What no driver may do.
    pub broken_rules: Vec<String>,
    pub write_enabled: bool,
    pub busy: u32,
    pub dead: bool,
}

impl Chip {
    /// Erased, awake, with tables for three or four address bytes as its size asks.
    pub fn new(bytes: usize) -> Self {
        let log2 = bytes.next_power_of_two().trailing_zeros() as u8;
        Self {
            memory: vec![0xff; bytes],
            id: [0xef, 0x40, log2],
            sfdp: Some(sfdp(bytes, if bytes > 1 << 24 { 0b01 } else { 0 })),
            four_always: false,
            asleep: false,
            protected: false,
            slowness: 3,
            counts: Counts::default(),
            power: None,
            fail_read: None,
            noise: (0, 0),
            broken_rules: Vec::new(),
            write_enabled: false,
            busy: 0,
            dead: false,
        }
    }

    /// The same chip after the power has come back.
    pub fn on_again(&self) -> Self {
        Self { power: None, dead: false, busy: 0, write_enabled: false, ..self.clone() }
    }

    /// Whether the power goes in the middle of this program or erase.
    fn power_goes(&mut self) -> bool {
        match &mut self.power {
            Some(0) => {
                self.dead = true;
                true
            }
            Some(left) => {
                *left -= 1;
                false
            }
            None => false,
        }
    }

    fn address(&mut self, out: &[u8], four: bool) -> (usize, usize) {
        let n = if four || self.four_always { 4 } else { 3 };
        let address = out[1..=n].iter().fold(0, |a, b| a << 8 | usize::from(*b));
        (address % self.memory.len(), 1 + n)
    }

    /// Runs the command `out`; `back` is what the chip answers.
    fn run(&mut self, out: &[u8], back: &mut [u8]) {
        back.fill(0xff);
        let op = out[0];
        if self.asleep && op != 0xab {
            return;
        }
        if self.busy > 0 && op != 0x05 {
            self.broken_rules.push(format!("command {op:#04x} while busy"));
            return;
        }
        match op {
            0xab => self.asleep = false,
            0xb9 => self.asleep = true,
            0x05 => {
                back.fill(u8::from(self.busy > 0) | if self.write_enabled { WRITE_ENABLED } else { 0 });
                self.busy = self.busy.saturating_sub(1);
            }
            0x06 => self.write_enabled = !self.protected,
            0x9f => back.copy_from_slice(&self.id[..back.len()]),
            0x5a => {
                let at = usize::from(out[1]) << 16 | usize::from(out[2]) << 8 | usize::from(out[3]);
                for (i, byte) in back.iter_mut().enumerate() {
                    *byte = self.sfdp.as_ref().and_then(|table| table.get(at + i)).copied().unwrap_or(0xff);
                }
            }
            0x0b | 0x0c => {
                let (at, header) = self.address(out, op == 0x0c);
                assert_eq!(out.len(), header + 1, "a fast read has one dummy byte");
                self.counts.reads += 1;
                for (i, byte) in back.iter_mut().enumerate() {
                    let address = (at + i) % self.memory.len();
                    *byte = self.memory[address];
                    if address == self.noise.0 && self.noise.1 > 0 {
                        *byte ^= 1;
                        self.noise.1 -= 1;
                    }
                }
            }
            0x02 | 0x12 => {
                let (at, header) = self.address(out, op == 0x12);
                let data = &out[header..];
                if !std::mem::take(&mut self.write_enabled) {
                    self.broken_rules.push("program without write enable".to_owned());
                    return;
                }
                if at % PAGE + data.len() > PAGE {
                    self.broken_rules.push(format!("program of {} bytes at {at:#x} wraps around its page", data.len()));
                }
                self.counts.programs += 1;
                let whole = !self.power_goes();
                for (i, byte) in data.iter().enumerate().take(if whole { data.len() } else { data.len() / 2 }) {
                    // Only clears bits, and stays within its page.
                    let address = at / PAGE * PAGE + (at + i) % PAGE;
                    self.memory[address] &= byte;
                }
                self.busy = self.slowness;
            }
            0x20 | 0x21 => {
                let (at, header) = self.address(out, op == 0x21);
                assert_eq!(out.len(), header, "an erase has no data");
                if !std::mem::take(&mut self.write_enabled) {
                    self.broken_rules.push("erase without write enable".to_owned());
                    return;
                }
                self.counts.erases += 1;
                let whole = !self.power_goes();
                let sector = at / SECTOR * SECTOR;
                for (i, byte) in self.memory[sector..sector + SECTOR].iter_mut().enumerate() {
                    // Cut short, some cells are erased, some half, some not.
                    *byte |= if whole { 0xff } else { [0xff, 0x5a, 0][i % 3] };
                }
                self.busy = self.slowness;
            }
            _ => self.broken_rules.push(format!("no such command: {op:#04x}")),
        }
    }
}

/// JESD216 tables of a chip with 4 KiB erase; `addresses` as in word 1, bits 17 and 18.
pub fn sfdp(bytes: usize, addresses: u32) -> Vec<u8> {
    let mut table = b"SFDP\x06\x01\x00\xff".to_vec();
    // Basic table: revision 1.6, 16 words, at 0x80.
    table.extend([0x00, 0x06, 0x01, 16, 0x80, 0, 0, 0xff]);
    table.resize(0x80, 0xff);
    let density = if bytes < 1 << 28 { bytes as u32 * 8 - 1 } else { 1 << 31 | (bytes.trailing_zeros() + 3) };
    table.extend((0x20 << 8 | addresses << 17 | 0b01u32).to_le_bytes());
    table.extend(density.to_le_bytes());
    table.resize(0x80 + 64, 0);
    table
}

/// The bus: others may look at the chip between transactions.
#[derive(Clone, Debug)]
pub struct Bus(pub Rc<RefCell<Chip>>);

impl Bus {
    pub fn new(chip: Chip) -> Self {
        Self(Rc::new(RefCell::new(chip)))
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BusError;

impl embedded_hal::spi::Error for BusError {
    fn kind(&self) -> ErrorKind {
        ErrorKind::Other
    }
}

impl ErrorType for Bus {
    type Error = BusError;
}

impl SpiDevice for Bus {
    fn transaction(&mut self, operations: &mut [Operation<'_, u8>]) -> Result<(), BusError> {
        let mut chip = self.0.borrow_mut();
        chip.counts.transactions += 1;
        if chip.dead
            || chip.fail_read == Some(chip.counts.reads) && matches!(operations, [Operation::Write([0x0b | 0x0c, ..]), _])
        {
            chip.fail_read = None;
            return Err(BusError);
        }
        let mut out = Vec::new();
        for operation in operations.iter() {
            match operation {
                Operation::Write(words) => out.extend_from_slice(words),
                Operation::Read(_) => {}
                other => panic!("the driver is of one lane and half duplex: {other:?}"),
            }
        }
        let mut nothing = [];
        let mut back: &mut [u8] = &mut nothing;
        for operation in operations.iter_mut() {
            if let Operation::Read(words) = operation {
                back = words;
            }
        }
        chip.counts.bytes_out += out.len() as u64;
        chip.counts.bytes_in += back.len() as u64;
        chip.run(&out, back);
        if chip.dead { Err(BusError) } else { Ok(()) }
    }
}

/// Adds up what was waited.
#[derive(Clone, Debug, Default)]
pub struct Delay(pub Rc<RefCell<u64>>);

impl DelayNs for Delay {
    fn delay_ns(&mut self, ns: u32) {
        *self.0.borrow_mut() += u64::from(ns);
    }
}

/// A memory card.
#[derive(Debug, Default)]
pub struct Card {
    pub bytes: RefCell<Vec<u8>>,
    /// Reads asked for, and blocks in all.
    pub reads: RefCell<(u64, u64)>,
    /// Reads that fail before one succeeds.
    pub failures: RefCell<u32>,
}

impl Card {
    pub fn new(bytes: Vec<u8>) -> Self {
        Self { bytes: RefCell::new(bytes), ..Self::default() }
    }
}

/// What a card says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CardError(pub &'static str);

impl std::fmt::Display for CardError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.0)
    }
}

impl std::error::Error for CardError {}

impl BlockDevice for &Card {
    type Error = CardError;

    fn read(&self, blocks: &mut [Block], start: BlockIdx) -> Result<(), Self::Error> {
        let mut reads = self.reads.borrow_mut();
        reads.0 += 1;
        reads.1 += blocks.len() as u64;
        if *self.failures.borrow() > 0 {
            *self.failures.borrow_mut() -= 1;
            return Err(CardError("the card did not answer"));
        }
        let bytes = self.bytes.borrow();
        for (i, block) in blocks.iter_mut().enumerate() {
            let at = (start.0 as usize + i) * Block::LEN;
            block.contents.copy_from_slice(bytes.get(at..at + Block::LEN).ok_or(CardError("beyond the card's end"))?);
        }
        Ok(())
    }

    fn write(&self, _: &[Block], _: BlockIdx) -> Result<(), Self::Error> {
        Err(CardError("not written in these tests"))
    }

    fn num_blocks(&self) -> Result<BlockCount, Self::Error> {
        Ok(BlockCount((self.bytes.borrow().len() / Block::LEN) as u32))
    }
}
