//! Interrupts of the BCM2837: the video core's controller for devices, the Arm block's mailboxes between cores.
//!
//! Source: BCM2835 ARM Peripherals, 7; BCM2836 ARM-local peripherals (QA7), 4.8.

use crate::interrupts::Interrupts;
use crate::registers::Registers;

const PENDING_1: usize = 0x204;
const PENDING_2: usize = 0x208;
const ENABLE_1: usize = 0x210;
const ENABLE_2: usize = 0x214;
/// One for each core.
const MAILBOX_CONTROL: usize = 0x50;
const MAILBOX_SET: usize = 0x80;
const MAILBOX_CLEAR: usize = 0xc0;

/// The controller of devices, whose interrupts go to the first core, and mailbox 0 of each core, as an interrupt from core to core.
#[derive(Clone, Copy, Debug)]
pub struct BcmIrq<D, C> {
    devices: D,
    cores: C,
    line: u32,
}

impl<D, C> BcmIrq<D, C> {
    /// On the registers of the interrupt block, 0xb000 from the start of the peripherals, and of the Arm block; `line` is the serial
    /// line's interrupt, 0 to 63.
    pub const fn new(devices: D, cores: C, line: u32) -> Self {
        Self { devices, cores, line }
    }
}

impl<D: Registers, C: Registers> Interrupts for BcmIrq<D, C> {
    fn start(&self) {
        let at = if self.line < 32 { ENABLE_1 } else { ENABLE_2 };
        self.devices.write(at, 1 << (self.line % 32));
    }

    fn start_core(&self, core: usize) {
        self.cores.write(MAILBOX_CONTROL + 4 * core, 1);
    }

    fn serve(&self, line: &mut dyn FnMut()) {
        let at = if self.line < 32 { PENDING_1 } else { PENDING_2 };
        if self.devices.read(at) >> (self.line % 32) & 1 != 0 {
            line();
        }
    }

    fn wake(&self, core: usize) {
        self.cores.write(MAILBOX_SET + 16 * core, 1);
    }

    fn slept(&self, core: usize) {
        self.cores.write(MAILBOX_CLEAR + 16 * core, u32::MAX);
    }
}
