//! A GGUF file as a checkpoint: its keys respelled as config.json, so that each family reads one spelling.

use std::collections::HashMap;

use serde_json::{Map, Value, json};

use crate::checkpoint::Parts;
use crate::config::{Config, Json};
use crate::dtype::{Dtype, dequantize};
use crate::error::clip;
use crate::gguf::{Gguf, Metadata, Tensor};
use crate::resolve::Found;
use crate::spec::GenerationSpec;
use crate::tokenizer::TokenizerSpec;
use crate::{Error, families, resolve};

/// Keys after `<arch>.` that are integers, and their names in config.json.
const INTEGERS: [(&str, &str); 10] = [
    ("block_count", "num_hidden_layers"),
    ("embedding_length", "hidden_size"),
    ("feed_forward_length", "intermediate_size"),
    ("attention.head_count", "num_attention_heads"),
    ("attention.head_count_kv", "num_key_value_heads"),
    ("attention.key_length", "head_dim"),
    ("context_length", "max_position_embeddings"),
    ("rope.dimension_count", "rotary_dim"),
    ("attention.sliding_window", "sliding_window"),
    ("rope.scaling.original_context_length", "original_max_position_embeddings"),
];
/// The same for numbers.
const NUMBERS: [(&str, &str); 5] = [
    ("attention.layer_norm_rms_epsilon", "rms_norm_eps"),
    ("final_logit_softcapping", "final_logit_softcapping"),
    ("attn_logit_softcapping", "attn_logit_softcapping"),
    ("rope.freq_base", "rope_theta"),
    ("rope.freq_base_swa", "rope_local_base_freq"),
];
/// The same inside `rope_scaling`.
const ROPE_NUMBERS: [(&str, &str); 7] = [
    ("rope.scaling.factor", "factor"),
    ("rope.scaling.attn_factor", "attention_factor"),
    ("rope.scaling.yarn_beta_fast", "beta_fast"),
    ("rope.scaling.yarn_beta_slow", "beta_slow"),
    ("rope.scaling.yarn_log_multiplier", "mscale"),
    ("rope.scaling.yarn_log_multiplier", "mscale_all_dim"),
    ("attention.temperature_scale", "llama_4_scaling_beta"),
];
/// Tensors that hold one rope factor for each pair, what they are called inside `rope_scaling`, and the rope they mean.
const ROPE_TENSORS: [(&str, &str, &str); 3] = [
    ("rope_freqs.weight", "divisors", "divisors"),
    ("rope_factors_short.weight", "short_factor", "longrope"),
    ("rope_factors_long.weight", "long_factor", "longrope"),
];
/// Layers of Gemma 3 27B, whose scores are scaled by `hidden / heads` (168) instead of the head's width, which GGUF does not say.
const GEMMA_27B_LAYERS: u32 = 62;
/// Tokens that end a turn or a text in every vocabulary that has them.
const END_TOKENS: [&str; 6] = ["<|im_end|>", "<end_of_turn>", "<|eot_id|>", "<|eom_id|>", "<|end|>", "<|endoftext|>"];

/// Reads the header of a mapped file.
pub(crate) fn open(bytes: &[u8]) -> Result<Parts, Error> {
    let Gguf { metadata, tensors } = Gguf::parse(bytes)?;
    let arch = metadata.str("general.architecture")?.ok_or_else(|| Error::missing("general.architecture", "GGUF"))?;
    let mapping = families::by_arch(arch)?;
    let json = Json::new("GGUF", config(arch, mapping.model_type(), &metadata, &tensors, bytes)?);
    let mut spec = mapping.spec(Config::new(&json)?)?;
    let found = tensors
        .into_iter()
        .map(|(name, t)| (name.to_owned(), Found { file: 0, offset: t.offset, shape: t.shape, dtype: Ok(t.dtype) }))
        .collect();
    let entries = resolve::gguf(mapping, &mut spec, &found)?;
    let tokenizer = match metadata.has("tokenizer.ggml.tokens") {
        true => Some(TokenizerSpec::from_gguf(&metadata)?),
        false => None,
    };
    let owned = |key| metadata.str(key).map(|text| text.map(str::to_owned));
    Ok(Parts {
        tokenizer,
        chat_template: owned("tokenizer.chat_template")?,
        generation: generation(&metadata, spec.vocab)?,
        license: match owned("general.license")? {
            Some(other) if other == "other" => owned("general.license.name")?.or(Some(other)),
            license => license,
        },
        license_text: None,
        name: owned("general.name")?,
        spec,
        tensors: entries,
    })
}

/// The keys as config.json spells them.
fn config(
    arch: &str,
    model_type: &str,
    metadata: &Metadata<'_>,
    tensors: &HashMap<&str, Tensor>,
    bytes: &[u8],
) -> Result<Map<String, Value>, Error> {
    let key = |name: &str| format!("{arch}.{name}");
    let mut config = Map::new();
    let mut rope = Map::new();
    config.insert("model_type".to_owned(), json!(model_type));
    config.insert("tie_word_embeddings".to_owned(), json!(!tensors.contains_key("output.weight")));
    for (name, to) in INTEGERS {
        if let Some(value) = metadata.u32(&key(name))? {
            config.insert(to.to_owned(), json!(value));
        }
    }
    // llama.cpp's defaults, which are not those of config.json.
    let size = |key: &str| config.get(key).and_then(Value::as_u64);
    let (hidden, heads) = (size("hidden_size"), size("num_attention_heads"));
    if let (Some(hidden), Some(heads @ 1..)) = (hidden, heads) {
        config.entry("head_dim").or_insert(json!(hidden / heads));
        config.entry("num_key_value_heads").or_insert(json!(heads));
    }
    for (name, to) in NUMBERS {
        if let Some(value) = number(metadata, &key(name))? {
            config.insert(to.to_owned(), value);
        }
    }
    for (name, to) in ROPE_NUMBERS {
        match number(metadata, &key(name))? {
            Some(value) if value.as_f64() != Some(0.0) => drop(rope.insert(to.to_owned(), value)),
            _ => {}
        }
    }
    let (head, value) = (metadata.u32(&key("attention.key_length"))?, metadata.u32(&key("attention.value_length"))?);
    if let (Some(head), Some(value)) = (head, value)
        && head != value
    {
        return Err(Error::invalid(key("attention.value_length"), head.to_string(), value));
    }
    if let Some(kind) = metadata.str(&key("rope.scaling.type"))? {
        rope.insert("rope_type".to_owned(), json!(kind));
    }
    for (name, to, kind) in ROPE_TENSORS {
        if let Some(tensor) = tensors.get(name) {
            rope.insert(to.to_owned(), factors(name, tensor, bytes)?);
            rope.insert("rope_type".to_owned(), json!(kind));
        }
    }
    if rope.contains_key("rope_type") {
        config.insert("rope_scaling".to_owned(), Value::Object(rope));
    }
    if arch == "gemma3" {
        gemma3(metadata, &mut config)?;
    }
    Ok(config)
}

/// What Gemma 3 files leave unsaid.
fn gemma3(metadata: &Metadata<'_>, config: &mut Map<String, Value>) -> Result<(), Error> {
    let of = |config: &Map<String, Value>, key: &str| config.get(key).and_then(Value::as_u64).unwrap_or(0);
    let (layers, heads) = (of(config, "num_hidden_layers"), of(config, "num_attention_heads"));
    let scalar = match (layers == u64::from(GEMMA_27B_LAYERS), heads) {
        (true, 1..) => of(config, "hidden_size") / heads,
        _ => of(config, "head_dim"),
    };
    if scalar > 0 {
        config.insert("query_pre_attn_scalar".to_owned(), json!(scalar));
    }
    if !config.contains_key("sliding_window") {
        config.insert("sliding_window".to_owned(), json!(0));
    }
    const PATTERN: &str = "gemma3.attention.sliding_window_pattern";
    match metadata.bools(PATTERN) {
        Some(sliding) if sliding.len() as u64 == layers => {
            let name = |slides: bool| if slides { "sliding_attention" } else { "full_attention" };
            config.insert("layer_types".to_owned(), sliding.into_iter().map(name).collect());
        }
        Some(sliding) => return Err(Error::invalid(PATTERN, format!("{layers} entries"), sliding.len())),
        None => {
            if let Some(pattern) = metadata.u32(PATTERN)? {
                config.insert("sliding_window_pattern".to_owned(), json!(pattern));
            }
        }
    }
    Ok(())
}

/// A finite number of the file.
fn number(metadata: &Metadata<'_>, key: &str) -> Result<Option<Value>, Error> {
    match metadata.f32(key)? {
        None => Ok(None),
        Some(value) if value.is_finite() => Ok(Some(json!(value))),
        Some(value) => Err(Error::invalid(key, "a finite number", value)),
    }
}

/// The values of a small tensor.
fn factors(name: &str, tensor: &Tensor, bytes: &[u8]) -> Result<Value, Error> {
    const MOST: u64 = 256;
    let &[n @ 1..=MOST] = tensor.shape.as_slice() else {
        return Err(Error::invalid(format!("shape of tensor {name}"), format!("up to [{MOST}]"), format!("{:?}", tensor.shape)));
    };
    if tensor.dtype != Dtype::F32 {
        return Err(Error::Dtype { tensor: clip(name), found: tensor.dtype.name().to_owned() });
    }
    let mut values = vec![0.0; n as usize];
    let at = tensor.offset as usize;
    dequantize(Dtype::F32, bytes.get(at..at + 4 * n as usize).unwrap_or(&[]), &mut values);
    Ok(json!(values))
}

/// Where text ends, and the sampling that newer files recommend.
fn generation(metadata: &Metadata<'_>, vocab: u32) -> Result<GenerationSpec, Error> {
    let mut eos = Vec::new();
    for key in ["eos", "eot", "eom"] {
        eos.extend(metadata.u32(&format!("tokenizer.ggml.{key}_token_id"))?);
    }
    if let Some(tokens) = metadata.byte_strings("tokenizer.ggml.tokens")? {
        let ends = |token: &[u8]| token.len() <= 13 && END_TOKENS.iter().any(|end| end.as_bytes() == token);
        eos.extend(tokens.iter().enumerate().filter(|(_, token)| ends(token)).map(|(id, _)| id as u32));
    }
    eos.retain(|id| *id < vocab);
    eos.sort_unstable();
    eos.dedup();
    let number = |key: &str| metadata.f32(&format!("general.sampling.{key}")).map(|v| v.filter(|v| v.is_finite() && *v >= 0.0));
    Ok(GenerationSpec {
        eos,
        temperature: number("temp")?,
        top_k: metadata.u32("general.sampling.top_k")?,
        top_p: number("top_p")?,
        min_p: number("min_p")?,
        repetition_penalty: number("penalty_repeat")?,
    })
}
