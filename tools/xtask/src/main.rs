//! Set-up, tests, checks and measurements of the bourn workspace: `cargo xtask <command>`.
//!
//! Every check that CI runs is a command here, so that what fails there can be run alone. Nothing but cargo is expected
//! of the machine: what a command needs beyond that it installs where it may, and otherwise says what to type.
#![deny(unsafe_code)]

mod arm_cost;
mod baseline;
mod checks;
mod compare;
mod cross;
mod data;
mod disassembly;
mod dist;
mod emulate;
mod firmware;
mod fuzz;
mod gpu;
mod hil;
mod layers;
mod mca;
mod predict;
mod process;
mod quality;
mod ram;
mod speculate;

use std::process::ExitCode;

use anyhow::{Result, bail};
use process::Steps;

const USAGE: &str = "usage: cargo xtask <command>

  test                     set up what the tests need, then run every test (emulated ARM first, this machine last)
  ci                       everything: fmt, layers, clippy, docs, tests, no_std builds, emulated ARM, fuzz smoke

  fmt [--check]            format, or check the format of, all Rust code
  layers                   check who may depend on whom, who has no std, who has no unsafe
  lint                     clippy, warnings denied
  docs                     documentation of every crate, warnings denied
  bare                     build the core crates for a machine without operating system
  arm                      cross build the tests and run them under emulation, once per CPU
  dist [--no-hub] [--test]
                           one static program for 64-bit ARM Linux and a Debian package, in target/dist; with --test
                           the command line's tests run with it on an emulated Cortex-A53
  hil [--programs]         the board tests, against an ssh server here whose far side emulates a board; with
                           --programs only what they run is built, and its folder named
  firmware [--board BOARD [--card FILE [--image FILE] [--loader FOLDER]] [--mini-uart] [--test [ARGUMENT]...]]
                           firmware for a board without operating system, or for all: built, and held to its size and to having
                           no allocator; with --card a card image (FAT32 and two slots) with it and a model; with
                           --test its tests are run where BOURN_BOARD says, else in QEMU
  prove-firmware [--model FILE]... [--tokens N] [--count]
                           firmware in QEMU against its promises: the desktop's tokens and logits to the bit on every board and
                           CPU, 200 damages of the card reported; with --count (and --model) instead
                           instructions from token to token with one core and with four
  emulate BOARD CARD [--cpu CPU] [--cores N] [--memory MIB] [--mini-uart] [--serial stdio|pty|tcp:PORT|PATH]
                           start a card in QEMU, its serial line where you say (a PATH is a socket)
  fuzz [TARGET] [--seconds N] [--smoke]
                           fuzz every door for foreign bytes, or one, N seconds each (default 60)
  fixtures                 write the fixture of the current format version anew (tests/fixtures)
  fetch-test-data          fetch real weights and tokenizers into the cache
  gpu                      the GPU path on Mesa's software adapter, and its link for ARM
  ram [--cap MIB] [--rate MB] [--model NAME] [--ours | --peers]
                           memory and speed under caps on memory and device, and llama.cpp's mapping beside (root)
  compare [--model NAME]... [--threads N] [--rounds N] [--repack]
                           side by side with llama.cpp on SmolLM2-135M and Gemma-3-270M, in one run
  speculate [--program FILE] [--rounds N] [--generate N] [--model NAME] [--threads N] [--ram SIZE] [--throttle SIZE]
            [--draft IMAGE]
                           tokens per pass and speed of speculative decoding against plain, texts asserted equal
  prompt-cache [--program FILE] [--rounds N] [--model NAME] [--threads N] [--ram SIZE] [--throttle SIZE]
                           first token after a prefix of 2000 tokens, with and without the cache
  quality [--model NAME]... [--float published|dithered]... [--text NAME]... [--windows N] [--threads N] [--program FILE]
          [--repack] [--page]
                           KL divergence and perplexity against bytes per token, ours and llama.cpp's, of the same float
                           weights, into docs/quality.md; goes on where it was stopped; --page: only write the page anew
  arm-cost [--cpu CPU]... [--model NAME] [--ours-only] [--recount] [--profile] [--json]
                           instructions per token on emulated ARM cores, ours and llama.cpp's against the bars;
                           --profile: which functions of ours a generated token goes through
  mca [--program FILE] [--list] [--schedule CORE] [--write] [--json]
                           cycles of the kernels' inner loops on the boards' cores, by LLVM's analyser, against the bars
  predict [--check]        write docs/boards.md's tables of what every board should reach, or check them
  baseline PROGRAM         check that an ARM program needs no more than Armv8.0 where nothing asked the CPU";

fn main() -> ExitCode {
    match dispatch() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn dispatch() -> Result<()> {
    let mut args = std::env::args().skip(1);
    let command = args.next();
    let rest: Vec<String> = args.collect();
    let rest: Vec<&str> = rest.iter().map(String::as_str).collect();
    match (command.as_deref(), rest.as_slice()) {
        (Some("test"), []) => test(),
        (Some("ci"), []) => ci(),
        (Some("fmt"), []) => checks::fmt(false),
        (Some("fmt"), ["--check"]) => checks::fmt(true),
        (Some("layers"), []) => layers::check(),
        (Some("lint"), []) => checks::lint(),
        (Some("docs"), []) => checks::docs(),
        (Some("bare"), []) => cross::bare(),
        (Some("arm"), []) => cross::arm(),
        (Some("dist"), args) => dist::dist(args),
        (Some("gpu"), []) => gpu::gpu(),
        (Some("hil"), args) => hil::hil(args),
        (Some("firmware"), args) => firmware::firmware(args),
        (Some("prove-firmware"), args) => firmware::prove(args),
        (Some("emulate"), args) => emulate::emulate(args),
        (Some("fuzz"), args) => fuzz::run_doors(args),
        (Some("fixtures"), []) => checks::fixtures(),
        (Some("fetch-test-data"), []) => data::fetch(),
        (Some("arm-cost"), args) => arm_cost::count(args),
        (Some("mca"), args) => mca::analyse(args),
        (Some("predict"), []) => predict::predict(false),
        (Some("predict"), ["--check"]) => predict::predict(true),
        (Some("baseline"), [program]) => baseline::check_file(program.as_ref()),
        (Some("compare"), args) => compare::run_both(args),
        (Some("quality"), args) => quality::measure(args),
        (Some("ram"), args) => ram::measure(args),
        (Some("speculate"), args) => speculate::speculation(args),
        (Some("prompt-cache"), args) => speculate::prompt_cache(args),
        (None | Some("help" | "--help" | "-h"), _) => {
            println!("{USAGE}");
            Ok(())
        }
        (Some(command), args) => {
            eprintln!("{USAGE}");
            bail!("no such command: {command} {}", args.join(" "))
        }
    }
}

/// Everything a contributor runs: cargo's own summary of the tests on this machine is the last thing printed.
fn test() -> Result<()> {
    data::fetch()?;
    cross::arm()?;
    checks::doc_tests()?;
    checks::host_tests()?;
    checks::conformance()
}

/// Everything that must hold before a change is taken, cheapest first.
fn ci() -> Result<()> {
    let mut steps = Steps::default();
    steps.run("fmt", || checks::fmt(true))?;
    steps.run("layers", layers::check)?;
    steps.run("lint", checks::lint)?;
    steps.run("docs", checks::docs)?;
    steps.run("test data", data::fetch)?;
    steps.run("doc tests", checks::doc_tests)?;
    steps.run("host tests", checks::host_tests)?;
    steps.run("gpu", gpu::gpu)?;
    steps.run("bare metal", cross::bare)?;
    steps.run("firmware", || firmware::firmware(&[]))?;
    steps.run("firmware in qemu", || firmware::prove(&[]))?;
    steps.run("emulated boards", hil::emulated)?;
    steps.run("emulated arm", cross::arm)?;
    steps.run("dist", || dist::dist(&["--test"]))?;
    steps.run("board tests", || hil::hil(&[]))?;
    steps.run("fuzz smoke", || fuzz::run_doors(&["--seconds", "5"]))?;
    steps.print();
    checks::conformance()
}
