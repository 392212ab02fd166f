//! The TOKENIZER section: tables ready to use (FORMAT.md §6).
//!
//! Little-endian throughout. A header, then tables at 8-byte steps; offsets count from the start of the section.
//!
//! | at | bytes | field |
//! |---|---|---|
//! | 0 | 4 | `n_tokens`: ids are `0..n_tokens` |
//! | 4 | 1 | [`Split`] |
//! | 5 | 1 | [`Normalizer`] |
//! | 6 | 1 | [`Decoding`] |
//! | 7 | 1 | flags: 1 = a piece that is a token is that token, whatever the merges say; 2 = neighbouring unknowns become one; 4 = characters that are no token become byte tokens |
//! | 8 | 4 | id of the unknown token, or [`NONE`]: then what is unknown is left out |
//! | 12, 16, 20 | 4 each | begin, end and padding ids, or [`NONE`] |
//! | 24, 28 | 4 each | ids that the template puts before and after a text |
//! | 32 | 4 | home slots of the merge table |
//! | 36 | 4 | home slots of the piece table |
//! | 40 | 4 | bytes of the longest token in the piece table |
//! | 44 | 4 | zero |
//! | 48 | 8 × 16 | for each table of [`table`] its offset and its length in bytes (u32, u32) |
//!
//! Tables, in the order of their numbers:
//!
//! | number | entry | content |
//! |---|---|---|
//! | 0 | u32 | `n_tokens + 1` ends: token `i` decodes to bytes `ends[i]..ends[i + 1]` of table 1; the first is 0 |
//! | 1 | u8 | decoded bytes of all tokens (GPT-2's letters undone, U+2581 as a space, `<0x0A>` as one byte) |
//! | 2 | u8 | [`flag`]s of each token |
//! | 3 | u32 | 256 ids: the token of a byte, or [`NONE`] |
//! | 4 | 16 B | merge slots: left, right, rank, merged (u32 each). Entries stand in the order of [`pair_hash`], each at its home `hash · homes >> 32` or the next free slot after it; a free slot has left = [`NONE`] |
//! | 5 | 8 B | piece slots: [`piece_hash`], id (u32 each), in the same order and manner; a free slot has id = [`NONE`]. Holds the tokens that their own text is encoded as |
//! | 6 | 16 B | added tokens in the order of their bytes: offset and length in table 7, id, [`added`] flags (u32 each) |
//! | 7 | u8 | text of the added tokens, as matched |
//! | 8 | u32 | ids before a text, then ids after it |
//! | 9 | u32 | characters after which no piece may begin at a space although one is split there, ascending |
//! | 10 | u8 | block number of each 256 code points (4352 of them, or none) |
//! | 11 | u8 | blocks of 256 [`class`] bytes |
//! | 12 | 8 B | canonical decompositions: code point (u32), start in table 13 (u16), count (u16, at most 4), ascending |
//! | 13 | u32 | code points of the decompositions, taken to the end |
//! | 14 | u32 | `code point << 8 | combining class` where the class is not 0, ascending |
//! | 15 | 12 B | compositions: first, second, composite (u32 each), ascending |
//!
//! Nothing is checked that would need a walk over a table: what points outside a table reads as empty, so opening
//! costs the header alone, and a damaged section makes wrong ids, never a panic.

use crate::Error;
use crate::bytes::{slice, u8_at, u16_at, u32_at};

/// No id.
pub const NONE: u32 = u32::MAX;
/// Bytes of the header.
pub const HEADER_BYTES: usize = 48 + 8 * table::COUNT;

/// Numbers of the tables.
pub mod table {
    /// Ends of the tokens' bytes.
    pub const TOKEN_ENDS: usize = 0;
    /// Bytes of the tokens.
    pub const TOKEN_BYTES: usize = 1;
    /// Flags of the tokens.
    pub const TOKEN_FLAGS: usize = 2;
    /// Ids of the bytes.
    pub const BYTE_IDS: usize = 3;
    /// Merges.
    pub const MERGES: usize = 4;
    /// Pieces that are tokens.
    pub const PIECES: usize = 5;
    /// Added tokens.
    pub const ADDED: usize = 6;
    /// Text of the added tokens.
    pub const ADDED_BYTES: usize = 7;
    /// Ids around a text.
    pub const TEMPLATE: usize = 8;
    /// Characters that hold on to a space after them.
    pub const GLUE: usize = 9;
    /// Blocks of code points.
    pub const BLOCKS: usize = 10;
    /// Classes of code points.
    pub const CLASSES: usize = 11;
    /// Decompositions.
    pub const DECOMPOSITIONS: usize = 12;
    /// Code points of the decompositions.
    pub const DECOMPOSED: usize = 13;
    /// Combining classes.
    pub const COMBINING: usize = 14;
    /// Compositions.
    pub const COMPOSITIONS: usize = 15;
    /// How many there are.
    pub const COUNT: usize = 16;
}

/// Flags of a token.
pub mod flag {
    /// Left out of text when special tokens are.
    pub const SPECIAL: u8 = 1;
    /// Stands for one byte of a character that is no token.
    pub const BYTE: u8 = 2;
    /// Not in use: decodes to nothing.
    pub const UNUSED: u8 = 4;
}

/// Flags of an added token.
pub mod added {
    /// White space before it belongs to it.
    pub const LSTRIP: u32 = 1;
    /// White space after it belongs to it.
    pub const RSTRIP: u32 = 2;
    /// Looked for in the normalized text.
    pub const NORMALIZED: u32 = 4;
    /// Looked for only when special tokens are parsed.
    pub const SPECIAL: u32 = 8;
}

/// Classes of a code point.
pub mod class {
    /// `\p{L}`.
    pub const LETTER: u8 = 1;
    /// `\p{N}`.
    pub const NUMBER: u8 = 2;
    /// `\s`.
    pub const SPACE: u8 = 4;
    /// `[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]`.
    pub const UPPER: u8 = 8;
    /// `[\p{Ll}\p{Lm}\p{Lo}\p{M}]`.
    pub const LOWER: u8 = 16;
    /// Text without any of these is in NFC.
    pub const NFC_CHECK: u8 = 32;
    /// In the table of decompositions.
    pub const DECOMPOSES: u8 = 64;
    /// In the table of combining classes.
    pub const COMBINES: u8 = 128;
}

/// How text is cut before merging.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
#[repr(u8)]
pub enum Split {
    /// Only before a space, where that changes nothing (SentencePiece models).
    Spaces = 0,
    /// GPT-2's expression.
    Gpt2 = 1,
    /// Every digit alone, then GPT-2's expression (SmolLM2, StarCoder).
    DigitsGpt2 = 2,
    /// Llama 3's expression: numbers in threes.
    Llama3 = 3,
    /// Qwen 2's expression: every number alone.
    Qwen2 = 4,
    /// The expression of o200k (Phi-4-mini).
    O200k = 5,
    /// The expression of Tekken (Ministral).
    Tekken = 6,
    /// Not at all.
    Whole = 7,
}

/// What is done to text before it is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
#[repr(u8)]
pub enum Normalizer {
    /// Nothing.
    None = 0,
    /// Unicode's canonical composition.
    Nfc = 1,
    /// U+2581 and the space are one.
    Spaces = 2,
    /// The same, and a space is put before the text.
    SpacesAfterOne = 3,
}

/// How tokens become text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
#[repr(u8)]
pub enum Decoding {
    /// Bytes of all tokens one after another; every longest part that could begin a character and does not is U+FFFD.
    Bytes = 0,
    /// A run of byte tokens is text when all of it is, else one U+FFFD for each.
    ByteRuns = 1,
    /// The same, without one space at the beginning of the text.
    ByteRunsStrip = 2,
}

/// Hash of a pair of ids: its place in the merge table.
#[inline(always)]
pub const fn pair_hash(left: u32, right: u32) -> u32 {
    let key = (left as u64) << 32 | right as u64;
    let mixed = (key ^ (key >> 29)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    ((mixed ^ (mixed >> 32)).wrapping_mul(0xd6e8_feb8_6659_fd93) >> 32) as u32
}

/// Hash of a piece: its place in the piece table.
#[inline]
pub fn piece_hash(piece: &[u8]) -> u32 {
    (crate::checksum(piece) >> 32) as u32
}

/// First slot to look at for `hash`.
#[inline(always)]
pub const fn home(hash: u32, homes: u32) -> usize {
    ((hash as u64 * homes as u64) >> 32) as usize
}

/// A merge: the pair becomes `id`; the lowest `rank` goes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Merge {
    /// Its place among all merges.
    pub rank: u32,
    /// What the pair becomes.
    pub id: u32,
}

/// An added token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Added<'a> {
    /// Its text as matched.
    pub text: &'a [u8],
    /// Its id.
    pub id: u32,
    /// [`added`] flags.
    pub flags: u32,
}

/// A checked view of the TOKENIZER section.
#[derive(Clone, Copy, Debug)]
pub struct Tables<'a> {
    header: &'a [u8],
    split: Split,
    normalizer: Normalizer,
    decoding: Decoding,
    tables: [&'a [u8]; table::COUNT],
}

impl<'a> Tables<'a> {
    /// Checks the header and that every table lies inside the section.
    ///
    /// # Errors
    /// [`Error`] when the header is cut short, a kind is unknown, or a table points outside.
    pub fn new_checked(bytes: &'a [u8]) -> Result<Self, Error> {
        let Some(header) = bytes.get(..HEADER_BYTES) else {
            return Err(Error::Truncated { need: HEADER_BYTES as u64, have: bytes.len() as u64 });
        };
        let unknown = |what, found: u8| Error::Invalid { what, found: u64::from(found) };
        let split = match header[4] {
            0 => Split::Spaces,
            1 => Split::Gpt2,
            2 => Split::DigitsGpt2,
            3 => Split::Llama3,
            4 => Split::Qwen2,
            5 => Split::O200k,
            6 => Split::Tekken,
            7 => Split::Whole,
            found => return Err(unknown("tokenizer split", found)),
        };
        let normalizer = match header[5] {
            0 => Normalizer::None,
            1 => Normalizer::Nfc,
            2 => Normalizer::Spaces,
            3 => Normalizer::SpacesAfterOne,
            found => return Err(unknown("tokenizer normalizer", found)),
        };
        let decoding = match header[6] {
            0 => Decoding::Bytes,
            1 => Decoding::ByteRuns,
            2 => Decoding::ByteRunsStrip,
            found => return Err(unknown("tokenizer decoding", found)),
        };
        let mut tables: [&[u8]; table::COUNT] = [&[]; table::COUNT];
        for (i, out) in tables.iter_mut().enumerate() {
            let (offset, len) = (u32_at(header, 48 + 8 * i), u32_at(header, 52 + 8 * i));
            let end = u64::from(offset) + u64::from(len);
            if end > bytes.len() as u64 {
                return Err(Error::Truncated { need: end, have: bytes.len() as u64 });
            }
            *out = slice(bytes, u64::from(offset), u64::from(len));
        }
        let this = Self { header, split, normalizer, decoding, tables };
        let n = this.n_tokens() as u64;
        let sizes = [
            ("tokenizer token ends", tables[table::TOKEN_ENDS].len(), 4 * (n + 1)),
            ("tokenizer token flags", tables[table::TOKEN_FLAGS].len(), n),
            ("tokenizer byte ids", tables[table::BYTE_IDS].len(), 4 * 256),
        ];
        for (what, found, need) in sizes {
            if found as u64 != need {
                return Err(Error::Invalid { what, found: found as u64 });
            }
        }
        Ok(this)
    }

    /// Ids are below this.
    pub fn n_tokens(&self) -> usize {
        u32_at(self.header, 0) as usize
    }

    /// How text is cut.
    pub const fn split(&self) -> Split {
        self.split
    }

    /// What is done to text first.
    pub const fn normalizer(&self) -> Normalizer {
        self.normalizer
    }

    /// How tokens become text.
    pub const fn decoding(&self) -> Decoding {
        self.decoding
    }

    /// Whether a piece that is a token is that token, whatever the merges say.
    pub fn ignore_merges(&self) -> bool {
        self.header[7] & 1 != 0
    }

    /// Whether neighbouring unknowns become one token.
    pub fn fuse_unknown(&self) -> bool {
        self.header[7] & 2 != 0
    }

    /// Whether characters that are no token become byte tokens; otherwise bytes are the letters.
    pub fn byte_fallback(&self) -> bool {
        self.header[7] & 4 != 0
    }

    fn id_at(&self, at: usize) -> Option<u32> {
        let id = u32_at(self.header, at);
        ((id as usize) < self.n_tokens()).then_some(id)
    }

    /// The unknown token.
    pub fn unknown(&self) -> Option<u32> {
        self.id_at(8)
    }

    /// The token that begins a text.
    pub fn bos(&self) -> Option<u32> {
        self.id_at(12)
    }

    /// The token that ends a text.
    pub fn eos(&self) -> Option<u32> {
        self.id_at(16)
    }

    /// The token that fills.
    pub fn pad(&self) -> Option<u32> {
        self.id_at(20)
    }

    /// Ids that the template puts before a text.
    pub fn prefix(&self) -> impl Iterator<Item = u32> + use<'a> {
        let n = u32_at(self.header, 24) as usize;
        words(self.tables[table::TEMPLATE]).take(n)
    }

    /// Ids that the template puts after a text.
    pub fn suffix(&self) -> impl Iterator<Item = u32> + use<'a> {
        let n = u32_at(self.header, 24) as usize;
        words(self.tables[table::TEMPLATE]).skip(n)
    }

    /// Bytes of the longest piece worth looking up.
    pub fn longest_piece(&self) -> usize {
        u32_at(self.header, 40) as usize
    }

    /// Bytes that a token decodes to; empty for an id that is none.
    #[inline]
    pub fn token(&self, id: u32) -> &'a [u8] {
        let Some(at) = (id as usize).checked_mul(4).filter(|_| (id as usize) < self.n_tokens()) else { return &[] };
        let ends = self.tables[table::TOKEN_ENDS];
        let (start, end) = (u32_at(ends, at), u32_at(ends, at + 4));
        self.tables[table::TOKEN_BYTES].get(start as usize..end as usize).unwrap_or(&[])
    }

    /// [`flag`]s of a token; [`flag::UNUSED`] for an id that is none.
    #[inline]
    pub fn flags(&self, id: u32) -> u8 {
        self.tables[table::TOKEN_FLAGS].get(id as usize).copied().unwrap_or(flag::UNUSED)
    }

    /// The token of a byte.
    #[inline]
    pub fn byte(&self, byte: u8) -> Option<u32> {
        let id = u32_at(self.tables[table::BYTE_IDS], 4 * byte as usize);
        (id != NONE).then_some(id)
    }

    /// What a pair of tokens merges into.
    #[inline]
    pub fn merge(&self, left: u32, right: u32) -> Option<Merge> {
        let slots = self.tables[table::MERGES];
        let hash = pair_hash(left, right);
        let start = home(hash, u32_at(self.header, 32));
        let (slots, _) = slots.as_chunks::<16>();
        for slot in slots.get(start..)? {
            let (l, r) = (u32_at(slot, 0), u32_at(slot, 4));
            if l == left && r == right {
                return Some(Merge { rank: u32_at(slot, 8), id: u32_at(slot, 12) });
            }
            if l == NONE || pair_hash(l, r) > hash {
                return None;
            }
        }
        None
    }

    /// The token that a whole piece is.
    #[inline]
    pub fn piece(&self, piece: &[u8]) -> Option<u32> {
        if piece.len() > self.longest_piece() {
            return None;
        }
        let hash = piece_hash(piece);
        let start = home(hash, u32_at(self.header, 36));
        let (slots, _) = self.tables[table::PIECES].as_chunks::<8>();
        for slot in slots.get(start..)? {
            let (h, id) = (u32_at(slot, 0), u32_at(slot, 4));
            if id == NONE || h > hash {
                return None;
            }
            if h == hash && self.token(id) == piece {
                return Some(id);
            }
        }
        None
    }

    /// How many added tokens there are.
    pub fn n_added(&self) -> usize {
        self.tables[table::ADDED].len() / 16
    }

    /// The `i`-th added token in the order of their bytes; an empty one when there is none.
    pub fn added(&self, i: usize) -> Added<'a> {
        let record = self.tables[table::ADDED].as_chunks::<16>().0.get(i).copied().unwrap_or_default();
        let (offset, len) = (u32_at(&record, 0), u32_at(&record, 4));
        let text = slice(self.tables[table::ADDED_BYTES], u64::from(offset), u64::from(len));
        Added { text, id: u32_at(&record, 8), flags: u32_at(&record, 12) }
    }

    /// Whether no piece may begin at a space right after `c`.
    #[inline]
    pub fn glued(&self, c: char) -> bool {
        let (glue, _) = self.tables[table::GLUE].as_chunks::<4>();
        !glue.is_empty() && glue.binary_search_by_key(&u32::from(c), |w| u32::from_le_bytes(*w)).is_ok()
    }

    /// [`class`]es of a code point.
    #[inline]
    pub fn class(&self, c: u32) -> u8 {
        let c = c as usize;
        let block = u8_at(self.tables[table::BLOCKS], c >> 8) as usize;
        u8_at(self.tables[table::CLASSES], block << 8 | c & 255)
    }

    /// Canonical decomposition, taken to the end; empty when there is none. Never more than four.
    pub fn decomposition(&self, c: char) -> impl Iterator<Item = char> + use<'a> {
        let (entries, _) = self.tables[table::DECOMPOSITIONS].as_chunks::<8>();
        let (start, n) = match entries.binary_search_by_key(&u32::from(c), |e| u32_at(e, 0)) {
            Ok(i) => (u16_at(&entries[i], 4) as usize, u16_at(&entries[i], 6) as usize),
            Err(_) => (0, 0),
        };
        let all = self.tables[table::DECOMPOSED];
        words(all.get(4 * start..).unwrap_or(&[])).take(n.min(4)).filter_map(char::from_u32)
    }

    /// Canonical combining class.
    pub fn combining(&self, c: char) -> u8 {
        let (entries, _) = self.tables[table::COMBINING].as_chunks::<4>();
        match entries.binary_search_by_key(&u32::from(c), |e| u32::from_le_bytes(*e) >> 8) {
            Ok(i) => entries[i][0],
            Err(_) => 0,
        }
    }

    /// What two characters compose to (Hangul apart).
    pub fn composition(&self, first: char, second: char) -> Option<char> {
        let (entries, _) = self.tables[table::COMPOSITIONS].as_chunks::<12>();
        let key = (u32::from(first), u32::from(second));
        let i = entries.binary_search_by_key(&key, |e| (u32_at(e, 0), u32_at(e, 4))).ok()?;
        char::from_u32(u32_at(&entries[i], 8))
    }
}

fn words(bytes: &[u8]) -> impl Iterator<Item = u32> + use<'_> {
    bytes.as_chunks::<4>().0.iter().map(|w| u32::from_le_bytes(*w))
}
