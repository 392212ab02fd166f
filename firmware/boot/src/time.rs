//! The machine's counter: the same on all cores, from reset on.

use aarch64_cpu::registers::{CNTFRQ_EL0, CNTPCT_EL0, Readable as _};

/// Ticks since reset.
pub fn ticks() -> u64 {
    CNTPCT_EL0.get()
}

/// Ticks a second.
pub fn frequency() -> u64 {
    CNTFRQ_EL0.get().max(1)
}

/// Microseconds of a number of ticks.
pub fn micros_of(ticks: u64) -> u64 {
    (u128::from(ticks) * 1_000_000 / u128::from(frequency())) as u64
}

/// Microseconds since reset.
pub fn micros() -> u64 {
    micros_of(ticks())
}

/// Waits; devices ask for it.
pub fn wait_micros(us: u64) {
    let end = micros() + us;
    while micros() < end {
        core::hint::spin_loop();
    }
}

/// [`wait_micros`] for drivers.
#[derive(Clone, Copy, Debug, Default)]
pub struct Delay;

impl embedded_hal::delay::DelayNs for Delay {
    fn delay_ns(&mut self, ns: u32) {
        wait_micros(u64::from(ns.div_ceil(1000)));
    }
}
