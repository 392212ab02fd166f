//! Products as wide as models': their groups take several rounds of a workgroup, the last of them not whole, which no small fixture has.

#[path = "support/checkpoint.rs"]
mod checkpoint;

use bourn_checkpoint::Checkpoint;
use bourn_core::{Engine, HeadMode, KvDtype, Options};
use bourn_gpu::{Adapter, Choice, Choices, Device, DeviceOptions, Fma, GpuModel, GpuOptions, GpuSession};
use bourn_host::{ImageFile, OwnedSession, StreamKind};
use bourn_kernels::OneCore;
use bourn_pack::{Levels, Method, Weights};
use checkpoint::{Random, Tensor, write};
use std::path::Path;
use std::sync::Arc;

/// 18 groups.
const HIDDEN: usize = 576;
/// 85 groups: more than a workgroup holds at a time.
const FFN: usize = 2720;
const HEADS: usize = 9;
const KV_HEADS: usize = 3;
const HEAD_DIM: usize = 64;
const VOCAB: usize = 64;

fn image(folder: &Path, weights: Weights, levels: Levels) -> ImageFile {
    let config = format!(
        r#"{{"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu", "hidden_size": {HIDDEN},
        "intermediate_size": {FFN}, "head_dim": {HEAD_DIM}, "num_attention_heads": {HEADS}, "num_key_value_heads": {KV_HEADS},
        "num_hidden_layers": 1, "vocab_size": {VOCAB}, "max_position_embeddings": 64, "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0, "tie_word_embeddings": true, "torch_dtype": "bfloat16"}}"#
    );
    let mut random = Random(1);
    let mut matrix = |name: &str, rows: usize, cols: usize| -> Tensor {
        (name.to_owned(), vec![rows, cols], (0..rows * cols).map(|_| random.value()).collect())
    };
    let layer = |name: &str| format!("model.layers.0.{name}");
    let norm = |name: String| -> Tensor { (name, vec![HIDDEN], vec![1.0; HIDDEN]) };
    let tensors = [
        matrix("model.embed_tokens", VOCAB, HIDDEN),
        matrix(&layer("self_attn.q_proj"), HEADS * HEAD_DIM, HIDDEN),
        matrix(&layer("self_attn.k_proj"), KV_HEADS * HEAD_DIM, HIDDEN),
        matrix(&layer("self_attn.v_proj"), KV_HEADS * HEAD_DIM, HIDDEN),
        matrix(&layer("self_attn.o_proj"), HIDDEN, HEADS * HEAD_DIM),
        matrix(&layer("mlp.gate_proj"), FFN, HIDDEN),
        matrix(&layer("mlp.up_proj"), FFN, HIDDEN),
        matrix(&layer("mlp.down_proj"), HIDDEN, FFN),
        norm(layer("input_layernorm")),
        norm(layer("post_attention_layernorm")),
        norm("model.norm".to_owned()),
    ];
    write(folder, &config, &tensors).unwrap();
    let path = folder.join("wide.bourn");
    let options = bourn_pack::Options { weights, levels, method: Some(Method::Rtn), ..bourn_pack::Options::default() };
    bourn_pack::pack(&Checkpoint::open(folder).unwrap(), &path, &options, &mut |_| {}).unwrap();
    ImageFile::open(&path, StreamKind::Resident).unwrap()
}

#[test]
fn every_form_of_a_wide_product_has_the_cpus_bits() {
    let name = std::env::var("BOURN_GPU").unwrap_or_else(|_| "llvmpipe".to_owned());
    let tokens: Vec<u32> = (0..19).map(|i| i * 11 % VOCAB as u32).collect();
    for (weights, levels) in [(Weights::Q4, Levels::fitted()), (Weights::Q4, Levels::linear()), (Weights::Q8, Levels::fitted())] {
        let folder = tempfile::tempdir().unwrap();
        let file = image(folder.path(), weights, levels);
        let (image, mut stream) = (file.image(), file.stream());
        let options = Options { context: 64, prefill_block: 32, kv: KvDtype::F16, retain: usize::MAX, logit_rows: 16 };
        let mut session = OwnedSession::new(image, &options).unwrap();
        let one = OneCore;
        let mut engine = Engine { image, stream: &mut stream, kernels: bourn_kernels::best(), decode: &one, prefill: &one };
        let mut want = Vec::new();
        session.logits_of_all(&mut engine, &tokens, &mut |_, logits| want.push(logits.to_vec())).unwrap();
        let device = Device::open(Adapter::choose(&Choice::Named(name.clone())).unwrap(), &DeviceOptions::default()).unwrap();
        let exact = device.fma() != Fma::Twice;
        let model = Arc::new(GpuModel::new(device, image, &mut file.stream()).unwrap());
        // Of one type all forms, of the others what is taken unmeasured.
        let measured = if weights == Weights::Q4 && levels != Levels::linear() { model.tune(image).unwrap() } else { None };
        let measured = measured.map_or_else(String::new, |choices| choices.to_string());
        for splits in if measured.is_empty() { &[16][..] } else { &[8, 16, 32] } {
            let line = |line: &str| format!("{} {splits}\n", line.rsplit_once(' ').unwrap().0);
            model.set_choices(Choices::read(&measured.lines().map(line).collect::<String>()));
            let options = GpuOptions { context: 64, block: 16, kv: KvDtype::F16, head: HeadMode::Screened };
            let mut gpu = GpuSession::new(Arc::clone(&model), image, &options).unwrap();
            let mut found = Vec::new();
            let mut stream = file.stream();
            // In blocks, whose last token is alone, and then one by one.
            gpu.logits_of_all(image, &mut stream, &tokens[..17], &mut |_, logits| found.push(logits.to_vec())).unwrap();
            for token in &tokens[17..] {
                gpu.prefill(image, &mut stream, &[*token]).unwrap();
                found.push(gpu.logits(image, 0).unwrap().to_vec());
            }
            for (position, (want, found)) in want.iter().zip(&found).enumerate() {
                let range = want.iter().fold(0f32, |most, x| most.max(x.abs()));
                let far = want.iter().zip(found).map(|(a, b)| (a - b).abs()).fold(0f32, f32::max);
                assert!(
                    if exact { want == found } else { far < 0.02 * range },
                    "{weights:?} {splits} at {position}: {far} of {range}"
                );
            }
        }
    }
}
