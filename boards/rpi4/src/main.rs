//! Bourn's firmware for the Raspberry Pi 4: PL011, GIC-400, the EMMC2 controller, four Cortex-A72.
//!
//! Source: BCM2711 ARM Peripherals; Linux `bcm2711.dtsi`; raspberrypi/firmware wiki (mailbox properties).
#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(target_os = "none")]
mod machine;

/// The firmware has an entry of its own.
#[cfg(not(target_os = "none"))]
fn main() {
    eprintln!("firmware for a bare machine; to build it: cargo xtask firmware --board rpi4");
    std::process::exit(1);
}
