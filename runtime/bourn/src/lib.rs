//! Run small language models on the device itself: open an image, make a session, stream text.
//!
//! ```no_run
//! use std::ops::ControlFlow;
//! use std::path::Path;
//!
//! let model = bourn::Model::open(Path::new("smollm2.bourn"), &bourn::OpenOptions::default())?;
//! let mut session = model.session(&bourn::SessionOptions::default())?;
//! let messages = [bourn::Message::new("user", "Why is the sky blue?")];
//! session.chat(&messages, &bourn::GenerateOptions::default(), &mut |text| {
//!     print!("{text}");
//!     ControlFlow::Continue(())
//! })?;
//! # Ok::<(), bourn::Error>(())
//! ```
//!
//! Modules in path order: [`model`] (an open image) → [`device`] (what computes) → [`ram`] (its memory budget) → [`template`] (messages to prompt) → [`session`] (prompt to text, which [`stop`] cuts).
#![deny(unsafe_code)]

pub mod device;
mod error;
pub mod model;
pub mod ram;
pub mod session;
pub mod stop;
pub mod template;

pub use bourn_core::text::EncodeOptions;
pub use bourn_core::{HeadMode, KvDtype, SamplerOptions};
pub use bourn_host::{RamPlan, StreamKind, StreamStats, Threads};
pub use device::Compute;
pub use error::{Error, PromptCacheError};
pub use model::{Message, Model, OpenOptions};
pub use ram::Ram;
pub use session::{Finish, GenerateOptions, Session, SessionOptions, Speculate, Stats};
