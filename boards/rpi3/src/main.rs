//! Bourn's firmware for the Raspberry Pi 3 and Zero 2 W: PL011 or mini-UART, the Arasan card controller, four Cortex-A53.
//!
//! Source: BCM2835 ARM Peripherals; BCM2836 ARM-local peripherals (QA7); raspberrypi/firmware wiki (mailbox properties).
#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(target_os = "none")]
mod machine;

/// The firmware has an entry of its own.
#[cfg(not(target_os = "none"))]
fn main() {
    eprintln!("firmware for a bare machine; to build and run it: cargo xtask firmware --board rpi3");
    std::process::exit(1);
}
