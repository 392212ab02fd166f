//! A tokenizer's specification → the TOKENIZER section (FORMAT.md §6).
//!
//! Everything that could be worked out when an image opens is worked out here: hash tables in their final order, which
//! tokens their own text is encoded as, where text may be cut safely, Unicode's classes and compositions.

mod unicode;

use crate::Error;
use bourn_checkpoint::tokenizer::{Decoding, MergeSpec, Normalizer, Split, TokenKind, TokenizerSpec};
use bourn_format::tokenizer::{self as format, HEADER_BYTES, NONE, Tables, added, flag, table};
use std::collections::{BTreeMap, BTreeSet};

/// Slots for each entry of a hash table, in quarters: a longer table answers "not there" sooner.
const SLOTS_PER_4: usize = 6;

/// The bytes of the TOKENIZER section. The same specification gives the same bytes.
///
/// # Errors
/// [`Error::Tokenizer`] when the tables cannot express the specification.
pub fn section(spec: &TokenizerSpec) -> Result<Vec<u8>, Error> {
    check(spec)?;
    let merges = last_of_each_pair(&spec.merges);
    let mut tables = Parts::default();
    tables.tokens(spec)?;
    tables.set(table::BYTE_IDS, (0..256).flat_map(|b| spec.bytes.get(b).copied().flatten().unwrap_or(NONE).to_le_bytes()));
    tables.merges(&merges)?;
    tables.added(spec)?;
    tables.set(table::TEMPLATE, spec.prefix.iter().chain(&spec.suffix).flat_map(|id| id.to_le_bytes()));
    tables.n_prefix = spec.prefix.len() as u32;
    let (split, glue) = cuts(spec, &merges);
    tables.set(table::GLUE, glue.iter().flat_map(|&c| u32::from(c).to_le_bytes()));
    let nfc = spec.normalizer == Normalizer::Nfc;
    if nfc || !matches!(split, format::Split::Spaces | format::Split::Whole) {
        let unicode = unicode::tables(nfc)?;
        for (number, bytes) in [
            (table::BLOCKS, unicode.blocks),
            (table::CLASSES, unicode.classes),
            (table::DECOMPOSITIONS, unicode.decompositions),
            (table::DECOMPOSED, unicode.decomposed),
            (table::COMBINING, unicode.combining),
            (table::COMPOSITIONS, unicode.compositions),
        ] {
            tables.set(number, bytes);
        }
    }
    // Which tokens stand for themselves needs the merges: ask the section so far.
    let without_pieces = tables.write(spec, split)?;
    let view = Tables::new_checked(&without_pieces).map_err(Error::Image)?;
    tables.pieces(spec, &view)?;
    let bytes = tables.write(spec, split)?;
    Tables::new_checked(&bytes).map_err(Error::Image)?;
    Ok(bytes)
}

fn refuse<T>(what: impl Into<String>) -> Result<T, Error> {
    Err(Error::Tokenizer { what: what.into() })
}

fn check(spec: &TokenizerSpec) -> Result<(), Error> {
    let n = spec.tokens.len();
    let ids = spec.merges.iter().flat_map(|m| [m.left, m.right, m.merged]).chain(spec.added.iter().map(|a| a.id));
    let ids = ids.chain(spec.bytes.iter().flatten().copied()).chain(spec.prefix.iter().chain(&spec.suffix).copied());
    let mut ids = ids.chain([spec.unknown, spec.bos, spec.eos, spec.pad].into_iter().flatten());
    if let Some(id) = ids.find(|&id| id as usize >= n) {
        return refuse(format!("need ids below {n}, found {id}"));
    }
    // Then the piece would be the whole text between added tokens, and text could be cut nowhere.
    if spec.byte_fallback && spec.ignore_merges {
        return refuse("need ignore_merges with byte-level BPE only, found it with byte fallback");
    }
    if spec.byte_fallback && spec.bytes.iter().flatten().count() != 256 {
        return refuse(format!("need 256 byte tokens, found {}", spec.bytes.iter().flatten().count()));
    }
    if spec.byte_fallback != (spec.split == Split::None) {
        return refuse("need a split with byte-level BPE and none with byte fallback, found otherwise");
    }
    Ok(())
}

/// Merges with their ranks, of each pair the last.
fn last_of_each_pair(merges: &[MergeSpec]) -> BTreeMap<(u32, u32), (u32, u32)> {
    merges.iter().enumerate().map(|(rank, m)| ((m.left, m.right), (rank as u32, m.merged))).collect()
}

/// How text is cut; for SentencePiece models the characters that some token has right before a space.
fn cuts(spec: &TokenizerSpec, merges: &BTreeMap<(u32, u32), (u32, u32)>) -> (format::Split, BTreeSet<char>) {
    let split = match spec.split {
        Split::Gpt2 => format::Split::Gpt2,
        Split::DigitsGpt2 => format::Split::DigitsGpt2,
        Split::Llama3 => format::Split::Llama3,
        Split::Qwen2 => format::Split::Qwen2,
        Split::O200k => format::Split::O200k,
        Split::Tekken => format::Split::Tekken,
        _ => format::Split::Spaces,
    };
    let mut glue = BTreeSet::new();
    if split == format::Split::Spaces {
        let is_text = |id: u32| spec.tokens[id as usize].kind == TokenKind::Piece;
        for (&(left, right), &(_, merged)) in merges {
            let text = std::str::from_utf8(&spec.tokens[merged as usize].bytes);
            let (Ok(text), true) = (text, is_text(left) && is_text(right) && is_text(merged)) else {
                return (format::Split::Whole, BTreeSet::new());
            };
            glue.extend(text.chars().zip(text.chars().skip(1)).filter(|&(a, b)| a != ' ' && b == ' ').map(|(a, _)| a));
        }
    }
    (split, glue)
}

/// The tables while they are being made.
#[derive(Default)]
struct Parts {
    tables: [Vec<u8>; table::COUNT],
    n_prefix: u32,
    merge_homes: u32,
    piece_homes: u32,
    longest_piece: u32,
}

impl Parts {
    fn set(&mut self, number: usize, bytes: impl IntoIterator<Item = u8>) {
        self.tables[number] = bytes.into_iter().collect();
    }

    fn tokens(&mut self, spec: &TokenizerSpec) -> Result<(), Error> {
        let mut bytes = Vec::new();
        let mut ends = vec![0; 4];
        for token in &spec.tokens {
            bytes.extend_from_slice(&token.bytes);
            ends.extend_from_slice(&narrow("bytes of all tokens", bytes.len())?.to_le_bytes());
        }
        self.set(table::TOKEN_ENDS, ends);
        self.set(table::TOKEN_BYTES, bytes);
        let flags = |kind: TokenKind| match kind {
            TokenKind::Byte => flag::BYTE,
            TokenKind::Unused => flag::UNUSED,
            _ => 0,
        };
        self.set(table::TOKEN_FLAGS, spec.tokens.iter().map(|t| flags(t.kind) | if t.special { flag::SPECIAL } else { 0 }));
        Ok(())
    }

    fn merges(&mut self, merges: &BTreeMap<(u32, u32), (u32, u32)>) -> Result<(), Error> {
        self.merge_homes = homes("merges", merges.len())?;
        let entries = merges.iter().map(|(&(left, right), &(rank, merged))| {
            let words = [left, right, rank, merged].map(u32::to_le_bytes);
            (format::pair_hash(left, right), words.concat())
        });
        let free = [NONE, 0, 0, 0].map(u32::to_le_bytes).concat();
        self.set(table::MERGES, hash_table(entries.collect(), self.merge_homes, &free));
        Ok(())
    }

    /// Tokens that their own text is encoded as: what a piece can be looked up in.
    fn pieces(&mut self, spec: &TokenizerSpec, tables: &Tables) -> Result<(), Error> {
        let pieces = || spec.tokens.iter().enumerate().filter(|(_, t)| t.kind == TokenKind::Piece && !t.bytes.is_empty());
        let mut texts = BTreeSet::new();
        let mut characters = BTreeMap::new();
        for (id, token) in pieces() {
            if !texts.insert(&token.bytes) {
                return refuse(format!("need different texts, found token {id} of the same text as another"));
            }
            if std::str::from_utf8(&token.bytes).is_ok_and(|text| text.chars().count() == 1) {
                characters.insert(&token.bytes[..], id as u32);
            }
        }
        let mut entries = Vec::new();
        for (id, token) in pieces() {
            if spec.ignore_merges || merged(spec, tables, &characters, &token.bytes).is_some_and(|ids| ids == [id as u32]) {
                let hash = format::piece_hash(&token.bytes);
                entries.push((hash, [hash, id as u32].map(u32::to_le_bytes).concat()));
                self.longest_piece = self.longest_piece.max(narrow("bytes of a token", token.bytes.len())?);
            }
        }
        self.piece_homes = homes("tokens", entries.len())?;
        let free = [0, NONE].map(u32::to_le_bytes).concat();
        self.set(table::PIECES, hash_table(entries, self.piece_homes, &free));
        Ok(())
    }

    fn added(&mut self, spec: &TokenizerSpec) -> Result<(), Error> {
        let normal = |text: &str| match spec.normalizer {
            Normalizer::Nfc => unicode::nfc(text),
            Normalizer::Spaces => text.replace('\u{2581}', " "),
            Normalizer::SpacesAfterOne => format!(" {}", text.replace('\u{2581}', " ")),
            _ => text.to_owned(),
        };
        let mut records = BTreeMap::new();
        for token in spec.added.iter().filter(|a| !a.text.is_empty()) {
            let text = if token.normalized { normal(&token.text) } else { token.text.clone() };
            let mut flags = 0;
            for (set, bit) in [
                (token.lstrip, added::LSTRIP),
                (token.rstrip, added::RSTRIP),
                (token.normalized, added::NORMALIZED),
                (token.special, added::SPECIAL),
            ] {
                flags |= if set { bit } else { 0 };
            }
            records.insert(text, (token.id, flags));
        }
        let (mut bytes, mut table) = (Vec::new(), Vec::new());
        for (text, (id, flags)) in records {
            let place = [narrow("bytes of added tokens", bytes.len())?, narrow("bytes of an added token", text.len())?];
            table.extend([place[0], place[1], id, flags].into_iter().flat_map(u32::to_le_bytes));
            bytes.extend_from_slice(text.as_bytes());
        }
        self.set(table::ADDED, table);
        self.set(table::ADDED_BYTES, bytes);
        Ok(())
    }

    fn write(&self, spec: &TokenizerSpec, split: format::Split) -> Result<Vec<u8>, Error> {
        let mut out = vec![0; HEADER_BYTES];
        let mut word = |at: usize, value: u32| out[at..at + 4].copy_from_slice(&value.to_le_bytes());
        word(0, narrow("tokens", spec.tokens.len())?);
        for (i, id) in [spec.unknown, spec.bos, spec.eos, spec.pad].into_iter().enumerate() {
            word(8 + 4 * i, id.unwrap_or(NONE));
        }
        word(24, self.n_prefix);
        word(28, spec.suffix.len() as u32);
        word(32, self.merge_homes);
        word(36, self.piece_homes);
        word(40, self.longest_piece);
        out[4] = split as u8;
        out[5] = match spec.normalizer {
            Normalizer::None => format::Normalizer::None,
            Normalizer::Nfc => format::Normalizer::Nfc,
            Normalizer::Spaces => format::Normalizer::Spaces,
            Normalizer::SpacesAfterOne => format::Normalizer::SpacesAfterOne,
            other => return refuse(format!("need a normalizer the format has, found {other:?}")),
        } as u8;
        out[6] = match spec.decoding {
            Decoding::Bytes => format::Decoding::Bytes,
            Decoding::ByteRuns => format::Decoding::ByteRuns,
            Decoding::ByteRunsStrip => format::Decoding::ByteRunsStrip,
            other => return refuse(format!("need a decoder the format has, found {other:?}")),
        } as u8;
        out[7] = u8::from(spec.ignore_merges) | u8::from(spec.fuse_unknown) << 1 | u8::from(spec.byte_fallback) << 2;
        for (i, bytes) in self.tables.iter().enumerate() {
            out.resize(out.len().next_multiple_of(8), 0);
            let place = [narrow("bytes of the tokenizer", out.len())?, narrow("bytes of a table", bytes.len())?];
            out[48 + 8 * i..56 + 8 * i].copy_from_slice(&place.map(u32::to_le_bytes).concat());
            out.extend_from_slice(bytes);
        }
        narrow("bytes of the tokenizer", out.len())?;
        Ok(out)
    }
}

fn narrow(what: &'static str, value: usize) -> Result<u32, Error> {
    u32::try_from(value).map_err(|_| Error::TooLarge { what, most: u64::from(u32::MAX), found: value as u64 })
}

fn homes(what: &'static str, entries: usize) -> Result<u32, Error> {
    narrow(what, entries.saturating_mul(SLOTS_PER_4) / 4 + 1)
}

/// Entries in the order of their hashes, each at its home or the next free slot after it.
fn hash_table(mut entries: Vec<(u32, Vec<u8>)>, homes: u32, free: &[u8]) -> Vec<u8> {
    entries.sort();
    let mut out = Vec::with_capacity((homes as usize + 64) * free.len());
    for (hash, entry) in &entries {
        while out.len() / free.len() < format::home(*hash, homes) {
            out.extend_from_slice(free);
        }
        out.extend_from_slice(entry);
    }
    while out.len() / free.len() < homes as usize + 1 {
        out.extend_from_slice(free);
    }
    out
}

/// What merging makes of a token's own text; nothing when a byte of it is no token.
fn merged(spec: &TokenizerSpec, tables: &Tables, characters: &BTreeMap<&[u8], u32>, bytes: &[u8]) -> Option<Vec<u32>> {
    let mut ids: Vec<u32> = if spec.byte_fallback {
        let text = std::str::from_utf8(bytes).ok()?;
        let spelled = |c: char| {
            let mut buffer = [0; 4];
            let bytes = c.encode_utf8(&mut buffer).as_bytes();
            characters.get(bytes).map_or_else(|| bytes.iter().filter_map(|&b| tables.byte(b)).collect(), |&id| vec![id])
        };
        text.chars().flat_map(spelled).collect()
    } else {
        bytes.iter().map(|&b| tables.byte(b)).collect::<Option<_>>()?
    };
    while let Some((_, at, id)) = (1..ids.len()).filter_map(|i| tables.merge(ids[i - 1], ids[i]).map(|m| (m.rank, i, m.id))).min()
    {
        ids[at - 1] = id;
        ids.remove(at);
    }
    Some(ids)
}
