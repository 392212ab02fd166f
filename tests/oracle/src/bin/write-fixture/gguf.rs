//! A tiny Llama as a GGUF file: one layer, and a tensor of every kind of block that the reader knows.

use std::path::Path;

use anyhow::{Context, Result};

use crate::folder::{MERGES, SPECIALS, VOCAB, byte_letters};

const HIDDEN: usize = 256;
const FFN: usize = 256;
const HEADS: usize = 4;
const ALIGN: usize = 32;

/// Types of values: u32, f32, string, array.
const U32: u32 = 4;
const F32: u32 = 6;
const STRING: u32 = 8;
const ARRAY: u32 = 9;
const I32: u32 = 5;

/// A tensor type: its number, weights of a block, bytes of a block, and where f16 scales lie in it.
struct Kind(u32, usize, usize, &'static [usize]);

const F32_TENSOR: Kind = Kind(0, 1, 4, &[]);
const KINDS: [(&str, Kind); 8] = [
    ("attn_q", Kind(2, 32, 18, &[0])),
    ("attn_k", Kind(3, 32, 20, &[0, 2])),
    ("attn_v", Kind(6, 32, 22, &[0])),
    ("attn_output", Kind(7, 32, 24, &[0, 2])),
    ("ffn_gate", Kind(12, 256, 144, &[0, 2])),
    ("ffn_up", Kind(13, 256, 176, &[0, 2])),
    ("ffn_down", Kind(14, 256, 210, &[208])),
    ("token_embd", Kind(8, 32, 34, &[0])),
];

/// Writes the file.
pub fn write(path: &Path) -> Result<()> {
    let mut file = File::default();
    file.string("general.architecture", "llama");
    file.string("general.name", "tiny");
    for (key, value) in [
        ("llama.block_count", 1),
        ("llama.context_length", 512),
        ("llama.embedding_length", HIDDEN as u32),
        ("llama.feed_forward_length", FFN as u32),
        ("llama.attention.head_count", HEADS as u32),
        ("llama.attention.head_count_kv", 1),
        ("tokenizer.ggml.bos_token_id", 1),
        ("tokenizer.ggml.eos_token_id", 2),
    ] {
        file.key(key, U32);
        file.head.extend(value.to_le_bytes());
    }
    for (key, value) in [("llama.rope.freq_base", 1e5f32), ("llama.attention.layer_norm_rms_epsilon", 1e-5)] {
        file.key(key, F32);
        file.head.extend(value.to_le_bytes());
    }
    file.string("tokenizer.ggml.model", "gpt2");
    file.string("tokenizer.ggml.pre", "smollm");
    let tokens = SPECIALS.iter().map(|s| (*s).to_owned()).chain(byte_letters());
    let tokens: Vec<String> = tokens.chain(MERGES.iter().map(|merge| merge.replace(' ', ""))).collect();
    file.strings("tokenizer.ggml.tokens", &tokens);
    file.strings("tokenizer.ggml.merges", &MERGES.map(str::to_owned));
    file.key("tokenizer.ggml.token_type", ARRAY);
    file.head.extend(I32.to_le_bytes());
    file.head.extend((VOCAB as u64).to_le_bytes());
    for id in 0..VOCAB {
        file.head.extend((if id < SPECIALS.len() { 3i32 } else { 1 }).to_le_bytes());
    }
    for (name, kind) in &KINDS {
        let (name, rows) = match *name {
            "token_embd" => ((*name).to_owned(), VOCAB),
            "attn_k" | "attn_v" => (format!("blk.0.{name}"), HIDDEN / HEADS),
            name => (format!("blk.0.{name}"), HIDDEN),
        };
        file.tensor(&name, kind, &[HIDDEN, rows]);
    }
    for norm in ["blk.0.attn_norm", "blk.0.ffn_norm", "output_norm"] {
        file.tensor(norm, &F32_TENSOR, &[HIDDEN]);
    }
    std::fs::write(path, file.bytes()).with_context(|| path.display().to_string())
}

#[derive(Default)]
struct File {
    head: Vec<u8>,
    n_keys: u64,
    tensors: Vec<u8>,
    n_tensors: u64,
    data: Vec<u8>,
    state: u64,
}

impl File {
    fn key(&mut self, key: &str, kind: u32) {
        self.n_keys += 1;
        put_text(&mut self.head, key);
        self.head.extend(kind.to_le_bytes());
    }

    fn string(&mut self, key: &str, value: &str) {
        self.key(key, STRING);
        put_text(&mut self.head, value);
    }

    fn strings(&mut self, key: &str, values: &[String]) {
        self.key(key, ARRAY);
        self.head.extend(STRING.to_le_bytes());
        self.head.extend((values.len() as u64).to_le_bytes());
        for value in values {
            put_text(&mut self.head, value);
        }
    }

    /// Random codes under small scales; vectors are ones.
    fn tensor(&mut self, name: &str, kind: &Kind, dims: &[usize]) {
        let &Kind(number, block, bytes, scales) = kind;
        self.n_tensors += 1;
        put_text(&mut self.tensors, &format!("{name}.weight"));
        self.tensors.extend((dims.len() as u32).to_le_bytes());
        self.tensors.extend(dims.iter().flat_map(|&dim| (dim as u64).to_le_bytes()));
        self.tensors.extend(number.to_le_bytes());
        self.tensors.extend((self.data.len() as u64).to_le_bytes());
        for _ in 0..dims.iter().product::<usize>() / block {
            if block == 1 {
                self.data.extend(1f32.to_le_bytes());
                continue;
            }
            let start = self.data.len();
            for _ in 0..bytes {
                self.state = self.state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                self.data.push((self.state >> 56) as u8);
            }
            for &at in scales {
                let scale = half::f16::from_f32(0.01).to_bits();
                self.data[start + at..start + at + 2].copy_from_slice(&scale.to_le_bytes());
            }
        }
        self.data.resize(self.data.len().next_multiple_of(ALIGN), 0);
    }

    fn bytes(&self) -> Vec<u8> {
        let mut file = b"GGUF\x03\0\0\0".to_vec();
        file.extend(self.n_tensors.to_le_bytes());
        file.extend(self.n_keys.to_le_bytes());
        file.extend(&self.head);
        file.extend(&self.tensors);
        file.resize(file.len().next_multiple_of(ALIGN), 0);
        file.extend(&self.data);
        file
    }
}

fn put_text(out: &mut Vec<u8>, text: &str) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text.as_bytes());
}
