//! `cargo xtask dist`: one static program for every 64-bit ARM Linux, and a Debian package around it.
//!
//! Built with whatever compiler [`Toolchain`] finds, checked instruction by instruction ([`baseline`]), run on an emulated CPU of
//! each kind where there is an emulator, and packed without root or dpkg ([`deb`]). The same commit and compiler give the
//! same bytes.

mod deb;
mod papers;

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::baseline;
use crate::cross::{CPUS, Toolchain, emulator};
use crate::process::{command, find, output, root, run, target_dir};

/// Bytes that the program must stay under (without GPU).
const MOST_BYTES: u64 = 8_000_000;
/// The image that every CPU runs, and what it is asked: see tests/fixtures.
const IMAGE: &str = "tests/fixtures/v1-q4.bourn";
const IDS: &str = "5,72,139,206,2,69,136,203,270,66";

/// What was built.
pub struct Built {
    /// The static, stripped program.
    pub program: PathBuf,
    /// The Debian package.
    pub package: PathBuf,
}

/// `cargo xtask dist [--no-hub] [--test]`.
///
/// # Errors
/// If there is no compiler, or what it made breaks a promise of this module.
pub fn dist(args: &[&str]) -> Result<()> {
    let (mut hub, mut test) = (true, false);
    for arg in args {
        match *arg {
            "--no-hub" => hub = false,
            "--test" => test = true,
            other => bail!("need --no-hub or --test, found {other}"),
        }
    }
    let built = build(hub)?;
    if test {
        test_command_line(&built.program)?;
    }
    println!("{}\n{}", built.program.display(), built.package.display());
    Ok(())
}

/// The tests of the command line, with the program just built, on the oldest CPU.
fn test_command_line(program: &Path) -> Result<()> {
    let mut words = program.display().to_string();
    if !cfg!(all(target_arch = "aarch64", target_os = "linux")) {
        match emulator() {
            Ok(emulator) => words = format!("{} -cpu {} {words}", emulator.display(), CPUS[0].0),
            Err(missing) => return crate::cross::skip("the command line's tests on ARM", &missing),
        }
    }
    ensure!(words.split_whitespace().last() == program.to_str(), "{}: need a path without spaces", program.display());
    crate::checks::command_line(&words)
}

/// Builds, checks and packs.
///
/// # Errors
/// As [`dist`].
pub fn build(hub: bool) -> Result<Built> {
    let toolchain = Toolchain::for_linux()?;
    eprintln!("dist: {}", toolchain.name);
    let linked = link(&toolchain, hub)?;
    let bytes = std::fs::read(&linked).with_context(|| linked.display().to_string())?;
    baseline::check_static(&bytes).with_context(|| linked.display().to_string())?;
    for line in baseline::check(&bytes).with_context(|| linked.display().to_string())? {
        eprintln!("  {line}");
    }
    let folder = target_dir().join("dist");
    match std::fs::remove_dir_all(&folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error).context(folder.display().to_string()),
        _ => std::fs::create_dir_all(&folder)?,
    }
    let version = papers::Version::of_checkout()?;
    let program = folder.join(version.program());
    strip(&linked, &program)?;
    let bytes = std::fs::read(&program)?;
    let size = bytes.len() as u64;
    ensure!(size < MOST_BYTES, "{}: need less than {MOST_BYTES} bytes, found {size}", program.display());
    eprintln!("  {size} bytes, static, stripped, Armv8.0");
    prove(&program)?;
    let package = folder.join(format!("bourn_{}_arm64.deb", version.debian));
    std::fs::write(&package, papers::package(&version, bytes, &folder)?.bytes()?)?;
    let mut sums = String::new();
    for file in [&program, &package] {
        let name = file.file_name().unwrap_or_default().to_string_lossy();
        sums += &format!("{}  {name}\n", deb::hex(&Sha256::digest(std::fs::read(file)?)));
    }
    std::fs::write(folder.join("SHA256SUMS"), sums)?;
    Ok(Built { program, package })
}

/// The program with its symbols. Paths of this machine do not enter it.
fn link(toolchain: &Toolchain, hub: bool) -> Result<PathBuf> {
    let mut cargo = toolchain.plain("build");
    cargo.args(["--profile", "dist", "--package", "bourn-cli"]);
    if hub && !toolchain.has_c_compiler() {
        eprintln!(
            "  no C compiler for {}: built without fetching from the Hugging Face hub, whose TLS needs one",
            toolchain.target
        );
    }
    if !hub || !toolchain.has_c_compiler() {
        cargo.arg("--no-default-features");
    }
    let root = root().canonicalize()?;
    let home = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = home.or_else(|| std::env::var_os("HOME").map(|home| Path::new(&home).join(".cargo")));
    let mut flags = vec!["-Ctarget-feature=+crt-static".to_owned(), format!("--remap-path-prefix={}=bourn", root.display())];
    flags.extend(home.map(|home| format!("--remap-path-prefix={}=cargo", home.display())));
    // This variable, unlike RUSTFLAGS, takes paths with spaces.
    cargo.env("CARGO_ENCODED_RUSTFLAGS", flags.join("\u{1f}"));
    run(&mut cargo)?;
    Ok(toolchain.products("dist").join("bourn"))
}

/// The program alone, as shipped, at `to`.
///
/// # Errors
/// As [`dist`].
pub fn program(to: &Path) -> Result<()> {
    strip(&link(&Toolchain::for_linux()?, true)?, to)
}

/// Leaves out the symbols, with whichever tool the compiler came with.
///
/// # Errors
/// If there is none, or symbols are left.
pub fn strip(linked: &Path, program: &Path) -> Result<()> {
    let from_rustup = || {
        let sysroot = output(command("rustc").args(["--print", "sysroot"])).ok()?;
        let host = std::fs::read_dir(Path::new(sysroot.trim()).join("lib/rustlib")).ok()?;
        host.flatten().map(|entry| entry.path().join("bin/rust-objcopy")).find(|path| path.is_file())
    };
    let tool = find("aarch64-linux-gnu-objcopy").or_else(|| find("llvm-objcopy")).or_else(from_rustup);
    let tool = tool.context("need aarch64-linux-gnu-objcopy (binutils), llvm-objcopy or rustup's rust-objcopy, found none")?;
    run(command(tool).arg("--strip-all").arg(linked).arg(program))?;
    let bytes = std::fs::read(program)?;
    let file = object::read::elf::ElfFile64::<object::Endianness>::parse(bytes.as_slice())?;
    ensure!(object::Object::symbols(&file).next().is_none(), "{}: need a stripped program, found symbols", program.display());
    Ok(())
}

/// Runs the program as each kind of CPU: it must start, choose the CPU's tier, and compute the same bits.
fn prove(program: &Path) -> Result<()> {
    let emulator = if cfg!(all(target_arch = "aarch64", target_os = "linux")) {
        None
    } else {
        match emulator() {
            Ok(found) => Some(found),
            Err(missing) => return crate::cross::skip("the program on emulated CPUs", &missing),
        }
    };
    let cpus: &[(&str, &str)] = if emulator.is_some() { CPUS } else { &[("this", "")] };
    let mut first: Option<(String, Value)> = None;
    for (cpu, isa) in cpus {
        let bourn = |args: &[&str]| {
            let mut run = match &emulator {
                None => command(program),
                Some(emulator) => {
                    let mut run = command(emulator);
                    run.args(["-cpu", cpu]).arg(program);
                    run
                }
            };
            run.args(args);
            output(&mut run)
        };
        let version = bourn(&["--version"])?;
        let board: Value = serde_json::from_str(&bourn(&["board", "--json"])?)?;
        let found = board["isa"].as_str().unwrap_or_default().to_owned();
        ensure!(isa.is_empty() || found == *isa, "{cpu}: need the kernels {isa}, found {found}");
        let sum = bourn(&["logits", IMAGE, "--ids", IDS, "--checksum", "--quiet"])?;
        let mut text = bourn(&["run", IMAGE, "--ids", IDS, "-n", "8", "--temperature", "0", "--ignore-eos", "--json", "--quiet"])
            .and_then(|text| Ok(serde_json::from_str::<Value>(&text)?))?;
        let ids = text["ids"].take();
        eprintln!("  {cpu}: {} isa={found} logits {} ids {ids}", version.trim(), sum.trim());
        match &first {
            None => first = Some((sum, ids)),
            Some(first) => ensure!(*first == (sum, ids), "{cpu}: need the bits of {}, found others", cpus[0].0),
        }
    }
    Ok(())
}

/// A command's output, if the command is here and succeeds.
fn maybe(command: &mut Command) -> Option<String> {
    let found = command.stderr(std::process::Stdio::null()).output().ok().filter(|found| found.status.success())?;
    Some(String::from_utf8_lossy(&found.stdout).trim().to_owned())
}
