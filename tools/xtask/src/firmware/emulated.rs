//! A board in QEMU that runs its firmware, and what is asked of it.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use bourn_hil_runner::bench::{self, Bench, Emulator};
use bourn_hil_runner::qemu::Machine;
use bourn_protocol::message::{Answer, Done, Load, Request};
use bourn_protocol::port::greedy;

use super::Firmware;

/// A board that runs, until dropped.
#[derive(Debug)]
pub(super) struct Emulated {
    bench: Bench,
}

/// What a board wrote.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Written {
    /// Ids of the tokens.
    pub(super) ids: Vec<u32>,
    /// One number for every bit of the logits.
    pub(super) sum: u64,
}

impl Emulated {
    /// Starts a machine with a card and waits for its first word.
    ///
    /// # Errors
    /// If it does not start, or what answers is not this firmware.
    pub(super) fn start(machine: &Machine, firmware: &Firmware, card: &Path) -> Result<Self> {
        let firmware = bench::Firmware::read(&firmware.elf)?;
        let emulator = Emulator::start(machine, &firmware.flat, Some(card), Path::new(""))?;
        let line = emulator.line().clone();
        let mut bench = Bench::open(&line, 0, Some(emulator), None)?;
        ensure!(bench.load(&firmware, None)?, "need firmware that tells what it is");
        bench.log = Some(firmware.log?);
        Ok(Self { bench })
    }

    /// Opens the model anew.
    ///
    /// # Errors
    /// What the board says, as it says it.
    pub(super) fn load(&mut self, load: Load) -> Result<()> {
        let mut on = |_, _| std::ops::ControlFlow::Continue(());
        self.bench.client.load(load, &mut on).map_err(|error| anyhow!("{error}"))
    }

    /// Waits until a model is open.
    pub(super) fn wait_for_model(&mut self) -> Result<()> {
        let start = Instant::now();
        loop {
            let found = self.bench.client.ask("info", &Request::Info, &mut |answer| match answer {
                Answer::Info(info) => Some((info.model.is_some(), info.cores, info.isa.to_owned(), info.trouble.to_owned())),
                _ => None,
            });
            let (open, cores, isa, trouble) = found.map_err(|error| anyhow!("{error}"))?;
            if open {
                eprintln!("  {cores} cores, isa {isa}, open after {:.1} s", start.elapsed().as_secs_f64());
                return Ok(());
            }
            if !trouble.is_empty() {
                bail!("the board has no model: {trouble}");
            }
            if start.elapsed() > Duration::from_secs(120) {
                bail!("need an open model within 120 s, found none");
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// Microseconds from reset until the board served its line, as its log says.
    ///
    /// # Errors
    /// If the log does not say.
    pub(super) fn ready_us(&mut self) -> Result<u64> {
        let lines = self.bench.listen();
        let found = lines.iter().find_map(|line| line.split_once(" ready ")?.1.split_once(" us after reset")?.0.parse().ok());
        found.with_context(|| format!("the log does not say when the board was ready: {lines:?}"))
    }

    /// Greedy text after a prompt of ids.
    ///
    /// # Errors
    /// What the board says.
    pub(super) fn write(&mut self, ids: &[u32], n: u32) -> Result<(Written, Done)> {
        let (written, done, sum) = greedy(&mut self.bench.client, ids, n).map_err(|error| anyhow!("{error}"))?;
        Ok((Written { ids: written.ids, sum }, done))
    }

    /// What QEMU has said so far.
    pub(super) fn said(&self) -> String {
        self.bench.emulator.as_ref().map(Emulator::said).unwrap_or_default()
    }
}
