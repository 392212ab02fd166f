//! `bourn device`: a board without an operating system, at the other end of a line.

mod flash;
mod link;
mod simulate;
mod talk;

use crate::args::Turns;
use crate::args::device::{Action, Device, Load, Logs, Reboot, Weights};
use crate::output::{bytes, hinted, json, line, note, print};
use crate::signal;
use anyhow::{Context, Result};
use bourn_hil_runner::elf;
use bourn_hil_runner::log::Log;
use bourn_protocol::message;
use bourn_protocol::message::{Answer, From, Outcome, Request};
use link::Board;
use serde_json::{Value, json as object};
use std::io::{IsTerminal, Write, stdout};
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// Does what was asked for.
pub fn device(a: &Device, quiet: bool) -> Result<ExitCode> {
    if let Some(Action::Simulate(s)) = &a.action {
        return simulate::simulate(s, quiet);
    }
    let Some(at) = &a.line else {
        // What clap says of a missing argument, had there been no subcommand.
        eprintln!("error: the following required arguments were not provided:\n  <LINE>\n\nUsage: bourn device <LINE> [COMMAND]");
        return Ok(ExitCode::from(2));
    };
    let mut board = Board::connect(at, a.baud, quiet)?;
    match a.action.as_ref() {
        None => talk::chat(&mut board, &Turns::default(), a.json),
        Some(Action::Chat(chat)) => talk::chat(&mut board, chat, a.json),
        Some(Action::Run(run)) => talk::run(&mut board, run, a.json),
        Some(Action::Info) => info(&mut board, a.json),
        Some(Action::Stats) => stats(&mut board, a.json),
        Some(Action::SelfTest) => self_test(&mut board, a.json),
        Some(Action::Flash(flash)) => flash::flash(&mut board, &flash.image, a.json),
        Some(Action::Load(load)) => open(&mut board, load, a.json),
        Some(Action::Logs(logs)) => show_logs(&mut board, logs),
        Some(Action::Reboot(reboot)) => start_anew(&mut board, reboot, a.json),
        Some(Action::Simulate(_)) => Ok(ExitCode::SUCCESS),
    }
}

/// `{"slot": 0}`, `"file"`.
fn from(f: From) -> Value {
    match f {
        From::Any => Value::Null,
        From::File => "file".into(),
        From::Slot(n) => object!({ "slot": n }),
    }
}

fn shown(f: From) -> String {
    match f {
        From::Any => String::new(),
        From::File => "a file".to_owned(),
        From::Slot(n) => format!("slot {n}"),
    }
}

fn info(board: &mut Board, as_json: bool) -> Result<ExitCode> {
    let (name, firmware) = (board.name.clone(), board.firmware.clone());
    let (value, text) = board.ask("info", &Request::Info, &mut |answer| match answer {
        Answer::Info(i) => Some((info_json(i, &name, &firmware), info_text(i, &name, &firmware))),
        _ => None,
    })?;
    if as_json {
        json(&value)?
    } else {
        print(&text)?
    }
    Ok(ExitCode::SUCCESS)
}

fn info_json(i: &message::Info<'_>, name: &str, firmware: &str) -> Value {
    let model = i.model.map(|m| {
        object!({
            "id": format!("{:016x}", m.id), "from": from(m.from), "bytes": m.bytes, "parameters": m.parameters,
            "bytes_per_token": m.bytes_per_token, "vocab": m.vocab, "context": m.context,
            "stream": if m.resident { "resident" } else { "paged" }, "ram_bytes": m.ram_bytes, "open_ms": m.open_us as f64 / 1e3,
        })
    });
    let slots = i.slots.map(|s| {
        let id = |id: u64| (id != 0).then(|| format!("{id:016x}"));
        object!({ "active": s.active, "sequence": s.sequence, "bytes": s.bytes, "ids": s.ids.map(id) })
    });
    object!({
        "board": name, "firmware": firmware, "isa": i.isa, "cores": i.cores, "ram_bytes": i.ram_bytes,
        "card_bytes": u64::from(i.card_blocks) * 512, "model": model,
        "trouble": (!i.trouble.is_empty()).then_some(i.trouble), "slots": slots, "tests": i.tests,
    })
}

fn info_text(i: &message::Info<'_>, name: &str, firmware: &str) -> String {
    use std::fmt::Write as _;
    let mut t = String::new();
    // Writing to a string does not fail.
    let _ = writeln!(t, "{name}, firmware {firmware}: isa={} cores={} ram={}", i.isa, i.cores, bytes(i.ram_bytes));
    let _ = match i.card_blocks {
        0 => writeln!(t, "card: none"),
        n => writeln!(t, "card: {}", bytes(u64::from(n) * 512)),
    };
    if let Some(s) = i.slots {
        for n in 0..2 {
            let held = if s.ids[n] == 0 { "empty".to_owned() } else { format!("image {:016x}", s.ids[n]) };
            let active = if usize::from(s.active) == n { ", in use" } else { "" };
            let _ = writeln!(t, "slot {n}: {held}, room for {}{active}", bytes(s.bytes[n]));
        }
    }
    if let Some(m) = i.model {
        let stream = if m.resident { "resident" } else { "paged" };
        let _ = writeln!(
            t,
            "model {:016x} from {}: {:.1} M parameters, {}, {} per token, stream={stream}, context {}, {} in use, opened in {:.0} ms",
            m.id,
            shown(m.from),
            m.parameters as f64 / 1e6,
            bytes(m.bytes),
            bytes(m.bytes_per_token),
            m.context,
            bytes(m.ram_bytes),
            m.open_us as f64 / 1e3
        );
    }
    if !i.trouble.is_empty() {
        let _ = writeln!(t, "{}: {}", if i.model.is_some() { "not used" } else { "no model" }, i.trouble);
    }
    t
}

fn stats(board: &mut Board, as_json: bool) -> Result<ExitCode> {
    let s = board.ask("stats", &Request::Stats, &mut |answer| match answer {
        Answer::Stats(s) => Some(*s),
        _ => None,
    })?;
    let celsius = s.millicelsius.map(|m| f64::from(m) / 1e3);
    let value = object!({
        "uptime_s": s.uptime_us as f64 / 1e6, "generations": s.generations, "tokens_read": s.tokens_read,
        "tokens_written": s.tokens_written, "card_bytes_read": s.card_bytes, "card_bytes_ahead": s.ahead_bytes, "retried_reads": s.retried_reads,
        "reread_pages": s.reread_pages, "frames_good": s.frames_good, "frames_bad": s.frames_bad,
        "celsius": celsius, "core_hz": s.core_hz, "throttled": s.throttled,
    });
    if as_json {
        json(&value)?;
    } else if let Some(values) = value.as_object() {
        for (key, value) in values.iter().filter(|(_, v)| !v.is_null()) {
            line(&format!("{key:<16} {value}"))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// One line a test, as cargo shows them; exit status 1 if one fails.
fn self_test(board: &mut Board, as_json: bool) -> Result<ExitCode> {
    let (mut index, mut of) = (0, 1);
    let (mut tests, mut failed, mut skipped) = (Vec::new(), 0, 0);
    while index < of {
        let (n, name, outcome, text, micros) =
            board.ask_long("self-test", &Request::SelfTest { index, run: true }, &mut |answer| match answer {
                Answer::Test { of, name, outcome, text, micros, .. } => {
                    Some((*of, (*name).to_owned(), *outcome, (*text).to_owned(), *micros))
                }
                _ => None,
            })?;
        let word = match outcome {
            Outcome::Passed | Outcome::Named => "ok",
            Outcome::Failed => "FAILED",
            Outcome::Skipped => "skipped",
        };
        failed += u32::from(outcome == Outcome::Failed);
        skipped += u32::from(outcome == Outcome::Skipped);
        if as_json {
            tests.push(object!({ "name": name, "outcome": word, "text": text, "micros": micros }));
        } else {
            let because = if text.is_empty() { String::new() } else { format!(": {text}") };
            line(&format!("test {name} ... {word}{because}"))?;
        }
        (of, index) = (n, index + 1);
    }
    if as_json {
        json(&object!({ "tests": tests, "failed": failed, "skipped": skipped }))?;
    } else {
        line(&format!("{} passed, {failed} failed, {skipped} skipped", u32::from(of) - failed - skipped))?;
    }
    Ok(if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn open(board: &mut Board, a: &Load, as_json: bool) -> Result<ExitCode> {
    let weights = match a.weights {
        Weights::Auto => message::Weights::Auto,
        Weights::Resident => message::Weights::Resident,
        Weights::Paged => message::Weights::Paged,
    };
    board.load(message::Load { from: a.slot.map_or(From::Any, From::Slot), weights, context: a.context.unwrap_or(0) })?;
    info(board, as_json)
}

fn show_logs(board: &mut Board, a: &Logs) -> Result<ExitCode> {
    if board.defmt && !a.raw && stdout().is_terminal() {
        note(board.quiet, "this board logs in defmt, which needs its firmware's ELF file: bourn device LINE logs --elf FILE");
    }
    board.raw_log = true;
    let mut log = decoder(board, a.elf.as_deref())?;
    let until = a.seconds.map(|s| Instant::now() + Duration::from_secs(s));
    while !signal::stopped() && until.is_none_or(|until| Instant::now() < until) {
        for part in board.listen(Duration::from_millis(100))? {
            let mut out = stdout().lock();
            let mut wrote = Ok(());
            match &mut log {
                None => wrote = out.write_all(&part),
                Some(log) => log.push(&part, &mut |said| {
                    if wrote.is_ok() {
                        wrote = writeln!(out, "{said}");
                    }
                }),
            }
            wrote?;
            out.flush()?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Who makes lines of this board's log, if that is wanted.
fn decoder(board: &Board, elf: Option<&Path>) -> Result<Option<Log>> {
    let Some(path) = elf else { return Ok(None) };
    let bytes = std::fs::read(path).with_context(|| path.display().to_string())?;
    let log = Log::new(&bytes).with_context(|| path.display().to_string())?;
    if !board.defmt {
        return Err(hinted("need a board that logs in defmt, found one whose log is text", "without --elf it is shown as it is"));
    }
    if let Ok(flat) = elf::flat(&bytes)
        && board.build.is_of(&flat) == Some(false)
    {
        note(board.quiet, &format!("{}: the board runs another build ({}): lines may be wrong", path.display(), board.build));
    }
    Ok(Some(log))
}

fn start_anew(board: &mut Board, a: &Reboot, as_json: bool) -> Result<ExitCode> {
    let request = Request::Reboot { loader: a.loader };
    board.ask_long("reboot", &request, &mut |answer| matches!(answer, Answer::Accepted).then_some(()))?;
    if as_json {
        json(&object!({ "rebooting": true, "loader": a.loader }))?;
    } else {
        note(board.quiet, "the board starts anew");
    }
    Ok(ExitCode::SUCCESS)
}
