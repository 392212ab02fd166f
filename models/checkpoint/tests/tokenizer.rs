//! What a tokenizer.json may say, and what is refused with a reason.

use bourn_checkpoint::TokenizerSpec;
use bourn_checkpoint::tokenizer::{Decoding, Normalizer, Split, TokenKind};
use serde_json::{Value, json};

/// Letters GPT-2 writes bytes with.
fn letters() -> Vec<String> {
    let itself = |b: u32| matches!(b, 0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff);
    let mut next = 255;
    let letter = |b: u32| {
        if itself(b) {
            b
        } else {
            next += 1;
            next
        }
    };
    (0..256).map(letter).map(|c| char::from_u32(c).unwrap().to_string()).collect()
}

fn byte_level() -> Value {
    let mut vocab: serde_json::Map<String, Value> = letters().into_iter().zip((0..256).map(Value::from)).collect();
    vocab.insert("he".into(), 256.into());
    vocab.insert("Ġhe".into(), 257.into());
    json!({
        "added_tokens": [{"id": 258, "content": "<|end|>", "special": true, "normalized": false}],
        "normalizer": null,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "use_regex": true},
        "post_processor": null,
        "decoder": {"type": "ByteLevel"},
        "model": {"type": "BPE", "vocab": vocab, "merges": ["h e", ["Ġ", "he"]]},
    })
}

fn sentencepiece() -> Value {
    let mut vocab: serde_json::Map<String, Value> = (0..256).map(|b| (format!("<0x{b:02X}>"), b.into())).collect();
    for (i, text) in ["▁", "a", "▁a", "<unk>"].into_iter().enumerate() {
        vocab.insert(text.into(), (256 + i).into());
    }
    json!({
        "added_tokens": [{"id": 260, "content": "<bos>", "special": true}],
        "normalizer": {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
        "pre_tokenizer": null,
        "post_processor": {"type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "<bos>"}}, {"Sequence": {"id": "A"}}],
            "special_tokens": {"<bos>": {"ids": [260]}}},
        "decoder": {"type": "Sequence", "decoders": [
            {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"}]},
        "model": {"type": "BPE", "vocab": vocab, "merges": ["▁ a"], "byte_fallback": true, "fuse_unk": true, "unk_token": "<unk>"},
    })
}

fn parse(json: &Value) -> Result<TokenizerSpec, String> {
    TokenizerSpec::from_tokenizer_json(json.to_string().as_bytes(), None).map_err(|e| e.to_string())
}

#[track_caller]
fn refused(mut json: Value, pointer: &str, value: Value, names: &[&str]) {
    match json.pointer_mut(pointer) {
        Some(place) => *place = value,
        None => {
            let (parent, key) = pointer.rsplit_once('/').unwrap();
            json.pointer_mut(parent).unwrap()[key] = value;
        }
    }
    let error = parse(&json).unwrap_err();
    for name in names {
        assert!(error.contains(name), "{error:?} does not name {name:?}");
    }
}

#[test]
fn reads_byte_level_bpe() {
    let spec = parse(&byte_level()).unwrap();
    assert_eq!((spec.split, spec.normalizer, spec.decoding), (Split::Gpt2, Normalizer::None, Decoding::Bytes));
    assert_eq!(spec.tokens.len(), 259);
    assert_eq!(spec.tokens[257].bytes, b" he");
    assert_eq!(spec.bytes[usize::from(b'\n')], Some(10));
    assert_eq!(spec.merges.len(), 2);
    assert_eq!((spec.tokens[258].kind, spec.tokens[258].special), (TokenKind::Whole, true));
}

#[test]
fn reads_sentencepiece_bpe() {
    let spec = parse(&sentencepiece()).unwrap();
    assert_eq!((spec.split, spec.normalizer, spec.decoding), (Split::None, Normalizer::Spaces, Decoding::ByteRuns));
    assert_eq!(spec.tokens[258].bytes, b" a");
    assert_eq!((spec.tokens[10].kind, &spec.tokens[10].bytes[..]), (TokenKind::Byte, &b"\n"[..]));
    assert_eq!((spec.prefix, spec.unknown), (vec![260], Some(259)));
}

#[test]
fn names_tokens_of_the_config() {
    let config = br#"{"bos_token": "<|end|>", "eos_token": {"content": "<|end|>"}, "pad_token": null}"#;
    let spec = TokenizerSpec::from_tokenizer_json(byte_level().to_string().as_bytes(), Some(config)).unwrap();
    assert_eq!((spec.bos, spec.eos, spec.pad), (Some(258), Some(258), None));
}

#[test]
fn rejects_other_models() {
    for kind in ["WordPiece", "Unigram", "WordLevel"] {
        refused(byte_level(), "/model/type", kind.into(), &[kind, "BPE"]);
    }
}

#[test]
fn rejects_unknown_expressions() {
    let split = json!({"type": "Sequence", "pretokenizers": [
        {"type": "Split", "pattern": {"Regex": r"\w+"}, "behavior": "Isolated", "invert": false},
        {"type": "ByteLevel", "add_prefix_space": false, "use_regex": false}]});
    refused(byte_level(), "/pre_tokenizer", split, &[r"\w+", "Llama 3"]);
}

#[test]
fn rejects_unknown_components() {
    refused(byte_level(), "/pre_tokenizer", json!({"type": "Whitespace"}), &["Whitespace", "ByteLevel"]);
    refused(sentencepiece(), "/pre_tokenizer", json!({"type": "Metaspace"}), &["Metaspace"]);
    refused(byte_level(), "/normalizer", json!({"type": "Lowercase"}), &["Lowercase", "NFC"]);
    refused(sentencepiece(), "/normalizer", json!({"type": "NFKC"}), &["NFKC"]);
    refused(byte_level(), "/decoder", Value::Null, &["decoder", "ByteLevel"]);
    refused(sentencepiece(), "/decoder", json!({"type": "WordPiece"}), &["WordPiece"]);
    refused(byte_level(), "/post_processor", json!({"type": "BertProcessing"}), &["BertProcessing", "TemplateProcessing"]);
}

#[test]
fn rejects_settings_that_change_ids() {
    refused(byte_level(), "/pre_tokenizer/add_prefix_space", true.into(), &["add_prefix_space"]);
    refused(byte_level(), "/model/dropout", 0.1.into(), &["dropout", "0.1"]);
    refused(byte_level(), "/model/end_of_word_suffix", "</w>".into(), &["end_of_word_suffix", "</w>"]);
    refused(byte_level(), "/model/byte_fallback", true.into(), &["byte_fallback"]);
    refused(sentencepiece(), "/model/byte_fallback", false.into(), &["byte_fallback"]);
    refused(byte_level(), "/added_tokens/0/single_word", true.into(), &["single_word", "<|end|>"]);
}

#[test]
fn rejects_vocabularies_that_do_not_hold_together() {
    refused(byte_level(), "/model/merges", json!(["h q"]), &["merge 0", "hq"]);
    refused(byte_level(), "/model/merges", json!(["he"]), &["merge 0", "he"]);
    refused(byte_level(), "/model/vocab/he", 0.into(), &["token 0"]);
    refused(byte_level(), "/model/vocab/he", u32::MAX.into(), &["largest token id"]);
    refused(byte_level(), "/added_tokens/0/id", 5.into(), &["token 5"]);
    refused(byte_level(), "/added_tokens/0/content", "he".into(), &["256", "258"]);
    refused(byte_level(), "/model/unk_token", "<none>".into(), &["<none>"]);
    refused(sentencepiece(), "/model/vocab/<0x0A>", Value::Null, &["tokenizer.json"]);
    refused(sentencepiece(), "/post_processor/special_tokens/<bos>/ids", json!([999]), &["999"]);
    let mut json = sentencepiece();
    json["model"]["vocab"].as_object_mut().unwrap().remove("<0x0A>");
    assert!(parse(&json).unwrap_err().contains("256"));
}

#[test]
fn rejects_what_is_no_tokenizer() {
    for text in ["", "{}", "[]", "null", "{\"model\": 1}", "{\"model\": {\"vocab\": []}}"] {
        assert!(TokenizerSpec::from_tokenizer_json(text.as_bytes(), None).is_err(), "{text}");
    }
}
