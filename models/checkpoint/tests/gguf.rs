//! GGUF files say what the folders say that they are made of, and the real ones open as they should.
//!
//! Where there are no fixtures or no real files, those tests say so and pass.

mod build;

use std::path::{Path, PathBuf};

use bourn_checkpoint::{Checkpoint, Dtype, Family, ModelSpec, Role};
use build::GgufFile;

fn fixture(name: &str) -> Option<PathBuf> {
    let usual = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/oracle");
    let path = std::env::var_os("BOURN_ORACLE").map_or(usual, PathBuf::from).join("dev").join(name);
    if path.is_dir() {
        return Some(path);
    }
    println!("skipped: no fixture {name} (BOURN_ORACLE names the oracle's folder)");
    None
}

/// A real file: by its short name in `BOURN_MODELS`, or by its own in the cache that `cargo xtask fetch-test-data` fills.
fn real(short: &str, own: &str) -> Option<Checkpoint> {
    let models = std::env::var_os("BOURN_MODELS").map(|dir| PathBuf::from(dir).join(short));
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let cache = cache.or_else(|| std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache")));
    let cached = cache.map(|cache| cache.join("bourn/test-data").join(own));
    match [models, cached].into_iter().flatten().find(|path| path.is_file()) {
        Some(path) => Some(Checkpoint::open(&path).unwrap()),
        None => {
            println!("skipped: no {own} (cargo xtask fetch-test-data, or BOURN_MODELS with {short})");
            None
        }
    }
}

fn smollm2() -> Option<Checkpoint> {
    real("smollm2.gguf", "SmolLM2-135M-Instruct.Q4_1.gguf")
}

fn open(file: &GgufFile) -> Result<Checkpoint, bourn_checkpoint::Error> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.gguf");
    std::fs::write(&path, file.bytes()).unwrap();
    Checkpoint::open(&path)
}

fn all(checkpoint: &Checkpoint, role: Role, layer: Option<u32>) -> Vec<f32> {
    let t = checkpoint.tensor(role, layer).unwrap();
    let mut out = vec![0.0; t.rows * t.cols];
    checkpoint.rows_f32(t, 0..t.rows, &mut out).unwrap();
    out
}

/// Names in GGUF, from llama.cpp's tensor map.
fn gguf_name(role: Role) -> &'static str {
    match role {
        Role::Embed => "token_embd.weight",
        Role::AttnNorm => "attn_norm.weight",
        Role::Wq => "attn_q.weight",
        Role::Wk => "attn_k.weight",
        Role::Wv => "attn_v.weight",
        Role::Bq => "attn_q.bias",
        Role::Bk => "attn_k.bias",
        Role::Bv => "attn_v.bias",
        Role::QNorm => "attn_q_norm.weight",
        Role::KNorm => "attn_k_norm.weight",
        Role::Wo => "attn_output.weight",
        Role::Bo => "attn_output.bias",
        Role::PostAttnNorm => "post_attention_norm.weight",
        Role::FfnNorm => "ffn_norm.weight",
        Role::Gate => "ffn_gate.weight",
        Role::Up => "ffn_up.weight",
        Role::Down => "ffn_down.weight",
        Role::PostFfnNorm => "post_ffw_norm.weight",
        Role::FinalNorm => "output_norm.weight",
        Role::Head => "output.weight",
    }
}

/// What llama.cpp's converter makes of a folder, in f32.
fn converted(checkpoint: &Checkpoint, arch: &str, pairs: bool) -> GgufFile {
    let ModelSpec { n_layers, hidden, n_heads, n_kv_heads, head_dim, ffn, max_context, norm_eps, .. } = checkpoint.spec;
    let mut file = GgufFile::new(arch);
    for (key, value) in [
        ("block_count", n_layers),
        ("embedding_length", hidden),
        ("attention.head_count", n_heads),
        ("attention.head_count_kv", n_kv_heads),
        ("attention.key_length", head_dim),
        ("attention.value_length", head_dim),
        ("feed_forward_length", ffn),
        ("context_length", max_context),
    ] {
        file = file.u32(&format!("{arch}.{key}"), value);
    }
    file = file.f32(&format!("{arch}.attention.layer_norm_rms_epsilon"), norm_eps);
    for t in checkpoint.tensors() {
        let values = all(checkpoint, t.role, t.layer);
        let name = match t.layer {
            Some(layer) => format!("blk.{layer}.{}", gguf_name(t.role)),
            None => gguf_name(t.role).to_owned(),
        };
        // reshape(heads, 2, half, …).swapaxes(1, 2): row `j·half + i` of a head goes to `2i + j`.
        let mut out = values.clone();
        if pairs && matches!(t.role, Role::Wq | Role::Wk) {
            let (head, half) = (head_dim as usize, head_dim as usize / 2);
            for (row, from) in values.chunks_exact(t.cols).enumerate() {
                let (h, r) = (row / head, row % head);
                let to = h * head + 2 * (r % half) + r / half;
                out[to * t.cols..(to + 1) * t.cols].copy_from_slice(from);
            }
        }
        let dims = if t.role.is_vector() { vec![t.cols as u64] } else { vec![t.cols as u64, t.rows as u64] };
        file = file.floats(&name, &dims, &out);
    }
    file
}

fn same(folder: &Checkpoint, file: &Checkpoint) {
    let (mut want, mut have) = (folder.spec.clone(), file.spec.clone());
    for (want, have) in want.ropes.iter_mut().zip(&mut have.ropes) {
        for (a, b) in want.inv_freq.iter().zip(&have.inv_freq) {
            assert!((a / b - 1.0).abs() < 1e-6, "inv_freq {a} {b}");
        }
        have.inv_freq.clone_from(&want.inv_freq);
    }
    assert_eq!(want, have);
    for t in folder.tensors() {
        assert_eq!(all(folder, t.role, t.layer), all(file, t.role, t.layer), "{}", t.name);
    }
    assert_eq!(folder.tensors().len(), file.tensors().len());
}

#[test]
fn gemma3_file_equals_its_folder() {
    let Some(path) = fixture("gemma3") else { return };
    let folder = Checkpoint::open(&path).unwrap();
    let mut file = converted(&folder, "gemma3", false);
    file = file.f32("gemma3.rope.freq_base", 1e6).u32("gemma3.attention.sliding_window", 8);
    let mut open = open(&file).unwrap();
    // The fixture's query_pre_attn_scalar (24) is not its head's width, and GGUF has no key for it.
    assert_eq!(open.spec.attn_scale, 32f64.powf(-0.5) as f32);
    open.spec.attn_scale = folder.spec.attn_scale;
    same(&folder, &open);
}

#[test]
fn llama_file_equals_its_folder_with_its_rows_in_order() {
    let Some(path) = fixture("llama32") else { return };
    let folder = Checkpoint::open(&path).unwrap();
    // The converter writes plain ÷ scaled frequencies as a tensor.
    let plain = |i: usize| 1.0 / 5e5f64.powf(i as f64 / 8.0);
    let factors: Vec<f32> =
        folder.spec.ropes[0].inv_freq.iter().enumerate().map(|(i, f)| (plain(i) / f64::from(*f)) as f32).collect();
    let file = converted(&folder, "llama", true).f32("llama.rope.freq_base", 5e5).u32("llama.rope.dimension_count", 16).floats(
        "rope_freqs.weight",
        &[8],
        &factors,
    );
    same(&folder, &open(&file).unwrap());
}

#[test]
fn qwen_files_equal_their_folders() {
    for (name, arch, theta) in
        [("qwen3_tied", "qwen3", 1e6), ("qwen3_untied_sharded", "qwen3", 1e6), ("qwen2_bias", "qwen2", 1e4)]
    {
        let Some(path) = fixture(name) else { return };
        let folder = Checkpoint::open(&path).unwrap();
        let file = converted(&folder, arch, false).f32(&format!("{arch}.rope.freq_base"), theta);
        same(&folder, &open(&file).unwrap());
    }
}

#[test]
fn ministral3_file_equals_its_folder() {
    let Some(path) = fixture("ministral3") else { return };
    let folder = Checkpoint::open(&path).unwrap();
    let file = converted(&folder, "mistral3", true)
        .f32("mistral3.rope.freq_base", 1e4)
        .text("mistral3.rope.scaling.type", "yarn")
        .f32("mistral3.rope.scaling.factor", 16.0)
        .f32("mistral3.rope.scaling.yarn_beta_fast", 4.0)
        .f32("mistral3.rope.scaling.yarn_beta_slow", 1.0)
        .f32("mistral3.rope.scaling.yarn_log_multiplier", 1.0)
        .u32("mistral3.rope.scaling.original_context_length", 32)
        .f32("mistral3.attention.temperature_scale", 0.1);
    same(&folder, &open(&file).unwrap());
}

#[test]
fn phi_files_equal_their_folders_fused() {
    for name in ["phi3_mini", "phi4_mini_sharded"] {
        let Some(path) = fixture(name) else { return };
        let folder = Checkpoint::open(&path).unwrap();
        let spec = &folder.spec;
        let mut file = GgufFile::new("phi3").f32("phi3.rope.freq_base", 1e4).u32("phi3.rope.dimension_count", spec.rotary_dim);
        for (key, value) in [
            ("block_count", spec.n_layers),
            ("embedding_length", spec.hidden),
            ("attention.head_count", spec.n_heads),
            ("attention.head_count_kv", spec.n_kv_heads),
            ("feed_forward_length", spec.ffn),
            ("context_length", spec.max_context),
            ("attention.sliding_window", spec.window),
        ] {
            file = file.u32(&format!("phi3.{key}"), value);
        }
        file = file.f32("phi3.attention.layer_norm_rms_epsilon", spec.norm_eps);
        if let [short, long] = spec.ropes.as_slice() {
            let plain = |i: usize| 1e4f64.powf(-2.0 * i as f64 / f64::from(spec.rotary_dim));
            let factors = |table: &[f32]| -> Vec<f32> {
                table.iter().enumerate().map(|(i, f)| (plain(i) / f64::from(*f)) as f32).collect()
            };
            file = file
                .f32("phi3.rope.scaling.attn_factor", short.factor)
                .u32("phi3.rope.scaling.original_context_length", long.min_context - 1)
                .floats("rope_factors_short.weight", &[short.inv_freq.len() as u64], &factors(&short.inv_freq))
                .floats("rope_factors_long.weight", &[long.inv_freq.len() as u64], &factors(&long.inv_freq));
        }
        for t in folder.tensors().iter().filter(|t| !matches!(t.role, Role::Wk | Role::Wv | Role::Up)) {
            let (name, roles) = match t.role {
                Role::Wq => ("attn_qkv.weight", &[Role::Wq, Role::Wk, Role::Wv][..]),
                Role::Gate => ("ffn_up.weight", &[Role::Gate, Role::Up][..]),
                role => (gguf_name(role), &[role][..]),
            };
            let values: Vec<f32> = roles.iter().flat_map(|role| all(&folder, *role, t.layer)).collect();
            let name = t.layer.map_or(name.to_owned(), |layer| format!("blk.{layer}.{name}"));
            let cols = t.cols as u64;
            let dims = if t.role.is_vector() { vec![cols] } else { vec![cols, values.len() as u64 / cols] };
            file = file.floats(&name, &dims, &values);
        }
        same(&folder, &open(&file).unwrap());
    }
}

#[test]
fn real_smollm2_opens() {
    let Some(checkpoint) = smollm2() else { return };
    let spec = &checkpoint.spec;
    assert_eq!(spec.family, Family::Llama);
    assert_eq!((spec.n_layers, spec.hidden, spec.vocab, spec.tied), (30, 576, 49_152, true));
    assert_eq!((spec.n_heads, spec.n_kv_heads, spec.head_dim, spec.ffn), (9, 3, 64, 1536));
    assert!(checkpoint.generation.eos.contains(&2));
    assert_eq!(checkpoint.license.as_deref(), Some("apache-2.0"));
    assert!(checkpoint.chat_template.is_some() && checkpoint.tokenizer.is_some());
}

#[test]
fn real_gemma_opens() {
    let Some(checkpoint) = real("gemma.gguf", "gemma-3-270m-q4_k_m.gguf") else { return };
    let spec = &checkpoint.spec;
    assert_eq!(spec.family, Family::Gemma3);
    assert_eq!((spec.n_layers, spec.hidden, spec.vocab, spec.tied), (18, 640, 262_144, true));
    assert_eq!((spec.window, spec.layer_sliding[5], spec.layer_sliding[6]), (512, false, true));
    assert_eq!((spec.attn_scale, spec.embed_scale), (0.0625, 25.298_222));
    assert_eq!(checkpoint.generation.eos, [1, 106]);
    assert!(all(&checkpoint, Role::AttnNorm, Some(0)).iter().sum::<f32>() > 640.0, "GGUF stores 1 + w");
}

#[test]
fn four_bit_rows_are_the_values() {
    let Some(checkpoint) = smollm2() else { return };
    for role in [Role::Wq, Role::Down] {
        let t = checkpoint.tensor(role, Some(7)).unwrap();
        assert_eq!(t.dtype, Dtype::Q4_1);
        let (mut scales, mut mins) = (vec![0; t.cols / 32], vec![0; t.cols / 32]);
        let (mut codes, mut row) = (vec![0; t.cols], vec![0.0; t.cols]);
        for r in [0, 1, 63, t.rows - 1] {
            checkpoint.q4_1_row(t, r, &mut scales, &mut mins, &mut codes).unwrap();
            checkpoint.rows_f32(t, r..r + 1, &mut row).unwrap();
            for (c, value) in row.iter().enumerate() {
                let f16 = |bits: u16| {
                    let sign = if bits >> 15 == 1 { -1.0 } else { 1.0 };
                    let (exponent, mantissa) = (i32::from(bits >> 10 & 31), f32::from(bits & 1023));
                    sign * if exponent == 0 { mantissa * 2f32.powi(-24) } else { (1024.0 + mantissa) * 2f32.powi(exponent - 25) }
                };
                assert_eq!(f32::from(codes[c]) * f16(scales[c / 32]) + f16(mins[c / 32]), *value, "{role:?} {r} {c}");
            }
        }
        assert!(checkpoint.q4_0_row(t, 0, &mut scales, &mut codes).is_err());
        assert!(checkpoint.q4_1_row(t, t.rows, &mut scales, &mut mins, &mut codes).is_err());
        assert!(checkpoint.q4_1_row(t, 0, &mut scales[1..], &mut mins, &mut codes).is_err());
    }
}
