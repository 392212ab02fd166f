//! The driver against a controller and a card that are played.

extern crate std;

use super::*;
use core::cell::RefCell;
use core::sync::atomic::{AtomicU64, Ordering};
use std::collections::VecDeque;
use std::vec;
use std::vec::Vec;

/// A clock that runs faster the more it is asked.
fn now_us() -> u64 {
    static NOW: AtomicU64 = AtomicU64::new(0);
    NOW.fetch_add(50, Ordering::Relaxed)
}

const CONFIG: Config = Config { clock_hz: 200_000_000, max_hz: 50_000_000, write_gap_us: 6, now_us };

struct Fake(RefCell<Inner>);

struct Inner {
    card: Vec<u8>,
    large: bool,
    present: bool,
    registers: [u32; 64],
    data: VecDeque<u32>,
    /// Bytes still to be written, and where.
    writing: (usize, usize),
    application: bool,
    selected: bool,
    fails: u32,
    clocks: Vec<u32>,
}

impl Fake {
    fn new(blocks: usize, large: bool) -> Self {
        Self(RefCell::new(Inner {
            card: (0..blocks * 512).map(|i| (i / 512 * 7 + i % 251) as u8).collect(),
            large,
            present: true,
            registers: [0; 64],
            data: VecDeque::new(),
            writing: (0, 0),
            application: false,
            selected: false,
            fails: 0,
            clocks: Vec::new(),
        }))
    }
}

impl Inner {
    fn command(&mut self, word: u32) {
        let (index, argument) = (word >> 24, self.registers[ARGUMENT / 4]);
        let application = core::mem::take(&mut self.application);
        if !self.present || (index == 8 && !self.large) {
            self.registers[INTERRUPTS / 4] |= 1 << 15 | 1 << 16;
            return;
        }
        let block = if self.large { argument as usize } else { argument as usize / 512 };
        let count = (self.registers[BLOCKS / 4] >> 16) as usize;
        let answer = match (application, index) {
            (true, 41) => [1 << 31 | u32::from(self.large) << 30, 0, 0, 0],
            (true, 6) => [0; 4],
            (_, 55) => {
                self.application = true;
                [0; 4]
            }
            (_, 8) => [argument; 4],
            (_, 3) => [0xaaaa_0000; 4],
            (_, 7) => {
                self.selected = argument == 0xaaaa_0000;
                [0; 4]
            }
            // Version 1: 4 blocks a unit; version 2: 1 024.
            (_, 9) if self.large => [0, ((self.card.len() / 512 / 1024 - 1) as u32) << 8, 0, 1 << 22],
            (_, 9) => [0, ((self.card.len() / 2048 - 1) as u32) << 22, 9 << 8, 0],
            (_, 6) => {
                self.data.extend([0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
                self.registers[INTERRUPTS / 4] |= READ_READY;
                [0; 4]
            }
            (_, 17 | 18) => {
                let bytes = &self.card[block * 512..(block + count) * 512];
                self.data.extend(bytes.as_chunks::<4>().0.iter().map(|word| u32::from_le_bytes(*word)));
                self.registers[INTERRUPTS / 4] |= READ_READY;
                [0; 4]
            }
            (_, 24 | 25) => {
                self.writing = (block * 512, count * 512);
                self.registers[INTERRUPTS / 4] |= WRITE_READY;
                [0; 4]
            }
            _ => [0; 4],
        };
        self.registers[RESPONSE / 4..][..4].copy_from_slice(&answer);
        self.registers[INTERRUPTS / 4] |= COMMAND_DONE;
    }
}

impl Registers for Fake {
    fn read(&self, offset: usize) -> u32 {
        let inner = &mut *self.0.borrow_mut();
        if offset != DATA {
            return inner.registers[offset / 4];
        }
        let word = inner.data.pop_front().unwrap_or(0xdead_beef);
        let left = inner.data.len();
        if inner.fails > 0 && left == 64 {
            inner.fails -= 1;
            inner.data.clear();
            inner.registers[INTERRUPTS / 4] |= 1 << 15 | 1 << 21;
        } else if left == 0 {
            inner.registers[INTERRUPTS / 4] |= TRANSFER_DONE;
        } else if left.is_multiple_of(128) {
            inner.registers[INTERRUPTS / 4] |= READ_READY;
        }
        word
    }

    fn write(&self, offset: usize, value: u32) {
        let inner = &mut *self.0.borrow_mut();
        match offset {
            INTERRUPTS => inner.registers[offset / 4] &= !value,
            CONTROL_1 => {
                inner.clocks.push(value);
                inner.registers[offset / 4] = value & !(RESET_ALL | RESET_LINES) | (value & 1) << 1;
            }
            COMMAND => inner.command(value),
            DATA => {
                let (at, left) = inner.writing;
                inner.card[at..at + 4].copy_from_slice(&value.to_le_bytes());
                inner.writing = (at + 4, left - 4);
                if left == 4 {
                    inner.registers[INTERRUPTS / 4] |= TRANSFER_DONE;
                } else if (left - 4).is_multiple_of(512) {
                    inner.registers[INTERRUPTS / 4] |= WRITE_READY;
                }
            }
            _ => inner.registers[offset / 4] = value,
        }
    }
}

#[test]
fn meets_small_and_large_cards_and_moves_blocks() {
    for large in [false, true] {
        let sd = Sdhci::new(Fake::new(4096, large), CONFIG);
        assert_eq!(sd.num_blocks(), Ok(BlockCount(4096)));
        assert!(sd.card().unwrap().is_fast());
        let mut blocks = vec![Block::new(); 5];
        for n in [1, 2, 5] {
            sd.read(&mut blocks[..n], BlockIdx(9)).unwrap();
            for (i, block) in blocks[..n].iter().enumerate() {
                let at = (9 + i) * 512;
                assert_eq!(block.contents[..], sd.registers.0.borrow().card[at..at + 512]);
            }
        }
        blocks.iter_mut().for_each(|block| block.contents.fill(0x5a));
        sd.write(&blocks[..1], BlockIdx(0)).unwrap();
        sd.write(&blocks[..3], BlockIdx(4093)).unwrap();
        let inner = sd.registers.0.borrow();
        assert!(inner.card[..512].iter().chain(&inner.card[4093 * 512..]).all(|byte| *byte == 0x5a));
        assert!(inner.card[512..1024].iter().any(|byte| *byte != 0x5a));
        assert!(inner.selected);
        // 200 MHz / 500 to identify, / 8 = 25 MHz, / 4 = 50 MHz.
        let divisors: Vec<u32> =
            inner.clocks.iter().filter(|w| **w & (4 | RESET_LINES) == 4).map(|w| w >> 8 & 0xff | (w >> 6 & 3) << 8).collect();
        assert_eq!(divisors, [250, 4, 2]);
    }
}

#[test]
fn a_transfer_that_fails_is_reported_and_the_next_works() {
    let sd = Sdhci::new(Fake::new(4096, true), CONFIG);
    sd.card().unwrap();
    sd.registers.0.borrow_mut().fails = 1;
    let mut blocks = vec![Block::new(); 2];
    let failed = sd.read(&mut blocks, BlockIdx(3));
    assert!(matches!(failed, Err(Error::Data { .. })), "{failed:?}");
    sd.read(&mut blocks, BlockIdx(3)).unwrap();
    assert_eq!(blocks[0].contents[..], sd.registers.0.borrow().card[3 * 512..4 * 512]);
}

#[test]
fn no_card_is_said_and_one_that_comes_later_is_met() {
    let sd = Sdhci::new(Fake::new(4096, true), CONFIG);
    sd.registers.0.borrow_mut().present = false;
    assert!(matches!(sd.num_blocks(), Err(Error::NoCard | Error::Command { .. })));
    sd.registers.0.borrow_mut().present = true;
    assert_eq!(sd.num_blocks(), Ok(BlockCount(4096)));
}

#[test]
fn refuses_blocks_beyond_the_end() {
    let sd = Sdhci::new(Fake::new(4096, true), CONFIG);
    let mut blocks = vec![Block::new(); 2];
    assert_eq!(sd.read(&mut blocks, BlockIdx(4095)), Err(Error::Range { end: 4097, have: 4096 }));
}
