//! The operating-system shell: where images come from, who shares out the rows, what this machine is.
//!
//! Modules in path order: [`stream`] (image bytes, mapped, resident or paged) → [`pool`] (persistent workers) → [`session`] (the
//! core's session with its memory) → [`machine`] (cores, caches, bandwidths) → [`board`] (what is known of it, what it should reach, what
//! slows it down) → [`calibrate`] (how many threads help).
#![deny(unsafe_code)]

pub mod board;
pub mod calibrate;
mod error;
pub mod machine;
pub mod pool;
pub mod session;
pub mod stream;

pub use calibrate::Threads;
pub use error::Error;
pub use machine::Machine;
pub use pool::{Limited, Pool};
pub use session::OwnedSession;
pub use stream::{ImageFile, MappedStream, Pager, RamOptions, RamPlan, ReadOptions, ResidentStream, StreamKind, StreamStats};
