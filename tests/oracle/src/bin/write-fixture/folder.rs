//! The tiny checkpoint as a Hugging Face folder.

use std::path::Path;

use anyhow::{Context, Result};
use serde_json::{Value, json};

const HIDDEN: usize = 64;
const FFN: usize = 96;
const HEADS: usize = 2;
const KV_HEADS: usize = 1;
const HEAD_DIM: usize = 32;
const LAYERS: usize = 3;
const WINDOW: usize = 8;
pub const SPECIALS: [&str; 3] = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"];
pub const MERGES: [&str; 12] = ["Ġ t", "h e", "i n", "r e", "Ġt he", "o n", "Ġ a", "e r", "n d", "Ġ s", "Ġ w", "o u"];
/// Rows of the embedding.
pub const VOCAB: usize = SPECIALS.len() + 256 + MERGES.len();
const TEMPLATE: &str = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}\
    {% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";

/// Writes config, tokenizer and weights.
pub fn write(source: &Path) -> Result<()> {
    write_json(&source.join("config.json"), &config())?;
    write_json(&source.join("generation_config.json"), &json!({ "eos_token_id": [0, 2], "temperature": 0.7, "top_k": 40 }))?;
    write_json(&source.join("tokenizer.json"), &tokenizer())?;
    let tokenizer_config = json!({ "bos_token": SPECIALS[1], "eos_token": SPECIALS[2], "chat_template": TEMPLATE });
    write_json(&source.join("tokenizer_config.json"), &tokenizer_config)?;
    write_safetensors(&source.join("model.safetensors"))
}

/// Writes a JSON file that can be read in a diff.
pub fn write_json(path: &Path, value: &Value) -> Result<()> {
    std::fs::write(path, serde_json::to_string_pretty(value)? + "\n").with_context(|| path.display().to_string())
}

/// Gemma 3, because it has the most parts: windows, two rope bases, q/k norms, norms before and after.
fn config() -> Value {
    json!({
        "architectures": ["Gemma3ForCausalLM"], "model_type": "gemma3_text",
        "hidden_size": HIDDEN, "intermediate_size": FFN, "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS, "num_key_value_heads": KV_HEADS, "head_dim": HEAD_DIM,
        "vocab_size": VOCAB, "max_position_embeddings": 512, "rms_norm_eps": 1e-6, "query_pre_attn_scalar": 24,
        "rope_theta": 1_000_000.0, "rope_local_base_freq": 10_000.0, "rope_scaling": null,
        "sliding_window": WINDOW, "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
        "hidden_activation": "gelu_pytorch_tanh", "attention_bias": false, "tie_word_embeddings": true,
        "attn_logit_softcapping": null, "final_logit_softcapping": null,
        "bos_token_id": 1, "eos_token_id": 2, "torch_dtype": "bfloat16",
    })
}

/// Byte-level BPE with a dozen merges.
fn tokenizer() -> Value {
    let special = |(id, content): (usize, &&str)| {
        json!({ "id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
                "normalized": false, "special": true })
    };
    let tokens = SPECIALS.iter().map(|s| (*s).to_owned()).chain(byte_letters());
    let tokens = tokens.chain(MERGES.iter().map(|merge| merge.replace(' ', "")));
    let vocab: serde_json::Map<String, Value> = tokens.enumerate().map(|(id, token)| (token, json!(id))).collect();
    json!({
        "version": "1.0", "truncation": null, "padding": null,
        "added_tokens": SPECIALS.iter().enumerate().map(special).collect::<Vec<_>>(),
        "normalizer": null,
        "pre_tokenizer": { "type": "Sequence", "pretokenizers": [
            { "type": "Digits", "individual_digits": true },
            { "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true } ] },
        "post_processor": null,
        "decoder": { "type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true },
        "model": { "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
                   "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "ignore_merges": false,
                   "vocab": vocab, "merges": MERGES },
    })
}

/// The letter that byte-level BPE writes for each byte: itself where it can be seen, else one from U+0100 on.
pub fn byte_letters() -> impl Iterator<Item = String> {
    let mut unseen = 0x100;
    (0..=255u8).map(move |byte| {
        let seen = matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
        let letter = if seen { u32::from(byte) } else { unseen };
        unseen += u32::from(!seen);
        char::from_u32(letter).map(String::from).unwrap_or_default()
    })
}

/// bf16 weights out of a small generator: wide enough that logits differ, narrow enough that nothing saturates.
fn write_safetensors(path: &Path) -> Result<()> {
    let mut shapes: Vec<(String, Vec<usize>)> = vec![("model.embed_tokens.weight".to_owned(), vec![VOCAB, HIDDEN])];
    for layer in 0..LAYERS {
        let mut add = |name: &str, shape: &[usize]| shapes.push((format!("model.layers.{layer}.{name}.weight"), shape.to_vec()));
        add("self_attn.q_proj", &[HEADS * HEAD_DIM, HIDDEN]);
        add("self_attn.k_proj", &[KV_HEADS * HEAD_DIM, HIDDEN]);
        add("self_attn.v_proj", &[KV_HEADS * HEAD_DIM, HIDDEN]);
        add("self_attn.o_proj", &[HIDDEN, HEADS * HEAD_DIM]);
        add("self_attn.q_norm", &[HEAD_DIM]);
        add("self_attn.k_norm", &[HEAD_DIM]);
        add("mlp.gate_proj", &[FFN, HIDDEN]);
        add("mlp.up_proj", &[FFN, HIDDEN]);
        add("mlp.down_proj", &[HIDDEN, FFN]);
        for norm in ["input", "post_attention", "pre_feedforward", "post_feedforward"] {
            add(&format!("{norm}_layernorm"), &[HIDDEN]);
        }
    }
    shapes.push(("model.norm.weight".to_owned(), vec![HIDDEN]));
    let mut header = serde_json::Map::new();
    let mut data = Vec::new();
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    for (name, shape) in shapes {
        let start = data.len();
        let spread = if shape.len() == 1 { 0.2 } else { 0.12 };
        for _ in 0..shape.iter().product::<usize>() {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let uniform = (state >> 40) as f32 / (1u32 << 23) as f32 - 1.0;
            data.extend(half::bf16::from_f32(uniform * spread).to_bits().to_le_bytes());
        }
        header.insert(name, json!({ "dtype": "BF16", "shape": shape, "data_offsets": [start, data.len()] }));
    }
    let mut header = Value::Object(header).to_string();
    header.push_str(&" ".repeat(header.len().next_multiple_of(8) - header.len()));
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend(header.as_bytes());
    file.extend(data);
    std::fs::write(path, file).with_context(|| path.display().to_string())
}
