//! A Hugging Face folder: config.json, safetensors, tokenizer, generation config, template, licence.

use std::collections::HashMap;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use serde_json::Value;

use crate::checkpoint::Parts;
use crate::config::{Config, Json, Keys};
use crate::map::Mapped;
use crate::resolve::Found;
use crate::spec::GenerationSpec;
use crate::tokenizer::TokenizerSpec;
use crate::{Error, families, resolve, safetensors};

/// Longest config, index, template or licence that is read; parsed ones take a few tens of bytes a byte.
const MAX_TEXT_BYTES: u64 = 16 << 20;
/// Longest tokenizer.json that is read: the largest published ones are near 40 MB.
const MAX_TABLE_BYTES: u64 = 256 << 20;

/// Reads every file but the weights, and maps those.
pub(crate) fn open(dir: &Path) -> Result<(Parts, Vec<Mapped>), Error> {
    let bytes = read(dir, "config.json", MAX_TEXT_BYTES)?.ok_or_else(|| Error::missing("config.json", "the folder"))?;
    let json = Json::parse(&bytes, "config.json")?;
    let config = Config::new(&json)?;
    let mapping = families::by_model_type(config.model_type()?)?;
    let mut spec = mapping.spec(config)?;
    let (files, found) = weights(dir)?;
    let tensors = resolve::hugging_face(mapping, &mut spec, &found)?;

    let tokenizer_config = read(dir, "tokenizer_config.json", MAX_TEXT_BYTES)?;
    let tokenizer = match read(dir, "tokenizer.json", MAX_TABLE_BYTES)? {
        Some(json) => Some(TokenizerSpec::from_tokenizer_json(&json, tokenizer_config.as_deref())?),
        None => None,
    };
    let (license, license_text) = license(dir)?;
    let parts = Parts {
        tokenizer,
        chat_template: chat_template(dir, tokenizer_config.as_deref())?,
        generation: generation(dir, config, spec.vocab)?,
        license,
        license_text,
        name: config.top.str("_name_or_path")?.filter(|name| !name.is_empty()).map(str::to_owned),
        spec,
        tensors,
    };
    Ok((parts, files))
}

/// A file of the folder; `None` when it is not there.
fn read(dir: &Path, name: &str, most: u64) -> Result<Option<Vec<u8>>, Error> {
    let path = dir.join(name);
    let io = |source| Error::Io { path: path.clone(), source };
    let file = match File::open(&path) {
        Ok(file) => file,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(io(e)),
    };
    let mut bytes = Vec::new();
    file.take(most + 1).read_to_end(&mut bytes).map_err(io)?;
    if bytes.len() as u64 > most {
        return Err(Error::invalid(name, format!("at most {most} bytes"), "more"));
    }
    Ok(Some(bytes))
}

fn text(dir: &Path, name: &str) -> Result<Option<String>, Error> {
    let Some(bytes) = read(dir, name, MAX_TEXT_BYTES)? else { return Ok(None) };
    String::from_utf8(bytes).map(Some).map_err(|e| Error::invalid(name, "UTF-8", e.utf8_error()))
}

/// Maps the weights: one file, or the shards that the index names.
fn weights(dir: &Path) -> Result<(Vec<Mapped>, HashMap<String, Found>), Error> {
    const SINGLE: &str = "model.safetensors";
    const INDEX: &str = "model.safetensors.index.json";
    let mut files = Vec::new();
    let mut found = HashMap::new();
    if dir.join(SINGLE).is_file() {
        let file = Mapped::open(&dir.join(SINGLE))?;
        for (name, tensor) in safetensors::parse(file.bytes(), SINGLE)? {
            found.insert(name, tensor.into_found(0));
        }
        files.push(file);
        return Ok((files, found));
    }
    let Some(bytes) = read(dir, INDEX, MAX_TEXT_BYTES)? else {
        return Err(Error::missing(format!("{SINGLE} and no {INDEX}"), "the folder"));
    };
    let json = Json::parse(&bytes, INDEX)?;
    let map = json.keys().object("weight_map")?.ok_or_else(|| Error::missing("weight_map", INDEX))?;
    let mut shards: Vec<&str> = map.entries().filter_map(|(_, shard)| shard.as_str()).collect();
    shards.sort_unstable();
    shards.dedup();
    for shard in shards {
        if shard.contains(['/', '\\', ':', '\0']) || !shard.ends_with(".safetensors") {
            return Err(Error::invalid(format!("{INDEX}: a shard's name"), "a .safetensors file of the folder", shard));
        }
        let file = Mapped::open(&dir.join(shard))?;
        for (name, tensor) in safetensors::parse(file.bytes(), shard)? {
            if map.str(&name)? == Some(shard) {
                found.insert(name, tensor.into_found(files.len()));
            }
        }
        files.push(file);
    }
    match map.entries().find(|(name, _)| !found.contains_key(*name)) {
        Some((name, shard)) => Err(Error::missing(format!("tensor {name}"), format!("shard {shard}"))),
        None => Ok((files, found)),
    }
}

/// The folder's own file first; else what tokenizer_config.json has: one template, or several by name.
fn chat_template(dir: &Path, tokenizer_config: Option<&[u8]>) -> Result<Option<String>, Error> {
    const KEY: &str = "chat_template";
    if let Some(template) = text(dir, "chat_template.jinja")? {
        return Ok(Some(template));
    }
    let Some(bytes) = tokenizer_config else { return Ok(None) };
    let json = Json::parse(bytes, "tokenizer_config.json")?;
    match json.keys().get(KEY) {
        None => Ok(None),
        Some(Value::String(template)) => Ok(Some(template.clone())),
        Some(Value::Array(named)) => {
            let default = named.iter().find(|t| t.get("name").and_then(Value::as_str) == Some("default"));
            Ok(default.or(named.first()).and_then(|t| t.get("template")).and_then(Value::as_str).map(str::to_owned))
        }
        Some(other) => Err(Error::invalid("tokenizer_config.json: chat_template", "a string or a list", other)),
    }
}

/// What generation_config.json recommends; where text ends by it and by the config.
fn generation(dir: &Path, config: Config<'_>, vocab: u32) -> Result<GenerationSpec, Error> {
    const FILE: &str = "generation_config.json";
    let mut spec = GenerationSpec { eos: config.eos()?, ..GenerationSpec::default() };
    if let Some(bytes) = read(dir, FILE, MAX_TEXT_BYTES)? {
        let json = Json::parse(&bytes, FILE)?;
        let keys = json.keys();
        spec.eos.extend(keys.ids("eos_token_id")?);
        sampling(&mut spec, keys)?;
    }
    spec.eos.retain(|id| *id < vocab);
    spec.eos.sort_unstable();
    spec.eos.dedup();
    Ok(spec)
}

/// Sampling is off where `do_sample` is false; where it is true a temperature that is not given is 1.
fn sampling(spec: &mut GenerationSpec, keys: Keys<'_>) -> Result<(), Error> {
    let sample = keys.bool("do_sample")?;
    if sample == Some(false) {
        spec.temperature = Some(0.0);
        return Ok(());
    }
    let unsigned = |key| match keys.f64(key)? {
        Some(v) if v < 0.0 => Err(Error::invalid(format!("generation_config.json: {key}"), "0 or more", v)),
        other => Ok(other.map(|v| v as f32)),
    };
    spec.temperature = unsigned("temperature")?.or((sample == Some(true)).then_some(1.0));
    spec.top_k = keys.u32("top_k")?;
    spec.top_p = unsigned("top_p")?;
    spec.min_p = unsigned("min_p")?;
    spec.repetition_penalty = unsigned("repetition_penalty")?;
    Ok(())
}

/// The identifier in the model card's front matter, else the first line of the licence; and the licence.
fn license(dir: &Path) -> Result<(Option<String>, Option<String>), Error> {
    let mut whole = None;
    for name in ["LICENSE", "LICENSE.txt", "LICENSE.md"] {
        if let Some(bytes) = read(dir, name, MAX_TEXT_BYTES)? {
            whole = Some(String::from_utf8_lossy(&bytes).into_owned());
            break;
        }
    }
    let card = read(dir, "README.md", MAX_TEXT_BYTES)?.unwrap_or_default();
    let named = front_matter(&String::from_utf8_lossy(&card));
    let first_line = || whole.as_deref()?.lines().map(str::trim).find(|line| !line.is_empty()).map(str::to_owned);
    Ok((named.or_else(first_line), whole))
}

/// `license` of a model card; `license_name` where that says "other".
fn front_matter(card: &str) -> Option<String> {
    let mut lines = card.lines();
    if lines.next()?.trim_end() != "---" {
        return None;
    }
    let (mut license, mut name) = (None, None);
    for line in lines.take_while(|line| line.trim_end() != "---") {
        let value = |text: &str| text.trim().trim_matches(['"', '\'']).to_owned();
        match line.split_once(':') {
            Some(("license", text)) => license = Some(value(text)),
            Some(("license_name", text)) => name = Some(value(text)),
            _ => {}
        }
    }
    let license = license.filter(|l| !l.is_empty());
    if license.as_deref() == Some("other") { name.or(license) } else { license }
}
