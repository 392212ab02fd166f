//! tokenizer.json and GGUF vocabularies as one specification.

mod gguf;
mod json;

use crate::Error;
use crate::gguf::Metadata;
use std::collections::HashMap;

/// U+2581, which SentencePiece writes for a space.
const MARK: char = '\u{2581}';
/// Most ids of a tokenizer: a limit on what a hostile file can make us allocate.
const MOST_TOKENS: usize = 1 << 24;

/// Vocabulary, merges and rules of a tokenizer.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct TokenizerSpec {
    /// By id; ids that nothing uses have [`TokenKind::Unused`].
    pub tokens: Vec<Token>,
    /// Lowest rank first; of a pair given twice the later one counts.
    pub merges: Vec<MergeSpec>,
    /// Tokens cut out of text before anything else.
    pub added: Vec<AddedSpec>,
    /// What is done to text between them.
    pub normalizer: Normalizer,
    /// How it is then cut into pieces.
    pub split: Split,
    /// How ids become text.
    pub decoding: Decoding,
    /// Id of each byte: of the byte's own letter in byte-level models, of `<0x0A>` and its like in the others.
    pub bytes: Vec<Option<u32>>,
    /// Characters that are no token become byte tokens; otherwise bytes are the letters.
    pub byte_fallback: bool,
    /// A piece that is a token is that token, whatever the merges say.
    pub ignore_merges: bool,
    /// Neighbouring unknowns become one.
    pub fuse_unknown: bool,
    /// Stands for what is no token.
    pub unknown: Option<u32>,
    /// Begins a text.
    pub bos: Option<u32>,
    /// Ends a text.
    pub eos: Option<u32>,
    /// Fills.
    pub pad: Option<u32>,
    /// Ids that the template puts before a text.
    pub prefix: Vec<u32>,
    /// Ids that the template puts after a text.
    pub suffix: Vec<u32>,
}

/// One token.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Token {
    /// What it decodes to.
    pub bytes: Vec<u8>,
    /// What it is.
    pub kind: TokenKind,
    /// Left out of text when special tokens are.
    pub special: bool,
}

/// What a token is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum TokenKind {
    /// A piece of text of the vocabulary.
    Piece,
    /// One byte of a character that is no token.
    Byte,
    /// Text that merging never makes: an added token outside the vocabulary, or a spelling that no text has.
    Whole,
    /// An id that is not in use.
    #[default]
    Unused,
}

/// A pair of ids and what it becomes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MergeSpec {
    /// The left one.
    pub left: u32,
    /// The right one.
    pub right: u32,
    /// What they become.
    pub merged: u32,
}

/// A token cut out of text before anything else.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AddedSpec {
    /// Its id.
    pub id: u32,
    /// Its text.
    pub text: String,
    /// Control, not text.
    pub special: bool,
    /// White space before it belongs to it.
    pub lstrip: bool,
    /// White space after it belongs to it.
    pub rstrip: bool,
    /// Looked for in the normalized text.
    pub normalized: bool,
}

/// What is done to text before it is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Normalizer {
    /// Nothing.
    None,
    /// Unicode's canonical composition.
    Nfc,
    /// A space becomes U+2581.
    Spaces,
    /// The same, and U+2581 is put before the text.
    SpacesAfterOne,
}

/// How text is cut before merging.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Split {
    /// Not at all.
    None,
    /// GPT-2's expression.
    Gpt2,
    /// Every digit alone, then GPT-2's expression.
    DigitsGpt2,
    /// Llama 3's expression.
    Llama3,
    /// Qwen 2's expression.
    Qwen2,
    /// The expression of o200k.
    O200k,
    /// The expression of Tekken.
    Tekken,
}

/// How tokens become text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Decoding {
    /// Bytes of all tokens one after another.
    Bytes,
    /// Runs of byte tokens apart from text.
    ByteRuns,
    /// The same, without one space at the beginning.
    ByteRunsStrip,
}

impl TokenizerSpec {
    /// From the bytes of tokenizer.json and, when there is one, tokenizer_config.json.
    ///
    /// # Errors
    /// [`Error`] when they do not describe a tokenizer that is known; it names what was found and what is supported.
    pub fn from_tokenizer_json(tokenizer_json: &[u8], tokenizer_config: Option<&[u8]>) -> Result<Self, Error> {
        json::parse(tokenizer_json, tokenizer_config)
    }

    /// From the `tokenizer.ggml.*` keys.
    ///
    /// # Errors
    /// [`Error`] when they do not describe a tokenizer that is known; it names what was found and what is supported.
    pub fn from_gguf(metadata: &Metadata<'_>) -> Result<Self, Error> {
        gguf::parse(metadata)
    }
}

/// The byte that GPT-2 writes as `c`: printing ones as themselves, the others from U+0100 on in order.
fn gpt2_byte(c: char) -> Option<u8> {
    let itself = |b: u8| matches!(b, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
    match u32::from(c) {
        n @ 0..256 => Some(n as u8).filter(|&b| itself(b)),
        n => (0..=255u8).filter(|&b| !itself(b)).nth(n as usize - 256),
    }
}

/// The bytes of a token spelled in GPT-2's letters; none when another character is in it.
fn gpt2_bytes(text: &str) -> Option<Vec<u8>> {
    text.chars().map(gpt2_byte).collect()
}

/// The byte that `<0x0A>` stands for.
fn spelled_byte(text: &str) -> Option<u8> {
    let hex = text.strip_prefix("<0x")?.strip_suffix('>')?;
    (hex.len() == 2).then(|| u8::from_str_radix(hex, 16).ok())?
}

/// The vocabulary while it is being read.
struct Vocabulary {
    tokens: Vec<Token>,
    bytes: Vec<Option<u32>>,
    byte_level: bool,
}

impl Vocabulary {
    fn new(n: usize, byte_level: bool) -> Result<Self, Error> {
        if n > MOST_TOKENS {
            return Err(Error::invalid("largest token id", format!("below {MOST_TOKENS}"), n));
        }
        Ok(Self { tokens: vec![Token::default(); n], bytes: vec![None; 256], byte_level })
    }

    /// Puts the token spelled `text` at `id`. `in_vocabulary`: merging may make it.
    fn put(&mut self, id: u32, text: &str, in_vocabulary: bool) -> Result<(), Error> {
        let n = self.tokens.len();
        let Some(token) = self.tokens.get_mut(id as usize) else {
            return Err(Error::invalid(format!("id of token {text:?}"), format!("below {n}"), id));
        };
        if token.kind != TokenKind::Unused {
            return Err(Error::invalid(format!("token {id}"), "one spelling", format!("{text:?} too")));
        }
        let piece = if in_vocabulary { TokenKind::Piece } else { TokenKind::Whole };
        (token.bytes, token.kind) = if self.byte_level {
            match gpt2_bytes(text) {
                Some(bytes) => (bytes, piece),
                None => (text.as_bytes().to_vec(), TokenKind::Whole),
            }
        } else {
            match spelled_byte(text) {
                Some(byte) => (vec![byte], TokenKind::Byte),
                // A space never survives the normalizer, so a token with one is never met.
                None if text.contains(' ') => (text.replace(MARK, " ").into_bytes(), TokenKind::Whole),
                None => (text.replace(MARK, " ").into_bytes(), piece),
            }
        };
        // The letters, or the spelling that is looked up: `<0x0A>` and not `<0x0a>`.
        let is_letter = match token.kind {
            TokenKind::Piece => self.byte_level && token.bytes.len() == 1,
            TokenKind::Byte => text[3..5].chars().all(|c| !c.is_ascii_lowercase()),
            _ => false,
        };
        if let (true, &[byte]) = (is_letter, &token.bytes[..]) {
            self.bytes[usize::from(byte)] = Some(id);
        }
        Ok(())
    }
}

/// Merges from pairs of spellings.
fn resolve<'p>(ids: &HashMap<&str, u32>, pairs: impl Iterator<Item = (&'p str, &'p str)>) -> Result<Vec<MergeSpec>, Error> {
    let mut joined = String::new();
    pairs
        .enumerate()
        .map(|(rank, (left, right))| {
            joined.clear();
            joined.push_str(left);
            joined.push_str(right);
            let id = |text: &str| {
                ids.get(text)
                    .copied()
                    .ok_or_else(|| Error::invalid(format!("merge {rank}"), "tokens of the vocabulary", format!("{text:?}")))
            };
            Ok(MergeSpec { left: id(left)?, right: id(right)?, merged: id(&joined)? })
        })
        .collect()
}

/// A merge written as one string: two spellings with a space between.
fn pair(text: &str, rank: usize) -> Result<(&str, &str), Error> {
    match text.split_once(' ') {
        Some((left, right)) if !left.is_empty() && !right.is_empty() && !right.contains(' ') => Ok((left, right)),
        _ => Err(Error::invalid(format!("merge {rank}"), "two tokens with a space between", format!("{text:?}"))),
    }
}
