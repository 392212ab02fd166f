//! Bourn's firmware for QEMU's virt machine: PL011, GICv2, PSCI, a card on virtio.
//!
//! Source: QEMU `hw/arm/virt.c` (its memory map), `docs/system/arm/virt.rst`.
#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(target_os = "none")]
mod disk;
#[cfg(target_os = "none")]
mod machine;

/// The firmware has an entry of its own.
#[cfg(not(target_os = "none"))]
fn main() {
    eprintln!("firmware for a bare machine; to build and run it: cargo xtask firmware --board qemu-virt");
    std::process::exit(1);
}
