//! Hugging Face folders and GGUF files as one thing: sizes and constants, named tensors, tokenizer, chat template.
//!
//! [`Checkpoint::open`] reads and checks headers only; weights stay in mapped files and are de-quantized row by row.
//! A model family is a mapping from config keys and tensor names to a [`ModelSpec`] and [`Role`]s (families.rs).
#![deny(unsafe_code)]

pub mod check;
mod checkpoint;
mod config;
pub mod dtype;
mod error;
mod families;
mod folder;
pub mod gguf;
mod gguf_model;
mod map;
mod resolve;
mod rope;
mod safetensors;
mod spec;
pub mod tokenizer;

pub use checkpoint::{Checkpoint, SourceFormat, SourceInfo, TensorInfo};
pub use dtype::Dtype;
pub use error::Error;
pub use spec::{Activation, Family, GenerationSpec, ModelSpec, Role, RopeSpec};
pub use tokenizer::TokenizerSpec;
