//! Bourn against numbers that nobody here wrote: logits, greedy text and perplexity from Hugging Face transformers.
//!
//! The fixtures lie outside the repository ([`place`]); where they are missing, each test that needs them says so and is
//! counted as ignored. [`golden`] reads them, [`runner`] runs an image, [`compare`] says how far apart they are.
#![deny(unsafe_code)]

pub mod compare;
pub mod golden;
pub mod place;
pub mod runner;
pub mod text;
