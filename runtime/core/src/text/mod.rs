//! Bytes ↔ tokens, from tables that lie ready in the image.
//!
//! Text → `added` tokens cut out → `nfc` or spaces made one → `scan` cuts pieces → `bpe` merges each → ids.
//! Ids → `decode` → text, never half a character. The `tokenizers` crate is the definition of every step; its
//! 0.23 follows Unicode 16 in its expressions and Unicode 9 in its normal form, and so do the tables.

mod added;
mod bpe;
mod decode;
mod nfc;
mod scan;

pub use decode::Decoder;

use crate::Error;
use bourn_format::tokenizer::{Normalizer, Tables, added as added_flag, flag};

/// What [`Tokenizer::encode`] does besides cutting and merging.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EncodeOptions {
    /// Put the ids of the model's template around the text, such as the one that begins a text.
    pub add_special: bool,
    /// Read the spelling of a special token in the text as that token. Added tokens that are not special always are.
    pub parse_special: bool,
}

/// Text to ids and back.
#[derive(Clone, Copy, Debug)]
pub struct Tokenizer<'a> {
    tables: Tables<'a>,
    added: added::Matcher<'a>,
    normalized_added: Option<added::Matcher<'a>>,
}

impl<'a> Tokenizer<'a> {
    /// A tokenizer over the image's tables. Does no work worth naming.
    pub fn new(tables: Tables<'a>) -> Self {
        let normalized = added::Matcher::new(tables, true);
        Self { tables, added: added::Matcher::new(tables, false), normalized_added: normalized.any().then_some(normalized) }
    }

    /// Bytes of scratch that [`encode`](Self::encode) needs at most for a text of `text_bytes`. Ordinary text needs far less:
    /// this is for one piece without end, in characters that grow threefold in normal form.
    pub fn scratch_bytes(&self, text_bytes: usize) -> usize {
        let slack = 64;
        let (normalized, symbols) = match self.tables.normalizer() {
            Normalizer::None => (0, text_bytes),
            Normalizer::Nfc => (text_bytes.saturating_mul(3), text_bytes.saturating_mul(3)),
            _ => (text_bytes.saturating_add(1), text_bytes.saturating_add(1)),
        };
        symbols.saturating_mul(bpe::BYTES_PER_SYMBOL).saturating_add(normalized).saturating_add(slack)
    }

    /// Gives the ids of `text` to `out`, in order.
    ///
    /// # Errors
    /// [`Error::Workspace`] when `scratch` is too small for a piece; `out` may have had ids already.
    pub fn encode(&self, text: &str, options: EncodeOptions, scratch: &mut [u8], out: &mut dyn FnMut(u32)) -> Result<(), Error> {
        let n_tokens = self.tables.n_tokens();
        let out = &mut |id: u32| {
            if (id as usize) < n_tokens {
                out(id);
            }
        };
        if options.add_special {
            self.tables.prefix().for_each(&mut *out);
        }
        self.added.split(text, options.parse_special, out, &mut |piece, out| {
            self.encode_plain(piece, options.parse_special, scratch, out)
        })?;
        if options.add_special {
            self.tables.suffix().for_each(out);
        }
        Ok(())
    }

    /// Encodes text between added tokens.
    fn encode_plain(&self, text: &str, specials: bool, scratch: &mut [u8], out: &mut dyn FnMut(u32)) -> Result<(), Error> {
        let normalized = match self.tables.normalizer() {
            Normalizer::Nfc => nfc::normalize(&self.tables, text, scratch)?,
            Normalizer::Spaces => join_spaces(text, false, scratch)?,
            Normalizer::SpacesAfterOne => join_spaces(text, true, scratch)?,
            _ => None,
        };
        let (text, scratch) = match normalized {
            None => (text, scratch),
            Some(bytes) => {
                let (bytes, rest) = scratch.split_at_mut(bytes);
                (core::str::from_utf8(bytes).unwrap_or_default(), rest)
            }
        };
        match self.normalized_added {
            None => self.encode_normalized(text, scratch, out),
            Some(added) => added.split(text, specials, out, &mut |piece, out| self.encode_normalized(piece, scratch, out)),
        }
    }

    fn encode_normalized(&self, text: &str, scratch: &mut [u8], out: &mut dyn FnMut(u32)) -> Result<(), Error> {
        let words = bytemuck::pod_align_to_mut::<u8, u32>(scratch).1;
        for piece in scan::Pieces::new(&self.tables, text) {
            bpe::encode(&self.tables, piece, words, out)?;
        }
        Ok(())
    }

    /// Gives the text of `ids` to `out`, part by part.
    pub fn decode(&self, ids: &[u32], skip_special: bool, out: &mut dyn FnMut(&str)) {
        decode::all(self, ids, skip_special, out);
    }

    /// Bytes that a token stands for; empty for an id that is none.
    pub fn token_bytes(&self, id: u32) -> &'a [u8] {
        self.tables.token(id)
    }

    /// Whether a token is special: control, not text.
    pub fn is_special(&self, id: u32) -> bool {
        self.tables.flags(id) & flag::SPECIAL != 0
    }

    /// The id of an added token by its spelling, such as `<|im_end|>`.
    pub fn added_id(&self, text: &str) -> Option<u32> {
        (0..self.tables.n_added()).map(|i| self.tables.added(i)).find(|a| a.text == text.as_bytes()).map(|a| a.id)
    }

    /// Ids are below this.
    pub fn n_tokens(&self) -> usize {
        self.tables.n_tokens()
    }

    /// The token that begins a text.
    pub fn bos(&self) -> Option<u32> {
        self.tables.bos()
    }

    /// The token that ends a text.
    pub fn eos(&self) -> Option<u32> {
        self.tables.eos()
    }

    /// The token that fills.
    pub fn pad(&self) -> Option<u32> {
        self.tables.pad()
    }

    /// Ids that the template puts before a text.
    pub fn prefix(&self) -> impl Iterator<Item = u32> + use<'a> {
        self.tables.prefix()
    }

    /// The tables.
    pub const fn tables(&self) -> Tables<'a> {
        self.tables
    }
}

/// Writes `text` with U+2581 as a space, after one more space when `after_one`, to the front of `scratch`.
/// Returns its length, or nothing when the text is so already.
fn join_spaces(text: &str, after_one: bool, scratch: &mut [u8]) -> Result<Option<usize>, Error> {
    const MARK: &str = "\u{2581}";
    if !after_one && !text.contains('\u{2581}') {
        return Ok(None);
    }
    let need = text.len() + usize::from(after_one);
    let have = scratch.len();
    let scratch = scratch.get_mut(..need).ok_or(Error::Workspace { need: need as u64, have: have as u64 })?;
    let mut at = 0;
    if after_one {
        scratch[0] = b' ';
        at = 1;
    }
    for (i, part) in text.split(MARK).enumerate() {
        if i > 0 {
            scratch[at] = b' ';
            at += 1;
        }
        scratch[at..at + part.len()].copy_from_slice(part.as_bytes());
        at += part.len();
    }
    Ok(Some(at))
}

/// Whether an added token is to be matched in normalized text.
const fn is_normalized(flags: u32) -> bool {
    flags & added_flag::NORMALIZED != 0
}
