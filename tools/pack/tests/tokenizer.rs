//! From a tokenizer.json to ids and back through the packed tables; and through tables that were damaged.

use bourn_checkpoint::TokenizerSpec;
use bourn_core::text::{Decoder, EncodeOptions, Tokenizer};
use bourn_format::tokenizer::Tables;
use bourn_pack::tokenizer::section;
use proptest::prelude::*;
use serde_json::{Map, Value, json};
use std::sync::LazyLock;
use unicode_normalization::UnicodeNormalization;

const QWEN: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

fn letter(byte: u32) -> char {
    let itself = |b: u32| matches!(b, 0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff);
    char::from_u32(if itself(byte) { byte } else { 256 + (0..byte).filter(|&b| !itself(b)).count() as u32 }).unwrap()
}

fn byte_level() -> Value {
    let mut vocab: Map<String, Value> = (0..256).map(|b| (letter(b).to_string(), b.into())).collect();
    let merges = ["h e", "l l", "Ġ w", "he ll", "Ġ Ġ", "hell o", "ĠĠ ĠĠ", "Ġw o", "a a", "aa aa", "Ã ©", "Ċ Ċ"];
    for merge in merges {
        let id = vocab.len();
        vocab.insert(merge.replace(' ', ""), id.into());
    }
    json!({
        "added_tokens": [
            {"id": 300, "content": "<|end|>", "special": true},
            {"id": 301, "content": "<|end", "special": false},
            {"id": 302, "content": "<r>", "special": false, "rstrip": true, "lstrip": true}],
        "normalizer": {"type": "NFC"},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
            {"type": "Split", "pattern": {"Regex": QWEN}, "behavior": "Isolated", "invert": false},
            {"type": "ByteLevel", "add_prefix_space": false, "use_regex": false}]},
        "decoder": {"type": "ByteLevel"},
        "model": {"type": "BPE", "vocab": vocab, "merges": merges},
    })
}

fn sentencepiece() -> Value {
    let mut vocab: Map<String, Value> = (0..256).map(|b| (format!("<0x{b:02X}>"), b.into())).collect();
    let merges = ["▁ ▁", "a a", "▁ a", "aa a", "> ▁", "▁▁ ▁▁", "b c"];
    for text in ["▁", "a", "b", "c", ">", "é"].into_iter().map(str::to_owned).chain(merges.iter().map(|m| m.replace(' ', "")))
    {
        let id = vocab.len();
        vocab.insert(text, id.into());
    }
    json!({
        "added_tokens": [{"id": 300, "content": "<bos>", "special": true}],
        "normalizer": {"type": "Sequence", "normalizers": [
            {"type": "Prepend", "prepend": "▁"}, {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]},
        "post_processor": {"type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "<bos>"}}, {"Sequence": {"id": "A"}}],
            "special_tokens": {"<bos>": {"ids": [300]}}},
        "decoder": {"type": "Sequence", "decoders": [
            {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"},
            {"type": "Strip", "content": " ", "start": 1, "stop": 0}]},
        "model": {"type": "BPE", "vocab": vocab, "merges": merges, "byte_fallback": true},
    })
}

fn pack(json: &Value) -> Vec<u8> {
    section(&TokenizerSpec::from_tokenizer_json(json.to_string().as_bytes(), None).unwrap()).unwrap()
}

static BYTE_LEVEL: LazyLock<Vec<u8>> = LazyLock::new(|| pack(&byte_level()));
static SENTENCEPIECE: LazyLock<Vec<u8>> = LazyLock::new(|| pack(&sentencepiece()));

fn encode(section: &[u8], text: &str, add_special: bool, parse_special: bool) -> Vec<u32> {
    let tokenizer = Tokenizer::new(Tables::new_checked(section).unwrap());
    let mut scratch = vec![0; tokenizer.scratch_bytes(text.len())];
    let mut ids = Vec::new();
    tokenizer.encode(text, EncodeOptions { add_special, parse_special }, &mut scratch, &mut |id| ids.push(id)).unwrap();
    ids
}

fn decode(section: &[u8], ids: &[u32], skip_special: bool) -> String {
    let tokenizer = Tokenizer::new(Tables::new_checked(section).unwrap());
    let mut text = String::new();
    tokenizer.decode(ids, skip_special, &mut |part| text.push_str(part));
    let mut streamed = String::new();
    let mut decoder = Decoder::new(&tokenizer, skip_special);
    ids.iter().for_each(|&id| decoder.push(&tokenizer, id, &mut |part| streamed.push_str(part)));
    decoder.finish(&mut |part| streamed.push_str(part));
    assert_eq!(streamed, text);
    text
}

#[test]
fn the_same_specification_gives_the_same_bytes() {
    assert_eq!(pack(&byte_level()), pack(&byte_level()));
    assert_eq!(pack(&sentencepiece()), pack(&sentencepiece()));
}

#[test]
fn merges_by_rank_then_from_the_left() {
    let section = pack(&byte_level());
    assert_eq!(encode(&section, "hello", false, false), [261]);
    assert_eq!(encode(&section, "aaaaa", false, false), [265, u32::from(b'a')]);
    // Longer than what is searched from end to end: the queue.
    assert_eq!(encode(&section, &"a".repeat(4001), false, false), [vec![265; 1000], vec![u32::from(b'a')]].concat());
    assert_eq!(encode(&section, "e\u{301}", false, false), [266]);
}

#[test]
fn added_tokens_are_cut_out_leftmost_longest() {
    let section = pack(&byte_level());
    assert_eq!(encode(&section, "<|end|><|endx", false, true), [300, 301, u32::from(b'x')]);
    // A special token that is not parsed still hides the shorter one inside it, as in the tokenizers crate.
    assert!(!encode(&section, "<|end|>", false, false).contains(&301));
    assert_eq!(encode(&section, "a \n<r> \tb", false, true), [u32::from(b'a'), 302, u32::from(b'b')]);
    assert_eq!(decode(&section, &[300, 261, 300], true), "hello");
    assert_eq!(decode(&section, &[300, 261], false), "<|end|>hello");
}

#[test]
fn spaces_and_byte_tokens() {
    let section = pack(&sentencepiece());
    assert_eq!(encode(&section, "", true, false), [300]);
    assert_eq!(encode(&section, "aa", false, false), [256, 263]);
    assert_eq!(encode(&section, "é\u{2581}☺", false, false), [256, 261, 256, 0xe2, 0x98, 0xba]);
    // A piece may not begin at a space that some token holds together with what is before it.
    assert_eq!(encode(&section, "> b", false, false), [256, 266, 258]);
    assert_eq!(decode(&section, &[256, 257, 0xe2, 0x98, 0xba, 0xe2, 258], false), "a\u{fffd}\u{fffd}\u{fffd}\u{fffd}b");
    assert_eq!(decode(&section, &[0xe2, 0x98, 0xba, 258], false), "☺b");
    assert_eq!(decode(&section, &[0xef, 0xbf, 0xbd], false), "\u{fffd}");
    assert_eq!(decode(&section, &[900, 256, 256, 257], false), " a");
}

#[test]
fn a_text_that_fits_no_scratch_is_an_error() {
    let section = pack(&byte_level());
    let tokenizer = Tokenizer::new(Tables::new_checked(&section).unwrap());
    let text = "a".repeat(100);
    assert!(tokenizer.encode(&text, EncodeOptions::default(), &mut [0; 100], &mut |_| ()).is_err());
}

#[test]
fn rejects_a_damaged_header() {
    let section = pack(&byte_level());
    for (at, value) in [(4, 99), (5, 99), (6, 99), (0, 1), (55, 255)] {
        let mut damaged = section.clone();
        damaged[at] = value;
        assert!(Tables::new_checked(&damaged).is_err(), "byte {at}");
    }
    for cut in [0, 10, 175, section.len() - 1] {
        assert!(Tables::new_checked(&section[..cut]).is_err(), "{cut} bytes");
    }
}

fn text() -> impl Strategy<Value = String> {
    let part = prop_oneof![
        any::<String>(),
        "[ a-c\u{2581}>\n]{0,60}",
        "[\u{300}-\u{34e}ae\u{1100}-\u{1112}\u{1161}-\u{1175}\u{11a8}-\u{11c2}]{0,80}",
        Just("<|end|>".to_owned()),
        Just(" <r> ".to_owned()),
        "a{0,200}",
    ];
    proptest::collection::vec(part, 0..6).prop_map(|parts| parts.concat())
}

/// Characters of Unicode 9: what came later is no part of the normal form here.
fn is_old(c: char) -> bool {
    u32::from(c) < 0x850 || (0x1100..0x1200).contains(&u32::from(c)) || (0xac00..0xd7a4).contains(&u32::from(c))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn decodes_to_the_normal_form(text in text()) {
        let section = &*BYTE_LEVEL;
        prop_assume!(!text.contains("<r>") && text.chars().all(is_old));
        let normal: String = text.split("<|end|>").map(|part| part.nfc().collect::<String>()).collect::<Vec<_>>().join("<|end|>");
        prop_assume!(!text.contains("<|end") || text.matches("<|end").count() == text.matches("<|end|>").count());
        prop_assert_eq!(decode(section, &encode(section, &text, false, true), false), normal);
    }

    #[test]
    fn damaged_tables_never_panic(
        text in text(),
        ids in proptest::collection::vec(0u32..320, 0..60),
        damage in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..40),
        spaces in any::<bool>(),
    ) {
        let mut section = if spaces { SENTENCEPIECE.clone() } else { BYTE_LEVEL.clone() };
        let table = 48 + 8 * 16;
        for (at, value) in damage {
            // Beyond the header, and now and then in it.
            let at = if value % 8 == 0 { at.index(section.len()) } else { table + at.index(section.len() - table) };
            section[at] = value;
        }
        if let Ok(tables) = Tables::new_checked(&section) {
            let tokenizer = Tokenizer::new(tables);
            let mut scratch = vec![0; tokenizer.scratch_bytes(text.len())];
            let n_tokens = tokenizer.n_tokens();
            let options = EncodeOptions { add_special: true, parse_special: true };
            let _ = tokenizer.encode(&text, options, &mut scratch, &mut |id| assert!((id as usize) < n_tokens));
            tokenizer.decode(&ids, true, &mut |_| ());
            let mut decoder = Decoder::new(&tokenizer, false);
            ids.iter().for_each(|&id| decoder.push(&tokenizer, id, &mut |_| ()));
            decoder.finish(&mut |_| ());
        }
    }
}
