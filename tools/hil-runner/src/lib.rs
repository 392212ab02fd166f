//! Boards without an operating system, from the host: what is loaded, where it runs, what it says.
//!
//! In path order: [`elf`] (firmware → what a loader loads) → `card` (partitions, FAT32, slots) → [`qemu`] (a machine's words) →
//! [`place`] (`BOURN_BOARD`) → `bench` (a board that answers) → `check` (its tests) → `log` (what it says besides).
//!
//! The program `bourn-hil-runner` is cargo's runner for `aarch64-unknown-none`; `cargo xtask`, `bourn device` and `tests/hil` take from
//! here what they need, by features: `card`, `log`, `runner` (all of it).
#![deny(unsafe_code)]

#[cfg(feature = "runner")]
pub mod bench;
#[cfg(feature = "card")]
pub mod card;
#[cfg(feature = "runner")]
pub mod check;
pub mod elf;
#[cfg(feature = "log")]
pub mod log;
pub mod place;
pub mod qemu;
