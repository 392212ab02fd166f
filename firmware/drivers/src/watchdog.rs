//! The watchdog of the BCM2835 family's power manager, which also resets.
//!
//! Source: Linux `drivers/watchdog/bcm2835_wdt.c` (the manual leaves it out).

use crate::registers::Registers;

const RSTC: usize = 0x1c;
const RSTS: usize = 0x20;
const WDOG: usize = 0x24;
const PASSWORD: u32 = 0x5a00_0000;
const FULL_RESET: u32 = 0x20;
const CLEAR: u32 = 0xffff_ffcf;
/// Ticks a second.
const RATE: u32 = 1 << 16;
/// The longest it waits.
const MAX_TICKS: u32 = 0xf_ffff;

/// The watchdog.
#[derive(Clone, Copy, Debug)]
pub struct Watchdog<R> {
    registers: R,
}

impl<R: Registers> Watchdog<R> {
    /// On the registers of the power manager.
    pub const fn new(registers: R) -> Self {
        Self { registers }
    }

    /// Resets the machine unless fed again within `seconds`, 15 at most.
    pub fn feed(&self, seconds: u32) {
        self.within((seconds.saturating_mul(RATE)).min(MAX_TICKS));
    }

    /// Resets the machine, in a moment.
    pub fn reset(&self) {
        // Which partition to start from: the first. A halt would be 63.
        self.registers.write(RSTS, PASSWORD | self.registers.read(RSTS) & 0xffff_faaa & 0x00ff_ffff);
        self.within(10);
    }

    fn within(&self, ticks: u32) {
        self.registers.write(WDOG, PASSWORD | ticks);
        let control = self.registers.read(RSTC) & CLEAR & 0x00ff_ffff;
        self.registers.write(RSTC, PASSWORD | control | FULL_RESET);
    }
}
