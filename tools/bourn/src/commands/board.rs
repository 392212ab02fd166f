//! `bourn board`: what this machine is, how fast it should be, and what slows it down.

mod outlook;
mod table;

use crate::args::Board;
use crate::output::{bytes, json, print, round3};
use crate::{cache, catalogue, gpu, models};
use anyhow::{Context, Result};
use bourn::StreamKind;
use bourn_host::board::health::Health;
use bourn_host::board::predict::Work;
use bourn_host::board::{self, By, Found};
use bourn_host::{ImageFile, Machine};
use outlook::{Outlook, Place};
use serde_json::{Value, json as object};
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

/// Time for each measurement of bandwidth.
const EACH: Duration = Duration::from_millis(200);
/// Most of a file that is read to measure storage.
const STORAGE_BYTES: u64 = 256 << 20;
/// Less of a board's published bandwidth than this is worth a word.
const SLOW_MEMORY: f64 = 0.7;

/// Describes the machine, measures its memory and storage, predicts tokens per second, warns of what slows it down.
pub fn board(a: &Board, quiet: bool) -> Result<ExitCode> {
    if a.table {
        print(&table::all()?)?;
        return Ok(ExitCode::SUCCESS);
    }
    let root = a.root.as_deref().unwrap_or(Path::new("/"));
    let machine = Machine::detect_in(root);
    let found = board::find(&machine);
    let bandwidth = match a.root {
        None => machine.read_bandwidth(machine.usable.min(8), EACH),
        Some(_) => Vec::new(),
    };
    let report = Report {
        storage: if a.root.is_none() { storage(a.file.as_deref())? } else { None },
        // After the memory was busy for a while: clocks and flags are those of work.
        health: Health::read(root),
        works: works(a, quiet)?,
        place: Place::of(&machine, found, &bandwidth, a.root.is_none()),
        gpus: if a.root.is_none() { gpu::adapters() } else { Value::Null },
        machine,
        found,
        bandwidth,
    };
    if a.json {
        json(&report.json())?;
    } else {
        print(&report.text())?;
    }
    Ok(ExitCode::SUCCESS)
}

/// All that is printed.
struct Report {
    machine: Machine,
    found: Option<Found>,
    /// Of 1, 2, … threads, bytes per second; nothing where nothing was measured.
    bandwidth: Vec<f64>,
    storage: Option<Storage>,
    health: Health,
    /// Adapters, measured; null where nothing was measured.
    gpus: Value,
    /// What to predict: a name, how its weights are packed, and what a token asks (`None`: no prediction).
    works: Vec<(String, &'static str, Option<Work>)>,
    place: Place,
}

/// How fast a file is read.
struct Storage {
    bytes_s: f64,
    file: PathBuf,
    /// The device it lies on, where the system tells.
    device: Option<String>,
}

fn works(a: &Board, quiet: bool) -> Result<Vec<(String, &'static str, Option<Work>)>> {
    if let Some(model) = &a.image {
        let file = ImageFile::open(&models::image(model, quiet)?, StreamKind::Mapped)?;
        return Ok(vec![(model.clone(), "image", Work::of(file.image()))]);
    }
    Ok(catalogue::all()?.into_iter().map(|model| (model.name, "q4", Some(model.shape.q4_work()))).collect())
}

impl Report {
    /// What to say about it, a sentence each.
    fn warnings(&self) -> Vec<String> {
        let mut warnings = self.health.warnings();
        if let (Some(found), Some(measured)) = (self.found, self.bandwidth.first()) {
            let published = found.board.cores[0].read_bytes_s(1);
            if *measured < SLOW_MEMORY * published {
                let gb = 1e9;
                warnings.push(format!(
                    "memory reads {:.1} GB/s with one thread where {} reads {:.1}: is something else busy?",
                    measured / gb,
                    found.variant.title,
                    published / gb
                ));
            }
        }
        warnings
    }

    fn outlook(&self, work: Option<Work>) -> Outlook {
        work.map_or_else(Outlook::default, |work| self.place.outlook(&work))
    }

    fn json(&self) -> Value {
        let m = &self.machine;
        let cores: Vec<Value> = m
            .cores
            .iter()
            .map(|c| object!({"name": c.name, "count": c.count, "usable": c.usable, "max_khz": c.max_khz}))
            .collect();
        let caches: Vec<Value> = m
            .caches
            .iter()
            .map(|c| object!({"level": c.level, "kind": c.kind, "bytes": c.bytes, "shared_by": c.shared_by}))
            .collect();
        let tokens: Vec<Value> = self
            .works
            .iter()
            .map(|(name, weights, work)| {
                let outlook = self.outlook(*work);
                let rounded = |tok_s: Option<f64>| tok_s.map(round3);
                object!({
                    "model": name,
                    "weights": weights,
                    "bytes_per_token": work.map(|w| w.bytes),
                    "tok_s": rounded(outlook.decode()),
                    "memory_tok_s": rounded(outlook.memory),
                    "compute_tok_s": rounded(outlook.compute),
                    "prefill_tok_s": rounded(outlook.prefill),
                })
            })
            .collect();
        let clocks: Vec<Value> = self
            .health
            .clocks
            .iter()
            .map(|c| {
                object!({
                    "cpus": c.cpus, "now_khz": c.now_khz, "allowed_khz": c.allowed_khz, "max_khz": c.max_khz,
                    "governor": c.governor,
                })
            })
            .collect();
        let temperatures: Vec<Value> =
            self.health.temperatures.iter().map(|(zone, degrees)| object!({"zone": zone, "celsius": degrees})).collect();
        object!({
            "board": m.board,
            "known_as": self.found.map(|f| f.board.name.as_str()),
            "title": self.found.map(|f| f.variant.title.as_str()),
            "cores": cores,
            "usable_cores": m.usable,
            "isa": self.place.isa,
            "isas": isas(),
            "caches": caches,
            "memory_bytes": m.memory_bytes,
            "available_bytes": m.available_bytes,
            "read_bandwidth_gb_s": self.bandwidth.iter().map(|b| round3(b / 1e9)).collect::<Vec<_>>(),
            "gpus": self.gpus,
            "storage_mb_s": self.storage.as_ref().map(|s| round3(s.bytes_s / 1e6)),
            "storage_file": self.storage.as_ref().map(|s| s.file.display().to_string()),
            "storage_device": self.storage.as_ref().and_then(|s| s.device.clone()),
            "decode_threads": self.place.decode,
            "prefill_threads": self.place.prefill,
            "predicted": tokens,
            "throttled": self.health.throttled,
            "under_voltage": self.health.under_voltage,
            "temperatures": temperatures,
            "clocks": clocks,
            "warnings": self.warnings(),
            "limits": self.found.map(|f| f.board.limits.as_slice()).unwrap_or_default(),
        })
    }

    fn text(&self) -> String {
        let mut out = String::new();
        self.machine_text(&mut out);
        self.speed_text(&mut out);
        for warning in self.warnings() {
            let _ = writeln!(out, "warning   {warning}");
        }
        for limit in self.found.iter().flat_map(|f| &f.board.limits) {
            let _ = writeln!(out, "note      {limit}");
        }
        out
    }

    fn machine_text(&self, out: &mut String) {
        let m = &self.machine;
        if !m.board.is_empty() {
            let _ = writeln!(out, "board     {}", m.board);
        }
        if let Some(found) = self.found {
            let by = match found.by {
                By::Model => "by its model",
                By::Compatible => "by its chip",
                By::Cores => "by its cores: a guess",
            };
            let _ = writeln!(out, "known as  {} ({}, {by})", found.variant.title, found.board.name);
        }
        for c in &m.cores {
            let clock = if c.max_khz > 0 { format!(" up to {:.2} GHz", c.max_khz as f64 / 1e6) } else { String::new() };
            let _ = writeln!(out, "cores     {} x {}{clock}, {} usable", c.count, c.name, c.usable);
        }
        for c in &self.health.clocks {
            let _ = writeln!(out, "clock     cores {} at {} MHz now, governor {}", c.cpus, c.now_khz / 1000, c.governor);
        }
        for (zone, degrees) in &self.health.temperatures {
            let _ = writeln!(out, "heat      {degrees:.0} °C {zone}");
        }
        let _ = writeln!(out, "usable    {} cores", m.usable);
        let _ = writeln!(out, "isa       {} (of {})", self.place.isa, isas().join(", "));
        for c in m.caches.iter().filter(|c| c.kind != "Instruction") {
            let _ = writeln!(out, "cache     L{} {} ({} cores)", c.level, bytes(c.bytes), c.shared_by);
        }
        let _ = writeln!(out, "memory    {}, {} to be had", bytes(m.memory_bytes), bytes(m.available_bytes));
    }

    fn speed_text(&self, out: &mut String) {
        for (i, b) in self.bandwidth.iter().enumerate() {
            let published = self.found.map_or(0.0, |f| f.board.cores[0].read_bytes_s(i + 1));
            let beside = if published > 0.0 { format!(" (published: {:.1})", published / 1e9) } else { String::new() };
            let _ = writeln!(out, "reads     {:.1} GB/s with {} threads{beside}", b / 1e9, i + 1);
        }
        out.push_str(&gpu::text(&self.gpus));
        if let Some(s) = &self.storage {
            let device = s.device.as_ref().map_or(String::new(), |device| format!(", {device}"));
            let _ = writeln!(out, "storage   {:.0} MB/s ({}{device})", s.bytes_s / 1e6, s.file.display());
        }
        let _ = writeln!(out, "threads   {} for decode, {} for prefill", self.place.decode, self.place.prefill);
        let _ =
            writeln!(out, "predicted tokens/s, not measured: what reading allows, what arithmetic allows, the lesser of the two");
        let number = |n: Option<f64>| n.map_or("-".to_owned(), |n| format!("{n:.0}"));
        let _ =
            writeln!(out, "  {:<24}{:>12}{:>8}{:>12}{:>8}{:>9}", "", "per token", "memory", "arithmetic", "decode", "prefill");
        for (name, _, work) in &self.works {
            let (outlook, per_token) = (self.outlook(*work), work.map_or("-".to_owned(), |w| bytes(w.bytes)));
            let (memory, compute) = (number(outlook.memory), number(outlook.compute));
            let (decode, prefill) = (number(outlook.decode()), number(outlook.prefill));
            let _ = writeln!(out, "  {name:<24}{per_token:>12}{memory:>8}{compute:>12}{decode:>8}{prefill:>9}");
        }
    }
}

fn isas() -> Vec<&'static str> {
    bourn_kernels::available().map(|k| k.isa).collect()
}

/// Of the file that was named, or of the largest image in the cache; where that cannot be read past the page cache, nothing.
fn storage(named: Option<&Path>) -> Result<Option<Storage>> {
    let measured = |path: &Path| {
        let bytes_s = storage_read(path).with_context(|| format!("{}: read past the page cache", path.display()))?;
        Ok(Storage { bytes_s, file: path.to_owned(), device: device_of(path) })
    };
    match named {
        Some(path) => measured(path).map(Some),
        None => Ok(largest_image().and_then(|path| measured(&path).ok())),
    }
}

fn largest_image() -> Option<PathBuf> {
    let images = std::fs::read_dir(cache::dir().ok()?.join("images")).ok()?.flatten();
    let sized = images.filter_map(|entry| Some((entry.metadata().ok().filter(|m| m.is_file())?.len(), entry.path())));
    sized.max().map(|(_, path)| path)
}

#[cfg(target_os = "linux")]
fn storage_read(path: &Path) -> std::io::Result<f64> {
    bourn_host::machine::storage_read(path, STORAGE_BYTES)
}

#[cfg(target_os = "linux")]
fn device_of(path: &Path) -> Option<String> {
    let (name, turns) = bourn_host::machine::device_of(path).ok()?;
    Some(if turns { format!("{name}, a disk that turns") } else { name })
}

#[cfg(not(target_os = "linux"))]
fn storage_read(_: &Path) -> std::io::Result<f64> {
    Err(std::io::ErrorKind::Unsupported.into())
}

#[cfg(not(target_os = "linux"))]
fn device_of(_: &Path) -> Option<String> {
    None
}
