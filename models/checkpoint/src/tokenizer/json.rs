//! tokenizer.json, as the `tokenizers` crate writes it.

use super::{AddedSpec, Decoding, MARK, Normalizer, Split, TokenizerSpec, Vocabulary, pair, resolve};
use crate::Error;
use crate::error::clip;
use serde::Deserialize;
use serde_json::Value;
use std::borrow::Cow;
use std::collections::HashMap;

const FILE: &str = "tokenizer.json";

#[derive(Deserialize)]
struct Head {
    #[serde(default)]
    added_tokens: Vec<AddedToken>,
    #[serde(default)]
    normalizer: Value,
    #[serde(default)]
    pre_tokenizer: Value,
    #[serde(default)]
    post_processor: Value,
    #[serde(default)]
    decoder: Value,
    model: ModelHead,
}

#[derive(Deserialize)]
struct ModelHead {
    #[serde(rename = "type")]
    kind: Option<String>,
    dropout: Option<f64>,
    unk_token: Option<Value>,
    continuing_subword_prefix: Option<String>,
    end_of_word_suffix: Option<String>,
    #[serde(default)]
    fuse_unk: bool,
    #[serde(default)]
    byte_fallback: bool,
    #[serde(default)]
    ignore_merges: bool,
}

#[derive(Deserialize)]
struct AddedToken {
    id: u32,
    content: String,
    #[serde(default)]
    special: bool,
    #[serde(default)]
    single_word: bool,
    #[serde(default)]
    lstrip: bool,
    #[serde(default)]
    rstrip: bool,
    #[serde(default)]
    normalized: bool,
}

#[derive(Deserialize)]
struct Body<'a> {
    #[serde(borrow)]
    model: Model<'a>,
}

#[derive(Deserialize)]
struct Model<'a> {
    #[serde(borrow)]
    vocab: HashMap<Text<'a>, u32>,
    #[serde(borrow)]
    merges: Vec<Merge<'a>>,
}

/// A string, borrowed where nothing in it is escaped.
#[derive(Deserialize, PartialEq, Eq, Hash)]
#[serde(transparent)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

#[derive(Deserialize)]
#[serde(untagged)]
enum Merge<'a> {
    #[serde(borrow)]
    Text(Text<'a>),
    #[serde(borrow)]
    Pair((Text<'a>, Text<'a>)),
}

fn read<'a, T: Deserialize<'a>>(file: &str, bytes: &'a [u8]) -> Result<T, Error> {
    serde_json::from_slice(bytes).map_err(|e| Error::Json { file: file.into(), message: e.to_string() })
}

fn unsupported<T>(what: &str, found: &Value, supported: &str) -> Result<T, Error> {
    Err(Error::Unsupported { what: clip(&format!("{what} {found}")), supported: supported.into() })
}

/// The `type` of a component; null and an empty sequence are none.
fn kind(component: &Value) -> &str {
    component.get("type").and_then(Value::as_str).unwrap_or("")
}

/// The parts of a sequence, or the one component, or none.
fn parts<'v>(component: &'v Value, list: &str) -> Vec<&'v Value> {
    match (component, kind(component)) {
        (Value::Null, _) => Vec::new(),
        (_, "Sequence") => component.get(list).and_then(Value::as_array).map_or_else(|| vec![component], |a| a.iter().collect()),
        _ => vec![component],
    }
}

fn string<'v>(component: &'v Value, path: &[&str]) -> &'v str {
    path.iter().try_fold(component, |v, key| v.get(key)).and_then(Value::as_str).unwrap_or("")
}

fn flag(component: &Value, key: &str) -> bool {
    component.get(key).and_then(Value::as_bool).unwrap_or(false)
}

pub(super) fn parse(tokenizer: &[u8], config: Option<&[u8]>) -> Result<TokenizerSpec, Error> {
    let head: Head = read(FILE, tokenizer)?;
    check_model(&head.model)?;
    let (split, byte_level) = split(&head.pre_tokenizer)?;
    let normalizer = normalizer(&head.normalizer, byte_level)?;
    let decoding = decoding(&head.decoder, byte_level)?;
    if head.model.byte_fallback == byte_level {
        let supported = "byte-level BPE without byte_fallback, SentencePiece BPE with it";
        return unsupported("byte_fallback", &Value::Bool(head.model.byte_fallback), supported);
    }
    let body: Body = read(FILE, tokenizer)?;
    let Model { vocab, merges } = body.model;
    let largest = vocab.values().copied().chain(head.added_tokens.iter().map(|a| a.id)).max();
    let mut vocabulary = Vocabulary::new(largest.map_or(0, |id| id as usize + 1), byte_level)?;
    // In the order of ids, so that what is found wrong does not depend on chance.
    let mut order: Vec<(u32, &str)> = vocab.iter().map(|(text, &id)| (id, &*text.0)).collect();
    order.sort_unstable();
    for &(id, text) in &order {
        vocabulary.put(id, text, true)?;
    }
    let mut ids: HashMap<&str, u32> = order.iter().map(|&(id, text)| (text, id)).collect();
    let pairs = merges.iter().enumerate().map(|(rank, merge)| match merge {
        Merge::Text(text) => pair(&text.0, rank),
        Merge::Pair((left, right)) => Ok((&*left.0, &*right.0)),
    });
    let merges = resolve(&ids, pairs.collect::<Result<Vec<_>, _>>()?.into_iter())?;
    let mut added = Vec::with_capacity(head.added_tokens.len());
    for token in &head.added_tokens {
        if token.content.is_empty() {
            continue;
        }
        if token.single_word {
            return unsupported("single_word of added token", &Value::from(token.content.as_str()), "false");
        }
        match ids.insert(&token.content, token.id) {
            None => vocabulary.put(token.id, &token.content, false)?,
            Some(id) if id == token.id => {}
            Some(id) => {
                return Err(Error::invalid(format!("id of added token {:?}", clip(&token.content)), id.to_string(), token.id));
            }
        }
        vocabulary.tokens[token.id as usize].special = token.special;
        let &AddedToken { id, special, lstrip, rstrip, normalized, .. } = token;
        added.push(AddedSpec { id, text: token.content.clone(), special, lstrip, rstrip, normalized });
    }
    if !byte_level && vocabulary.bytes.iter().any(Option::is_none) {
        let n = vocabulary.bytes.iter().flatten().count();
        return Err(Error::invalid("byte tokens <0x00> to <0xFF>", "256", n));
    }
    let unknown = match head.model.unk_token.as_ref().and_then(Value::as_str) {
        Some(text) => Some(*ids.get(text).ok_or_else(|| Error::missing(format!("unk_token {text:?}"), FILE))?),
        None => None,
    };
    let config: Value = config.map_or(Ok(Value::Null), |bytes| read("tokenizer_config.json", bytes))?;
    let named = |key: &str| {
        let value = config.get(key)?;
        let text = value.as_str().or_else(|| value.get("content").and_then(Value::as_str))?;
        ids.get(text).copied()
    };
    let (prefix, suffix) = template(&head.post_processor, vocabulary.tokens.len())?;
    Ok(TokenizerSpec {
        merges,
        added,
        normalizer,
        split,
        decoding,
        byte_fallback: head.model.byte_fallback,
        ignore_merges: head.model.ignore_merges,
        fuse_unknown: head.model.fuse_unk,
        unknown,
        bos: named("bos_token"),
        eos: named("eos_token"),
        pad: named("pad_token"),
        prefix,
        suffix,
        tokens: vocabulary.tokens,
        bytes: vocabulary.bytes,
    })
}

fn check_model(model: &ModelHead) -> Result<(), Error> {
    let kind = model.kind.as_deref().unwrap_or("BPE");
    if kind != "BPE" {
        return unsupported("tokenizer model", &Value::from(kind), "BPE");
    }
    if model.dropout.is_some_and(|p| p != 0.0) {
        return unsupported("dropout", &model.dropout.into(), "none");
    }
    for (key, value) in
        [("continuing_subword_prefix", &model.continuing_subword_prefix), ("end_of_word_suffix", &model.end_of_word_suffix)]
    {
        if let Some(text) = value.as_ref().filter(|text| !text.is_empty()) {
            return unsupported(key, &Value::from(text.as_str()), "none");
        }
    }
    Ok(())
}

const CONTRACTIONS: &str = "(?i:'s|'t|'re|'ve|'m|'ll|'d)";
const SPACES: &str = r"|\s*[\r\n]+|\s+(?!\S)|\s+";
const LARGE: &str = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]";
const SMALL: &str = r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]";

/// The split that an expression makes.
fn expression(regex: &str) -> Option<Split> {
    let llama =
        |digits: &str| format!(r"{CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|{digits}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*{SPACES}");
    let o200k = |digits: &str, end: &str| {
        let lead = r"[^\r\n\p{L}\p{N}]?";
        format!(r"{lead}{LARGE}*{SMALL}+{end}|{lead}{LARGE}+{SMALL}*{end}|{digits}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*{SPACES}")
    };
    let known = [
        (r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+".to_owned(), Split::Gpt2),
        (llama(r"\p{N}{1,3}"), Split::Llama3),
        (llama(r"\p{N}"), Split::Qwen2),
        (o200k(r"\p{N}{1,3}", &format!("{CONTRACTIONS}?")), Split::O200k),
        (o200k(r"\p{N}", ""), Split::Tekken),
    ];
    known.into_iter().find(|(text, _)| text == regex).map(|(_, split)| split)
}

const SUPPORTED_SPLITS: &str = "the expressions of GPT-2, Llama 3, Qwen 2, o200k and Tekken before ByteLevel, Digits before ByteLevel, \
                                or none for SentencePiece models";

/// How text is cut, and whether its letters are bytes.
fn split(component: &Value) -> Result<(Split, bool), Error> {
    let refuse = |found: &Value| unsupported("pre_tokenizer", found, SUPPORTED_SPLITS);
    let mut split = None;
    let mut digits = false;
    let mut byte_level = false;
    for part in parts(component, "pretokenizers") {
        if byte_level {
            return refuse(component);
        }
        match kind(part) {
            "Split" if !string(part, &["pattern", "Regex"]).is_empty() => {
                let regex = string(part, &["pattern", "Regex"]);
                if split.is_some() || string(part, &["behavior"]) != "Isolated" || flag(part, "invert") {
                    return refuse(component);
                }
                let Some(found) = expression(regex) else {
                    let what = format!("pre_tokenizer expression {}", clip(regex));
                    return Err(Error::Unsupported { what, supported: SUPPORTED_SPLITS.into() });
                };
                split = Some(found);
            }
            // Gemma writes this after a normalizer that leaves no space: it never cuts.
            "Split" if string(part, &["pattern", "String"]) == " " && string(part, &["behavior"]) == "MergedWithPrevious" => {
                if split.is_some() || flag(part, "invert") {
                    return refuse(component);
                }
                split = Some(Split::None);
            }
            "Digits" if flag(part, "individual_digits") && split.is_none() && !digits => digits = true,
            "ByteLevel" if !flag(part, "add_prefix_space") => {
                byte_level = true;
                let own = part.get("use_regex").and_then(Value::as_bool).unwrap_or(true);
                split = match (split, own, digits) {
                    (None, true, true) => Some(Split::DigitsGpt2),
                    (None, true, false) => Some(Split::Gpt2),
                    (Some(found), false, false) if found != Split::None => Some(found),
                    _ => return refuse(component),
                };
            }
            _ => return refuse(component),
        }
    }
    match split {
        Some(found) if byte_level == (found != Split::None) && (byte_level || !digits) => Ok((found, byte_level)),
        None if !digits => Ok((Split::None, false)),
        _ => refuse(component),
    }
}

fn is_marking(part: &Value) -> bool {
    kind(part) == "Replace" && string(part, &["pattern", "String"]) == " " && is_mark(string(part, &["content"]))
}

fn is_mark(text: &str) -> bool {
    text.chars().eq([MARK])
}

fn normalizer(component: &Value, byte_level: bool) -> Result<Normalizer, Error> {
    match (&parts(component, "normalizers")[..], byte_level) {
        ([], true) => Ok(Normalizer::None),
        ([part], true) if kind(part) == "NFC" => Ok(Normalizer::Nfc),
        ([part], false) if is_marking(part) => Ok(Normalizer::Spaces),
        ([first, part], false) if kind(first) == "Prepend" && is_mark(string(first, &["prepend"])) && is_marking(part) => {
            Ok(Normalizer::SpacesAfterOne)
        }
        _ => unsupported(
            "normalizer",
            component,
            "none or NFC for byte-level BPE; spaces to U+2581, with or without one prepended, for SentencePiece BPE",
        ),
    }
}

fn decoding(component: &Value, byte_level: bool) -> Result<Decoding, Error> {
    let list = parts(component, "decoders");
    let runs = |list: &[&Value]| {
        list.len() == 3
            && kind(list[0]) == "Replace"
            && is_mark(string(list[0], &["pattern", "String"]))
            && string(list[0], &["content"]) == " "
            && kind(list[1]) == "ByteFallback"
            && kind(list[2]) == "Fuse"
    };
    let number = |v: &Value, key: &str| v.get(key).and_then(Value::as_u64);
    match (&list[..], byte_level) {
        ([part], true) if kind(part) == "ByteLevel" => Ok(Decoding::Bytes),
        (list, false) if runs(list) => Ok(Decoding::ByteRuns),
        ([list @ .., strip], false)
            if runs(list)
                && kind(strip) == "Strip"
                && string(strip, &["content"]) == " "
                && number(strip, "start") == Some(1)
                && number(strip, "stop") == Some(0) =>
        {
            Ok(Decoding::ByteRunsStrip)
        }
        _ => unsupported(
            "decoder",
            component,
            "ByteLevel; or Replace U+2581, ByteFallback, Fuse, with or without Strip of one space",
        ),
    }
}

/// Ids that the post-processor puts before and after a text.
fn template(component: &Value, n_tokens: usize) -> Result<(Vec<u32>, Vec<u32>), Error> {
    const SUPPORTED: &str = "ByteLevel and TemplateProcessing";
    let (mut prefix, mut suffix) = (Vec::new(), Vec::new());
    let mut seen = false;
    for part in parts(component, "processors") {
        match kind(part) {
            "ByteLevel" => continue,
            "TemplateProcessing" if !seen => seen = true,
            _ => return unsupported("post_processor", component, SUPPORTED),
        }
        let mut text = false;
        for piece in part.get("single").and_then(Value::as_array).map_or(&[][..], Vec::as_slice) {
            if piece.get("Sequence").is_some() && !text {
                text = true;
                continue;
            }
            let name = string(piece, &["SpecialToken", "id"]);
            let ids = part.get("special_tokens").and_then(|map| map.get(name)?.get("ids")?.as_array());
            let Some(ids) = ids else { return unsupported("post_processor", component, SUPPORTED) };
            for id in ids {
                match id.as_u64().filter(|&id| id < n_tokens as u64) {
                    Some(id) => if text { &mut suffix } else { &mut prefix }.push(id as u32),
                    None => {
                        return Err(Error::invalid(format!("id of {name:?} in post_processor"), format!("below {n_tokens}"), id));
                    }
                }
            }
        }
        if !text {
            return unsupported("post_processor", component, SUPPORTED);
        }
    }
    Ok((prefix, suffix))
}
