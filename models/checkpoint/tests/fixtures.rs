//! The dev fixtures: real folders of tiny models, each with its config in both spellings.
//!
//! `BOURN_ORACLE` names the oracle's folder; without it and without the usual place the tests say so and pass.

use std::path::{Path, PathBuf};

use bourn_checkpoint::{Activation, Checkpoint, Dtype, Family, Role};

fn fixture(name: &str) -> Option<PathBuf> {
    let usual = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/oracle");
    let root = std::env::var_os("BOURN_ORACLE").map_or(usual, PathBuf::from);
    let path = root.join("dev").join(name);
    if path.is_dir() {
        return Some(path);
    }
    println!("skipped: no fixture {name} (BOURN_ORACLE names the oracle's folder)");
    None
}

fn open(name: &str) -> Option<Checkpoint> {
    fixture(name).map(|path| Checkpoint::open(&path).unwrap())
}

const ALL: [&str; 12] = [
    "gemma3",
    "gemma3_linear_f32",
    "llama32",
    "llama_tails_f32",
    "ministral3",
    "mistral3_wrapped",
    "phi3_mini",
    "phi4_mini_sharded",
    "qwen2_bias",
    "qwen3_tied",
    "qwen3_untied_sharded",
    "smollm2",
];

/// A folder with everything of a fixture but with another file as config.json.
fn with_config(from: &Path, config: &str) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        if path.is_file() && path.file_name().unwrap() != "config.json" {
            std::fs::copy(&path, dir.path().join(path.file_name().unwrap())).unwrap();
        }
    }
    std::fs::copy(from.join(config), dir.path().join("config.json")).unwrap();
    dir
}

#[test]
fn both_spellings_give_one_spec() {
    for name in ALL {
        let Some(path) = fixture(name) else { return };
        let old = Checkpoint::open(&path).unwrap();
        let dir = with_config(&path, "config_v5.json");
        let new = Checkpoint::open(dir.path()).unwrap();
        assert_eq!(old.spec, new.spec, "{name}");
        assert_eq!(old.generation, new.generation, "{name}");
    }
}

#[test]
fn every_layer_is_whole_and_every_row_readable() {
    for name in ALL {
        let Some(checkpoint) = open(name) else { return };
        let spec = &checkpoint.spec;
        for t in checkpoint.tensors() {
            assert_eq!((t.rows, t.cols), spec.dims(t.role), "{name} {}", t.name);
            let mut all = vec![f32::NAN; t.rows * t.cols];
            checkpoint.rows_f32(t, 0..t.rows, &mut all).unwrap();
            assert!(all.iter().all(|v| v.is_finite()), "{name} {}", t.name);
            let mut row = vec![0.0; t.cols];
            for r in [0, t.rows / 2, t.rows - 1] {
                checkpoint.rows_f32(t, r..r + 1, &mut row).unwrap();
                assert_eq!(row, all[r * t.cols..(r + 1) * t.cols], "{name} {} row {r}", t.name);
            }
        }
        for layer in 0..spec.n_layers {
            for role in [Role::AttnNorm, Role::Wq, Role::Wk, Role::Wv, Role::Wo, Role::FfnNorm, Role::Gate, Role::Up, Role::Down]
            {
                assert!(checkpoint.tensor(role, Some(layer)).is_some(), "{name} {layer} {role:?}");
            }
        }
        assert_eq!(checkpoint.tensor(Role::Head, None).is_none(), spec.tied, "{name}");
        assert!(checkpoint.chat_template.is_some(), "{name}");
        for sliding in [false, true] {
            let table = spec.ropes.iter().any(|r| r.sliding == sliding && r.min_context == 0);
            assert_eq!(table, spec.layer_sliding.contains(&sliding), "{name}");
        }
        assert!(spec.ropes.iter().all(|r| r.inv_freq.len() * 2 == spec.rotary_dim as usize), "{name}");
    }
}

#[test]
fn gemma3_slides_scales_and_turns_as_written() {
    let Some(checkpoint) = open("gemma3") else { return };
    let spec = &checkpoint.spec;
    assert_eq!(spec.family, Family::Gemma3);
    assert_eq!(spec.activation, Activation::GeluTanh);
    assert_eq!(spec.layer_sliding, [true, true, true, true, true, false, true]);
    assert_eq!((spec.window, spec.vocab, spec.tied), (8, 588, true));
    assert_eq!(spec.embed_scale, 8.0);
    assert_eq!(spec.attn_scale, 24f64.powf(-0.5) as f32);
    assert_eq!(spec.ropes.len(), 2);
    let last = |sliding| spec.ropes.iter().find(|r| r.sliding == sliding).unwrap().inv_freq[15];
    assert!((last(false) / 1e6f32.powf(-30.0 / 32.0) - 1.0).abs() < 1e-6);
    assert!((last(true) / 1e4f32.powf(-30.0 / 32.0) - 1.0).abs() < 1e-6);
    assert_eq!(checkpoint.generation.eos, [1, 9]);
    assert_eq!((checkpoint.generation.top_k, checkpoint.generation.temperature), (Some(20), Some(0.6)));
    let norm = checkpoint.tensor(Role::KNorm, Some(0)).unwrap();
    let mut values = vec![0.0; norm.cols];
    checkpoint.rows_f32(norm, 0..1, &mut values).unwrap();
    assert!(values.iter().sum::<f32>() / values.len() as f32 > 0.5, "norms come with their 1: {values:?}");
    for role in [Role::QNorm, Role::PostAttnNorm, Role::PostFfnNorm] {
        assert!(checkpoint.tensor(role, Some(6)).is_some());
    }
}

#[test]
fn gemma3_stretches_only_the_global_rope() {
    let Some(checkpoint) = open("gemma3_linear_f32") else { return };
    assert_eq!(checkpoint.spec.layer_sliding, [true, true, false, true]);
    let first = |sliding| checkpoint.spec.ropes.iter().find(|r| r.sliding == sliding).unwrap().inv_freq[0];
    assert_eq!((first(false), first(true)), (0.125, 1.0));
}

#[test]
fn llama_stretches_in_three_bands() {
    let Some(checkpoint) = open("llama32") else { return };
    let table = &checkpoint.spec.ropes[0].inv_freq;
    assert_eq!(table[0], 1.0);
    let plain = |i: usize| 5e5f32.powf(-(i as f32) / 8.0);
    assert!((table[7] / (plain(7) / 32.0) - 1.0).abs() < 1e-5);
    assert_eq!(checkpoint.generation.eos, [501, 506, 507]);
}

#[test]
fn head_is_tied_by_config_whatever_the_file_holds() {
    let Some(checkpoint) = open("qwen3_tied") else { return };
    assert!(checkpoint.spec.tied);
    assert!(checkpoint.tensor(Role::Head, None).is_none());
    let Some(checkpoint) = open("qwen3_untied_sharded") else { return };
    assert!(!checkpoint.spec.tied);
    assert_eq!(checkpoint.tensor(Role::Head, None).unwrap().dtype, Dtype::F16);
    assert_eq!(checkpoint.source.files.len(), 3);
}

#[test]
fn qwen2_has_biases_and_no_window() {
    let Some(checkpoint) = open("qwen2_bias") else { return };
    assert_eq!(checkpoint.spec.window, 0);
    assert_eq!(checkpoint.tensor(Role::Bk, Some(1)).unwrap().cols, 64);
    assert!(checkpoint.tensor(Role::Bo, Some(1)).is_none());
}

#[test]
fn phi3_is_split_by_rows_and_slides_everywhere() {
    let Some(checkpoint) = open("phi3_mini") else { return };
    assert_eq!(checkpoint.spec.window, 17);
    assert_eq!(checkpoint.spec.layer_sliding, [true; 3]);
    assert!(checkpoint.spec.ropes.iter().all(|r| r.sliding));
    let names: Vec<_> =
        [Role::Wq, Role::Wk, Role::Wv].iter().map(|r| checkpoint.tensor(*r, Some(2)).unwrap().name.clone()).collect();
    assert_eq!(names, ["model.layers.2.self_attn.qkv_proj.weight"; 3]);
}

#[test]
fn phi4_turns_part_of_a_head_by_two_tables() {
    let Some(checkpoint) = open("phi4_mini_sharded") else { return };
    let spec = &checkpoint.spec;
    assert_eq!((spec.head_dim, spec.rotary_dim, spec.window), (32, 24, 0));
    let [short, long] = spec.ropes.as_slice() else { panic!("two tables") };
    assert_eq!((short.min_context, long.min_context), (0, 41));
    let factor = (1.0 + 32f64.ln() / 40f64.ln()).sqrt() as f32;
    assert_eq!((short.factor, long.factor), (factor, factor));
    assert!((short.inv_freq[11] / long.inv_freq[11] - 27.235 / 1.33).abs() < 1e-3);
}

#[test]
fn ministral3_is_unwrapped_and_heats_its_queries() {
    for (name, tied) in [("ministral3", false), ("mistral3_wrapped", true)] {
        let Some(checkpoint) = open(name) else { return };
        let spec = &checkpoint.spec;
        assert_eq!((spec.family, spec.tied), (Family::Ministral3, tied));
        assert_eq!((spec.attn_temperature_beta, spec.attn_temperature_context), (0.1, 32));
        assert_eq!(spec.ropes[0].factor, 1.0);
        assert_eq!(checkpoint.generation.eos, [2]);
    }
}
