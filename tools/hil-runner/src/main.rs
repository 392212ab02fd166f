//! cargo's runner for boards without an operating system: `bourn-hil-runner FIRMWARE [ARGUMENTS OF A TEST PROGRAM]`.
//!
//! | variable | what it says |
//! |---|---|
//! | `BOURN_BOARD` | `qemu-virt[:CPU]`, `qemu-rpi3[:mini-uart]`, `qemu-rpi4`, `serial:PATH`, `tcp:HOST:PORT`, `unix:PATH`; without it the emulator that the firmware's name tells |
//! | `BOURN_CARD` | the card of an emulated board; without it one is made with the golden model |
//! | `BOURN_BAUD` | bits per second of a serial port (115 200) |
//! | `BOURN_BOOT_DIR` | the folder that a real board boots from: firmware is put there, then the board is started anew |
#![deny(unsafe_code)]

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::{Arc, Mutex};

use anyhow::{Context, Result};
use bourn_hil_runner::bench::{Bench, Emulator, Firmware, line, trials};
use bourn_hil_runner::place::Place;
use libtest_mimic::Arguments;

const USAGE: &str = "usage: bourn-hil-runner FIRMWARE [TEST] [--list] [--nocapture] …
FIRMWARE: the ELF file that cargo built, or a kernel8.img; the rest is what any test program takes.
BOURN_BOARD says where it runs: qemu-virt[:CPU], qemu-rpi3[:mini-uart], qemu-rpi4, serial:PATH, tcp:HOST:PORT, unix:PATH";

fn main() -> ExitCode {
    let mut args = std::env::args_os().skip(1);
    let Some(firmware) = args.next().filter(|word| !["-h", "--help"].iter().any(|help| word == help)) else {
        eprintln!("{USAGE}");
        return ExitCode::from(2);
    };
    let mut arguments = Arguments::from_iter(std::iter::once(firmware.clone()).chain(args));
    // One line, one test at a time.
    arguments.test_threads = Some(1);
    match run(Path::new(&firmware), &arguments) {
        Ok(status) => status,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// The model that boards are tested with.
fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/v1-q4.bourn")
}

fn run(path: &Path, arguments: &Arguments) -> Result<ExitCode> {
    let word = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
    let mut firmware = Firmware::read(path)?;
    let place = firmware.place(word("BOURN_BOARD").as_deref())?;
    let log = std::mem::replace(&mut firmware.log, Err(bourn_hil_runner::log::Error::NoTable { sections: 0 }));
    let log = log.map_err(|why| eprintln!("the log is not shown: {}: {why}", path.display())).ok();
    let baud = word("BOURN_BAUD").map_or(Ok(115_200), |baud| baud.parse()).context("BOURN_BAUD: need bits per second")?;
    let mut bench = match place {
        Place::Emulated(machine) => {
            let card = word("BOURN_CARD").map(PathBuf::from);
            let emulator = Emulator::start(&machine, &firmware.flat, card.as_deref(), &golden())?;
            let line = emulator.line().clone();
            Bench::open(&line, baud, Some(emulator), log)?
        }
        Place::Line(text) => Bench::open(&line(&text)?, baud, None, log)?,
    };
    bench.loud = arguments.nocapture;
    if !bench.load(&firmware, word("BOURN_BOOT_DIR").map(PathBuf::from).as_deref())? {
        eprintln!("the board does not tell which firmware it runs: it is tested as it is");
    }
    if !arguments.list {
        println!("{}", bench.name);
    }
    let bench = Arc::new(Mutex::new(bench));
    let conclusion = libtest_mimic::run(arguments, trials(&bench)?);
    drop(bench);
    Ok(conclusion.exit_code())
}
