//! Every dev fixture of the oracle on the backends of this build, and the real models' goldens on the first.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use bourn_checkpoint::Checkpoint;
use bourn_oracle::compare::{range, worst};
use bourn_oracle::golden::{self, Case, Fixture, floats};
use bourn_oracle::place;
use bourn_reference::{Reference, device};
use libtest_mimic::{Arguments, Failed, Trial};
use safetensors::SafeTensors;

/// Of the logit range.
const TOLERANCE: f32 = 1e-4;
/// Backends that must answer; the others are asked where their driver is.
const BACKENDS: &[&str] = &[
    "ndarray",
    #[cfg(feature = "flex")]
    "flex",
    #[cfg(feature = "wgpu")]
    "wgpu:software",
];

fn main() -> std::process::ExitCode {
    let arguments = Arguments::from_args();
    let trials = match place::oracle().and_then(|oracle| golden::fixtures(&oracle).map_err(|error| format!("{error:#}"))) {
        Ok(fixtures) => fixtures.into_iter().flat_map(trials).collect(),
        Err(reason) => vec![Trial::test("oracle fixtures", || Ok(())).with_kind(reason).with_ignored_flag(true)],
    };
    libtest_mimic::run(&arguments, trials).exit_code()
}

fn trials(fixture: Fixture) -> Vec<Trial> {
    type Check = fn(&Fixture, &str) -> Result<()>;
    let checks: [(&str, Check); 3] =
        [("logits at every position", logits), ("greedy text", greedy), ("residual stream after every layer", residuals)];
    if let Err(error) = Checkpoint::open(&fixture.folder) {
        // tests/oracle says which families must open.
        return vec![Trial::test(fixture.name, || Ok(())).with_kind(error.to_string()).with_ignored_flag(true)];
    }
    let fixture = Arc::new(fixture);
    let all = BACKENDS.iter().flat_map(|&backend| checks.map(|(what, check)| (backend, what, check)));
    let trial = all.map(|(backend, what, check)| {
        let fixture = Arc::clone(&fixture);
        Trial::test(format!("{} on {backend}: {what}", fixture.name), move || {
            check(&fixture, backend).map_err(|error| Failed::from(format!("{error:#}")))
        })
    });
    trial.collect()
}

fn open(folder: &Path, backend: &str) -> Result<Reference> {
    let checkpoint = Arc::new(Checkpoint::open(folder)?);
    Ok(Reference::open(&checkpoint, &device(backend)?)?)
}

fn logits(fixture: &Fixture, backend: &str) -> Result<()> {
    let mut reference = open(&fixture.folder, backend)?;
    for case in fixture.cases()? {
        reference.set_context(context(&case));
        let found = reference.logits(&case.ids)?;
        let (apart, at) = worst(&found, &case.logits);
        let allowed = TOLERANCE * range(&case.logits);
        ensure!(
            apart <= allowed,
            "case {}: logit {at} is {} where {} is golden: {apart:e} apart, {allowed:e} allowed",
            case.name,
            found[at],
            case.logits[at]
        );
    }
    Ok(())
}

fn greedy(fixture: &Fixture, backend: &str) -> Result<()> {
    let mut reference = open(&fixture.folder, backend)?;
    for case in fixture.cases()? {
        reference.set_context(context(&case).max(case.ids.len() + case.greedy_ids.len() - 1));
        let found = reference.greedy(&case.ids, case.greedy_ids.len())?;
        ensure!(found == case.greedy_ids, "case {}: {found:?} where {:?} is golden", case.name, case.greedy_ids);
    }
    Ok(())
}

/// The long rope factors hold from the first token in a session whose context is long.
fn context(case: &Case) -> usize {
    if case.name.ends_with("@long_factors") { 8192 } else { 0 }
}

fn residuals(fixture: &Fixture, backend: &str) -> Result<()> {
    let reference = open(&fixture.folder, backend)?;
    let bytes = std::fs::read(fixture.folder.join("golden/hidden.safetensors"))?;
    let tensors = SafeTensors::deserialize(&bytes)?;
    let cases = fixture.cases()?;
    let case = cases.iter().find(|case| case.name == "main").context("no case main")?;
    for (layers, found) in reference.residuals(&case.ids)?.iter().enumerate() {
        let name = if layers == 0 { "embed".to_owned() } else { format!("layer_{:02}", layers - 1) };
        let golden = floats(&tensors, &name)?;
        let (apart, _) = worst(found, &golden);
        let allowed = TOLERANCE * range(&golden);
        ensure!(apart <= allowed, "{name}: {apart:e} apart, {allowed:e} allowed");
    }
    Ok(())
}
