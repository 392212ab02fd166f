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

#[cfg(test)]
mod tests {
    use super::*;
    use core::cell::Cell;

    /// A power manager whose time passes by hand.
    #[derive(Default)]
    struct Fake {
        left: Cell<u32>,
        status: Cell<u32>,
        armed: Cell<bool>,
    }

    impl Registers for Fake {
        fn read(&self, offset: usize) -> u32 {
            match offset {
                RSTC => 0x102,
                RSTS => self.status.get(),
                _ => 0,
            }
        }

        fn write(&self, offset: usize, value: u32) {
            assert_eq!(value >> 24, PASSWORD >> 24, "words without the password are not heard");
            match offset {
                WDOG => self.left.set(value & MAX_TICKS),
                RSTC => self.armed.set(value & 0x30 == FULL_RESET),
                RSTS => self.status.set(value & 0x00ff_ffff),
                _ => panic!("no register {offset:#x}"),
            }
        }
    }

    impl Fake {
        /// Whether the machine is reset within so many seconds.
        fn resets_within(&self, seconds: u32) -> bool {
            let left = self.left.get().saturating_sub(seconds * RATE);
            self.left.set(left);
            self.armed.get() && left == 0
        }
    }

    #[test]
    fn a_machine_that_is_fed_lives_and_one_that_is_not_is_reset() {
        let fake = Fake::default();
        let watchdog = Watchdog::new(&fake);
        assert!(!fake.resets_within(100), "not armed");
        for _ in 0..100 {
            watchdog.feed(15);
            assert!(!fake.resets_within(14));
        }
        assert!(fake.resets_within(1));
        watchdog.feed(1000);
        assert!(!fake.resets_within(15) && fake.resets_within(1), "15 seconds and a little is the longest");
    }

    #[test]
    fn a_reset_is_of_the_whole_machine_and_at_once() {
        let fake = Fake { status: Cell::new(0x555), ..Fake::default() };
        Watchdog::new(&fake).reset();
        assert!(fake.resets_within(1));
        assert_eq!(fake.status.get(), 0, "started from the first partition");
    }
}
