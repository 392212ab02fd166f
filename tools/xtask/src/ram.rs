//! Streaming under a cap on memory: does the cap hold, is the speed what arithmetic says, and how does llama.cpp's mapping do?
//!
//! Every run is a process in a control group of its own: so much memory (page cache counted), no swap, and so many bytes per
//! second from the disk. The bandwidth is measured in the same group before and after, by reading the image past the page
//! cache; what a run must reach is that bandwidth ÷ the bytes it streams for each token.

mod cage;
mod qwen3;

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use cage::{Cage, disk_of};
use serde_json::Value;

use crate::compare;
use crate::process::{cache_dir, cargo, command, run, target_dir};

const MIB: u64 = 1 << 20;
/// Bytes per second of SD cards in a Pi 3, a Pi 5, and of a good eMMC; 0: as fast as the disk is.
const RATES: &[u64] = &[25_000_000, 90_000_000, 400_000_000, 0];
/// Caps in MiB; 0: none.
const CAPS: &[u64] = &[64, 96, 128, 0];
/// Side by side: catalogue name and a cap in MiB that the model is at least 1.5 times as large as.
const PEERS: &[(&str, u64)] = &[("gemma-3-270m", 96), ("smollm2-135m-instruct", 48)];
/// Longest run.
const SECONDS: u64 = 600;

/// `[--cap MIB] [--rate MB] [--model NAME] [--ours | --peers]`; 0 means no cap, no throttle.
pub fn measure(args: &[&str]) -> Result<()> {
    let (mut caps, mut rates, mut model) = (CAPS.to_vec(), RATES.to_vec(), None);
    let (mut ours, mut peers) = (true, true);
    let mut args = args.iter();
    while let Some(&arg) = args.next() {
        match arg {
            "--ours" => peers = false,
            "--peers" => ours = false,
            "--cap" => caps = vec![args.next().context("--cap needs a number")?.parse()?],
            "--rate" => rates = vec![args.next().context("--rate needs a number")?.parse::<u64>()? * 1_000_000],
            "--model" => model = Some(*args.next().context("--model needs a name")?),
            other => bail!("no such option: {other}"),
        }
    }
    let wanted = |name: &str| model.is_none_or(|m| m == name);
    run(&mut cargo(&["build", "--locked", "--release", "--package", "bourn-cli"]))?;
    let bourn = target_dir().join("release/bourn");
    if ours {
        println!(
            "| model | cap MiB | throttle MB/s | peak MiB | resident MiB | device MB/s | MB per token | tok/s | of the bound |"
        );
        println!("|---|---|---|---|---|---|---|---|---|");
        for (name, image) in [("gemma-3-270m", gemma(&bourn)), ("qwen3-0.6b", qwen3(&bourn))] {
            if !wanted(name) {
                continue;
            }
            let image = image?;
            for &cap in &caps {
                // Without a cap nothing is streamed: the throttle changes nothing but the start.
                for &rate in if cap == 0 { &[0][..] } else { &rates } {
                    let r = bourn_run(&bourn, &image, cap, rate)?;
                    println!(
                        "| {name} | {} | {} | {:.1} | {:.1} | {} | {:.1} | {} | {} |",
                        or_dash(cap),
                        or_dash(rate / 1_000_000),
                        r.peak as f64 / MIB as f64,
                        r.resident as f64 / MIB as f64,
                        if r.device > 0.0 { format!("{:.0}", r.device / 1e6) } else { "–".to_owned() },
                        r.streamed as f64 / 1e6,
                        digits(r.speed),
                        if r.streamed > 0 { format!("{:.2}", r.speed * r.streamed as f64 / r.device) } else { "–".to_owned() },
                    );
                }
            }
        }
    }
    if peers {
        println!(
            "\n| model, Q4_0, 8-bit head | file MB | cap MiB | throttle MB/s | bourn tok/s | llama.cpp tok/s | ratio | peaks MiB |"
        );
        println!("|---|---|---|---|---|---|---|---|");
        for &(name, cap) in PEERS {
            if !wanted(name) {
                continue;
            }
            let gguf = compare::quantized(name, "q8_0")?;
            let image = cache_dir()?.join("ram").join(format!("{name}-q4_0.bourn"));
            pack(&bourn, &gguf, &image)?;
            for &rate in &rates {
                let ours = bourn_run(&bourn, &image, cap, rate)?;
                let (theirs, peak) = llama_run(&gguf, cap, rate)?;
                println!(
                    "| {name} | {:.0} | {cap} | {} | {} | {} | {} | {:.1}, {:.1} |",
                    std::fs::metadata(&gguf)?.len() as f64 / 1e6,
                    or_dash(rate / 1_000_000),
                    digits(ours.speed),
                    theirs.map_or("–".to_owned(), digits),
                    theirs.map_or("–".to_owned(), |t| format!("{:.1}", ours.speed / t)),
                    ours.peak as f64 / MIB as f64,
                    peak as f64 / MIB as f64,
                );
            }
        }
    }
    Ok(())
}

fn or_dash(n: u64) -> String {
    if n == 0 { "–".to_owned() } else { n.to_string() }
}

fn digits(speed: f64) -> String {
    if speed < 1.0 { format!("{speed:.3}") } else { format!("{speed:.2}") }
}

/// What a run of ours took.
struct Run {
    peak: u64,
    /// Most resident memory of the process, as it says itself.
    resident: u64,
    /// Bytes per second of the device, in the same group.
    device: f64,
    /// Bytes per token.
    streamed: u64,
    speed: f64,
}

/// Sees to it that nothing of a file is in the page cache.
fn forget(file: &Path) -> Result<()> {
    let mut dd = command("dd");
    dd.arg(format!("if={}", file.display())).args(["iflag=nocache", "count=0", "of=/dev/null", "status=none"]);
    run_quietly(&mut dd).map(drop)
}

/// Bytes per second at which `file` is read past the page cache, within the group: two readers, half of it each.
fn bandwidth(cage: &Cage, file: &Path, rate: u64) -> Result<f64> {
    // Two seconds of a throttled device; all of the file else.
    let most = std::fs::metadata(file)?.len() / (8 * MIB);
    let blocks = if rate == 0 { most } else { (2 * rate / (8 * MIB)).clamp(4, most) };
    let dd = format!("dd if={} of=/dev/null iflag=direct bs=4M status=none count={blocks}", file.display());
    let mut both = cage.command(Path::new("sh"), SECONDS);
    both.args(["-c", &format!("{dd} & {dd} skip={blocks}; wait")]);
    let start = Instant::now();
    run_quietly(&mut both)?;
    Ok((blocks * 8 * MIB) as f64 / start.elapsed().as_secs_f64())
}

fn run_quietly(command: &mut std::process::Command) -> Result<String> {
    let out = command.stdin(Stdio::null()).output()?;
    if !out.status.success() {
        bail!("{}: {:?}: {}", out.status, command, String::from_utf8_lossy(&out.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&out.stdout).into_owned())
}

fn bourn_run(bourn: &Path, image: &Path, cap: u64, rate: u64) -> Result<Run> {
    let device = disk_of(image)?;
    let limit = |n: u64| (n > 0).then_some(n);
    // Without a memory cap, so that dd's own memory counts for nobody.
    let pace = Cage::new(None, limit(rate), &device)?;
    let before = if cap == 0 { 0.0 } else { bandwidth(&pace, image, rate)? };
    drop(pace);
    // The program's own pages too are to be counted here.
    forget(bourn)?;
    forget(image)?;
    let cage = Cage::new(limit(cap * MIB), limit(rate), &device)?;
    // About twenty seconds of writing, by the size of the file.
    let size = std::fs::metadata(image)?.len();
    let tokens = if cap == 0 || rate == 0 { 32 } else { (20 * rate / size).clamp(3, 32) };
    let mut bench = cage.command(bourn, SECONDS);
    bench.arg("bench").arg(image).args(["--quiet", "--json", "--repeat", "1", "--prompt", "16"]);
    bench.args(["--generate", &tokens.to_string()]);
    if cap > 0 {
        bench.args(["--ram", &format!("{cap}M")]);
    }
    let result: Value = serde_json::from_str(&run_quietly(&mut bench)?)?;
    let (peak, killed) = (cage.peak()?, cage.killed());
    drop(cage);
    if killed > 0 {
        bail!("{killed} processes were killed for memory");
    }
    let after = if cap == 0 { 0.0 } else { bandwidth(&Cage::new(None, limit(rate), &device)?, image, rate)? };
    Ok(Run {
        peak,
        resident: result["peak_rss_bytes"].as_u64().context("bourn bench: no peak_rss_bytes")?,
        device: (before + after) / 2.0,
        streamed: result["streamed_bytes"].as_u64().context("bourn bench: no streamed_bytes")?,
        speed: result["decode_tok_s"].as_f64().context("bourn bench: no decode_tok_s")?,
    })
}

/// llama.cpp under the same cap and throttle, its file mapped and not repacked; no speed if it is killed or takes too long.
fn llama_run(gguf: &Path, cap: u64, rate: u64) -> Result<(Option<f64>, u64)> {
    let llama = compare::peer("llama-bench")?;
    forget(&llama)?;
    forget(gguf)?;
    let cage = Cage::new(Some(cap * MIB), (rate > 0).then_some(rate), &disk_of(gguf)?)?;
    let threads = std::thread::available_parallelism()?.to_string();
    let mut bench = cage.command(&llama, SECONDS);
    bench.arg("-m").arg(gguf).args(["-p", "0", "-r", "1", "--no-warmup", "-lm", "mmap", "--repack", "0", "-o", "json"]);
    // The first token finds some of the file in memory, left there by loading: not it alone.
    bench.args(["-t", &threads, "-n", "3"]);
    let speed = match run_quietly(&mut bench) {
        Ok(printed) => serde_json::from_str::<Value>(&printed)?[0]["avg_ts"].as_f64(),
        Err(error) => {
            eprintln!("llama.cpp: {error:#}");
            None
        }
    };
    let peak = cage.peak()?;
    Ok((speed, peak))
}

fn pack(bourn: &Path, source: &Path, image: &Path) -> Result<()> {
    if image.exists() {
        return Ok(());
    }
    std::fs::create_dir_all(image.parent().context("an image in no folder")?)?;
    run(command(bourn).arg("pack").arg(source).arg("-o").arg(image))
}

/// The catalogue's Gemma, packed by its first use.
fn gemma(bourn: &Path) -> Result<PathBuf> {
    let image = cache_dir()?.join("ram/gemma-3-270m.bourn");
    pack(bourn, &crate::data::weights("gemma-3-270m")?, &image)?;
    Ok(image)
}

/// The catalogue's Qwen3 if it is in the cache, else one of the same size with random weights.
fn qwen3(bourn: &Path) -> Result<PathBuf> {
    let image = cache_dir()?.join("ram/qwen3-0.6b.bourn");
    if !image.exists() {
        let real = cache_dir()?.join("checkpoints/qwen3-0.6b");
        let made = image.with_extension("made");
        let source = if real.join("config.json").exists() { real } else { made.clone() };
        if source == made {
            eprintln!("no Qwen3-0.6B in the cache: writing one with random weights");
            qwen3::write(&made)?;
        }
        pack(bourn, &source, &image)?;
        if made.exists() {
            std::fs::remove_dir_all(&made)?;
        }
    }
    Ok(image)
}
