//! What must hold on every board without an operating system: `BOURN_BOARD=qemu-rpi3 cargo test -p bourn-hil`.
//!
//! `BOURN_BOARD`: `qemu-rpi3`, `qemu-rpi4`, `qemu-virt[:CPU]` (built, put on a card and started by `cargo xtask`), or the line to a board that holds
//! `tests/fixtures/v1-q4.bourn`: `serial:PATH`, `tcp:HOST:PORT`, `unix:PATH` (`BOURN_BAUD`: bits per second). Each test of the board itself is a test here.

use std::ops::ControlFlow;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use bourn::{GenerateOptions, Model, OpenOptions, SessionOptions, Threads};
use bourn_protocol::client::{Patience, Transport};
use bourn_protocol::message::{Answer, Form, Generate, Load, Outcome, Request, Weights};
use bourn_protocol::port::{Line, Port, Written};
use bourn_protocol::{Client, message};
use libtest_mimic::{Arguments, Failed, Trial};

const IDS: [u32; 12] = [5, 72, 139, 206, 2, 69, 136, 203, 270, 66, 133, 200];
const WRITTEN: u32 = 16;
/// Until an emulator has its line open, and until a board has answered for the first time.
const START: Duration = Duration::from_secs(60);

type Shared = Arc<Mutex<Client<Port>>>;

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    // One line, one test at a time.
    arguments.test_threads = Some(1);
    let board = std::env::var("BOURN_BOARD").unwrap_or_default();
    let is_ours = ["qemu-", "serial:", "tcp:", "unix:"].iter().any(|kind| board.starts_with(kind));
    if !is_ours {
        let skipped = ["self_test", "golden", "paged", "faults"].map(|name| {
            Trial::test(name, || Ok(())).with_kind("no BOURN_BOARD without an operating system").with_ignored_flag(true)
        });
        return libtest_mimic::run(&arguments, skipped.into()).exit_code();
    }
    let mut emulator = None;
    let trials = match prepare(&board, &mut emulator) {
        Ok(trials) => trials,
        Err(error) => {
            let message = format!("{error:#}");
            vec![Trial::test("the board answers", move || Err(Failed::from(message)))]
        }
    };
    let conclusion = libtest_mimic::run(&arguments, trials);
    drop(emulator);
    conclusion.exit_code()
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn image() -> PathBuf {
    root().join("tests/fixtures/v1-q4.bourn")
}

/// QEMU with a card, started by the one who knows its words.
struct Emulator {
    child: Child,
    _folder: tempfile::TempDir,
}

impl Drop for Emulator {
    fn drop(&mut self) {
        // Cargo, xtask and QEMU: a process group of their own.
        let _ = Command::new("kill").args(["--", &format!("-{}", self.child.id())]).status();
        let _ = self.child.wait();
    }
}

fn xtask(args: &[&str]) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root()).args(["run", "--quiet", "--package", "xtask", "--"]).args(args);
    command
}

/// Builds firmware and card, and starts the emulator; the line to it.
fn emulate(board: &str) -> Result<(Emulator, Line)> {
    let (name, cpu) = board.split_once(':').unwrap_or((board, ""));
    // QEMU's own machine is a board of ours by its full name; the others emulate boards that exist.
    let name = if name == "qemu-virt" { name } else { name.strip_prefix("qemu-").unwrap_or(name) };
    let folder = tempfile::tempdir()?;
    let path = |file: &str| folder.path().join(file).display().to_string();
    let (card, socket, image) = (path("card.img"), path("line"), image().canonicalize()?.display().to_string());
    let built = xtask(&["firmware", "--board", name, "--card", &card, "--image", &image]).status()?;
    ensure!(built.success(), "cargo xtask firmware --board {name}: {built}");
    let mut args = vec!["emulate", name, &card, "--serial", &socket];
    if !cpu.is_empty() {
        args.extend(["--cpu", cpu]);
    }
    let child = xtask(&args).stdin(Stdio::null()).process_group(0).spawn()?;
    let mut emulator = Emulator { child, _folder: folder };
    let start = Instant::now();
    while !Path::new(&socket).exists() {
        let ended = emulator.child.try_wait()?;
        ensure!(ended.is_none() && start.elapsed() < START, "the emulator did not start: {ended:?}");
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok((emulator, Line::Unix(socket.into())))
}

/// Connects, and asks the board for the names of its tests.
fn prepare(board: &str, emulator: &mut Option<Emulator>) -> Result<Vec<Trial>> {
    let line = if board.starts_with("qemu-") {
        let (started, line) = emulate(board)?;
        *emulator = Some(started);
        line
    } else {
        board.parse().map_err(|e| anyhow!("BOURN_BOARD: {e}"))?
    };
    let baud =
        std::env::var("BOURN_BAUD").map_or(Ok(115_200), |baud| baud.parse()).context("BOURN_BAUD: need bits per second")?;
    let patience = Patience { answer_us: 1_000_000, tries: START.as_secs() as u32 };
    let mut client = Client::new(Port::open(&line, baud).with_context(|| line.to_string())?, patience);
    client.hello(std::process::id(), &mut |hello| println!("{}, firmware {}", hello.board, hello.firmware))?;
    let mut tests = Vec::new();
    loop {
        let index = u16::try_from(tests.len())?;
        let (name, of) = test(&mut client, index, false).map(|(name, of, ..)| (name, of))?;
        tests.push(name);
        if usize::from(of) <= tests.len() {
            break;
        }
    }
    let client = Arc::new(Mutex::new(client));
    let mut trials = Vec::new();
    for (index, name) in (0..).zip(tests) {
        trials.push(trial(&client, format!("self_test::{name}"), move |client| self_test(client, index)));
    }
    trials.push(trial(&client, "golden::text_and_checksum_are_this_machines".to_owned(), golden));
    trials.push(trial(&client, "paged::is_resident_to_the_bit".to_owned(), paged_is_resident));
    trials.push(trial(&client, "faults::broken_frames_are_asked_for_again".to_owned(), noise_is_survived));
    Ok(trials)
}

fn trial(client: &Shared, name: String, check: impl FnOnce(&mut Client<Port>) -> Result<()> + Send + 'static) -> Trial {
    let client = Arc::clone(client);
    Trial::test(name, move || {
        let mut client: MutexGuard<'_, _> = client.lock().unwrap_or_else(PoisonError::into_inner);
        check(&mut client).map_err(|error| Failed::from(format!("{error:#}")))
    })
}

/// A test's name, how many there are, how it ended, and why.
fn test(client: &mut Client<Port>, index: u16, run: bool) -> Result<(String, u16, Outcome, String)> {
    Ok(client.ask("self-test", &Request::SelfTest { index, run }, &mut |answer| match answer {
        Answer::Test { of, name, outcome, text, .. } => Some(((*name).to_owned(), *of, *outcome, (*text).to_owned())),
        _ => None,
    })?)
}

fn self_test(client: &mut Client<Port>, index: u16) -> Result<()> {
    let (_, _, outcome, text) = test(client, index, true)?;
    ensure!(outcome == Outcome::Passed, "{outcome:?}: {text}");
    Ok(())
}

/// What the board writes with weights there: ids and text, checksum of the logits.
fn written(client: &mut Client<Port>, weights: Weights) -> Result<(Written, u64)> {
    client.load(Load { weights, ..Load::default() }, &mut |_, _| ControlFlow::Continue(()))?;
    let prompt: Vec<u8> = IDS.iter().flat_map(|id| id.to_le_bytes()).collect();
    let options = Generate {
        prompt_bytes: 0,
        prompt_crc: 0,
        form: Form::Ids,
        max_tokens: WRITTEN,
        temperature: 0.0,
        top_k: 0,
        top_p: 1.0,
        min_p: 0.0,
        repetition_penalty: 1.0,
        seed: 0,
        ignore_eos: true,
        sum: true,
    };
    let mut written = Written::default();
    client.generate(&prompt, &options, &mut written, &mut || false)?;
    let sum = client.ask("sum", &Request::Sum, &mut |answer| match answer {
        Answer::Sum { rows, sum } => Some((*rows, *sum)),
        _ => None,
    })?;
    ensure!(sum.0 == WRITTEN, "need {WRITTEN} rows of logits, found {}", sum.0);
    Ok((written, sum.1))
}

/// The text of this machine, and the checksum of its logits (firmware/protocol/README.md).
fn golden(client: &mut Client<Port>) -> Result<()> {
    let model = Model::open(&image(), &OpenOptions { threads: Some(Threads::both(1)), ..OpenOptions::default() })?;
    let mut session = model.session(&SessionOptions::default())?;
    let options = GenerateOptions { max_tokens: Some(WRITTEN as usize), ignore_eos: true, ..GenerateOptions::default() };
    let mut text = String::new();
    session.generate(&IDS, &options, &mut |part| {
        text.push_str(part);
        ControlFlow::Continue(())
    })?;
    let ids = session.answer().to_vec();
    let mut all = IDS.to_vec();
    all.extend(&ids[..ids.len() - 1]);
    let mut sum = 0u64;
    session.clear()?;
    session.logits_of_all(&all, &mut |position, logits| {
        if position + 1 >= IDS.len() {
            let row: Vec<u8> = logits.iter().flat_map(|x| x.to_le_bytes()).collect();
            let both = [sum.to_le_bytes(), xxhash_rust::xxh3::xxh3_64(&row).to_le_bytes()].concat();
            sum = xxhash_rust::xxh3::xxh3_64(&both);
        }
    })?;
    let (found, found_sum) = written(client, Weights::Auto)?;
    ensure!(found.ids == ids && found.text == text.as_bytes(), "need ids {ids:?}, found {:?}", found.ids);
    ensure!(found_sum == sum, "need checksum {sum:016x}, found {found_sum:016x}");
    Ok(())
}

fn paged_is_resident(client: &mut Client<Port>) -> Result<()> {
    let resident = written(client, Weights::Resident)?;
    let paged = written(client, Weights::Paged)?;
    ensure!(resident == paged, "resident {:016x}, paged {:016x}", resident.1, paged.1);
    Ok(())
}

/// Noise, runs without end, frames that are cut off or changed: the next request is answered.
fn noise_is_survived(client: &mut Client<Port>) -> Result<()> {
    let mut wire = [0; bourn_protocol::frame::MAX_WIRE];
    let hello = bourn_protocol::frame::encode(9, &Request::Hello { nonce: 1 }, &mut wire).context("a short message")?.to_vec();
    let mut noise: Vec<Vec<u8>> = vec![vec![0x55; 3000], vec![0; 100], hello[..hello.len() / 2].to_vec()];
    for i in 0..hello.len() {
        let mut broken = hello.clone();
        broken[i] ^= 0x10;
        noise.push(broken);
    }
    for bytes in &noise {
        client.transport().write(bytes)?;
        client.ask("stats", &Request::Stats, &mut |answer| matches!(answer, Answer::Stats(_)).then_some(()))?;
    }
    let bad = client.ask("stats", &Request::Stats, &mut |answer| match answer {
        Answer::Stats(message::Stats { frames_bad, .. }) => Some(*frames_bad),
        _ => None,
    })?;
    ensure!(bad as usize >= noise.len() / 2, "need {} broken frames noticed, found {bad}", noise.len() / 2);
    Ok(())
}
