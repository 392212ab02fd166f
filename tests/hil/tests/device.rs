//! What must hold on every board without an operating system: `BOURN_BOARD=qemu-rpi3 cargo test -p bourn-hil`.
//!
//! `BOURN_BOARD`: `qemu-rpi3`, `qemu-rpi4`, `qemu-virt[:CPU]` (built, put on a card and started by `cargo xtask`), or the line to a board that holds
//! `tests/fixtures/v1-q4.bourn`: `serial:PATH`, `tcp:HOST:PORT`, `unix:PATH` (`BOURN_BAUD`: bits per second). Each test of the board itself is a test here.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::sync::{Arc, Mutex};

use anyhow::{Context, Result, ensure};
use bourn::{GenerateOptions, Model, OpenOptions, SessionOptions, Threads};
use bourn_hil_runner::bench::{Bench, Emulator, Firmware, line, trial, trials};
use bourn_hil_runner::check::{PROMPT, TOKENS, written};
use bourn_hil_runner::place::Place;
use bourn_protocol::message::Weights;
use libtest_mimic::{Arguments, Failed, Trial};

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    // One line, one test at a time.
    arguments.test_threads = Some(1);
    let board = std::env::var("BOURN_BOARD").unwrap_or_default();
    let is_ours = ["qemu-", "serial:", "tcp:", "unix:"].iter().any(|kind| board.starts_with(kind));
    if !is_ours {
        let skipped = ["self_test", "paged", "faults", "log", "golden"].map(|name| {
            Trial::test(name, || Ok(())).with_kind("no BOURN_BOARD without an operating system").with_ignored_flag(true)
        });
        return libtest_mimic::run(&arguments, skipped.into()).exit_code();
    }
    let trials = match prepare(&board) {
        Ok(trials) => trials,
        Err(error) => {
            let message = format!("{error:#}");
            vec![Trial::test("the board answers", move || Err(Failed::from(message)))]
        }
    };
    libtest_mimic::run(&arguments, trials).exit_code()
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn image() -> PathBuf {
    root().join("tests/fixtures/v1-q4.bourn")
}

/// Builds firmware of a board; its ELF file.
fn built(board: &str, mini_uart: bool) -> Result<Firmware> {
    let mut xtask = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    xtask.current_dir(root()).args(["run", "--quiet", "--package", "xtask", "--", "firmware", "--board", board]);
    if mini_uart {
        xtask.arg("--mini-uart");
    }
    let printed = xtask.stderr(std::process::Stdio::inherit()).output()?;
    ensure!(printed.status.success(), "cargo xtask firmware --board {board}: {}", printed.status);
    let printed = String::from_utf8_lossy(&printed.stdout);
    // Its last line names both files.
    let elf = printed.lines().last().and_then(|line| line.rsplit_once(" and ")).context("cargo xtask firmware named no file")?;
    Firmware::read(Path::new(elf.1))
}

/// Connects, and asks the board for the names of its tests.
fn prepare(board: &str) -> Result<Vec<Trial>> {
    let baud =
        std::env::var("BOURN_BAUD").map_or(Ok(115_200), |baud| baud.parse()).context("BOURN_BAUD: need bits per second")?;
    let bench = match Place::parse(board)? {
        Place::Emulated(machine) => {
            let firmware = built(&machine.board, machine.mini_uart)?;
            let emulator = Emulator::start(&machine, &firmware.flat, None, &image())?;
            let line = emulator.line().clone();
            Bench::open(&line, baud, Some(emulator), Some(firmware.log?))?
        }
        Place::Line(text) => Bench::open(&line(&text)?, baud, None, None)?,
    };
    println!("{}", bench.name);
    let bench = Arc::new(Mutex::new(bench));
    let mut trials = trials(&bench)?;
    trials.push(trial(&bench, "golden::text_and_checksum_are_this_machines".to_owned(), golden));
    Ok(trials)
}

/// The text of this machine, and the checksum of its logits (firmware/protocol/README.md).
fn golden(bench: &mut Bench) -> Result<()> {
    let model = Model::open(&image(), &OpenOptions { threads: Some(Threads::both(1)), ..OpenOptions::default() })?;
    let mut session = model.session(&SessionOptions::default())?;
    let options = GenerateOptions { max_tokens: Some(TOKENS as usize), ignore_eos: true, ..GenerateOptions::default() };
    let mut text = String::new();
    session.generate(&PROMPT, &options, &mut |part| {
        text.push_str(part);
        ControlFlow::Continue(())
    })?;
    let ids = session.answer().to_vec();
    let mut all = PROMPT.to_vec();
    all.extend(&ids[..ids.len() - 1]);
    let mut sum = 0u64;
    session.clear()?;
    session.logits_of_all(&all, &mut |position, logits| {
        if position + 1 >= PROMPT.len() {
            let row: Vec<u8> = logits.iter().flat_map(|x| x.to_le_bytes()).collect();
            let both = [sum.to_le_bytes(), xxhash_rust::xxh3::xxh3_64(&row).to_le_bytes()].concat();
            sum = xxhash_rust::xxh3::xxh3_64(&both);
        }
    })?;
    let (found, found_sum) = written(&mut bench.client, Weights::Auto)?;
    ensure!(found.ids == ids && found.text == text.as_bytes(), "need ids {ids:?}, found {:?}", found.ids);
    ensure!(found_sum == sum, "need checksum {sum:016x}, found {found_sum:016x}");
    Ok(())
}
