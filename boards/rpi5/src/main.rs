//! Bourn's firmware for the Raspberry Pi 5: the debug PL011, GIC-400, the card controller of the BCM2712, four Cortex-A76.
//!
//! Source: Linux `bcm2712.dtsi`, `sdhci-brcmstb.c`; raspberrypi/firmware wiki (mailbox properties).
#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(target_os = "none")]
mod machine;

/// The firmware has an entry of its own.
#[cfg(not(target_os = "none"))]
fn main() {
    eprintln!("firmware for a bare machine; to build it: cargo xtask firmware --board rpi5");
    std::process::exit(1);
}
