//! The GPU beside the CPU, image by image: logits within a tolerance, greedy text the same.
//!
//! Needs a Vulkan adapter; Mesa's software one serves: `apt-get install -y mesa-vulkan-drivers libvulkan1`. `BOURN_GPU` names the
//! adapter to test (`llvmpipe` if it is not set). Without one the tests fail: nothing was tested.

use bourn_core::{Candidate, Engine, HeadMode, KvDtype, Options, Sampler, SamplerOptions};
use bourn_format::Role;
use bourn_gpu::{Adapter, Choice, Choices, Device, DeviceOptions, Error, Fma, GpuModel, GpuOptions, GpuSession};
use bourn_host::{ImageFile, OwnedSession, StreamKind};
use bourn_kernels::OneCore;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Largest difference of a logit, in parts of the range of the logits. Sums have the CPU's order; what is left are GPUs whose fused
/// multiply-add, division or root is not rounded as IEEE 754 says. Such a difference can turn an activation to the next of its 127 steps.
const TOLERANCE: f32 = 0.02;

fn adapter() -> Adapter {
    let name = std::env::var("BOURN_GPU").unwrap_or_else(|_| "llvmpipe".to_owned());
    Adapter::choose(&Choice::Named(name)).unwrap_or_else(|e| {
        panic!("{e}\nto get one: apt-get install -y mesa-vulkan-drivers libvulkan1; or name another: BOURN_GPU=NAME")
    })
}

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures").join(name)
}

/// An image, its CPU session and its GPU session.
struct Pair {
    file: ImageFile,
    gpu: GpuSession,
    cpu: OwnedSession,
}

impl Pair {
    fn new(name: &str, device: &DeviceOptions, block: usize) -> Result<Self, Error> {
        Self::with_head(name, device, block, HeadMode::Screened)
    }

    fn with_head(name: &str, device: &DeviceOptions, block: usize, head: HeadMode) -> Result<Self, Error> {
        let file = ImageFile::open(&fixture(name), StreamKind::Mapped).unwrap();
        let image = file.image();
        let float = image.layer(0).get(Role::Down).is_some_and(|t| !t.dtype.is_quantized());
        let kv = if float { KvDtype::F32 } else { KvDtype::F16 };
        let context = 96.min(image.shape().max_context as usize);
        let device = Device::open(adapter(), device)?;
        let model = Arc::new(GpuModel::new(device, image, &mut file.stream())?);
        let gpu = GpuSession::new(model, image, &GpuOptions { context, block, kv, head })?;
        let options = Options { context, prefill_block: 32, kv, retain: usize::MAX, logit_rows: 16 };
        let mut cpu = OwnedSession::new(image, &options).unwrap();
        cpu.set_head_mode(head);
        Ok(Self { file, gpu, cpu })
    }

    fn prompt(&self, n: usize) -> Vec<u32> {
        let vocab = self.file.image().shape().vocab;
        (0..n as u32).map(|i| (i * 7919 + 11) % vocab).collect()
    }

    /// Logits of all positions on the CPU, and on the GPU.
    fn logits(&mut self, tokens: &[u32]) -> [Vec<Vec<f32>>; 2] {
        let (mut cpu, mut gpu) = (Vec::new(), Vec::new());
        let image = self.file.image();
        let mut stream = self.file.stream();
        self.gpu.rewind(0).unwrap();
        self.gpu.logits_of_all(image, &mut stream, tokens, &mut |_, l| gpu.push(l.to_vec())).unwrap();
        let one = OneCore;
        let kernels = bourn_kernels::best();
        let mut engine = Engine { image, stream: &mut stream, kernels, decode: &one, prefill: &one };
        self.cpu.rewind(image, 0).unwrap();
        self.cpu.logits_of_all(&mut engine, tokens, &mut |_, l| cpu.push(l.to_vec())).unwrap();
        [cpu, gpu]
    }

    /// `n` greedy tokens after `prompt` on the CPU, and on the GPU.
    fn greedy(&mut self, prompt: &[u32], n: usize) -> [Vec<u32>; 2] {
        let image = self.file.image();
        let mut stream = self.file.stream();
        let (mut cpu, mut gpu) = (Vec::new(), Vec::new());
        self.gpu.rewind(0).unwrap();
        let mut next = prompt.to_vec();
        for _ in 0..n {
            self.gpu.prefill(image, &mut stream, &next).unwrap();
            next = vec![self.gpu.best(image).unwrap()];
            gpu.extend_from_slice(&next);
        }
        let one = OneCore;
        let kernels = bourn_kernels::best();
        let mut engine = Engine { image, stream: &mut stream, kernels, decode: &one, prefill: &one };
        self.cpu.rewind(image, 0).unwrap();
        let mut next = prompt.to_vec();
        for _ in 0..n {
            let logits = self.cpu.prefill(&mut engine, &next).unwrap();
            next = vec![(kernels.argmax)(logits) as u32];
            cpu.extend_from_slice(&next);
        }
        [cpu, gpu]
    }
}

fn close(cpu: &[f32], gpu: &[f32]) {
    let most = cpu.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let least = cpu.iter().copied().fold(f32::INFINITY, f32::min);
    let apart = cpu.iter().zip(gpu).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(apart <= TOLERANCE * (most - least), "{apart} apart in a range of {}", most - least);
}

fn agrees(name: &str) -> Pair {
    agrees_with_head(name, HeadMode::Screened)
}

fn agrees_with_head(name: &str, head: HeadMode) -> Pair {
    let mut pair = Pair::with_head(name, &DeviceOptions::default(), 32, head).unwrap();
    let prompt = pair.prompt(37);
    let [cpu, gpu] = pair.logits(&prompt);
    assert_eq!(cpu.len(), gpu.len());
    for (cpu, gpu) in cpu.iter().zip(&gpu) {
        close(cpu, gpu);
    }
    let [cpu, gpu] = pair.greedy(&prompt, 24);
    assert_eq!(cpu, gpu);
    pair
}

#[test]
fn floats_agree() {
    agrees("v1-f16.bourn");
}

#[test]
fn four_bits_agree() {
    agrees("v1-q4.bourn");
}

#[test]
fn every_quantized_type_agrees() {
    agrees("v1-quantized.bourn");
}

#[test]
fn a_screened_head_agrees() {
    let pair = agrees("v2-screen.bourn");
    let image = pair.file.image();
    let (stats, most) = (pair.gpu.stats(), image.screen().unwrap().candidates());
    assert!(stats.candidates >= 1.0 && stats.candidates <= most as f64, "{} of {most}", stats.candidates);
    let spared = (most as f64 - stats.candidates) * bourn_format::layout::row_bytes(image.shape().hidden as usize) as f64;
    assert!((stats.bytes_per_token as f64 + spared - image.bytes_per_token() as f64).abs() < 1.0, "{stats:?}");
}

#[test]
fn a_screened_head_is_read_whole_where_asked_for() {
    let pair = agrees_with_head("v2-screen.bourn", HeadMode::Exact);
    let image = pair.file.image();
    let head: u64 = image.parts(Role::Head).map(|t| t.bytes).sum();
    assert!(pair.gpu.stats().bytes_per_token > head);
}

#[test]
fn the_few_best_are_those_of_all() {
    for name in ["v1-q4.bourn", "v2-screen.bourn"] {
        let mut pair = Pair::new(name, &DeviceOptions::default(), 16).unwrap();
        let tokens = pair.prompt(9);
        let image = pair.file.image();
        let mut stream = pair.file.stream();
        pair.gpu.prefill(image, &mut stream, &tokens).unwrap();
        let mut all: Vec<(u32, f32)> = (0..).zip(pair.gpu.logits(image, 0).unwrap().iter().copied()).collect();
        all.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
        for n in [1, 2, 17, all.len() / 2] {
            let few = pair.gpu.few_best(image, n).unwrap().unwrap();
            let few: Vec<(u32, f32)> = few.iter().map(|c| (c.id, c.logit)).collect();
            assert_eq!(few, all[..n], "{name}: {n} best");
        }
        assert!(pair.gpu.few_best(image, all.len()).unwrap().is_none());
        assert_eq!(pair.gpu.best(image).unwrap(), all[0].0);
    }
}

#[test]
fn the_few_best_make_the_text_that_all_make() {
    for (name, penalty) in [("v1-q4.bourn", 1.0), ("v2-screen.bourn", 1.1)] {
        let mut pair = Pair::new(name, &DeviceOptions::default(), 16).unwrap();
        let image = pair.file.image();
        let mut stream = pair.file.stream();
        let prompt = pair.prompt(5);
        let options = SamplerOptions {
            temperature: 1.4,
            top_k: 20,
            top_p: 0.95,
            repetition_penalty: penalty,
            repeat_last_n: 16,
            seed: 3,
            ..SamplerOptions::default()
        };
        let mut scratch = vec![Candidate::default(); image.shape().vocab as usize];
        let (mut told, kernels) = (0, bourn_kernels::best());
        let texts = [true, false].map(|few| {
            let mut sampler = Sampler::new(options).unwrap();
            let (mut text, mut unread) = (prompt.clone(), 0);
            pair.gpu.rewind(0).unwrap();
            for _ in 0..24 {
                pair.gpu.prefill(image, &mut stream, &text[unread..]).unwrap();
                unread = text.len();
                let best = if few { pair.gpu.few_best(image, sampler.n_best().unwrap()).unwrap() } else { None };
                let id = best.and_then(|best| sampler.sample_best(best, &text).unwrap());
                told += usize::from(id.is_some());
                text.push(match id {
                    Some(id) => id,
                    None => sampler.sample(kernels, pair.gpu.logits(image, 0).unwrap(), &text, &mut scratch).unwrap(),
                });
            }
            text
        });
        assert_eq!(texts[0], texts[1], "{name}");
        assert!(told > 16, "{name}: {told} of 24");
    }
}

#[test]
fn has_the_cpus_bits_where_sums_are_rounded_once() {
    for name in ["v1-f16.bourn", "v1-q4.bourn", "v1-quantized.bourn", "v2-screen.bourn"] {
        let mut pair = Pair::new(name, &DeviceOptions::default(), 16).unwrap();
        // Of a hardware adapter division and root may be rounded otherwise.
        if pair.gpu.model().device().fma() != Fma::Doubles {
            println!("skipped: {} is not that exact", pair.gpu.model().device().adapter().name);
            return;
        }
        let tokens = pair.prompt(37);
        let [cpu, gpu] = pair.logits(&tokens);
        assert!(cpu == gpu, "{name}");
    }
}

#[test]
fn the_form_of_a_kernel_changes_no_bit() {
    let mut pair = Pair::new("v1-q4.bourn", &DeviceOptions::default(), 16).unwrap();
    let tokens = pair.prompt(7);
    let image = pair.file.image();
    let mut stream = pair.file.stream();
    let model = Arc::clone(pair.gpu.model());
    let mut logits = |gpu: &mut GpuSession| {
        tokens.iter().map(|&t| gpu.prefill(image, &mut stream, &[t]).unwrap()).for_each(drop);
        gpu.logits(image, 0).unwrap().to_vec()
    };
    let want = logits(&mut pair.gpu);
    let found = model.tune(image).unwrap().unwrap().to_string();
    assert!(found.lines().count() >= 4, "{found}");
    assert_eq!(model.tune(image).unwrap(), None, "measured twice");
    for splits in [8, 16, 32] {
        let line = |line: &str| format!("{} {splits}\n", line.rsplit_once(' ').unwrap().0);
        model.set_choices(Choices::read(&found.lines().map(line).collect::<String>()));
        assert_eq!(model.tune(image).unwrap(), None, "{splits} were known");
        let options = GpuOptions { context: 16, ..GpuOptions::default() };
        assert_eq!(logits(&mut GpuSession::new(Arc::clone(&model), image, &options).unwrap()), want, "{splits}");
    }
}

#[test]
fn one_by_one_is_the_same_as_in_blocks() {
    let mut pair = Pair::new("v1-q4.bourn", &DeviceOptions::default(), 16).unwrap();
    let tokens = pair.prompt(20);
    let [_, all] = pair.logits(&tokens);
    let image = pair.file.image();
    let mut stream = pair.file.stream();
    pair.gpu.rewind(0).unwrap();
    for (i, &token) in tokens.iter().enumerate() {
        pair.gpu.prefill(image, &mut stream, &[token]).unwrap();
        assert_eq!(pair.gpu.logits(image, 0).unwrap(), all[i], "position {i}");
    }
}

#[test]
fn returns_to_any_position() {
    let mut pair = Pair::new("v1-q4.bourn", &DeviceOptions::default(), 16).unwrap();
    let tokens = pair.prompt(30);
    let image = pair.file.image();
    let mut stream = pair.file.stream();
    pair.gpu.prefill(image, &mut stream, &tokens).unwrap();
    let want = pair.gpu.logits(image, 0).unwrap().to_vec();
    pair.gpu.rewind(9).unwrap();
    pair.gpu.prefill(image, &mut stream, &tokens[9..]).unwrap();
    assert_eq!(pair.gpu.logits(image, 0).unwrap(), want);
    assert_eq!(pair.gpu.rewind(31).unwrap_err(), Error::Core(bourn_core::Error::Rewind { to: 31, oldest: 0 }));
}

#[test]
fn a_profile_leaves_what_a_pass_leaves() {
    let mut pair = Pair::new("v2-screen.bourn", &DeviceOptions::default(), 16).unwrap();
    let tokens = pair.prompt(5);
    let (image, mut stream) = (pair.file.image(), pair.file.stream());
    pair.gpu.prefill(image, &mut stream, &tokens).unwrap();
    let want = pair.gpu.logits(image, 0).unwrap().to_vec();
    pair.gpu.rewind(4).unwrap();
    let kernels = match pair.gpu.profile(image, &mut stream, tokens[4]) {
        Err(Error::Unsupported { .. }) => {
            println!("skipped: {} has no timestamps", pair.gpu.model().device().adapter().name);
            return;
        }
        kernels => kernels.unwrap(),
    };
    assert_eq!((pair.gpu.position(), pair.gpu.logits(image, 0).unwrap().to_vec()), (5, want));
    assert_eq!(kernels.iter().map(|k| k.dispatches).sum::<usize>(), pair.gpu.stats().dispatches);
    assert!(kernels.windows(2).all(|k| k[0].time >= k[1].time), "{kernels:?}");
    let least = DeviceOptions { least: true, ..DeviceOptions::default() };
    let mut pair = Pair::new("v1-q4.bourn", &least, 16).unwrap();
    let refused = pair.gpu.profile(pair.file.image(), &mut pair.file.stream(), 1).unwrap_err();
    assert_eq!(refused.to_string(), "the gpu has no timestamps: use bourn bench without --profile");
    assert_eq!(pair.gpu.position(), 0);
}

#[test]
fn works_with_the_least_that_webgpu_guarantees() {
    let options = DeviceOptions { least: true, ..DeviceOptions::default() };
    for name in ["v1-f16.bourn", "v1-q4.bourn", "v1-quantized.bourn", "v2-screen.bourn"] {
        let mut pair = Pair::new(name, &options, 16).unwrap();
        let prompt = pair.prompt(18);
        let [cpu, gpu] = pair.greedy(&prompt, 6);
        assert_eq!(cpu, gpu, "{name}");
        pair.gpu.verify(pair.file.image(), &mut pair.file.stream(), &prompt[..3]).unwrap();
        pair.gpu.logits(pair.file.image(), 2).unwrap();
        pair.gpu.prefill(pair.file.image(), &mut pair.file.stream(), &prompt[..1]).unwrap();
        assert_eq!(pair.gpu.few_best(pair.file.image(), 5).unwrap().unwrap().len(), 5);
    }
}

#[test]
fn a_head_in_several_buffers_is_the_same() {
    let whole = Pair::new("v1-q4.bourn", &DeviceOptions::default(), 16).unwrap();
    let image = whole.file.image();
    let largest = (0..image.n_segments()).map(|i| image.segment(i).bytes).max().unwrap();
    drop(whole);
    let options = DeviceOptions { binding_bytes: Some(largest.max(64 << 10)), ..DeviceOptions::default() };
    let mut split = Pair::new("v1-q4.bourn", &options, 16).unwrap();
    assert!(split.gpu.model().weight_buffers() > 1, "{}", split.gpu.model().weight_buffers());
    let prompt = split.prompt(18);
    let [cpu, gpu] = split.greedy(&prompt, 6);
    assert_eq!(cpu, gpu);
    let too_small = DeviceOptions { binding_bytes: Some(1024), ..DeviceOptions::default() };
    let error = Pair::new("v1-q4.bourn", &too_small, 16).err();
    assert!(matches!(error, Some(Error::BindingTooLarge { found: 1024, .. })), "{error:?}");
}

#[test]
fn names_what_is_wrong() {
    let error = Adapter::choose(&Choice::Named("no such gpu".to_owned())).unwrap_err();
    assert!(error.to_string().starts_with("no gpu: need one named no such gpu, found "), "{error}");
    let all = Adapter::all();
    if all.iter().all(|a| a.kind == bourn_gpu::Kind::Software) {
        assert!(matches!(Adapter::choose(&Choice::Hardware), Err(Error::SoftwareOnly { .. })));
    }
    let mut pair = Pair::new("v1-q4.bourn", &DeviceOptions::default(), 16).unwrap();
    let image = pair.file.image();
    let mut stream = pair.file.stream();
    let context = pair.gpu.context();
    let vocab = image.shape().vocab;
    let mut prefill = |tokens: &[u32]| pair.gpu.prefill(image, &mut stream, tokens).unwrap_err();
    assert_eq!(prefill(&[]), Error::Core(bourn_core::Error::Empty));
    assert_eq!(prefill(&[vocab]), Error::Core(bourn_core::Error::Token { id: vocab, vocab }));
    let long = vec![0; context + 1];
    let full = bourn_core::Error::ContextFull { need: context as u64 + 1, context: context as u64 };
    assert_eq!(prefill(&long), Error::Core(full));
}
