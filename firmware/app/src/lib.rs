//! What a board without an operating system does, once its own crate has brought it up: [`run`].
//!
//! Modules in path order: [`board`] (what a board crate brings) → [`card`] (where on the card an image lies: [`fat`], [`slots`]) →
//! `model` (image → memory, stream, session) → `generate` (prompt → tokens); `serve` does what the host asks, `desk` holds its line (`link`),
//! `update` writes new images, `selftest` is the board's own judgement of itself.
//!
//! No heap, no threads, no interrupts needed: memory is lent, rows are shared out by the board, the line is looked at
//! between segments of the weights.
#![no_std]
#![deny(unsafe_code)]
#![allow(clippy::result_large_err, clippy::large_enum_variant, reason = "texts are kept in place: there is no heap")]

pub mod board;
pub mod card;
mod desk;
pub mod fat;
mod generate;
mod link;
mod model;
mod selftest;
mod serve;
pub mod slots;
mod trouble;
mod update;

pub use board::{Board, Health, Memory, Parts};
pub use serve::{Exit, run};
pub use trouble::Trouble;
