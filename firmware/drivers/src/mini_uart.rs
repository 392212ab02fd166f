//! The mini-UART of the Raspberry Pi (UART1): the line on pins 14 and 15 where the PL011 serves Bluetooth.
//!
//! Its speed hangs on the core clock, so that must be fixed (`core_freq=250` or `enable_uart=1` in config.txt).
//! Source: BCM2835 ARM Peripherals, 2.2.

use crate::registers::Registers;
use crate::serial::Port;

/// Offsets from the auxiliary block.
const ENABLES: usize = 0x04;
const IO: usize = 0x40;
const IER: usize = 0x44;
const IIR: usize = 0x48;
const LCR: usize = 0x4c;
const MCR: usize = 0x50;
const LSR: usize = 0x54;
const CNTL: usize = 0x60;
const BAUD: usize = 0x68;

/// A mini-UART.
#[derive(Clone, Copy, Debug)]
pub struct MiniUart<R> {
    registers: R,
}

impl<R: Registers> MiniUart<R> {
    /// On the registers of the auxiliary block.
    pub const fn new(registers: R) -> Self {
        Self { registers }
    }

    /// 8 bits, FIFOs on, an interrupt when something came. `clock_hz` is the core clock.
    pub fn start(&self, clock_hz: u32, baud: u32) {
        let r = &self.registers;
        r.modify(ENABLES, 1, 1);
        r.write(CNTL, 0);
        r.write(IER, 0);
        r.write(LCR, 3);
        r.write(MCR, 0);
        r.write(IIR, 0xc6);
        let divisor = (u64::from(clock_hz) + u64::from(baud) * 4) / (u64::from(baud.max(1)) * 8);
        r.write(BAUD, divisor.saturating_sub(1).min(0xffff) as u32);
        // The receive interrupt; the manual has the two bits the wrong way round.
        r.write(IER, 1 | 1 << 2);
        r.write(CNTL, 3);
    }
}

impl<R: Registers> Port for MiniUart<R> {
    fn receive(&self) -> Option<u8> {
        (self.registers.read(LSR) & 1 != 0).then(|| self.registers.read(IO) as u8)
    }

    fn send(&self, byte: u8) -> bool {
        let room = self.registers.read(LSR) & 1 << 5 != 0;
        if room {
            self.registers.write(IO, u32::from(byte));
        }
        room
    }

    fn is_sending(&self) -> bool {
        self.registers.read(LSR) & 1 << 6 == 0
    }

    fn acknowledge(&self) {}
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use core::cell::RefCell;
    use std::vec::Vec;

    #[derive(Default)]
    struct Fake(RefCell<Vec<(usize, u32)>>);

    impl Registers for Fake {
        fn read(&self, offset: usize) -> u32 {
            if offset == LSR { 1 << 5 } else { 0 }
        }

        fn write(&self, offset: usize, value: u32) {
            self.0.borrow_mut().push((offset, value));
        }
    }

    #[test]
    fn divides_the_core_clock_by_eight_bauds() {
        let fake = Fake::default();
        let uart = MiniUart::new(&fake);
        uart.start(250_000_000, 115_200);
        assert!(fake.0.borrow().contains(&(BAUD, 270)));
        assert_eq!(uart.receive(), None);
        assert!(uart.send(1) && uart.is_sending());
    }
}
