//! From token to logits to token to text, with no heap, I/O, threads or clock.
//!
//! Modules in path order: [`stream`] (where bytes come from) → [`decoder`] (token → logits) → [`sampler`]
//! (logits → token), helped by [`speculate`] (several tokens in
//! one pass) → [`text`] (bytes ↔ tokens). [`workspace`] states how many bytes the shell must lend, [`snapshot`] how the state of a
//! text that was read is kept.
#![no_std]
#![deny(unsafe_code)]

pub mod decoder;
mod error;
mod kv;
pub mod sampler;
pub mod snapshot;
pub mod speculate;
pub mod stream;
pub mod text;
pub mod workspace;

pub use bourn_kernels::table::KvDtype;
pub use decoder::{Engine, HeadMode, Observed, Session, Site};
pub use error::Error;
pub use sampler::{Candidate, Sampler, SamplerOptions};
pub use speculate::Speculator;
pub use stream::WeightStream;
pub use workspace::{Options, workspace_bytes};
