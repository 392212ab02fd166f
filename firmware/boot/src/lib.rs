//! From reset to a main function on bare 64-bit ARM, four cores, no heap.
//!
//! Modules in path order: `start` (reset → level EL1, MMU and caches on) → [`memory`] (the memory map and its page tables) →
//! `platform` (what a board adds; `pi`: what every Raspberry Pi does) → `faults` (exception vectors, panics) → [`log`] (defmt into a ring) → `time` (the
//! counter) → [`crew`] (four cores behind `Rows`) → [`ahead`] (one of them reads the card ahead) → [`tier`] (which kernels a core can run) → `shell` (the application on all that).
//!
//! What needs the machine itself is compiled for `target_os = "none"` only; page tables, rings, crew and register fields
//! are ordinary code, tested on any host.
#![no_std]

pub mod ahead;
pub mod crew;
#[cfg(target_os = "none")]
pub mod faults;
pub mod log;
pub mod memory;
#[cfg(target_os = "none")]
pub mod pi;
#[cfg(target_os = "none")]
pub mod platform;
#[cfg(target_os = "none")]
pub mod shell;
#[cfg(target_os = "none")]
pub mod start;
pub mod tier;
#[cfg(target_os = "none")]
pub mod time;

pub use crew::Crew;

/// Cores that are put to work. All boards have four; others stay parked.
pub const CORES: usize = 4;
