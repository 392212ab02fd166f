//! Devices that boards share. Each is written against [`Registers`], so that tests can play the device on any host.
//!
//! [`registers`] (the seam) → serial lines: [`pl011`], [`mini_uart`], both behind [`serial`] → [`interrupts`]: [`gic`], [`bcm_irq`] →
//! the Raspberry Pi's own: [`mailbox`], [`gpio`], [`watchdog`] → cards: [`sdhci`] .
//!
//! Maintained crates exist for the PL011 and the GIC; they want to be the registers' only owner, and here a line is read by an
//! interrupt while the main function writes, and every core has its own face of the interrupt controller.
#![no_std]

pub mod bcm_irq;
pub mod gic;
pub mod gpio;
pub mod interrupts;
pub mod mailbox;
pub mod mini_uart;
pub mod pl011;
pub mod registers;
pub mod sdhci;
pub mod serial;
pub mod watchdog;

pub use registers::{Mmio, Registers};
