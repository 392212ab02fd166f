//! A GGUF file as a checkpoint.

use crate::Error;
use crate::checkpoint::Parts;
use crate::gguf::Gguf;

/// Reads the header of a mapped file.
pub(crate) fn open(bytes: &[u8]) -> Result<Parts, Error> {
    let gguf = Gguf::parse(bytes)?;
    Err(Error::missing("general.architecture", format!("GGUF with {} tensors", gguf.tensors.len())))
}
