//! Every dev fixture of the oracle, as f32 and as f16, in both spellings of its config.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, bail, ensure};
use bourn_checkpoint::Checkpoint;
use bourn_oracle::compare::{range, worst};
use bourn_oracle::golden::{self, Case, Fixture};
use bourn_oracle::place;
use bourn_oracle::runner::{Runner, Setup, pack};
use bourn_pack::Weights;
use libtest_mimic::{Arguments, Failed, Trial};

/// Families that must work; fixtures of others may say that they are unsupported.
const MUST: &[&str] = &["gemma3", "qwen3", "llama", "smollm2"];
/// An f32 engine lands within this of every logit (oracle/README.md: the smallest real mistake is 8e-3).
const F32_TOLERANCE: f32 = 1e-3;
/// Of the logit range, with matrices in f16.
const F16_TOLERANCE: f32 = 1e-2;

fn main() -> std::process::ExitCode {
    let arguments = Arguments::from_args();
    let trials = match place::oracle().and_then(|oracle| golden::fixtures(&oracle).map_err(|error| format!("{error:#}"))) {
        Ok(fixtures) => fixtures.into_iter().flat_map(trials).collect(),
        Err(reason) => vec![skipped("oracle fixtures", &reason)],
    };
    libtest_mimic::run(&arguments, trials).exit_code()
}

/// An ignored test that carries its reason, so that the summary counts it.
fn skipped(name: &str, reason: &str) -> Trial {
    Trial::test(name.to_owned(), || Ok(())).with_kind(reason.to_owned()).with_ignored_flag(true)
}

fn trials(fixture: Fixture) -> Vec<Trial> {
    let fixture = Arc::new(fixture);
    if !MUST.iter().any(|family| fixture.name.starts_with(family))
        && let Err(error) = Checkpoint::open(&fixture.folder)
    {
        return vec![skipped(&fixture.name, &error.to_string())];
    }
    type Check = fn(&Fixture) -> Result<()>;
    let checks: [(&str, Check); 4] = [
        ("both spellings of the config mean the same", both_spellings_agree),
        ("f32 logits at every position", f32_logits),
        ("f32 greedy text", f32_greedy),
        ("f16 logits at every position", f16_logits),
    ];
    let trial = |(what, check): (&str, Check)| {
        let fixture = Arc::clone(&fixture);
        let name = format!("{}: {what}", fixture.name);
        Trial::test(name, move || check(&fixture).map_err(|error| Failed::from(format!("{error:#}"))))
    };
    checks.into_iter().map(trial).collect()
}

fn f32_logits(fixture: &Fixture) -> Result<()> {
    logits(fixture, Weights::F32, |_| F32_TOLERANCE)
}

fn f16_logits(fixture: &Fixture) -> Result<()> {
    logits(fixture, Weights::F16, |golden| F16_TOLERANCE * range(golden))
}

fn logits(fixture: &Fixture, weights: Weights, tolerance: impl Fn(&[f32]) -> f32) -> Result<()> {
    let (_folder, runner) = packed(fixture, weights)?;
    for case in cases(fixture)? {
        let found = runner.logits(&case.ids, &setup(&case))?;
        let (apart, at) = worst(&found, &case.logits);
        let vocab = case.logits.len() / case.ids.len();
        let allowed = tolerance(&case.logits);
        ensure!(
            apart <= allowed,
            "case {}: position {} id {}: {} where {} is golden: {apart:e} apart, {allowed:e} allowed",
            case.name,
            at / vocab,
            at % vocab,
            found[at],
            case.logits[at]
        );
    }
    Ok(())
}

fn f32_greedy(fixture: &Fixture) -> Result<()> {
    let (_folder, runner) = packed(fixture, Weights::F32)?;
    for case in cases(fixture)? {
        let found = runner.greedy(&case.ids, case.greedy_ids.len(), &setup(&case), &mut |_| {})?;
        ensure!(found == case.greedy_ids, "case {}: {found:?} where {:?} is golden", case.name, case.greedy_ids);
    }
    Ok(())
}

fn both_spellings_agree(fixture: &Fixture) -> Result<()> {
    let folder = tempfile::tempdir()?;
    for entry in std::fs::read_dir(&fixture.folder)? {
        let file = entry?.path();
        let name = file.file_name().context("a file has a name")?;
        if file.is_file() && name != "config.json" && name != "config_v5.json" {
            std::fs::copy(&file, folder.path().join(name))?;
        }
    }
    std::fs::copy(fixture.folder.join("config_v5.json"), folder.path().join("config.json"))?;
    let published = Checkpoint::open(&fixture.folder)?;
    let newer = Checkpoint::open(folder.path())?;
    ensure!(published.spec == newer.spec, "{:#?}\nwhere the published config means\n{:#?}", newer.spec, published.spec);
    Ok(())
}

/// Cases a text-only causal decoder can be asked for.
fn cases(fixture: &Fixture) -> Result<Vec<Case>> {
    let cases = fixture.cases()?;
    if cases.is_empty() {
        bail!("no cases");
    }
    Ok(cases)
}

/// The long rope factors hold from the first token in a session whose context is long.
fn setup(case: &Case) -> Setup<'static> {
    let context = if case.name.ends_with("@long_factors") { 8192 } else { 0 };
    Setup { context, ..Setup::default() }
}

fn packed(fixture: &Fixture, weights: Weights) -> Result<(tempfile::TempDir, Runner)> {
    let folder = tempfile::tempdir()?;
    let image: PathBuf = folder.path().join("image.bourn");
    pack(Path::new(&fixture.folder), &image, weights)?;
    let runner = Runner::open(&image)?;
    Ok((folder, runner))
}
