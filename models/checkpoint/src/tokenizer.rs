//! tokenizer.json and GGUF vocabularies as one specification.

use crate::Error;
use crate::gguf;

/// Vocabulary, merges and rules of a tokenizer.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct TokenizerSpec {}

impl TokenizerSpec {
    /// From the bytes of tokenizer.json and, when there is one, tokenizer_config.json.
    ///
    /// # Errors
    /// [`Error`] when they do not describe a tokenizer that is known.
    pub fn from_tokenizer_json(_tokenizer_json: &[u8], _tokenizer_config: Option<&[u8]>) -> Result<Self, Error> {
        Ok(Self {})
    }

    /// From the `tokenizer.ggml.*` keys.
    ///
    /// # Errors
    /// [`Error`] when they do not describe a tokenizer that is known.
    pub fn from_gguf(_metadata: &gguf::Metadata<'_>) -> Result<Self, Error> {
        Ok(Self {})
    }
}
