//! Good files with bytes changed, cut and repeated: the reader refuses or reads them, and never panics.
//!
//! `BOURN_MUTATIONS` is how many to try of each kind (1500 by default).

mod build;

use bourn_checkpoint::check;
use build::{GgufFile, safetensors};

/// xorshift64*.
struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) as usize % n.max(1)
    }
}

/// Values at which lengths and sizes break.
const EDGES: [u64; 12] = [0, 1, 2, 31, 255, 1 << 16, 1 << 31, u32::MAX as u64, 1 << 32, 1 << 61, i64::MAX as u64, u64::MAX];

fn mutate(good: &[u8], words: &[&str], random: &mut Random) -> Vec<u8> {
    let mut bytes = good.to_vec();
    for _ in 0..=random.below(4) {
        let at = random.below(bytes.len());
        match random.below(8) {
            0 => bytes.truncate(at),
            1 | 2 => bytes.iter_mut().skip(at).take(1).for_each(|b| *b ^= 1 << random.below(8)),
            3 | 4 => {
                let edge = EDGES[random.below(EDGES.len())].to_le_bytes();
                let n = [1, 4, 8][random.below(3)];
                bytes.iter_mut().skip(at).zip(&edge[..n]).for_each(|(b, e)| *b = *e);
            }
            5 => {
                let end = (at + random.below(64)).min(bytes.len());
                let again = bytes[at..end].to_vec();
                bytes.splice(at..at, again);
            }
            6 => drop(bytes.drain(at..(at + random.below(16)).min(bytes.len()))),
            _ => drop(bytes.splice(at..at, words[random.below(words.len())].bytes())),
        }
    }
    bytes
}

fn tries() -> usize {
    std::env::var("BOURN_MUTATIONS").ok().and_then(|n| n.parse().ok()).unwrap_or(1500)
}

#[test]
fn mutated_gguf_never_panics() {
    let mut good = Vec::new();
    for arch in ["llama", "gemma3", "phi3", "mistral3"] {
        let mut file = GgufFile::new(arch);
        for (key, value) in [
            ("block_count", 1),
            ("embedding_length", 32),
            ("feed_forward_length", 32),
            ("attention.head_count", 2),
            ("attention.key_length", 16),
            ("rope.dimension_count", 8),
            ("attention.sliding_window", 4),
            ("rope.scaling.original_context_length", 32),
        ] {
            file = file.u32(&format!("{arch}.{key}"), value);
        }
        file = file
            .text(&format!("{arch}.rope.scaling.type"), "yarn")
            .f32(&format!("{arch}.rope.scaling.factor"), 4.0)
            .f32(&format!("{arch}.attention.temperature_scale"), 0.1)
            .text("tokenizer.ggml.model", "gpt2")
            .text("tokenizer.ggml.pre", "smollm")
            .texts("tokenizer.ggml.tokens", &["a", "b", "ab", "<|im_end|>"])
            .key(
                "tokenizer.ggml.token_type",
                9,
                &[&5u32.to_le_bytes()[..], &4u64.to_le_bytes(), &[1, 0, 0, 0].repeat(4)].concat(),
            )
            .texts("tokenizer.ggml.merges", &["a b"])
            .u32("tokenizer.ggml.eos_token_id", 3)
            .floats("token_embd.weight", &[32, 4], &[0.5; 128])
            .floats("output_norm.weight", &[32], &[1.0; 32])
            .floats("rope_freqs.weight", &[4], &[1.0; 4]);
        for (name, dims) in [
            ("attn_norm", &[32u64][..]),
            ("ffn_norm", &[32]),
            ("attn_q", &[32, 32]),
            ("attn_k", &[32, 32]),
            ("attn_v", &[32, 32]),
            ("attn_output", &[32, 32]),
            ("ffn_gate", &[32, 32]),
            ("ffn_up", &[32, 32]),
            ("ffn_down", &[32, 32]),
        ] {
            let n = dims.iter().product::<u64>() as usize;
            file = if n == 32 {
                file.floats(&format!("blk.0.{name}.weight"), dims, &vec![1.0; n])
            } else {
                file.tensor(&format!("blk.0.{name}.weight"), dims, 2, &vec![0x3A; n / 32 * 18])
            };
        }
        good.push(file.bytes());
    }
    check::gguf(&good[0]).unwrap();
    let words = ["llama.rope.scaling.type", "longrope", "tokenizer.ggml.bos_token_id", "blk.0.attn_q.bias"];
    let mut random = Random(1);
    for i in 0..tries() {
        let bytes = mutate(&good[i % good.len()], &words, &mut random);
        drop(check::gguf(&bytes));
    }
}

#[test]
fn mutated_safetensors_never_panics() {
    let header = r#"{"__metadata__":{"format":"pt"},"a":{"dtype":"F32","shape":[2,4],"data_offsets":[0,32]},"b":{"dtype":"BF16","shape":[16],"data_offsets":[32,64]}}"#;
    let good = safetensors(header, 64);
    check::safetensors(&good).unwrap();
    let words = ["18446744073709551615", "-1", "\"F8_E4M3\"", "[0,0]", "{", "1e308", "\"a\"", "\\u0000"];
    let mut random = Random(2);
    for _ in 0..tries() {
        drop(check::safetensors(&mutate(&good, &words, &mut random)));
    }
}

#[test]
fn mutated_config_never_panics() {
    let sizes = r#""hidden_size":64,"num_hidden_layers":3,"num_attention_heads":4,"num_key_value_heads":2,"intermediate_size":96,"max_position_embeddings":512"#;
    let ropes = [
        r#""rope_theta":10000"#,
        r#""rope_scaling":{"rope_type":"llama3","factor":8,"low_freq_factor":1,"high_freq_factor":4,"original_max_position_embeddings":64}"#,
        r#""rope_parameters":{"full_attention":{"rope_type":"linear","factor":8,"rope_theta":1e6},"sliding_attention":{"rope_type":"default"}}"#,
        r#""rope_parameters":{"type":"yarn","factor":16,"beta_fast":4,"beta_slow":1,"mscale":1,"mscale_all_dim":1,"original_max_position_embeddings":32,"llama_4_scaling_beta":0.1}"#,
        r#""partial_rotary_factor":0.25,"original_max_position_embeddings":40,"rope_scaling":{"type":"longrope","short_factor":[1,2],"long_factor":[3,4]}"#,
    ];
    let mut good = Vec::new();
    for family in ["llama", "qwen2", "qwen3", "gemma3_text", "phi3", "ministral3"] {
        for rope in ropes {
            let text = format!(
                r#"{{"model_type":"{family}",{sizes},{rope},"head_dim":16,"sliding_window":8,"use_sliding_window":true,"eos_token_id":[1,2]}}"#
            );
            check::config(text.as_bytes()).unwrap();
            good.push(text);
        }
    }
    let words = ["0", "-1", "1e308", "1e-320", "4294967295", "null", "[]", "{}", "\"x\"", "true", "99999999999999999999", "0.5"];
    let mut random = Random(3);
    for i in 0..tries() {
        let text = &good[i % good.len()];
        let bytes = if random.below(2) == 0 {
            // One value replaced, so that most of these still parse.
            let colons: Vec<usize> = text.match_indices(':').map(|(at, _)| at + 1).collect();
            let at = colons[random.below(colons.len())];
            let end = text[at..].find([',', '}']).map_or(text.len(), |n| at + n);
            [&text[..at], words[random.below(words.len())], &text[end..]].concat().into_bytes()
        } else {
            mutate(text.as_bytes(), &words, &mut random)
        };
        if let Ok(spec) = check::config(&bytes) {
            assert!(spec.ropes.iter().all(|r| r.inv_freq.iter().all(|f| f.is_finite())));
        }
    }
}
