//! Every model family as burn modules in their most readable form: the float oracle, and the statistics of what each matrix is fed.
//!
//! ```text
//! checkpoint ─► load (burn-store) ─► model: embedding, layers, final norm, head ─► logits
//!                                         └─► tap: inputs of every matrix, residual stream
//! ```
//!
//! A text is computed whole, without a KV cache; everything is f32. The backend is chosen at run time ([`device()`]).
#![deny(unsafe_code)]
#![recursion_limit = "256"]

pub mod device;
mod error;
mod load;

pub mod layers;

pub mod attention;
pub mod model;

mod moments;
mod reference;
pub mod tap;

pub use device::device;
pub use error::Error;
pub use moments::{Moments, Statistics};
pub use reference::Reference;
pub use tap::{Input, Site, Tap};
