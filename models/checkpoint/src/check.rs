//! Each door for foreign bytes on its own, without a file: for tools that check, and for fuzzers.
//!
//! Every function returns for every input, quickly, without a panic, and with memory in proportion to the input.

use crate::config::{Config, Json};
use crate::{Error, ModelSpec, families};

/// A whole GGUF file: header, config, tensors, tokenizer.
///
/// # Errors
/// As [`crate::Checkpoint::open`].
pub fn gguf(bytes: &[u8]) -> Result<ModelSpec, Error> {
    crate::gguf_model::open(bytes).map(|parts| parts.spec)
}

/// A whole safetensors file.
///
/// # Errors
/// As [`crate::Checkpoint::open`].
pub fn safetensors(bytes: &[u8]) -> Result<(), Error> {
    crate::safetensors::parse(bytes, "safetensors").map(drop)
}

/// A config.json: the spec, `vocab` being 0 because it is the embedding's.
///
/// # Errors
/// As [`crate::Checkpoint::open`].
pub fn config(bytes: &[u8]) -> Result<ModelSpec, Error> {
    let json = Json::parse(bytes, "config.json")?;
    let config = Config::new(&json)?;
    config.eos()?;
    families::by_model_type(config.model_type()?)?.spec(config)
}
