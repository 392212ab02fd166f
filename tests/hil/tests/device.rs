//! What must hold on every board without an operating system: `BOURN_BOARD=qemu-rpi3 cargo test -p bourn-hil`.
//!
//! `BOURN_BOARD`: `qemu-rpi3`, `qemu-rpi4`, `qemu-virt[:CPU]` (built, put on a card and started by `cargo xtask`), or the line to a board:
//! `serial:PATH`, `tcp:HOST:PORT`, `unix:PATH` (`BOURN_BAUD`: bits per second). Its card holds `tests/fixtures/v1-q4.bourn` or the image that
//! `BOURN_BOARD_MODEL` names. Each test of the board itself is a test here. A real board (on a serial port, or one that `BOURN_BOARD_NAME` names) that holds
//! a model with floors in its board.toml must reach them.

use std::fs::File;
use std::io::Read as _;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result, ensure};
use bourn::{GenerateOptions, Model, OpenOptions, SessionOptions, Threads};
use bourn_format::superblock;
use bourn_hil::floors;
use bourn_hil_runner::bench::{Bench, Emulator, Firmware, Shared, line, trial, trials};
use bourn_hil_runner::check::{self, PROMPT, TOKENS, written};
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
        let skipped = ["self_test", "paged", "faults", "log", "golden", "speed"].map(|name| {
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

/// The images that a board may hold.
fn images() -> Vec<PathBuf> {
    let named = std::env::var_os("BOURN_BOARD_MODEL").map(PathBuf::from);
    named.into_iter().chain([root().join("tests/fixtures/v1-q4.bourn")]).collect()
}

/// What tells an image from any other, as a board tells it.
fn id(image: &Path) -> Result<u64> {
    let mut first = [0; superblock::BYTES];
    File::open(image).and_then(|mut file| file.read_exact(&mut first)).with_context(|| image.display().to_string())?;
    let last = first.last_chunk().context("a superblock is longer than its checksum")?;
    Ok(u64::from_le_bytes(*last))
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
    let named = std::env::var("BOURN_BOARD_NAME").unwrap_or_default();
    let is_real = board.starts_with("serial:") || !named.is_empty();
    let bench = match Place::parse(board)? {
        Place::Emulated(machine) => {
            let firmware = built(&machine.board, machine.mini_uart)?;
            let emulator = Emulator::start(&machine, &firmware.flat, None, &images()[0])?;
            let line = emulator.line().clone();
            Bench::open(&line, baud, Some(emulator), Some(firmware.log?))?
        }
        Place::Line(text) => Bench::open(&line(&text)?, baud, None, None)?,
    };
    println!("{}", bench.name);
    let name = if named.is_empty() { bench.name.split(',').next().unwrap_or_default().to_owned() } else { named };
    let bench = Arc::new(Mutex::new(bench));
    let mut trials = trials(&bench)?;
    trials.push(trial(&bench, "golden::text_and_checksum_are_this_machines".to_owned(), golden));
    if is_real {
        trials.extend(speeds(&bench, &name)?);
    } else {
        trials.push(skipped("speed", "an emulator's speed says nothing"));
    }
    Ok(trials)
}

fn skipped(name: &str, reason: &str) -> Trial {
    println!("{name}: skipped: {reason}");
    Trial::test(name, || Ok(())).with_kind("skipped").with_ignored_flag(true)
}

/// For each model of which the board's `board.toml` says how fast it must be: whether it is.
fn speeds(bench: &Shared, name: &str) -> Result<Vec<Trial>> {
    let Some(stated) = floors::stated(name, "").filter(|board| !board.floors.is_empty()) else {
        return Ok(vec![skipped("speed", &format!("no floors stated of a board {name:?}"))]);
    };
    let held = check::model(&mut bench.lock().unwrap_or_else(PoisonError::into_inner).client)?;
    let mut trials = Vec::new();
    for (model, least) in &stated.floors {
        let name = format!("speed::{model}");
        match floors::image(model) {
            Err(reason) => trials.push(skipped(&name, &reason)),
            Ok(image) if id(&image)? != held => {
                trials.push(skipped(&name, &format!("the board holds {held:016x}, which is not {}", image.display())));
            }
            Ok(_) => trials.push(trial(bench, name, move |bench| {
                let found = check::speed(&mut bench.client)?;
                for (key, need) in least {
                    let have = found.get(key.as_str()).with_context(|| format!("no such speed is measured: {key}"))?;
                    println!("{key} {have:.2} (at least {need})");
                    ensure!(have >= need, "{key}: need at least {need}, found {have:.2}");
                }
                Ok(())
            })),
        }
    }
    Ok(trials)
}

/// The text of this machine, and the checksum of its logits (firmware/protocol/README.md).
fn golden(bench: &mut Bench) -> Result<()> {
    let held = check::model(&mut bench.client)?;
    let image = images().into_iter().find(|image| id(image).is_ok_and(|id| id == held));
    let image = image.with_context(|| {
        format!("the board holds {held:016x}: need tests/fixtures/v1-q4.bourn, or that image here by BOURN_BOARD_MODEL")
    })?;
    let model = Model::open(&image, &OpenOptions { threads: Some(Threads::both(1)), ..OpenOptions::default() })?;
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
