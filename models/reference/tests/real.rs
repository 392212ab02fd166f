//! SmolLM2-135M-Instruct and Gemma 3 270M out of their GGUF files, against transformers on the same weights (rounded to bf16).

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use bourn_checkpoint::Checkpoint;
use bourn_oracle::compare::{logsumexp, range};
use bourn_oracle::golden::{self, floats, ids, indices};
use bourn_oracle::place;
use bourn_reference::{Reference, device};
use libtest_mimic::{Arguments, Failed, Trial};
use safetensors::SafeTensors;

/// Of the logit range.
const TOLERANCE: f32 = 1e-4;
/// Candidates of each position in the golden files.
const TOP: usize = 20;
/// Longest prompt computed, in tokens: the longer ones tell nothing more.
const LONGEST: usize = 256;

fn main() -> std::process::ExitCode {
    let arguments = Arguments::from_args();
    let models = [
        ("smollm2-135m-instruct", "test-data/SmolLM2-135M-Instruct.Q4_1.gguf"),
        ("gemma-3-270m", "test-data/gemma-3-270m-q4_k_m.gguf"),
    ];
    let trials = models.map(|(name, gguf)| match (place::oracle(), place::cached(gguf)) {
        (Ok(oracle), Ok(gguf)) => Trial::test(format!("{name}: top 20 and logsumexp at every position"), move || {
            check(&oracle.join("real").join(name).join("golden"), &gguf).map_err(|error| Failed::from(format!("{error:#}")))
        }),
        (Err(reason), _) | (_, Err(reason)) => Trial::test(name, || Ok(())).with_kind(reason).with_ignored_flag(true),
    });
    libtest_mimic::run(&arguments, trials.into()).exit_code()
}

fn check(folder: &Path, gguf: &Path) -> Result<()> {
    let checkpoint = Arc::new(Checkpoint::open(gguf)?);
    let bf16 = |value: f32| half::bf16::from_f32(value).to_f32();
    let reference = Reference::open_rounded(&checkpoint, &device("ndarray")?, bf16)?;
    let vocab = reference.spec().vocab as usize;
    let prompts = golden::json(&folder.join("prompts.json"))?;
    for prompt in prompts["prompts"].as_array().context("prompts.json has no prompts")? {
        let name = prompt["name"].as_str().context("a prompt has no name")?;
        let ids = ids(&prompt["ids"])?;
        if ids.len() > LONGEST {
            continue;
        }
        let bytes = std::fs::read(folder.join(format!("{name}.safetensors")))?;
        let tensors = SafeTensors::deserialize(&bytes)?;
        let (lse, top, top_ids) = (floats(&tensors, "lse")?, floats(&tensors, "top_logits")?, indices(&tensors, "top_ids")?);
        for (position, logits) in reference.logits(&ids)?.chunks_exact(vocab).enumerate() {
            let allowed = TOLERANCE * range(logits);
            let compare = |what: &str, found: f32, golden: f32| -> Result<()> {
                let apart = (found - golden).abs();
                ensure!(
                    apart <= allowed,
                    "{name} position {position} {what}: {found} where {golden} is golden: {apart:e} apart, {allowed:e} allowed"
                );
                Ok(())
            };
            for (&id, &golden) in top_ids.iter().zip(&top).skip(position * TOP).take(TOP) {
                compare(&format!("id {id}"), logits[id as usize], golden)?;
            }
            compare("logsumexp", logsumexp(logits) as f32, lse[position])?;
        }
    }
    Ok(())
}
