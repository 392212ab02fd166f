//! Side by side with llama.cpp: the same model, the same threads, alternately in one run, and only ratios count.
//!
//! llama.cpp comes from the source package of llama-cpp-python on PyPI, installed by name and built for this machine in
//! the cache; none of it is in the repository. Its weights are Q4_0, its fastest format here, made by its own quantizer, with a
//! head of 8 bits and one of 4; ours are the image that `bourn pack` makes of the same source when it is told nothing else
//! (docs/quality.md: closer to the float model than either).

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::data;
use crate::process::{cache_dir, cargo, command, output, run, target_dir};

const PACKAGE: &str = "llama-cpp-python";
/// Of the package: says which llama.cpp it is.
pub(crate) const VERSION: &str = "0.3.36";
/// What is compared unless a model is named.
const MODELS: &[&str] = &[data::SMOLLM2, "gemma-3-270m"];
/// What is built of it.
const PROGRAMS: &[&str] = &["llama-bench", "llama-quantize", "llama-perplexity"];
const PROMPT: &str = "512";
const GENERATE: &str = "128";
/// llama.cpp's variants: name, and the type of the embedding, which is also the head.
const VARIANTS: &[(&str, &str)] = &[("4-bit head", "q4_0"), ("8-bit head", "q8_0")];

/// `[--model NAME]… [--threads N] [--rounds N] [--repack]`
pub fn run_both(args: &[&str]) -> Result<()> {
    let (mut models, mut threads, mut rounds, mut anew) = (Vec::new(), vec![1, 2], 3usize, false);
    let mut args = args.iter();
    while let Some(&arg) = args.next() {
        if arg == "--repack" {
            anew = true;
            continue;
        }
        let value = args.next().with_context(|| format!("{arg} needs a value"))?;
        match arg {
            "--model" => models.push(*value),
            "--threads" => threads = vec![value.parse()?],
            "--rounds" => rounds = value.parse::<usize>()?.max(1),
            other => bail!("no such option: {other}"),
        }
    }
    if models.is_empty() {
        models = MODELS.to_vec();
    }
    let llama = Llama::installed()?;
    run(&mut cargo(&["build", "--locked", "--release", "--package", "bourn-cli"]))?;
    let bourn = target_dir().join("release/bourn");

    for model in models {
        let ggufs = VARIANTS.iter().map(|(_, head)| quantized(model, head)).collect::<Result<Vec<_>>>()?;
        let image = cache_dir()?.join("compare").join(format!("{model}.bourn"));
        if anew || !image.exists() {
            run(command(&bourn).arg("pack").arg(data::weights(model)?).arg("-o").arg(&image))?;
        }
        println!("{model}\n{:<12} {:>7} {:<10} {:>10} {:>10} {:>7}", "", "threads", "", "bourn", "llama.cpp", "ratio");
        for &threads in &threads {
            // In turn, so that each meets the same hours of a shared machine.
            let mut samples = Vec::new();
            for _ in 0..rounds {
                let ours = bench_bourn(&bourn, &image, threads)?;
                samples.push((ours, ggufs.iter().map(|gguf| llama.bench(gguf, threads)).collect::<Result<Vec<_>>>()?));
            }
            for (v, (variant, _)) in VARIANTS.iter().enumerate() {
                for (i, what) in ["prefill t/s", "decode t/s", "open ms", "process ms"].iter().enumerate() {
                    let ours = median(samples.iter().map(|(ours, _)| ours[i]));
                    let theirs = median(samples.iter().map(|(_, theirs)| theirs[v][i]));
                    let ratio = median(samples.iter().map(|(ours, theirs)| ours[i] / theirs[v][i]));
                    println!("{variant:<12} {threads:>7} {what:<11} {ours:>9.1} {theirs:>10.1} {ratio:>7.3}");
                }
            }
        }
    }
    println!("medians of {rounds} rounds, prompt {PROMPT}, generate {GENERATE}");
    println!("open: until a token can be computed; process: one that opens the model, computes one token and ends");
    Ok(())
}

/// A catalogue model as Q4_0 with the type of head, made by llama.cpp's quantizer and kept in the cache.
pub(crate) fn quantized(model: &str, head: &str) -> Result<PathBuf> {
    let folder = cache_dir()?.join("compare");
    std::fs::create_dir_all(&folder)?;
    let gguf = folder.join(format!("{model}-head-{head}.gguf"));
    if !gguf.exists() {
        let part = gguf.with_extension("part");
        Llama::installed()?.quantize(&data::weights(model)?, &part, head)?;
        std::fs::rename(part, &gguf)?;
    }
    Ok(gguf)
}

/// A program of llama.cpp's.
pub(crate) fn peer(name: &str) -> Result<PathBuf> {
    Ok(Llama::installed()?.programs.join(name))
}

/// The source of llama.cpp, out of the package.
pub(crate) fn sources() -> Result<PathBuf> {
    let peers = cache_dir()?.join("peers");
    let sources = peers.join(format!("llama_cpp_python-{VERSION}"));
    if !sources.exists() {
        std::fs::create_dir_all(&peers)?;
        let requirement = format!("{PACKAGE}=={VERSION}");
        let mut pip = command("python3");
        pip.args(["-m", "pip", "download", "--no-deps", "--no-binary", PACKAGE, "-d"]).arg(&peers);
        run(pip.arg(requirement))?;
        run(command("tar").arg("xzf").arg(peers.join(format!("llama_cpp_python-{VERSION}.tar.gz"))).arg("-C").arg(&peers))?;
    }
    Ok(sources.join("vendor/llama.cpp"))
}

/// One round: prefill and decode in tokens per second; opening, and a whole process for one token, in milliseconds.
type Speeds = [f64; 4];

fn bench_bourn(bourn: &Path, image: &Path, threads: usize) -> Result<Speeds> {
    let mut bench = command(bourn);
    bench.arg("bench").arg(image).args(["--json", "--prompt", PROMPT, "--generate", GENERATE]);
    let result: Value = serde_json::from_str(&output(bench.args(["--threads", &threads.to_string()]))?)?;
    let key = |key: &str| result[key].as_f64().with_context(|| format!("bourn bench: no {key}"));
    let mut token = command(bourn);
    let process_ms = timed(token.arg("logits").arg(image).args(["--ids", "1", "--top", "1", "--json"]))?.1;
    Ok([key("prefill_tok_s")?, key("decode_tok_s")?, key("open_ms")?, process_ms])
}

/// A build of llama.cpp.
struct Llama {
    programs: PathBuf,
}

impl Llama {
    /// The build in the cache, made now if there is none.
    fn installed() -> Result<Self> {
        let peers = cache_dir()?.join("peers");
        let build = peers.join("llama-build");
        let llama = Self { programs: build.join("bin") };
        if PROGRAMS.iter().all(|name| llama.programs.join(name).exists()) {
            return Ok(llama);
        }
        let mut configure = command("cmake");
        configure.arg("-S").arg(sources()?).arg("-B").arg(&build);
        let off =
            ["GGML_OPENMP", "LLAMA_CURL", "LLAMA_BUILD_TESTS", "LLAMA_BUILD_EXAMPLES", "LLAMA_BUILD_SERVER", "BUILD_SHARED_LIBS"];
        configure.args(["-DCMAKE_BUILD_TYPE=Release", "-DGGML_NATIVE=ON"]);
        // Virtual machines name AMX among their instructions and then refuse its tiles, of which llama.cpp dies.
        if std::fs::read_to_string("/proc/cpuinfo").is_ok_and(|cpu| cpu.contains("amx_tile")) {
            const NO_TILES: &str = "-mno-amx-tile -mno-amx-int8 -mno-amx-bf16";
            configure.args(["C", "CXX"].map(|language| format!("-DCMAKE_{language}_FLAGS={NO_TILES}")));
        }
        run(configure.args(off.map(|name| format!("-D{name}=OFF"))))?;
        run(command("cmake").arg("--build").arg(&build).args(["-j2", "--target"]).args(PROGRAMS))?;
        Ok(llama)
    }

    fn quantize(&self, source: &Path, out: &Path, head: &str) -> Result<()> {
        let mut quantize = command(self.programs.join("llama-quantize"));
        quantize.args(["--allow-requantize", "--pure", "--token-embedding-type", head]).arg(source);
        output(quantize.arg(out).arg("q4_0").stderr(Stdio::null()))?;
        Ok(())
    }

    fn bench(&self, model: &Path, threads: usize) -> Result<Speeds> {
        let bench = |prompt: &str, generate: &str, more: &[&str]| -> Result<(Vec<Value>, f64)> {
            let mut bench = command(self.programs.join("llama-bench"));
            bench.arg("-m").arg(model).args(["-t", &threads.to_string(), "-p", prompt, "-n", generate, "-r", "1", "-o", "json"]);
            let (tests, ms) = timed(bench.args(more))?;
            Ok((serde_json::from_str(&tests)?, ms))
        };
        let (speeds, _) = bench(PROMPT, GENERATE, &[])?;
        let of = |key: &str| speeds.iter().find(|test| test[key] != 0).and_then(|test| test["avg_ts"].as_f64());
        // Loading is what is left of a process that computes one token, less the token and the start of a process.
        let (_, empty_ms) = timed(command(self.programs.join("llama-bench")).arg("--list-devices"))?;
        let (token, process_ms) = bench("0", "1", &["--no-warmup"])?;
        let token_ms = token.first().and_then(|test| test["avg_ns"].as_f64()).context("llama-bench: no avg_ns")? * 1e-6;
        let missing = "llama-bench: no avg_ts";
        Ok([of("n_prompt").context(missing)?, of("n_gen").context(missing)?, process_ms - token_ms - empty_ms, process_ms])
    }
}

/// What a command prints, and how long it takes in milliseconds.
fn timed(command: &mut Command) -> Result<(String, f64)> {
    let start = Instant::now();
    let printed = output(command.stderr(Stdio::null()))?;
    Ok((printed, start.elapsed().as_secs_f64() * 1e3))
}

fn median(samples: impl Iterator<Item = f64>) -> f64 {
    let mut samples: Vec<f64> = samples.collect();
    samples.sort_by(f64::total_cmp);
    samples[samples.len() / 2]
}
