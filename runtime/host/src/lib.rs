//! The operating-system shell: where images come from, who shares out the rows, what this machine is.
//!
//! Modules in path order: [`stream`] (image bytes, mapped or resident) → [`pool`] (persistent workers) →
//! [`machine`] (cores, caches, memory, bandwidths) → [`calibrate`] (how many threads help).
#![deny(unsafe_code)]

pub mod calibrate;
mod error;
pub mod machine;
pub mod pool;
pub mod stream;

pub use calibrate::Threads;
pub use error::Error;
pub use machine::Machine;
pub use pool::{Limited, Pool};
pub use stream::{ImageFile, MappedStream, ResidentStream, StreamKind};
