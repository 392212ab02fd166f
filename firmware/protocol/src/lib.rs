//! What a board without an operating system and its host say to each other over a serial line.
//!
//! Modules in path order: [`frame`] (bytes on the line ↔ checked frames) → [`message`] (what they say) → [`client`] (the host's
//! side: requests, retries, text) → `port` (with feature `port`: lines of an operating system). The board's side is `bourn-app`. README.md has the layout and the rules.
//!
//! No heap, no I/O, no clock: lines and clocks are the caller's.
#![cfg_attr(not(feature = "port"), no_std)]
#![deny(unsafe_code)]
#![allow(clippy::result_large_err, clippy::large_enum_variant, reason = "texts are kept in place: there is no heap")]

pub mod client;
mod error;
pub mod frame;
pub mod message;
#[cfg(feature = "port")]
pub mod port;

pub use client::{Client, Transport};
pub use error::{Error, MAX_TEXT};
pub use frame::{Channel, Frame, Receiver, VERSION};
pub use message::{Answer, Request};
