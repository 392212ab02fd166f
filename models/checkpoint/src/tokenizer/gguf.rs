//! The vocabulary of a GGUF file.

use super::{AddedSpec, Decoding, MARK, MergeSpec, Normalizer, Split, TokenizerSpec, Vocabulary, pair, resolve};
use crate::Error;
use crate::gguf::Metadata;
use std::collections::HashMap;

const NORMAL: i32 = 1;
const UNKNOWN: i32 = 2;
const CONTROL: i32 = 3;
const USER_DEFINED: i32 = 4;
const UNUSED: i32 = 5;
const BYTE: i32 = 6;
/// Longest token that is cut in every way, in bytes.
const LONGEST: usize = 1024;

/// What a `tokenizer.ggml.pre` means: how text is cut, its normal form, whether whole tokens come before merges, and
/// whether a text begins with BOS when the file does not say.
fn rules(pre: &str) -> Option<(Split, Normalizer, bool, bool)> {
    Some(match pre {
        "gpt-2" | "phi-2" => (Split::Gpt2, Normalizer::None, false, false),
        "smollm" | "starcoder" | "refact" => (Split::DigitsGpt2, Normalizer::None, false, false),
        "llama-bpe" | "llama3" | "llama-v3" => (Split::Llama3, Normalizer::None, true, true),
        "qwen2" | "deepseek-r1-qwen" => (Split::Qwen2, Normalizer::Nfc, false, false),
        "gpt-4o" => (Split::O200k, Normalizer::None, false, false),
        "tekken" => (Split::Tekken, Normalizer::None, true, true),
        _ => return None,
    })
}

pub(super) fn parse(metadata: &Metadata<'_>) -> Result<TokenizerSpec, Error> {
    let place = "the GGUF file";
    let model = metadata.str("tokenizer.ggml.model")?.ok_or_else(|| Error::missing("tokenizer.ggml.model", place))?;
    let tokens = metadata.strings("tokenizer.ggml.tokens")?.ok_or_else(|| Error::missing("tokenizer.ggml.tokens", place))?;
    let types = metadata.i32s("tokenizer.ggml.token_type")?.unwrap_or_else(|| vec![NORMAL; tokens.len()]);
    if types.len() != tokens.len() {
        return Err(Error::invalid("tokenizer.ggml.token_type", format!("{} entries", tokens.len()), types.len()));
    }
    let byte_level = match model {
        "gpt2" => true,
        "llama" => false,
        _ => {
            return Err(Error::Unsupported {
                what: format!("tokenizer.ggml.model {}", crate::error::clip(model)),
                supported: "gpt2 (byte-level BPE), llama (SentencePiece BPE)".into(),
            });
        }
    };
    let spelled = |i: usize| -> String {
        // Converters write a user's own token as text has it; the model's spelling has U+2581.
        if !byte_level && types[i] == USER_DEFINED { tokens[i].replace(' ', &MARK.to_string()) } else { tokens[i].to_owned() }
    };
    let texts: Vec<String> = (0..tokens.len()).map(spelled).collect();
    let mut vocabulary = Vocabulary::new(texts.len(), byte_level)?;
    let mut added = Vec::new();
    for (id, (text, &kind)) in texts.iter().zip(&types).enumerate() {
        let id = id as u32;
        if kind == UNUSED {
            continue;
        }
        if !(NORMAL..=BYTE).contains(&kind) {
            return Err(Error::invalid(format!("tokenizer.ggml.token_type[{id}]"), "1 to 6", kind));
        }
        vocabulary.put(id, text, matches!(kind, NORMAL | USER_DEFINED))?;
        if matches!(kind, CONTROL | USER_DEFINED | UNKNOWN) && !text.is_empty() {
            let special = kind != USER_DEFINED;
            vocabulary.tokens[id as usize].special = special;
            added.push(AddedSpec { id, text: text.clone(), special, lstrip: false, rstrip: false, normalized: false });
        }
    }
    let id = |key: &str| -> Result<Option<u32>, Error> {
        match metadata.u32(key)? {
            Some(id) if id as usize >= tokens.len() => Err(Error::invalid(key, format!("below {}", tokens.len()), id)),
            id => Ok(id),
        }
    };
    let mut spec = TokenizerSpec {
        tokens: vocabulary.tokens,
        merges: Vec::new(),
        added,
        normalizer: Normalizer::Spaces,
        split: Split::None,
        decoding: Decoding::ByteRuns,
        bytes: vocabulary.bytes,
        byte_fallback: !byte_level,
        ignore_merges: false,
        fuse_unknown: !byte_level,
        unknown: None,
        bos: id("tokenizer.ggml.bos_token_id")?,
        eos: id("tokenizer.ggml.eos_token_id")?,
        pad: id("tokenizer.ggml.padding_token_id")?,
        prefix: Vec::new(),
        suffix: Vec::new(),
    };
    let mut add_bos = !byte_level;
    if byte_level {
        let pre = metadata.str("tokenizer.ggml.pre")?.unwrap_or("absent");
        (spec.split, spec.normalizer, spec.ignore_merges, add_bos) = rules(pre).ok_or_else(|| Error::Unsupported {
            what: format!("tokenizer.ggml.pre {}", crate::error::clip(pre)),
            supported: "gpt-2, smollm, llama-bpe, qwen2, deepseek-r1-qwen, gpt-4o, tekken".into(),
        })?;
        spec.decoding = Decoding::Bytes;
        let merges = metadata.strings("tokenizer.ggml.merges")?.ok_or_else(|| Error::missing("tokenizer.ggml.merges", place))?;
        let ids = spellings(&texts, &types);
        let pairs = merges.iter().enumerate().map(|(rank, text)| pair(text, rank)).collect::<Result<Vec<_>, _>>()?;
        spec.merges = resolve(&ids, pairs.into_iter())?;
    } else {
        if spec.bytes.iter().any(Option::is_none) {
            let n = spec.bytes.iter().flatten().count();
            return Err(Error::invalid("byte tokens <0x00> to <0xFF>", "256", n));
        }
        let scores = metadata.f32s("tokenizer.ggml.scores")?.ok_or_else(|| Error::missing("tokenizer.ggml.scores", place))?;
        if scores.len() != tokens.len() {
            return Err(Error::invalid("tokenizer.ggml.scores", format!("{} entries", tokens.len()), scores.len()));
        }
        if let Some(long) = texts.iter().find(|text| text.len() > LONGEST) {
            return Err(Error::invalid("longest token", format!("at most {LONGEST} bytes"), long.len()));
        }
        spec.merges = merges_of_scores(&texts, &types, &scores);
        spec.unknown = id("tokenizer.ggml.unknown_token_id")?;
        if metadata.bool("tokenizer.ggml.add_space_prefix")?.unwrap_or(true) {
            spec.normalizer = Normalizer::SpacesAfterOne;
            spec.decoding = Decoding::ByteRunsStrip;
        }
    }
    if metadata.bool("tokenizer.ggml.add_bos_token")?.unwrap_or(add_bos) {
        spec.prefix.extend(spec.bos);
    }
    if metadata.bool("tokenizer.ggml.add_eos_token")?.unwrap_or(false) {
        spec.suffix.extend(spec.eos);
    }
    Ok(spec)
}

/// Ids of the tokens that merging knows.
fn spellings<'t>(texts: &'t [String], types: &[i32]) -> HashMap<&'t str, u32> {
    let known = |kind: i32| matches!(kind, NORMAL | USER_DEFINED);
    let all = texts.iter().zip(types).enumerate();
    all.filter(|(_, (_, kind))| known(**kind)).map(|(id, (text, _))| (text.as_str(), id as u32)).collect()
}

/// Every way to cut a token into two, best score first, then longest left and longest right part, then by id: what
/// transformers derives from a SentencePiece model. A user's own token has the score 0 there, whatever is written here.
fn merges_of_scores(texts: &[String], types: &[i32], scores: &[f32]) -> Vec<MergeSpec> {
    struct Way {
        score: f32,
        chars: (usize, usize),
        merge: MergeSpec,
    }
    let ids = spellings(texts, types);
    let mut ways = Vec::new();
    for (&text, &merged) in &ids {
        let i = merged as usize;
        // Plus zero: −0 and 0 are one.
        let score = if types[i] == USER_DEFINED { 0.0 } else { scores[i] + 0.0 };
        let n_chars = text.chars().count();
        for (n, (at, _)) in text.char_indices().enumerate().skip(1) {
            if let (Some(&left), Some(&right)) = (ids.get(&text[..at]), ids.get(&text[at..])) {
                ways.push(Way { score, chars: (n, n_chars - n), merge: MergeSpec { left, right, merged } });
            }
        }
    }
    ways.sort_unstable_by(|a, b| {
        let key = |w: &Way| (w.merge.merged, w.merge.left, w.merge.right);
        b.score.total_cmp(&a.score).then(b.chars.cmp(&a.chars)).then(key(a).cmp(&key(b)))
    });
    ways.into_iter().map(|w| w.merge).collect()
}
