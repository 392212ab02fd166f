//! The TOKENIZER section from a tokenizer's specification (FORMAT.md §6).

use crate::Error;
use bourn_checkpoint::TokenizerSpec;

/// The bytes of the section.
///
/// # Errors
/// [`Error::Tokenizer`].
pub fn section(_spec: &TokenizerSpec) -> Result<Vec<u8>, Error> {
    Ok(Vec::new())
}
