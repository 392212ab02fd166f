//! What must hold on every board. Each test of a program that runs there is a test here, by the same name.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use bourn::{GenerateOptions, Model, OpenOptions, SamplerOptions, SessionOptions, Threads};
use bourn_hil::board::Spec;
use bourn_hil::{Board, Link, floors, programs};
use libtest_mimic::{Arguments, Failed, Trial};
use serde_json::Value;
use xxhash_rust::xxh3::Xxh3Default;

const IMAGE: &str = "v1-q4.bourn";
const IDS: [u32; 12] = [5, 72, 139, 206, 2, 69, 136, 203, 270, 66, 133, 200];
const WRITTEN: usize = 16;
/// Programs whose own tests are run, and the environment that they need.
const SUITES: [(&str, &[(&str, &str)]); 2] = [("conformance", &[]), ("bits", &[("BOURN_FIXTURES", ".")])];
const FIXTURES: [&str; 6] = ["v1.json", IMAGE, "v1-f16.bourn", "v1-quantized.bourn", "v2.json", "v2-screen.bourn"];

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    // One after the other: a board has few cores, and speed is measured.
    arguments.test_threads.get_or_insert(1);
    let bare = |spec: &Spec| ["qemu-", "serial:", "tcp:", "unix:"].iter().any(|kind| spec.board.starts_with(kind));
    let Some(spec) = Spec::from_env().filter(|spec| !bare(spec)) else {
        let reason = "no BOURN_BOARD with Linux";
        let trials = ["conformance", "bits", "golden", "faults", "speed"].map(|name| skipped(name, reason));
        return libtest_mimic::run(&arguments, trials.into()).exit_code();
    };
    let (board, trials) = match prepare(&spec) {
        Ok((board, trials)) => (Some(board), trials),
        Err(error) => {
            let message = format!("{error:#}");
            (None, vec![Trial::test("the board answers", move || Err(Failed::from(message)))])
        }
    };
    let conclusion = libtest_mimic::run(&arguments, trials);
    // The folder on the board goes before the process does.
    drop(board);
    conclusion.exit_code()
}

/// An ignored test that carries its reason, so that the summary counts it.
fn skipped(name: &str, reason: &str) -> Trial {
    Trial::test(name.to_owned(), || Ok(())).with_kind(reason.to_owned()).with_ignored_flag(true)
}

/// Connects, copies, and asks the programs for the names of their tests.
fn prepare(spec: &Spec) -> Result<(Arc<Board>, Vec<Trial>)> {
    let start = Instant::now();
    let folder = programs::folder()?;
    let board = Arc::new(Board::connect(spec)?);
    for name in programs::NAMES {
        board.copy(&folder.join(name), name)?;
    }
    for name in FIXTURES {
        board.copy(&fixture(name), name)?;
    }
    let version = board.run("bourn", &["--version"], &[])?.success("bourn --version")?;
    let named = if board.model().is_empty() { String::new() } else { format!(" ({})", board.model()) };
    println!("{}{named}: {} in {}, {:.1} s to copy", board.link(), version.trim(), board.folder(), start.elapsed().as_secs_f32());

    let mut trials = Vec::new();
    for (suite, env) in SUITES {
        let list = board.run(suite, &["--list"], env)?.success(suite)?;
        let names: Vec<&str> = list.lines().filter_map(|line| line.strip_suffix(": test")).collect();
        ensure!(!names.is_empty(), "{suite} has no tests");
        for name in names {
            let (board, test) = (Arc::clone(&board), name.to_owned());
            trials.push(trial(format!("{suite}::{name}"), move || suite_test(&board, suite, &test, env)));
        }
    }
    type Check = fn(&Board) -> Result<()>;
    let checks: [(&str, Check); 9] = [
        ("golden::text_is_this_machines", golden_text),
        ("golden::checksum_is_this_machines", golden_checksum),
        ("golden::board_names_its_kernels", board_names_its_kernels),
        ("faults::rejects_a_truncated_image", rejects_a_truncated_image),
        ("faults::rejects_a_corrupt_page", rejects_a_corrupt_page),
        ("faults::wrong_usage_exits_with_2", wrong_usage),
        ("faults::a_full_disk_is_told", a_full_disk_is_told),
        ("faults::a_folder_that_cannot_be_written_is_told", an_unwritable_folder_is_told),
        ("faults::a_board_that_is_not_there_is_told", a_board_that_is_not_there_is_told),
    ];
    for (name, check) in checks {
        let board = Arc::clone(&board);
        trials.push(trial(name.to_owned(), move || check(&board)));
    }
    if matches!(board.link(), Link::Ssh { .. }) {
        let (lost, spec) = (Arc::clone(&board), spec.clone());
        trials.push(trial("faults::a_lost_connection_is_told".to_owned(), move || a_lost_connection_is_told(&lost, &spec)));
    }
    trials.extend(speed(&board, spec)?);
    Ok((board, trials))
}

fn trial(name: String, check: impl FnOnce() -> Result<()> + Send + 'static) -> Trial {
    Trial::test(name, move || check().map_err(|error| Failed::from(format!("{error:#}"))))
}

fn fixture(name: &str) -> PathBuf {
    programs::root().join("tests/fixtures").join(name)
}

/// One test of a program, by its name.
fn suite_test(board: &Board, suite: &str, test: &str, env: &[(&str, &str)]) -> Result<()> {
    let done = board.run(suite, &["--exact", test, "--test-threads", "1", "--nocapture"], env)?;
    let out = format!("{}{}", done.stdout, done.stderr);
    ensure!(done.code == Some(0), "exit status {:?}\n{out}", done.code);
    ensure!(out.contains("1 passed"), "need one test of this name, found\n{out}");
    Ok(())
}

fn ids() -> String {
    IDS.map(|id| id.to_string()).join(",")
}

fn here() -> Result<Model> {
    let options = OpenOptions { threads: Some(Threads::both(1)), ..OpenOptions::default() };
    Ok(Model::open(&fixture(IMAGE), &options)?)
}

/// Greedy text, and the ids it is made of.
fn golden_text(board: &Board) -> Result<()> {
    let model = here()?;
    let mut session = model.session(&SessionOptions::default())?;
    let sampling = SamplerOptions { temperature: 0.0, ..SamplerOptions::default() };
    let options = GenerateOptions { max_tokens: Some(WRITTEN), ignore_eos: true, sampling, ..GenerateOptions::default() };
    let mut text = String::new();
    session.generate(&IDS, &options, &mut |part| {
        text.push_str(part);
        ControlFlow::Continue(())
    })?;
    let n = WRITTEN.to_string();
    let args = ["run", IMAGE, "--ids", &ids(), "-n", &n, "--ignore-eos", "--temperature", "0", "--json", "--quiet"];
    let found: Value = serde_json::from_str(&board.run("bourn", &args, &[])?.success("bourn run")?)?;
    let found_ids: Vec<u32> = serde_json::from_value(found["ids"].clone())?;
    ensure!(found_ids == session.answer(), "need ids {:?}, found {found_ids:?}", session.answer());
    ensure!(found["text"] == text.as_str(), "need text {text:?}, found {}", found["text"]);
    Ok(())
}

/// Every bit of every logit of the prompt.
fn golden_checksum(board: &Board) -> Result<()> {
    let model = here()?;
    let mut session = model.session(&SessionOptions::default())?;
    let mut sum = Xxh3Default::new();
    session.logits_of_all(&IDS, &mut |_, logits| {
        for x in logits {
            sum.update(&x.to_le_bytes());
        }
    })?;
    let found = board.run("bourn", &["logits", IMAGE, "--ids", &ids(), "--checksum", "--quiet"], &[])?.success("bourn logits")?;
    let need = format!("{:016x}", sum.digest());
    ensure!(found.trim() == need, "need {need}, found {}", found.trim());
    Ok(())
}

fn board_names_its_kernels(board: &Board) -> Result<()> {
    let found: Value = serde_json::from_str(&board.run("bourn", &["board", "--json"], &[])?.success("bourn board")?)?;
    let isa = found["isa"].as_str().context("no isa")?;
    ensure!(isa != "scalar", "need a tier for this CPU, found scalar");
    println!("isa={isa} cores={}", found["cores"]);
    Ok(())
}

/// Exit status 1 and a message on standard error with `part` in it.
fn refused(board: &Board, args: &[&str], part: &str) -> Result<()> {
    let done = board.run("bourn", args, &[])?;
    ensure!(done.code == Some(1), "need exit status 1, found {:?}: {}", done.code, done.stderr);
    ensure!(done.stderr.starts_with("error: ") && done.stderr.contains(part), "need {part:?}, found {:?}", done.stderr);
    Ok(())
}

fn rejects_a_truncated_image(board: &Board) -> Result<()> {
    let bytes = std::fs::read(fixture(IMAGE))?;
    for keep in [100, bytes.len() / 2, bytes.len() - 1] {
        let path = format!("{}/short.bourn", board.folder());
        board.write(&bytes[..keep], &path)?;
        refused(board, &["inspect", "short.bourn"], "truncated: need")?;
        refused(board, &["run", "short.bourn", "--ids", "1", "--quiet"], "truncated: need")?;
    }
    Ok(())
}

fn rejects_a_corrupt_page(board: &Board) -> Result<()> {
    let mut bytes = std::fs::read(fixture(IMAGE))?;
    let at = bytes.len() - 20_000;
    bytes[at] ^= 1;
    board.write(&bytes, &format!("{}/corrupt.bourn", board.folder()))?;
    refused(board, &["inspect", "corrupt.bourn", "--verify"], "is corrupt: checksum")?;
    refused(board, &["run", "corrupt.bourn", "--ids", "1,2", "-n", "4", "--quiet"], "is corrupt: checksum")
}

fn wrong_usage(board: &Board) -> Result<()> {
    let done = board.run("bourn", &["fly"], &[])?;
    ensure!(done.code == Some(2), "need exit status 2, found {:?}", done.code);
    Ok(())
}

/// `result` must be an error with one of `parts` in it.
fn told<T>(result: Result<T>, parts: &[&str]) -> Result<()> {
    let Err(error) = result else { bail!("need an error, found none") };
    let text = format!("{error:#}");
    ensure!(parts.iter().any(|part| text.contains(part)), "need one of {parts:?}, found {text}");
    Ok(())
}

fn a_full_disk_is_told(board: &Board) -> Result<()> {
    told(board.write(&[1; 65_536], "/dev/full"), &["No space left on device"])
}

fn an_unwritable_folder_is_told(board: &Board) -> Result<()> {
    told(board.write(b"x", "/proc/bourn/program"), &["nonexistent", "No such file", "Permission denied"])
}

fn a_board_that_is_not_there_is_told(_: &Board) -> Result<()> {
    let closed = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    let start = Instant::now();
    let spec = Spec { board: format!("ssh:nobody@127.0.0.1:{closed}"), ..Spec::default() };
    told(Board::connect(&spec), &["Connection refused"])?;
    ensure!(start.elapsed() < Duration::from_secs(30), "told only after {:?}", start.elapsed());
    Ok(())
}

/// A second connection whose master goes away in the middle of a command.
fn a_lost_connection_is_told(board: &Board, spec: &Spec) -> Result<()> {
    let second = Board::connect(spec)?;
    let folder = second.folder().to_owned();
    let result = std::thread::scope(|scope| {
        let waiting = scope.spawn(|| second.link().run("sleep 60", &[], Duration::from_secs(40)));
        std::thread::sleep(Duration::from_millis(300));
        second.link().close();
        waiting.join().map_err(|_| anyhow::anyhow!("the thread that waits died"))
    })?;
    // Some versions of ssh report the end of the master as 255, others as a status of their own.
    match result {
        Err(error) => ensure!(format!("{error:#}").starts_with("ssh "), "need the link's name, found {error:#}"),
        Ok(done) => ensure!(done.code != Some(0), "need a failure, found success"),
    }
    drop(second);
    // The next command connects anew, and what was there is gone.
    let left = board.link().run(&format!("test ! -e '{folder}'"), &[], Duration::from_secs(30))?;
    ensure!(left.code == Some(0), "{folder} is still on the board");
    Ok(())
}

/// A test for each speed that the board's own file promises.
fn speed(board: &Arc<Board>, spec: &Spec) -> Result<Vec<Trial>> {
    if spec.is_emulated() {
        return Ok(vec![skipped("speed", "emulated")]);
    }
    let name = std::env::var("BOURN_BOARD_NAME").unwrap_or_default();
    let Some(found) = floors::stated(&name, board.model()) else {
        println!(
            "speed: no boards/*/board.toml knows a board that calls itself {:?} (BOURN_BOARD_NAME names one)",
            board.model()
        );
        return Ok(vec![skipped("speed", "board not known")]);
    };
    if found.floors.is_empty() {
        return Ok(vec![skipped("speed", "no floors stated")]);
    }
    let trial_of = |(model, least): (&'static String, &'static BTreeMap<String, f64>)| match floors::image(model) {
        Err(reason) => skipped(&format!("speed::{model}"), &reason),
        Ok(image) => {
            let board = Arc::clone(board);
            trial(format!("speed::{model}"), move || reaches(&board, model, least, &image))
        }
    };
    Ok(found.floors.iter().map(trial_of).collect())
}

fn reaches(board: &Board, model: &str, least: &BTreeMap<String, f64>, image: &std::path::Path) -> Result<()> {
    let name = format!("{model}.bourn");
    board.copy(image, &name)?;
    let args = ["bench", &name, "--prompt", "128", "--generate", "64", "--repeat", "3", "--json", "--quiet"];
    let found: Value = serde_json::from_str(&board.run("bourn", &args, &[])?.success("bourn bench")?)?;
    for (key, need) in least {
        let have = found[key].as_f64().with_context(|| format!("bourn bench names no {key}"))?;
        println!("{model}: {key} {have} (at least {need})");
        ensure!(have >= *need, "{key}: need at least {need}, found {have}");
    }
    Ok(())
}
