//! Ids to text: whole characters only, and U+FFFD for what is none, as the `tokenizers` crate has it.

use super::Tokenizer;
use bourn_format::tokenizer::{Decoding, flag};
use core::str::from_utf8;

const BAD: &str = "\u{fffd}";
/// Byte tokens that are held back until their run ends.
const RUN: usize = 512;

/// Turns a stream of ids into text.
///
/// The parts given out, joined, are what [`Tokenizer::decode`] gives for all ids at once. What may still become a character
/// is held back. Models with byte tokens show a run of them as text only when all of it is text, so a run is held back
/// until it ends; one of more than 512 bytes is given out as it stands then, the only case where the two differ.
#[derive(Clone, Debug)]
pub struct Decoder {
    decoding: Decoding,
    skip_special: bool,
    /// The text has not begun.
    strip: bool,
    held: [u8; RUN],
    len: usize,
}

impl Decoder {
    /// A decoder at the beginning of a text. `skip_special`: special tokens become nothing.
    pub fn new(tokenizer: &Tokenizer, skip_special: bool) -> Self {
        let decoding = tokenizer.tables.decoding();
        Self { decoding, skip_special, strip: decoding == Decoding::ByteRunsStrip, held: [0; RUN], len: 0 }
    }

    /// Takes the next id; gives out the text that is certain now.
    pub fn push(&mut self, tokenizer: &Tokenizer, id: u32, out: &mut dyn FnMut(&str)) {
        let flags = tokenizer.tables.flags(id);
        if flags & flag::UNUSED != 0 || (self.skip_special && flags & flag::SPECIAL != 0) {
            return;
        }
        let bytes = tokenizer.tables.token(id);
        if self.decoding == Decoding::Bytes {
            self.push_bytes(bytes, out);
        } else if flags & flag::BYTE != 0 {
            if self.len == RUN {
                self.give_out_run(out);
            }
            for &byte in bytes.iter().take(1) {
                self.held[self.len] = byte;
                self.len += 1;
            }
        } else {
            self.end_run(out);
            // Tokens of such models are text; a damaged table's may not be.
            self.emit(from_utf8(bytes).unwrap_or(BAD), out);
        }
    }

    /// Gives out what was held back: the end of the text.
    pub fn finish(&mut self, out: &mut dyn FnMut(&str)) {
        if self.decoding != Decoding::Bytes {
            self.end_run(out);
        } else if self.len > 0 {
            self.len = 0;
            self.emit(BAD, out);
        }
        self.strip = self.decoding == Decoding::ByteRunsStrip;
    }

    fn emit(&mut self, text: &str, out: &mut dyn FnMut(&str)) {
        if text.is_empty() {
            return;
        }
        let shown = if self.strip { text.strip_prefix(' ').unwrap_or(text) } else { text };
        self.strip = false;
        out_some(shown, out);
    }

    /// Bytes that need not be whole characters.
    fn push_bytes(&mut self, mut bytes: &[u8], out: &mut dyn FnMut(&str)) {
        while let (true, Some((&byte, rest))) = (self.len > 0, bytes.split_first()) {
            self.held[self.len] = byte;
            match from_utf8(&self.held[..self.len + 1]) {
                Ok(text) => {
                    out(text);
                    (self.len, bytes) = (0, rest);
                }
                Err(e) if e.error_len().is_none() => (self.len, bytes) = (self.len + 1, rest),
                // What was held is no character; this byte may begin one.
                Err(_) => {
                    out(BAD);
                    self.len = 0;
                }
            }
        }
        loop {
            match from_utf8(bytes) {
                Ok(text) => return out_some(text, out),
                Err(e) => {
                    let (text, rest) = bytes.split_at(e.valid_up_to());
                    out_some(from_utf8(text).unwrap_or_default(), out);
                    let Some(bad) = e.error_len() else {
                        self.held[..rest.len()].copy_from_slice(rest);
                        self.len = rest.len();
                        return;
                    };
                    out(BAD);
                    bytes = &rest[bad..];
                }
            }
        }
    }

    /// The end of a run of byte tokens.
    fn end_run(&mut self, out: &mut dyn FnMut(&str)) {
        if self.len == 0 {
            return;
        }
        let (held, len) = (self.held, self.len);
        self.len = 0;
        match from_utf8(&held[..len]) {
            Ok(text) => self.emit(text, out),
            Err(_) => (0..len).for_each(|_| self.emit(BAD, out)),
        }
    }

    /// A run too long to hold: its whole characters go out, the beginning of one stays.
    fn give_out_run(&mut self, out: &mut dyn FnMut(&str)) {
        let held = self.held;
        match from_utf8(&held) {
            Err(e) if e.error_len().is_none() => {
                let (text, rest) = held.split_at(e.valid_up_to());
                self.emit(from_utf8(text).unwrap_or_default(), out);
                self.held[..rest.len()].copy_from_slice(rest);
                self.len = rest.len();
            }
            _ => self.end_run(out),
        }
    }
}

fn out_some(text: &str, out: &mut dyn FnMut(&str)) {
    if !text.is_empty() {
        out(text);
    }
}

/// Decodes all ids: as a [`Decoder`] does, with runs of byte tokens of any length.
pub(super) fn all(tokenizer: &Tokenizer, ids: &[u32], skip_special: bool, out: &mut dyn FnMut(&str)) {
    let mut decoder = Decoder::new(tokenizer, skip_special);
    let tables = &tokenizer.tables;
    let shown = |&&id: &&u32| {
        let flags = tables.flags(id);
        flags & flag::UNUSED == 0 && !(skip_special && flags & flag::SPECIAL != 0)
    };
    let runs = tables.decoding() != Decoding::Bytes;
    let is_byte = |id: u32| runs && tables.flags(id) & flag::BYTE != 0;
    let mut at = 0;
    while at < ids.len() {
        if !is_byte(ids[at]) {
            decoder.push(tokenizer, ids[at], out);
            at += 1;
            continue;
        }
        let end = at + ids[at..].iter().position(|id| shown(&id) && !is_byte(*id)).unwrap_or(ids.len() - at);
        let run = || ids[at..end].iter().filter(shown).filter_map(|&id| tables.token(id).first());
        if is_text(run()) {
            let mut bytes = Decoder { decoding: Decoding::Bytes, skip_special, strip: false, held: [0; RUN], len: 0 };
            run().for_each(|&b| bytes.push_bytes(&[b], &mut |t| decoder.emit(t, out)));
        } else {
            run().for_each(|_| decoder.emit(BAD, out));
        }
        at = end;
    }
    decoder.finish(out);
}

/// Whether bytes are UTF-8 from beginning to end.
fn is_text<'b>(bytes: impl Iterator<Item = &'b u8>) -> bool {
    let (mut held, mut len) = ([0; 4], 0);
    for &byte in bytes {
        held[len] = byte;
        match from_utf8(&held[..=len]) {
            Ok(_) => len = 0,
            Err(e) if e.error_len().is_none() => len += 1,
            Err(_) => return false,
        }
    }
    len == 0
}
