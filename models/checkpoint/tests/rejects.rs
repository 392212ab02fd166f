//! Refusals: truncated, overlapping, wrong-shaped and hostile files end in an error that names what was needed and found.

mod build;

use std::path::Path;

use bourn_checkpoint::gguf::Gguf;
use bourn_checkpoint::{Checkpoint, Error};
use build::{GgufFile, safetensors};

/// A folder of these files.
fn folder(files: &[(&str, &[u8])]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    files.iter().for_each(|(name, bytes)| std::fs::write(dir.path().join(name), bytes).unwrap());
    dir
}

fn refused(files: &[(&str, &[u8])]) -> Error {
    Checkpoint::open(folder(files).path()).expect_err("must be refused")
}

const CONFIG: &str = r#"{"model_type": "llama", "hidden_size": 4, "num_hidden_layers": 1, "num_attention_heads": 2,
    "intermediate_size": 6, "vocab_size": 5}"#;

/// The tensors of [`CONFIG`].
const TENSORS: [(&str, &[usize]); 11] = [
    ("model.embed_tokens.weight", &[5, 4]),
    ("model.norm.weight", &[4]),
    ("model.layers.0.input_layernorm.weight", &[4]),
    ("model.layers.0.self_attn.q_proj.weight", &[4, 4]),
    ("model.layers.0.self_attn.k_proj.weight", &[4, 4]),
    ("model.layers.0.self_attn.v_proj.weight", &[4, 4]),
    ("model.layers.0.self_attn.o_proj.weight", &[4, 4]),
    ("model.layers.0.post_attention_layernorm.weight", &[4]),
    ("model.layers.0.mlp.gate_proj.weight", &[6, 4]),
    ("model.layers.0.mlp.up_proj.weight", &[6, 4]),
    ("model.layers.0.mlp.down_proj.weight", &[4, 6]),
];

/// A safetensors file of f32 zeros.
fn weights(tensors: &[(&str, &[usize])]) -> Vec<u8> {
    let (mut header, mut at) = (Vec::new(), 0);
    for (name, shape) in tensors {
        let end = at + 4 * shape.iter().product::<usize>();
        header.push(format!(r#""{name}": {{"dtype": "F32", "shape": {shape:?}, "data_offsets": [{at}, {end}]}}"#));
        at = end;
    }
    safetensors(&format!("{{{}}}", header.join(", ")), at)
}

fn with_weights(config: &str, tensors: &[(&str, &[usize])]) -> Result<Checkpoint, Error> {
    let dir = folder(&[("config.json", config.as_bytes()), ("model.safetensors", &weights(tensors))]);
    Checkpoint::open(dir.path())
}

/// [`CONFIG`] with more keys, which count as the later ones do.
fn config(more: &str) -> String {
    CONFIG.replacen('}', &format!(", {more}}}"), 1)
}

#[test]
fn the_small_folder_is_good() {
    let checkpoint = with_weights(CONFIG, &TENSORS).unwrap();
    assert_eq!((checkpoint.spec.vocab, checkpoint.spec.tied), (5, true), "no lm_head: tied");
}

#[test]
fn rejects_folder_without_config() {
    let error = refused(&[("model.safetensors", b"")]);
    assert!(matches!(error, Error::Missing { .. }), "{error}");
    assert!(error.to_string().contains("config.json"));
    assert!(matches!(Checkpoint::open(Path::new("no/such/model")), Err(Error::Io { .. })));
}

#[test]
fn rejects_config_that_is_no_json() {
    for bytes in [&b"{"[..], b"", b"[1]", b"\xFF", &[b'['; 100_000]] {
        let error = refused(&[("config.json", bytes)]);
        assert!(matches!(error, Error::Json { .. }), "{error}");
    }
}

#[test]
fn rejects_unknown_family_by_name() {
    let error = refused(&[("config.json", br#"{"model_type": "mamba"}"#)]).to_string();
    assert!(error.contains("mamba") && error.contains("gemma3_text") && error.contains("qwen3"), "{error}");
    let error = Gguf::parse(&GgufFile::new("mamba").bytes()).map(|_| ());
    assert!(error.is_ok(), "the container knows no families");
    let dir = folder(&[("m.gguf", &GgufFile::new("mamba").bytes())]);
    assert!(matches!(Checkpoint::open(&dir.path().join("m.gguf")), Err(Error::Family { .. })));
}

#[test]
fn rejects_sizes_that_make_no_sense() {
    for (more, key) in [
        (r#""hidden_size": 0"#, "hidden_size"),
        (r#""hidden_size": 4294967296"#, "hidden_size"),
        (r#""hidden_size": -4"#, "hidden_size"),
        (r#""hidden_size": "4""#, "hidden_size"),
        (r#""hidden_size": 4.5"#, "hidden_size"),
        (r#""num_hidden_layers": 4000000000"#, "num_hidden_layers"),
        (r#""num_key_value_heads": 3"#, "num_key_value_heads"),
        (r#""head_dim": 3"#, "head_dim"),
        (r#""rms_norm_eps": 1e300"#, "rms_norm_eps"),
        (r#""max_position_embeddings": 0"#, "max_position_embeddings"),
        (r#""rope_theta": -1"#, "rope_theta"),
        (r#""rope_theta": 1e-300, "head_dim": 4"#, "rope table"),
        (r#""hidden_act": "relu6""#, "relu6"),
        (r#""rope_scaling": {"type": "dynamic", "factor": 2}"#, "dynamic"),
        (r#""rope_scaling": {"type": "linear"}"#, "factor"),
        (r#""rope_scaling": {"rope_type": "longrope", "short_factor": [1], "long_factor": [1, 2]}"#, "long_factor"),
        (r#""rope_scaling": {"rope_type": "llama3", "factor": 8}"#, "low_freq_factor"),
        (r#""rope_scaling": 3"#, "rope_scaling"),
        (r#""partial_rotary_factor": 0.1"#, "rotary"),
        (r#""partial_rotary_factor": 9"#, "rotary"),
        (r#""quantization_config": {"quant_method": "gptq"}"#, "gptq"),
        (r#""text_config": 7"#, "text_config"),
    ] {
        let error = with_weights(&config(more), &TENSORS).expect_err(more).to_string();
        assert!(error.contains(key), "{more}: {error}");
    }
}

#[test]
fn wide_windows_are_none_unless_a_rope_hangs_on_them() {
    let spec = |family: &str, window: u32| {
        let text = config(&format!(
            r#""model_type": "{family}", "num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 2,
            "max_position_embeddings": 64, "sliding_window": {window}, "sliding_window_pattern": 2"#
        ));
        bourn_checkpoint::check::config(text.as_bytes()).unwrap()
    };
    assert_eq!((spec("phi3", 63).window, spec("phi3", 63).layer_sliding), (63, vec![true]));
    assert_eq!((spec("phi3", 64).window, spec("phi3", 64).layer_sliding), (0, vec![false]));
    assert_eq!((spec("gemma3_text", 8).window, spec("gemma3_text", 8).layer_sliding), (8, vec![true]));
    assert_eq!((spec("gemma3_text", 99).window, spec("gemma3_text", 99).layer_sliding), (64, vec![true]));
}

#[test]
fn rejects_layer_types_that_are_too_few_or_strange() {
    let gemma = config(r#""model_type": "gemma3_text", "sliding_window": 8, "layer_types": "#);
    for list in [r#"[]}"#, r#"["chunked_attention"]}"#, "[1]}"] {
        let text = gemma.replacen('}', list, 1);
        assert!(with_weights(&text, &TENSORS).is_err(), "{list}");
    }
}

#[test]
fn rejects_missing_tensor() {
    for i in 0..TENSORS.len() {
        let mut tensors = TENSORS.to_vec();
        let (name, _) = tensors.remove(i);
        let error = with_weights(CONFIG, &tensors).expect_err(name).to_string();
        assert!(error.contains(name), "{error}");
    }
}

#[test]
fn rejects_tensor_of_another_shape() {
    for i in 0..TENSORS.len() {
        let mut tensors = TENSORS.to_vec();
        tensors[i].1 = &[5, 5];
        let error = with_weights(CONFIG, &tensors).expect_err(tensors[i].0);
        assert!(matches!(&error, Error::Shape { found, .. } if *found == [5, 5]), "{error}");
    }
}

#[test]
fn rejects_tensor_that_the_family_does_not_have() {
    for name in [
        "model.layers.0.mlp.experts.0.w1.weight",
        "model.layers.1.input_layernorm.weight",
        "model.layers.0.self_attn.q_norm.weight",
    ] {
        let mut tensors = TENSORS.to_vec();
        tensors.push((name, &[4]));
        let error = with_weights(CONFIG, &tensors).expect_err(name);
        assert!(matches!(error, Error::Unsupported { .. }), "{error}");
    }
}

#[test]
fn rejects_dtype_that_is_not_read() {
    let header = r#"{"model.embed_tokens.weight": {"dtype": "I8", "shape": [5, 4], "data_offsets": [0, 20]}}"#;
    let error = refused(&[("config.json", CONFIG.as_bytes()), ("model.safetensors", &safetensors(header, 20))]);
    assert!(matches!(&error, Error::Dtype { found, .. } if found == "I8"), "{error}");
}

#[test]
fn rejects_safetensors_headers() {
    let one = |dtype: &str, shape: &str, offsets: &str| {
        format!(r#"{{"a": {{"dtype": "{dtype}", "shape": {shape}, "data_offsets": {offsets}}}}}"#)
    };
    let two = |a: &str, b: &str| {
        format!(
            r#"{{"a": {{"dtype": "F32", "shape": [2], "data_offsets": {a}}}, "b": {{"dtype": "F32", "shape": [2], "data_offsets": {b}}}}}"#
        )
    };
    let max = u64::MAX;
    for (name, header) in [
        ("no object", "[]".to_owned()),
        ("cut short", r#"{"a": {"dtype": "F32", "shape": [2], "#.to_owned()),
        ("a field missing", r#"{"a": {"dtype": "F32", "shape": [2]}}"#.to_owned()),
        ("past the end", one("F32", "[5]", "[0, 20]")),
        ("far past the end", one("F32", "[2]", &format!("[{}, {max}]", max - 8))),
        ("backwards", one("F32", "[2]", "[8, 0]")),
        ("more than its shape", one("F32", "[3]", "[0, 16]")),
        ("shape overflows", one("F32", &format!("[{max}, {max}]"), "[0, 16]")),
        ("negative", one("F32", "[-2]", "[0, 8]")),
        ("overlap", two("[0, 8]", "[4, 12]")),
        ("hole", two("[0, 8]", "[12, 20]")),
        ("bytes left over", one("F32", "[2]", "[0, 8]")),
        ("one name twice", two("[0, 8]", "[8, 16]").replace("\"b\"", "\"a\"")),
        ("deep", "{\"a\":".repeat(100_000)),
    ] {
        let error = refused(&[("config.json", CONFIG.as_bytes()), ("model.safetensors", &safetensors(&header, 16))]);
        let known = matches!(error, Error::Json { .. } | Error::Invalid { .. } | Error::Truncated { .. } | Error::Overlap { .. });
        assert!(known, "{name}: {error}");
        assert_eq!(matches!(error, Error::Overlap { .. }), name == "overlap", "{name}: {error}");
    }
}

#[test]
fn rejects_truncated_safetensors() {
    let whole = weights(&TENSORS);
    for n in (0..whole.len()).step_by(7) {
        let error = refused(&[("config.json", CONFIG.as_bytes()), ("model.safetensors", &whole[..n])]);
        assert!(matches!(error, Error::Truncated { .. }), "{n}: {error}");
    }
    for length in [u64::MAX, 1 << 40, 100_000_001] {
        let mut bytes = whole.clone();
        bytes[..8].copy_from_slice(&length.to_le_bytes());
        let error = refused(&[("config.json", CONFIG.as_bytes()), ("model.safetensors", &bytes)]);
        assert!(error.to_string().contains(&length.to_string()), "{error}");
    }
}

#[test]
fn rejects_index_that_leaves_the_folder_or_lies() {
    let index = |map: &str| format!(r#"{{"weight_map": {{{map}}}}}"#);
    let shard = weights(&TENSORS);
    for (name, text) in [
        ("outside", index(r#""model.norm.weight": "../model.safetensors""#)),
        ("absolute", index(r#""model.norm.weight": "/etc/passwd""#)),
        ("no safetensors", index(r#""model.norm.weight": "config.json""#)),
        ("no such shard", index(r#""model.norm.weight": "b.safetensors""#)),
        ("no such tensor", index(r#""model.nothing.weight": "a.safetensors""#)),
        ("no map", "{}".to_owned()),
        ("no object", r#"{"weight_map": 1}"#.to_owned()),
        ("no name", index(r#""model.norm.weight": 1"#)),
    ] {
        let files =
            [("config.json", CONFIG.as_bytes()), ("model.safetensors.index.json", text.as_bytes()), ("a.safetensors", &shard)];
        let error = refused(&files);
        assert!(matches!(error, Error::Missing { .. } | Error::Invalid { .. } | Error::Io { .. }), "{name}: {error}");
    }
    assert!(matches!(refused(&[("config.json", CONFIG.as_bytes())]), Error::Missing { .. }));
}

#[test]
fn rejects_other_files_and_versions_as_gguf() {
    let good = GgufFile::new("llama").bytes();
    assert!(Gguf::parse(&good).is_ok());
    for version in [0, 1, 4, u32::MAX, 3u32.swap_bytes()] {
        let mut bytes = good.clone();
        bytes[4..8].copy_from_slice(&version.to_le_bytes());
        let error = Gguf::parse(&bytes).unwrap_err();
        assert!(matches!(error, Error::Format { .. }) && error.to_string().contains(&version.to_string()), "{error}");
    }
    assert!(matches!(Gguf::parse(b"PK\x03\x04 and so on"), Err(Error::Format { .. })));
    let mut second = GgufFile::new("llama").floats("a", &[8], &[0.0; 8]);
    second.version = 2;
    assert!(Gguf::parse(&second.bytes()).is_ok());
}

#[test]
fn rejects_truncated_gguf() {
    let file = GgufFile::new("llama")
        .u32("llama.block_count", 1)
        .texts("tokenizer.ggml.tokens", &["a", "b"])
        .key("tokenizer.ggml.scores", 9, &[&6u32.to_le_bytes()[..], &2u64.to_le_bytes(), &[0; 8]].concat())
        .floats("token_embd.weight", &[4, 5], &[0.0; 20]);
    let whole = file.bytes();
    assert!(Gguf::parse(&whole).is_ok());
    for n in 0..whole.len() {
        let error = Gguf::parse(&whole[..n]).unwrap_err();
        assert!(matches!(error, Error::Truncated { .. }), "{n}: {error}");
    }
}

#[test]
fn rejects_gguf_counts_and_lengths_that_no_file_holds() {
    let good = GgufFile::new("llama").bytes();
    for at in [8, 16] {
        for count in [u64::MAX, 1 << 60, 1000] {
            let mut bytes = good.clone();
            bytes[at..at + 8].copy_from_slice(&count.to_le_bytes());
            assert!(Gguf::parse(&bytes).is_err());
        }
    }
    for n in [u64::MAX, u64::MAX / 4 + 1, 1 << 40] {
        for kind in [0u32, 4, 8, 10] {
            let array = [&kind.to_le_bytes()[..], &n.to_le_bytes()].concat();
            let error = Gguf::parse(&GgufFile::new("llama").key("k", 9, &array).bytes()).unwrap_err();
            assert!(matches!(error, Error::Truncated { .. }), "{kind} {n}: {error}");
        }
        assert!(Gguf::parse(&GgufFile::new("llama").key("k", 8, &n.to_le_bytes()).bytes()).is_err());
    }
}

#[test]
fn rejects_gguf_values_of_unknown_or_nested_type() {
    for kind in [13u32, 255, u32::MAX] {
        assert!(matches!(Gguf::parse(&GgufFile::new("llama").key("k", kind, &[0; 8]).bytes()), Err(Error::Invalid { .. })));
    }
    for kind in [9u32, 13, u32::MAX] {
        let array = [&kind.to_le_bytes()[..], &1u64.to_le_bytes(), &[0; 16]].concat();
        assert!(matches!(Gguf::parse(&GgufFile::new("llama").key("k", 9, &array).bytes()), Err(Error::Invalid { .. })));
    }
}

#[test]
fn rejects_gguf_keys_and_tensors_twice() {
    assert!(Gguf::parse(&GgufFile::new("llama").u32("a", 1).u32("a", 1).bytes()).is_err());
    let twice = GgufFile::new("llama").floats("a", &[8], &[0.0; 8]).floats("a", &[8], &[0.0; 8]);
    assert!(Gguf::parse(&twice.bytes()).is_err());
    let mut bytes = GgufFile::new("llama").u32("key", 1).bytes();
    let at = bytes.windows(3).position(|w| w == b"key").unwrap();
    bytes[at] = 0xFF;
    assert!(matches!(Gguf::parse(&bytes), Err(Error::Invalid { .. })));
}

#[test]
fn rejects_gguf_tensors_outside_or_on_each_other() {
    let base = || GgufFile::new("llama").floats("a", &[16], &[0.0; 16]);
    let refuse = |file: GgufFile| Gguf::parse(&file.bytes()).unwrap_err();
    assert!(matches!(refuse(base().tensor_at("b", &[8], 0, 32)), Error::Overlap { .. }));
    assert!(matches!(refuse(base().tensor_at("b", &[8], 0, 64)), Error::Truncated { .. }));
    assert!(matches!(refuse(base().tensor_at("b", &[8], 0, u64::MAX - 31)), Error::Truncated { .. }));
    assert!(matches!(refuse(base().tensor_at("b", &[u64::MAX, u64::MAX], 0, 64)), Error::Truncated { .. }));
    assert!(matches!(refuse(base().tensor_at("b", &[8], 0, 8)), Error::Invalid { .. }));
    assert!(matches!(refuse(base().tensor_at("b", &[], 0, 64)), Error::Invalid { .. }));
    assert!(matches!(refuse(base().tensor_at("b", &[1; 5], 0, 64)), Error::Invalid { .. }));
    assert!(matches!(refuse(base().tensor_at("b", &[33], 2, 0)), Error::Invalid { .. }));
    for kind in [4, 5, 10, 16, 31, 255, u32::MAX] {
        assert!(matches!(refuse(base().tensor_at("b", &[256], kind, 0)), Error::Dtype { .. }), "ggml type {kind}");
    }
    for align in [0, 3, 48] {
        assert!(matches!(refuse(base().u32("general.alignment", align)), Error::Invalid { .. }));
    }
}

#[test]
fn rejects_gguf_keys_of_another_type() {
    let file = GgufFile::new("llama")
        .u32("number", 7)
        .text("text", "seven")
        .texts("texts", &["a"])
        .key("tall", 10, &u64::MAX.to_le_bytes())
        .key("bytes", 8, &[&1u64.to_le_bytes()[..], &[0xFF]].concat())
        .key("minus", 5, &(-1i32).to_le_bytes());
    let bytes = file.bytes();
    let m = Gguf::parse(&bytes).unwrap().metadata;
    assert_eq!((m.u32("number").unwrap(), m.f32("number").unwrap(), m.u32("none").unwrap()), (Some(7), Some(7.0), None));
    assert_eq!(m.strings("texts").unwrap().unwrap(), ["a"]);
    assert!(m.u32("text").is_err() && m.u32("tall").is_err() && m.u32("minus").is_err() && m.f32("text").is_err());
    assert!(m.bool("number").is_err() && m.str("number").is_err() && m.str("bytes").is_err() && m.str("texts").is_err());
    assert!(m.strings("text").is_err() && m.i32s("texts").is_err() && m.f32s("texts").is_err());
}

#[test]
fn rejects_gguf_without_its_sizes() {
    let open = |file: GgufFile| {
        let dir = folder(&[("m.gguf", &file.bytes())]);
        Checkpoint::open(&dir.path().join("m.gguf")).expect_err("must be refused").to_string()
    };
    assert!(open(GgufFile::new("llama")).contains("num_hidden_layers"));
    let sized = GgufFile::new("llama")
        .u32("llama.block_count", 1)
        .u32("llama.embedding_length", 64)
        .u32("llama.feed_forward_length", 64)
        .u32("llama.attention.head_count", 2);
    assert!(open(sized).contains("token_embd.weight"));
    assert!(open(GgufFile::new("llama").text("llama.block_count", "1")).contains("llama.block_count"));
    let unequal = GgufFile::new("llama").u32("llama.attention.key_length", 64).u32("llama.attention.value_length", 32);
    assert!(open(unequal).contains("value_length"));
    let wide = GgufFile::new("llama").tensor("rope_freqs.weight", &[1 << 20], 0, &vec![0; 4 << 20]);
    assert!(open(wide).contains("rope_freqs"));
}

#[test]
fn rejects_requests_outside_a_tensor() {
    let checkpoint = with_weights(CONFIG, &TENSORS).unwrap();
    let t = &checkpoint.tensors()[0];
    let mut out = [0.0; 20];
    assert!(checkpoint.rows_f32(t, 0..5, &mut out).is_ok());
    assert!(checkpoint.rows_f32(t, 0..6, &mut out).is_err());
    assert!(checkpoint.rows_f32(t, 5..6, &mut out[..4]).is_err());
    #[allow(clippy::reversed_empty_ranges)]
    let backwards = 3..1;
    assert!(checkpoint.rows_f32(t, backwards, &mut out).is_err());
    assert!(checkpoint.rows_f32(t, 0..4, &mut out).is_err());
    assert!(checkpoint.rows_f32(t, usize::MAX - 1..usize::MAX, &mut out[..4]).is_err());
    assert!(checkpoint.q4_0_row(t, 0, &mut [0; 1], &mut [0; 4]).is_err());
}

#[test]
fn rejects_hostile_side_files() {
    let weights = weights(&TENSORS);
    for (name, text) in [
        ("generation_config.json", "[]"),
        ("generation_config.json", r#"{"eos_token_id": "2"}"#),
        ("generation_config.json", r#"{"eos_token_id": [-1]}"#),
        ("generation_config.json", r#"{"temperature": -1}"#),
        ("tokenizer_config.json", "{"),
        ("tokenizer_config.json", r#"{"chat_template": 3}"#),
        ("tokenizer.json", "{"),
        ("chat_template.jinja", "\u{0}"),
    ] {
        let files = [("config.json", CONFIG.as_bytes()), ("model.safetensors", &weights), (name, text.as_bytes())];
        let opened = Checkpoint::open(folder(&files).path());
        assert_eq!(opened.is_err(), name != "chat_template.jinja", "{name} {text}");
    }
    let files = [("config.json", CONFIG.as_bytes()), ("model.safetensors", &weights), ("chat_template.jinja", &[0xFF])];
    assert!(Checkpoint::open(folder(&files).path()).is_err());
}

#[test]
fn reads_template_and_licence_wherever_they_are() {
    let weights = weights(&TENSORS);
    let open = |more: &[(&str, &str)]| {
        let mut files = vec![("config.json", CONFIG.as_bytes()), ("model.safetensors", &weights[..])];
        files.extend(more.iter().map(|(name, text)| (*name, text.as_bytes())));
        Checkpoint::open(folder(&files).path()).unwrap()
    };
    let named = r#"{"chat_template": [{"name": "tools", "template": "T"}, {"name": "default", "template": "D"}]}"#;
    assert_eq!(open(&[("tokenizer_config.json", r#"{"chat_template": "S"}"#)]).chat_template.as_deref(), Some("S"));
    assert_eq!(open(&[("tokenizer_config.json", named)]).chat_template.as_deref(), Some("D"));
    assert_eq!(open(&[("tokenizer_config.json", named), ("chat_template.jinja", "J")]).chat_template.as_deref(), Some("J"));
    assert_eq!(open(&[]).license, None);
    assert_eq!(open(&[("README.md", "---\nlicense: mit\n---\n# A")]).license.as_deref(), Some("mit"));
    let other = "---\nlicense: other\nlicense_name: \"gemma\"\n---\n";
    assert_eq!(open(&[("README.md", other)]).license.as_deref(), Some("gemma"));
    let checkpoint = open(&[("LICENSE", "\n  MIT License\n\nCopyright")]);
    assert_eq!(checkpoint.license.as_deref(), Some("MIT License"));
    assert!(checkpoint.license_text.unwrap().ends_with("Copyright"));
    let sampled = open(&[("generation_config.json", r#"{"do_sample": true, "eos_token_id": [3, 1, 3, 99]}"#)]).generation;
    assert_eq!((sampled.eos, sampled.temperature), (vec![1, 3], Some(1.0)));
    let greedy = open(&[("generation_config.json", r#"{"do_sample": false, "temperature": 0.5}"#)]).generation;
    assert_eq!(greedy.temperature, Some(0.0));
}
