//! `bourn device` against a simulated board: the same text as here, updates, faults told.

mod support;

use serde_json::Value;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Stdio};
use support::{bourn, failure, fixture, json, ran};

/// A simulated board in a process of its own.
struct Simulated {
    child: Child,
    line: String,
}

impl Simulated {
    fn start(args: &[&str]) -> Self {
        let mut all = vec!["device", "simulate", "--ram", "32M", "--threads", "1", "--quiet"];
        all.extend(args);
        let mut child = bourn(&all).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        Self { child, line: line.trim().to_owned() }
    }

    fn args<'a>(&'a self, rest: &[&'a str]) -> Vec<&'a str> {
        [&["device", &self.line][..], rest].concat()
    }

    fn json(&self, rest: &[&str]) -> Value {
        json(&self.args(rest))
    }
}

impl Drop for Simulated {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

const IDS: &str = "5,72,139,206,2,69,136";

#[test]
fn a_simulated_board_writes_what_this_machine_writes() {
    let image = fixture();
    let here = json(&["run", &image, "--ids", IDS, "-n", "12", "--ignore-eos", "--temperature", "0", "--json", "--quiet"]);
    for listen in ["pty", "tcp:127.0.0.1:0"] {
        let board = Simulated::start(&["--image", &image, "--listen", listen]);
        let args = ["run", "--ids", IDS, "-n", "12", "--ignore-eos", "--temperature", "0", "--checksum", "--json"];
        let resident = board.json(&args);
        assert_eq!((&resident["ids"], &resident["text"]), (&here["ids"], &here["text"]), "{listen}");
        let opened = board.json(&["load", "--weights", "paged", "--json"]);
        assert_eq!(opened["model"]["stream"], "paged");
        assert_eq!(board.json(&args)["checksum"], resident["checksum"], "{listen}");
        let tests = board.json(&["self-test", "--json"]);
        assert_eq!((&tests["failed"], &tests["skipped"]), (&0.into(), &0.into()), "{tests}");
        assert!(board.json(&["stats", "--json"])["tokens_written"].as_u64().unwrap() >= 24);
    }
}

#[test]
fn an_update_is_sent_verified_and_kept_on_the_card() {
    let folder = tempfile::tempdir().unwrap();
    let card = folder.path().join("card.img");
    let (card, socket) = (card.to_str().unwrap(), format!("unix:{}", folder.path().join("s").display()));
    let new = fixture().replace("v1-f16", "v1-q4");
    {
        let board = Simulated::start(&["--image", &fixture(), "--card", card, "--slot", "2M", "--listen", &socket]);
        let flashed = board.json(&["flash", &new, "--json"]);
        assert_eq!((&flashed["slot"], &flashed["bytes"]), (&1.into(), &std::fs::metadata(&new).unwrap().len().into()));
        assert_eq!(board.json(&["info", "--json"])["model"]["id"], flashed["id"]);
        let (code, text) = failure(&board.args(&["flash", card, "--quiet"]));
        assert!(code == 1 && text.contains("not a bourn image"), "{code} {text}");
        assert!(ran(&board.args(&["reboot", "--quiet"])).status.success());
        assert_eq!(board.json(&["info", "--json"])["slots"]["active"], 1);
    }
    // A socket whose board was killed stays behind; nobody answers there.
    let (code, text) = failure(&["device", &socket, "info"]);
    assert!(code == 1 && text.contains("refused"), "{code} {text}");
    let again = Simulated::start(&["--card", card, "--listen", "tcp:127.0.0.1:0"]);
    assert_eq!(again.json(&["info", "--json"])["slots"]["active"], 1);
}

#[test]
fn a_log_needs_the_firmware_that_wrote_it() {
    let board = Simulated::start(&["--image", &fixture(), "--listen", "tcp:127.0.0.1:0"]);
    for (file, need) in [("Cargo.toml", "need the firmware's ELF file"), ("absent", "No such file")] {
        let (code, text) = failure(&board.args(&["logs", "--elf", file, "--seconds", "1"]));
        assert!(code == 1 && text.contains(need), "{code} {text}");
    }
    // A program of this machine: an ELF file without defmt's table.
    let (code, text) = failure(&board.args(&["logs", "--elf", env!("CARGO_BIN_EXE_bourn"), "--seconds", "1"]));
    assert!(code == 1 && text.contains("need a section .defmt"), "{code} {text}");
}

#[test]
fn what_is_not_there_is_told() {
    let (code, text) = failure(&["device", "/dev/there-is-no-such-port", "info"]);
    assert!(code == 1 && text.contains("No such file"), "{code} {text}");
    let (code, text) = failure(&["device", "/dev/null", "info"]);
    assert!(code == 1 && text.contains("need a serial port"), "{code} {text}");
    for args in [&["device"][..], &["device", "info"], &["device", "tcp:nowhere", "info"], &["device", "simulate"]] {
        assert_eq!(ran(args).status.code(), Some(2), "{args:?}");
    }
    let missing = failure(&["device", "simulate", "--image", "/no/image", "--listen", "tcp:127.0.0.1:0"]);
    assert!(missing.0 == 1 && missing.1.contains("/no/image"), "{missing:?}");
    assert!(Path::new(&fixture()).exists());
}

/// What a chat of two turns says, a line of JSON each.
fn chatted(args: &[&str]) -> Vec<Value> {
    let mut child = bourn(args).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"hello\n/clear\nand again\nmore\n").unwrap();
    let out = child.wait_with_output().unwrap();
    assert!(out.status.success());
    String::from_utf8(out.stdout).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn a_chat_says_what_it_says_here() {
    let (board, image) = (Simulated::start(&["--image", &fixture(), "--listen", "tcp:127.0.0.1:0"]), fixture());
    let there = chatted(&board.args(&["chat", "-n", "6", "--temperature", "0", "--json", "--quiet"]));
    let here = chatted(&["chat", &image, "-n", "6", "--temperature", "0", "--json", "--quiet"]);
    assert_eq!((there.len(), here.len()), (3, 3));
    for (there, here) in there.iter().zip(&here) {
        assert_eq!((&there["ids"], &there["text"]), (&here["ids"], &here["text"]));
    }
}
