//! Real weights: SmolLM2-135M-Instruct and Gemma 3 270M out of their GGUF files, against transformers on the same numbers.
//!
//! The goldens are of the de-quantized weights rounded once to bf16, computed in f32: `--weights bf16` makes the same.

use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use anyhow::{Context, Result, anyhow, ensure};
use bourn_oracle::compare::{logsumexp, range};
use bourn_oracle::golden::{self, floats, ids, indices};
use bourn_oracle::place;
use bourn_oracle::runner::{Runner, Setup, pack};
use bourn_oracle::text::Image;
use bourn_pack::Weights;
use libtest_mimic::{Arguments, Failed, Trial};
use safetensors::SafeTensors;
use serde_json::Value;

/// Of the logit range.
const TOLERANCE: f32 = 1e-3;
/// Of the negative log-likelihood of a window.
const PERPLEXITY_TOLERANCE: f64 = 1e-4;
/// Windows scored: the first ones; a port that is wrong is wrong in each.
const WINDOWS: usize = 2;
/// Longest window scored: the longer ones would double the time of the whole test run.
const LONGEST_WINDOW: usize = 512;
/// Candidates of each position in the golden files.
const TOP: usize = 20;

/// A model with goldens, and its image, packed when the first test asks for it.
struct Model {
    golden: PathBuf,
    gguf: PathBuf,
    packed: OnceLock<Result<(tempfile::TempDir, Runner), String>>,
}

impl Model {
    fn runner(&self) -> Result<&Runner> {
        let packed = self.packed.get_or_init(|| self.pack().map_err(|error| format!("{error:#}")));
        packed.as_ref().map(|(_, runner)| runner).map_err(|error| anyhow!("{error}"))
    }

    fn pack(&self) -> Result<(tempfile::TempDir, Runner)> {
        let folder = tempfile::tempdir()?;
        let image = folder.path().join("image.bourn");
        pack(&self.gguf, &image, Weights::Bf16)?;
        let runner = Runner::open(&image)?;
        Ok((folder, runner))
    }

    fn prompts(&self) -> Result<Vec<Value>> {
        let prompts = golden::json(&self.golden.join("prompts.json"))?;
        Ok(prompts["prompts"].as_array().context("prompts.json has no prompts")?.clone())
    }
}

fn main() -> std::process::ExitCode {
    let arguments = Arguments::from_args();
    let mut trials = Vec::new();
    for (name, gguf) in [("smollm2-135m-instruct", SMOLLM2), ("gemma-3-270m", GEMMA)] {
        match model(name, gguf).and_then(|model| trials_of(name, model).map_err(|error| format!("{error:#}"))) {
            Ok(found) => trials.extend(found),
            Err(reason) => trials.push(Trial::test(name, || Ok(())).with_kind(reason).with_ignored_flag(true)),
        }
    }
    libtest_mimic::run(&arguments, trials).exit_code()
}

const SMOLLM2: &str = "test-data/SmolLM2-135M-Instruct.Q4_1.gguf";
const GEMMA: &str = "test-data/gemma-3-270m-q4_k_m.gguf";

fn model(name: &str, gguf: &str) -> Result<Model, String> {
    let golden = place::oracle()?.join("real").join(name).join("golden");
    Ok(Model { golden, gguf: place::cached(gguf)?, packed: OnceLock::new() })
}

fn trials_of(name: &str, model: Model) -> Result<Vec<Trial>> {
    let model = Arc::new(model);
    let mut trials = Vec::new();
    let scored = Arc::clone(&model);
    let run = move || perplexity(&scored).map_err(|error| Failed::from(format!("{error:#}")));
    trials.push(Trial::test(format!("{name}: likelihood of each window of a book"), run));
    for prompt in model.prompts()? {
        let label = prompt["name"].as_str().context("a prompt has no name")?.to_owned();
        let (model, prompt) = (Arc::clone(&model), Arc::new(prompt));
        let mut add = |what: &str, check: fn(&Model, &Value) -> Result<()>| {
            let (model, prompt) = (Arc::clone(&model), Arc::clone(&prompt));
            let run = move || check(&model, &prompt).map_err(|error| Failed::from(format!("{error:#}")));
            trials.push(Trial::test(format!("{name} {label}: {what}"), run));
        };
        add("top 20 and logsumexp at every position", top_of_every_position);
        add("greedy text up to the first narrow margin", greedy_text);
    }
    Ok(trials)
}

fn top_of_every_position(model: &Model, prompt: &Value) -> Result<()> {
    let runner = model.runner()?;
    let name = prompt["name"].as_str().unwrap_or_default();
    let bytes = std::fs::read(model.golden.join(format!("{name}.safetensors")))?;
    let tensors = SafeTensors::deserialize(&bytes)?;
    let (lse, top, top_ids) = (floats(&tensors, "lse")?, floats(&tensors, "top_logits")?, indices(&tensors, "top_ids")?);
    let ids = ids(&prompt["ids"])?;
    let mut worst = (0.0, String::new());
    runner.each(&ids, &Setup::default(), &mut |position, logits| {
        let mut compare = |what: &str, found: f32, golden: f32| {
            let apart = (found - golden).abs() / range(logits);
            if apart > worst.0 || apart.is_nan() {
                worst = (apart, format!("position {position} {what}: {found} where {golden} is golden"));
            }
        };
        let here = position * TOP..(position + 1) * TOP;
        for (&id, &golden) in top_ids[here.clone()].iter().zip(&top[here]) {
            compare(&format!("id {id}"), logits[id as usize], golden);
        }
        compare("logsumexp", logsumexp(logits) as f32, lse[position]);
    })?;
    ensure!(worst.0 <= TOLERANCE, "{}: {:e} of the range apart, {TOLERANCE:e} allowed", worst.1, worst.0);
    Ok(())
}

/// Greedy ids must be the same up to the first step whose golden margin is within what the logits may be apart.
fn greedy_text(model: &Model, prompt: &Value) -> Result<()> {
    let runner = model.runner()?;
    let golden = ids(&prompt["greedy_ids"])?;
    let margins = prompt["greedy_margins"].as_array().context("a prompt has no margins")?;
    let mut widest = 0.0f32;
    let prompt = ids(&prompt["ids"])?;
    let found = runner.greedy(&prompt, golden.len(), &Setup::default(), &mut |logits| widest = widest.max(range(logits)))?;
    let narrow = 2.0 * TOLERANCE * widest;
    let certain = margins.iter().take_while(|margin| margin.as_f64().is_some_and(|margin| margin > f64::from(narrow))).count();
    ensure!(found[..certain] == golden[..certain], "{:?} where {:?} is golden", &found[..certain], &golden[..certain]);
    Ok(())
}

/// The protocol of `ppl.json`: windows side by side, each begun with the id that begins a text, if the model has one.
fn perplexity(model: &Model) -> Result<()> {
    let runner = model.runner()?;
    let golden = golden::json(&model.golden.join("ppl.json"))?;
    let text = place::oracle().map_err(|error| anyhow!("{error}"))?.join("text").join(golden["text"].as_str().context("text")?);
    let bytes = std::fs::read(text)?;
    let bytes = &bytes[..usize::try_from(golden["bytes"].as_u64().context("bytes")?)?];
    let ids = Image::of_gguf(&model.gguf)?.encode(&String::from_utf8_lossy(bytes), false, false)?;
    ensure!(golden["text_tokens"] == ids.len(), "{} tokens where {} are golden", ids.len(), golden["text_tokens"]);
    let begin = golden["bos"].as_u64().map(u32::try_from).transpose()?;
    for length in golden["bf16_weights_f32_compute"].as_array().context("no windows")? {
        let window = usize::try_from(length["window"].as_u64().context("window")?)?;
        let golden = length["per_window_nll"].as_array().context("per_window_nll")?;
        if window > LONGEST_WINDOW {
            continue;
        }
        let texts = ids.chunks_exact(window - usize::from(begin.is_some()));
        for (i, (text, golden)) in texts.zip(golden).take(WINDOWS).enumerate() {
            let text: Vec<u32> = begin.into_iter().chain(text.iter().copied()).collect();
            let mut nll = 0.0;
            runner.each(&text, &Setup::default(), &mut |position, logits| {
                if let Some(&next) = text.get(position + 1) {
                    nll += logsumexp(logits) - f64::from(logits[next as usize]);
                }
            })?;
            let golden = golden.as_f64().context("a likelihood is a number")?;
            let apart = (nll - golden).abs() / golden;
            ensure!(apart <= PERPLEXITY_TOLERANCE, "window {i} of {window}: {nll} where {golden} is golden: {apart:e} apart");
        }
    }
    Ok(())
}
