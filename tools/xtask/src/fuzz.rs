//! Fuzzing of every door for foreign bytes (tests/fuzz).
//!
//! libFuzzer needs a C++ compiler and coverage counters, which the stable compiler can insert; so neither nightly nor
//! cargo-fuzz is needed here (`cargo +nightly fuzz run NAME` works too, and adds the address sanitizer). Without a C++
//! compiler the doors are shaken by an ordinary test instead.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};

use crate::process::{cargo, command, find, output, root, run, target_dir};

const MANIFEST: &str = "tests/fuzz/Cargo.toml";
/// Edge counters and comparisons for libFuzzer, as cargo-fuzz asks for them.
const COVERAGE: &str = "--cfg fuzzing -Ccodegen-units=1 -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares";
const MAX_RSS_MB: usize = 2048;
const MAX_SECONDS_PER_INPUT: usize = 10;

/// `[TARGET] [--seconds N] [--smoke]`
pub fn run_doors(args: &[&str]) -> Result<()> {
    let mut seconds = 60u32;
    let mut smoke = false;
    let mut doors = doors()?;
    let mut args = args.iter();
    while let Some(&arg) = args.next() {
        match arg {
            "--seconds" => {
                seconds = args.next().context("--seconds needs a number")?.parse().context("--seconds needs a number")?
            }
            "--smoke" => smoke = true,
            name if doors.iter().any(|door| door == name) => doors.retain(|door| door == name),
            other => bail!("no such fuzz target: {other}; there are: {}", doors.join(", ")),
        }
    }
    if smoke || ["c++", "g++", "clang++"].iter().all(|compiler| find(compiler).is_none()) {
        eprintln!("fuzz: without libFuzzer{}", if smoke { "" } else { " (no C++ compiler)" });
        let mut cargo = cargo(&["test", "--locked", "--manifest-path", MANIFEST, "--no-default-features", "--target-dir"]);
        return run(cargo.arg(target_dir().join("fuzz")));
    }
    let target = host_target()?;
    let mut build = cargo(&["build", "--locked", "--release", "--bins", "--manifest-path", MANIFEST, "--target", &target]);
    run(build.arg("--target-dir").arg(target_dir().join("fuzz")).env("RUSTFLAGS", COVERAGE))?;
    for door in &doors {
        fuzz(door, &target, seconds)?;
    }
    eprintln!("fuzz: {} doors, {seconds} s each, no finding", doors.len());
    Ok(())
}

/// Names of the fuzz targets.
fn doors() -> Result<Vec<String>> {
    let mut doors = Vec::new();
    for entry in std::fs::read_dir(root().join("tests/fuzz/fuzz_targets"))? {
        let path = entry?.path();
        doors.extend(path.file_stem().map(|stem| stem.to_string_lossy().into_owned()));
    }
    doors.sort();
    Ok(doors)
}

fn host_target() -> Result<String> {
    let version = output(command("rustc").arg("-vV"))?;
    let host = version.lines().find_map(|line| line.strip_prefix("host: "));
    Ok(host.context("rustc -vV names no host")?.to_owned())
}

/// Runs one target: what it discovers is kept in the target folder, seeds are only read.
fn fuzz(door: &str, target: &str, seconds: u32) -> Result<()> {
    let folder = target_dir().join("fuzz");
    let found = folder.join("corpus").join(door);
    let artifacts = root().join("tests/fuzz/artifacts").join(door);
    std::fs::create_dir_all(&found)?;
    std::fs::create_dir_all(&artifacts)?;
    let seeds = root().join("tests/fuzz/corpus").join(door);
    let fixtures = root().join("tests/fixtures");
    let mut fuzzer = command(folder.join(target).join("release").join(door));
    fuzzer.arg(format!("-max_total_time={seconds}")).arg(format!("-timeout={MAX_SECONDS_PER_INPUT}"));
    fuzzer.arg(format!("-rss_limit_mb={MAX_RSS_MB}")).arg(format!("-artifact_prefix={}/", artifacts.display()));
    fuzzer.args(["-print_final_stats=1", "-verbosity=1"]).arg(found);
    let folders: Vec<PathBuf> = [seeds, fixtures].into_iter().filter(|folder| folder.is_dir()).collect();
    let output = fuzzer.args(folders).output().with_context(|| format!("cannot start the fuzzer of `{door}`"))?;
    let log = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        eprintln!("{log}");
        bail!("`{door}` has a finding: {}", artifacts.display());
    }
    let stat = |name: &str| log.lines().find_map(|line| line.strip_prefix(name)).unwrap_or("?").trim().to_owned();
    let (runs, found) = (stat("stat::number_of_executed_units:"), stat("stat::new_units_added:"));
    eprintln!("fuzz: {door:<18} {seconds} s, {runs} runs, {found} new inputs");
    Ok(())
}
