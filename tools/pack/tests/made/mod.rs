//! Checkpoints made on the spot: small, of awkward widths, the same every time.
#![allow(dead_code)]

use half::{bf16, f16};
use serde_json::{Map, json};
use std::fs;
use std::path::{Path, PathBuf};

/// Weights as a generator gives them: about normal, never all of one size.
#[derive(Clone, Debug)]
pub struct Weights(u64);

impl Weights {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub fn bits(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    pub fn value(&mut self) -> f32 {
        let sum: i32 = (0..4).map(|_| (self.bits() >> 40) as i32 % 1024 - 512).sum();
        sum as f32 / 16384.0
    }
}

/// A tensor of a made checkpoint.
#[derive(Clone, Debug)]
pub struct Made {
    pub name: String,
    pub rows: usize,
    pub cols: usize,
    pub values: Vec<f32>,
}

/// A Qwen3-like folder with widths that are multiples of nothing: hidden 40, ffn 72, head_dim 24, vocab 50.
pub fn folder(dir: &Path, tied: bool, dtype: &str, change: impl Fn(&mut Made)) -> Vec<Made> {
    let (hidden, ffn, head_dim, heads, kv, vocab, layers) = (40, 72, 24, 4, 2, 50, 2);
    let config = json!({
        "architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "hidden_act": "silu",
        "hidden_size": hidden, "intermediate_size": ffn, "head_dim": head_dim, "num_attention_heads": heads,
        "num_key_value_heads": kv, "num_hidden_layers": layers, "vocab_size": vocab, "max_position_embeddings": 512,
        "rms_norm_eps": 1e-6, "rope_theta": 10000.0, "tie_word_embeddings": tied, "eos_token_id": [3, 7],
        "attention_bias": false, "torch_dtype": "float32",
    });
    fs::write(dir.join("config.json"), config.to_string()).unwrap();
    fs::write(dir.join("generation_config.json"), json!({"do_sample": true, "top_k": 9}).to_string()).unwrap();
    let mut shapes = vec![("model.embed_tokens.weight".to_owned(), vocab, hidden)];
    for i in 0..layers {
        for (name, rows, cols) in [
            ("self_attn.q_proj", heads * head_dim, hidden),
            ("self_attn.k_proj", kv * head_dim, hidden),
            ("self_attn.v_proj", kv * head_dim, hidden),
            ("self_attn.o_proj", hidden, heads * head_dim),
            ("mlp.gate_proj", ffn, hidden),
            ("mlp.up_proj", ffn, hidden),
            ("mlp.down_proj", hidden, ffn),
            ("input_layernorm", 0, hidden),
            ("post_attention_layernorm", 0, hidden),
            ("self_attn.q_norm", 0, head_dim),
            ("self_attn.k_norm", 0, head_dim),
        ] {
            shapes.push((format!("model.layers.{i}.{name}.weight"), rows, cols));
        }
    }
    shapes.push(("model.norm.weight".to_owned(), 0, hidden));
    if !tied {
        shapes.push(("lm_head.weight".to_owned(), vocab, hidden));
    }
    let mut made = Vec::new();
    let (mut header, mut data) = (Map::new(), Vec::new());
    for (seed, (name, rows, cols)) in shapes.into_iter().enumerate() {
        let mut weights = Weights::new(seed as u64 + 1);
        let values = (0..rows.max(1) * cols).map(|_| weights.value()).collect();
        let mut tensor = Made { name, rows: rows.max(1), cols, values };
        change(&mut tensor);
        let start = data.len();
        for v in &mut tensor.values {
            match dtype {
                "BF16" => {
                    let h = bf16::from_f32(*v);
                    data.extend_from_slice(&h.to_le_bytes());
                    *v = h.to_f32();
                }
                _ => data.extend_from_slice(&v.to_le_bytes()),
            }
        }
        let shape = if rows == 0 { json!([cols]) } else { json!([rows, cols]) };
        header.insert(tensor.name.clone(), json!({"dtype": dtype, "shape": shape, "data_offsets": [start, data.len()]}));
        made.push(tensor);
    }
    let header = serde_json::Value::Object(header).to_string();
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend_from_slice(header.as_bytes());
    file.extend_from_slice(&data);
    fs::write(dir.join("model.safetensors"), file).unwrap();
    made
}

/// How a tensor of [`gguf`] is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stored {
    F32,
    Q4_0,
    Q4_1,
}

/// A tied Llama-like GGUF of one layer: attention Q4_0 but its keys F32, feed-forward Q4_1, embedding as asked for. The values
/// returned are what the blocks mean, worked out here.
pub fn gguf(path: &Path, embedding: Stored) -> Vec<Made> {
    let (hidden, ffn, head_dim, heads, kv, vocab) = (96usize, 64usize, 32usize, 2usize, 1usize, 37usize);
    let tensors = [
        ("token_embd.weight", vocab, hidden, embedding),
        ("blk.0.attn_norm.weight", 0, hidden, Stored::F32),
        ("blk.0.attn_q.weight", heads * head_dim, hidden, Stored::Q4_0),
        ("blk.0.attn_k.weight", kv * head_dim, hidden, Stored::F32),
        ("blk.0.attn_v.weight", kv * head_dim, hidden, Stored::Q4_0),
        ("blk.0.attn_output.weight", hidden, heads * head_dim, Stored::Q4_0),
        ("blk.0.ffn_norm.weight", 0, hidden, Stored::F32),
        ("blk.0.ffn_gate.weight", ffn, hidden, Stored::Q4_1),
        ("blk.0.ffn_up.weight", ffn, hidden, Stored::Q4_1),
        ("blk.0.ffn_down.weight", hidden, ffn, Stored::Q4_1),
        ("output_norm.weight", 0, hidden, Stored::F32),
    ];
    let string = |out: &mut Vec<u8>, text: &str| {
        out.extend_from_slice(&(text.len() as u64).to_le_bytes());
        out.extend_from_slice(text.as_bytes());
    };
    let mut keys = Vec::new();
    let mut n_keys = 0u64;
    for (key, value) in [("general.architecture", "llama"), ("general.license", "cc0-1.0"), ("general.name", "made")] {
        string(&mut keys, key);
        keys.extend_from_slice(&8u32.to_le_bytes());
        string(&mut keys, value);
        n_keys += 1;
    }
    for (key, value) in [
        ("block_count", 1),
        ("embedding_length", hidden),
        ("feed_forward_length", ffn),
        ("attention.head_count", heads),
        ("attention.head_count_kv", kv),
        ("attention.key_length", head_dim),
        ("attention.value_length", head_dim),
        ("context_length", 256),
        ("rope.dimension_count", head_dim),
        ("vocab_size", vocab),
    ] {
        string(&mut keys, &format!("llama.{key}"));
        keys.extend_from_slice(&4u32.to_le_bytes());
        keys.extend_from_slice(&(value as u32).to_le_bytes());
        n_keys += 1;
    }
    for (key, value) in [("attention.layer_norm_rms_epsilon", 1e-5f32), ("rope.freq_base", 10000.0)] {
        string(&mut keys, &format!("llama.{key}"));
        keys.extend_from_slice(&6u32.to_le_bytes());
        keys.extend_from_slice(&value.to_le_bytes());
        n_keys += 1;
    }
    let (mut infos, mut data, mut made) = (Vec::new(), Vec::new(), Vec::new());
    for (seed, (name, rows, cols, stored)) in tensors.into_iter().enumerate() {
        data.resize(usize::next_multiple_of(data.len(), 32), 0);
        string(&mut infos, name);
        let dims: &[usize] = if rows == 0 { &[cols] } else { &[cols, rows] };
        infos.extend_from_slice(&(dims.len() as u32).to_le_bytes());
        dims.iter().for_each(|d| infos.extend_from_slice(&(*d as u64).to_le_bytes()));
        let kind = match stored {
            Stored::F32 => 0u32,
            Stored::Q4_0 => 2,
            Stored::Q4_1 => 3,
        };
        infos.extend_from_slice(&kind.to_le_bytes());
        infos.extend_from_slice(&(data.len() as u64).to_le_bytes());
        let values = store(stored, rows.max(1) * cols, &mut Weights::new(100 + seed as u64), &mut data);
        made.push(Made { name: name.to_owned(), rows: rows.max(1), cols, values });
    }
    let mut file = b"GGUF".to_vec();
    file.extend_from_slice(&3u32.to_le_bytes());
    file.extend_from_slice(&(tensors.len() as u64).to_le_bytes());
    file.extend_from_slice(&n_keys.to_le_bytes());
    file.extend_from_slice(&keys);
    file.extend_from_slice(&infos);
    file.resize(file.len().next_multiple_of(32), 0);
    file.extend_from_slice(&data);
    fs::write(path, file).unwrap();
    made
}

/// Random blocks and the values they stand for.
fn store(stored: Stored, n: usize, weights: &mut Weights, data: &mut Vec<u8>) -> Vec<f32> {
    let mut values = Vec::new();
    if stored == Stored::F32 {
        for _ in 0..n {
            let v = weights.value();
            data.extend_from_slice(&v.to_le_bytes());
            values.push(v);
        }
        return values;
    }
    for block in 0..n / 32 {
        // Every seventh scale is subnormal, every fifth negative.
        let scale = weights.value().abs() * if block % 7 == 3 { 1e-5 } else { 0.1 } * if block % 5 == 2 { -1.0 } else { 1.0 };
        let (scale, min) = (f16::from_f32(scale), f16::from_f32(weights.value()));
        data.extend_from_slice(&scale.to_le_bytes());
        if stored == Stored::Q4_1 {
            data.extend_from_slice(&min.to_le_bytes());
        }
        let codes: Vec<u8> = (0..16).map(|_| (weights.bits() >> 32) as u8).collect();
        data.extend_from_slice(&codes);
        for i in 0..32 {
            let q = f32::from(if i < 16 { codes[i] & 15 } else { codes[i - 16] >> 4 });
            let (s, m) = (scale.to_f32(), min.to_f32());
            values.push(if stored == Stored::Q4_0 { (q - 8.0) * s } else { q * s + m });
        }
    }
    values
}

/// A folder for a test's files.
pub fn place() -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let image = dir.path().join("out.bourn");
    (dir, image)
}
