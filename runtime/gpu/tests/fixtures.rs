//! Every dev fixture of the oracle in f32, q8 and q4 on the GPU beside the CPU: logits of every position within a tolerance, greedy text
//! the same. In f32 the CPU is held to transformers by `tests/oracle`, and the GPU here once more.
//!
//! Needs a Vulkan adapter, as `agree` does, and the oracle's folder (`BOURN_ORACLE`); without the folder one test is counted as skipped.

use std::path::Path;
use std::sync::Arc;

use bourn_checkpoint::Checkpoint;
use bourn_gpu::{Adapter, Choice, Device, DeviceOptions, GpuModel, GpuOptions, GpuSession};
use bourn_host::{ImageFile, StreamKind};
use bourn_kernels::KvDtype;
use bourn_oracle::compare::{range, worst};
use bourn_oracle::golden::{self, Case, Fixture};
use bourn_oracle::place;
use bourn_oracle::runner::{Runner, Setup, pack};
use bourn_pack::Weights;
use libtest_mimic::{Arguments, Failed, Trial};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// Of the logit range, from the CPU's.
const FLOAT_TOLERANCE: f32 = 1e-4;
const INT_TOLERANCE: f32 = 0.02;
/// Of the logit range, from transformers'.
const GOLDEN_TOLERANCE: f32 = 1e-3;

fn main() -> std::process::ExitCode {
    let arguments = Arguments::from_args();
    let skipped =
        |name: &str, reason: &str| Trial::test(name.to_owned(), || Ok(())).with_kind(reason.to_owned()).with_ignored_flag(true);
    let fixtures = place::oracle().and_then(|oracle| golden::fixtures(&oracle).map_err(|error| format!("{error:#}")));
    let trials = match fixtures {
        Ok(fixtures) => fixtures
            .into_iter()
            .flat_map(|fixture| {
                if let Err(error) = Checkpoint::open(&fixture.folder) {
                    return vec![skipped(&fixture.name, &error.to_string())];
                }
                let trial = |weights: Weights| {
                    let (name, fixture) = (format!("{} in {}", fixture.name, weights.name()), fixture.clone());
                    Trial::test(name, move || agrees(&fixture, weights).map_err(|e| Failed::from(e.to_string())))
                };
                [Weights::F32, Weights::Q8, Weights::Q4].map(trial).into()
            })
            .collect(),
        Err(reason) => vec![skipped("oracle fixtures", &reason)],
    };
    libtest_mimic::run(&arguments, trials).exit_code()
}

fn agrees(fixture: &Fixture, weights: Weights) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("image.bourn");
    pack(Path::new(&fixture.folder), &path, weights)?;
    let runner = Runner::open(&path)?;
    let file = ImageFile::open(&path, StreamKind::Mapped)?;
    let name = std::env::var("BOURN_GPU").unwrap_or_else(|_| "llvmpipe".to_owned());
    let device = Device::open(Adapter::choose(&Choice::Named(name))?, &DeviceOptions::default())?;
    let model = Arc::new(GpuModel::new(device, file.image(), &mut file.stream())?);
    let cases = fixture.cases()?;
    let most = cases.iter().map(|case| case.ids.len() + case.greedy_ids.len()).max().unwrap_or(1);
    // Where rope tables go by the context, each run has its own, as in the oracle's tests; else one serves all.
    let by_context = file.image().ropes().any(|rope| rope.min_context > 0);
    let session = |context: usize| {
        let options = GpuOptions { context, kv: KvDtype::F32, ..GpuOptions::default() };
        GpuSession::new(Arc::clone(&model), file.image(), &options)
    };
    let longest = file.image().shape().max_context as usize;
    let mut shared = if by_context { None } else { Some(session(most)?) };
    for case in cases {
        let least = if case.name.ends_with("@long_factors") { 8192 } else { 0 };
        for (run, need) in [Run::Logits, Run::Greedy].into_iter().zip([0, case.greedy_ids.len() - 1]) {
            let context = if by_context { (case.ids.len() + need).max(least).min(longest) } else { most };
            let setup = Setup { context, ..Setup::default() };
            let mut own = if by_context { Some(session(context)?) } else { None };
            let Some(gpu) = own.as_mut().or(shared.as_mut()) else { continue };
            run.agrees(&case, weights, &file, &runner, gpu, &setup).map_err(|e| format!("case {}: {e}", case.name))?;
        }
    }
    Ok(())
}

/// What is compared.
#[derive(Clone, Copy)]
enum Run {
    Logits,
    Greedy,
}

impl Run {
    fn agrees(
        self,
        case: &Case,
        weights: Weights,
        file: &ImageFile,
        runner: &Runner,
        gpu: &mut GpuSession,
        setup: &Setup<'_>,
    ) -> Result<()> {
        gpu.rewind(0)?;
        match self {
            Self::Logits => logits(case, weights, file, runner, gpu, setup),
            Self::Greedy => greedy(case, file, runner, gpu, setup),
        }
    }
}

fn logits(
    case: &Case,
    weights: Weights,
    file: &ImageFile,
    runner: &Runner,
    gpu: &mut GpuSession,
    setup: &Setup<'_>,
) -> Result<()> {
    let (image, mut stream) = (file.image(), file.stream());
    let cpu = runner.logits(&case.ids, setup)?;
    let mut found = Vec::with_capacity(cpu.len());
    gpu.logits_of_all(image, &mut stream, &case.ids, &mut |_, logits| found.extend_from_slice(logits))?;
    let near = |what: &str, want: &[f32], tolerance: f32| -> Result<()> {
        let (apart, at) = worst(&found, want);
        let most = tolerance * range(want);
        let vocab = want.len() / case.ids.len();
        if apart <= most {
            return Ok(());
        }
        Err(format!("{apart:e} from {what} at position {}, {most:e} allowed", at / vocab).into())
    };
    near("the cpu", &cpu, if weights == Weights::F32 { FLOAT_TOLERANCE } else { INT_TOLERANCE })?;
    if weights == Weights::F32 {
        near("transformers", &case.logits, GOLDEN_TOLERANCE)?;
    }
    Ok(())
}

fn greedy(case: &Case, file: &ImageFile, runner: &Runner, gpu: &mut GpuSession, setup: &Setup<'_>) -> Result<()> {
    let (image, mut stream) = (file.image(), file.stream());
    let want = runner.greedy(&case.ids, case.greedy_ids.len(), setup, &mut |_| {})?;
    let (mut text, mut next) = (Vec::new(), case.ids.clone());
    while text.len() < want.len() {
        gpu.prefill(image, &mut stream, &next)?;
        next = vec![gpu.best(image)?];
        text.push(next[0]);
    }
    if text != want {
        return Err(format!("{text:?} where the cpu writes {want:?}").into());
    }
    Ok(())
}
