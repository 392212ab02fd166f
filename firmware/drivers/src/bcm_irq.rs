//! Interrupts of the BCM2837: the video core's controller for devices, the Arm block's mailboxes between cores.
//!
//! Source: BCM2835 ARM Peripherals, 7; BCM2836 ARM-local peripherals (QA7), 4.8.

use crate::registers::Registers;

const PENDING_1: usize = 0x204;
const PENDING_2: usize = 0x208;
const ENABLE_1: usize = 0x210;
const ENABLE_2: usize = 0x214;
/// One for each core.
const MAILBOX_CONTROL: usize = 0x50;
const MAILBOX_SET: usize = 0x80;
const MAILBOX_CLEAR: usize = 0xc0;

/// The controller of devices; its interrupts go to the first core.
#[derive(Clone, Copy, Debug)]
pub struct Devices<R> {
    registers: R,
}

impl<R: Registers> Devices<R> {
    /// On the registers of the interrupt block, 0xb000 from the start of the peripherals.
    pub const fn new(registers: R) -> Self {
        Self { registers }
    }

    /// Lets interrupt `n` (0 to 63) through.
    pub fn enable(&self, n: u32) {
        let at = if n < 32 { ENABLE_1 } else { ENABLE_2 };
        self.registers.write(at, 1 << (n % 32));
    }

    /// Whether interrupt `n` is due.
    pub fn is_pending(&self, n: u32) -> bool {
        let at = if n < 32 { PENDING_1 } else { PENDING_2 };
        self.registers.read(at) >> (n % 32) & 1 != 0
    }
}

/// Mailbox 0 of each core, as an interrupt from core to core.
#[derive(Clone, Copy, Debug)]
pub struct Cores<R> {
    registers: R,
}

impl<R: Registers> Cores<R> {
    /// On the registers of the Arm block.
    pub const fn new(registers: R) -> Self {
        Self { registers }
    }

    /// Lets the interrupts through to core `core`.
    pub fn enable(&self, core: usize) {
        self.registers.write(MAILBOX_CONTROL + 4 * core, 1);
    }

    /// Interrupts core `core`.
    pub fn wake(&self, core: usize) {
        self.registers.write(MAILBOX_SET + 16 * core, 1);
    }

    /// Takes the interrupt of core `core` back.
    pub fn clear(&self, core: usize) {
        self.registers.write(MAILBOX_CLEAR + 16 * core, u32::MAX);
    }
}
