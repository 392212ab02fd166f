//! Arm's PL011: the serial line of qemu-virt and of every Pi.
//!
//! Source: Arm DDI 0183G.

use crate::registers::Registers;
use crate::serial::Port;

const DR: usize = 0x00;
const FR: usize = 0x18;
const IBRD: usize = 0x24;
const FBRD: usize = 0x28;
const LCR_H: usize = 0x2c;
const CR: usize = 0x30;
const IFLS: usize = 0x34;
const IMSC: usize = 0x38;
const ICR: usize = 0x44;

const FR_BUSY: u32 = 1 << 3;
const FR_RX_EMPTY: u32 = 1 << 4;
const FR_TX_FULL: u32 = 1 << 5;
/// Received, or received a while ago and not enough for the first.
const RX_INTERRUPTS: u32 = 1 << 4 | 1 << 6;

/// A PL011.
#[derive(Clone, Copy, Debug)]
pub struct Pl011<R> {
    registers: R,
}

impl<R: Registers> Pl011<R> {
    /// On these registers.
    pub const fn new(registers: R) -> Self {
        Self { registers }
    }

    /// 8 bits, no parity, 1 stop bit, FIFOs on, an interrupt when a quarter of the FIFO is full or the line falls silent.
    /// `clock_hz` is what the device is fed with; the speed nearest to `baud` that it can make is used.
    pub fn start(&self, clock_hz: u32, baud: u32) {
        let r = &self.registers;
        r.write(CR, 0);
        // In 64ths of the divisor, rounded.
        let divisor = (u64::from(clock_hz) * 4 + u64::from(baud) / 2) / u64::from(baud.max(1));
        let divisor = divisor.clamp(64, 0xffff << 6 | 63) as u32;
        r.write(IBRD, divisor >> 6);
        r.write(FBRD, divisor & 63);
        r.write(LCR_H, 3 << 5 | 1 << 4);
        r.write(IFLS, 1 << 3);
        r.write(ICR, 0x7ff);
        r.write(IMSC, RX_INTERRUPTS);
        r.write(CR, 1 | 1 << 8 | 1 << 9);
    }
}

impl<R: Registers> Port for Pl011<R> {
    fn receive(&self) -> Option<u8> {
        // Errors of the line are left to the frames' checksums.
        (self.registers.read(FR) & FR_RX_EMPTY == 0).then(|| self.registers.read(DR) as u8)
    }

    fn send(&self, byte: u8) -> bool {
        let room = self.registers.read(FR) & FR_TX_FULL == 0;
        if room {
            self.registers.write(DR, u32::from(byte));
        }
        room
    }

    fn is_sending(&self) -> bool {
        self.registers.read(FR) & FR_BUSY != 0
    }

    fn acknowledge(&self) {
        self.registers.write(ICR, RX_INTERRUPTS);
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use core::cell::RefCell;
    use std::collections::VecDeque;
    use std::vec::Vec;

    #[derive(Default)]
    struct Fake {
        written: RefCell<Vec<(usize, u32)>>,
        input: RefCell<VecDeque<u8>>,
    }

    impl Registers for Fake {
        fn read(&self, offset: usize) -> u32 {
            match offset {
                FR => u32::from(self.input.borrow().is_empty()) << 4,
                DR => self.input.borrow_mut().pop_front().map_or(0xdead, u32::from),
                _ => 0,
            }
        }

        fn write(&self, offset: usize, value: u32) {
            self.written.borrow_mut().push((offset, value));
        }
    }

    #[test]
    fn divides_the_clock_to_the_nearest_64th() {
        let fake = Fake::default();
        Pl011::new(&fake).start(48_000_000, 921_600);
        let written = fake.written.borrow();
        let last = |at| written.iter().rev().find(|(offset, _)| *offset == at).map(|(_, value)| *value);
        // 48 MHz / (16 · 921 600) = 3.2552: 3 and 16/64.
        assert_eq!((last(IBRD), last(FBRD), last(LCR_H), last(CR)), (Some(3), Some(16), Some(0x70), Some(0x301)));
    }

    #[test]
    fn a_clock_that_is_too_slow_gives_its_fastest_line() {
        let fake = Fake::default();
        Pl011::new(&fake).start(3_000_000, 921_600);
        assert!(fake.written.borrow().contains(&(IBRD, 1)));
    }

    #[test]
    fn receives_what_came() {
        let fake = Fake::default();
        fake.input.borrow_mut().extend([7, 8]);
        let uart = Pl011::new(&fake);
        assert_eq!([uart.receive(), uart.receive(), uart.receive()], [Some(7), Some(8), None]);
        assert!(uart.send(65));
        assert!(fake.written.borrow().contains(&(DR, 65)));
    }
}
