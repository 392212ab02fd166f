//! The TOKENIZER section: ids out of any text, text out of any id.

use bourn_core::text::{EncodeOptions, Tokenizer};
use bourn_format::tokenizer::Tables;

/// A section; then a text to encode with it, the text's length in the last two bytes.
pub fn tokenizer_section(data: &[u8]) {
    let Some((rest, length)) = data.split_last_chunk::<2>() else { return };
    let text_bytes = usize::from(u16::from_le_bytes(*length)).min(rest.len());
    let (section, text) = rest.split_at(rest.len() - text_bytes);
    let Ok(tables) = Tables::new_checked(section) else { return };
    round_trip(tables, &String::from_utf8_lossy(text));
}

/// Encodes the text and decodes what came out, and ids at the ends of the vocabulary and beyond.
pub(crate) fn round_trip(tables: Tables<'_>, text: &str) {
    let tokenizer = Tokenizer::new(tables);
    let mut scratch = vec![0; tokenizer.scratch_bytes(text.len())];
    for add_special in [false, true] {
        let options = EncodeOptions { add_special, parse_special: add_special };
        let mut ids = Vec::new();
        let encoded = tokenizer.encode(text, options, &mut scratch, &mut |id| ids.push(id));
        assert!(encoded.is_ok(), "scratch of the stated size is enough: {encoded:?}");
        let n = tokenizer.n_tokens() as u32;
        ids.extend([0, n.wrapping_sub(1), n, u32::MAX]);
        let mut decoded = 0;
        tokenizer.decode(&ids, !add_special, &mut |piece| decoded += piece.len());
        std::hint::black_box(decoded);
    }
    let ends = [tokenizer.bos(), tokenizer.eos(), tokenizer.pad(), tokenizer.added_id(text)];
    for id in ends.into_iter().flatten() {
        std::hint::black_box((tokenizer.is_special(id), tokenizer.token_bytes(id).len()));
    }
}
