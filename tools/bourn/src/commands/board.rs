//! `bourn board`: what this machine is and how fast it should be.

use crate::args::Board;
use crate::catalogue;
use crate::output::{bytes, json, print, round3};
use anyhow::{Context, Result};
use bourn_host::Machine;
use serde_json::{Value, json as object};
use std::fmt::Write;
use std::process::ExitCode;
use std::time::Duration;

/// Time for each measurement of bandwidth.
const EACH: Duration = Duration::from_millis(200);
/// Most of a file that is read to measure storage.
const STORAGE_BYTES: u64 = 256 << 20;

/// Describes the machine, measures its memory, predicts tokens per second: bandwidth ÷ bytes per token.
pub fn board(a: &Board, _quiet: bool) -> Result<ExitCode> {
    let m = Machine::detect();
    let bandwidth = m.read_bandwidth(m.usable.min(8), EACH);
    let best = bandwidth.iter().copied().fold(0.0, f64::max);
    let storage = match &a.file {
        None => None,
        Some(path) => Some(storage(path).with_context(|| format!("{}: read past the page cache", path.display()))?),
    };
    let predicted: Vec<(String, u64, f64)> = catalogue::all()?
        .into_iter()
        .map(|model| {
            let per_token = model.shape.q4_bytes_per_token();
            (model.name, per_token, best / per_token as f64)
        })
        .collect();
    let isas: Vec<&str> = bourn_kernels::available().map(|k| k.isa).collect();
    if a.json {
        let cores: Vec<Value> =
            m.cores.iter().map(|c| object!({"name": c.name, "count": c.count, "max_khz": c.max_khz})).collect();
        let caches: Vec<Value> = m
            .caches
            .iter()
            .map(|c| object!({"level": c.level, "kind": c.kind, "bytes": c.bytes, "shared_by": c.shared_by}))
            .collect();
        let gb_s: Vec<f64> = bandwidth.iter().map(|b| round3(b / 1e9)).collect();
        let tokens: Vec<Value> = predicted
            .iter()
            .map(|(name, per_token, speed)| {
                object!({"model": name, "weights": "q4", "bytes_per_token": per_token, "tok_s": round3(*speed)})
            })
            .collect();
        json(&object!({
            "board": m.board,
            "cores": cores,
            "usable_cores": m.usable,
            "isa": bourn_kernels::best().isa,
            "isas": isas,
            "caches": caches,
            "memory_bytes": m.memory_bytes,
            "available_bytes": m.available_bytes,
            "read_bandwidth_gb_s": gb_s,
            "storage_mb_s": storage.map(|s| round3(s / 1e6)),
            "predicted": tokens,
        }))?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut out = String::new();
    if !m.board.is_empty() {
        let _ = writeln!(out, "board     {}", m.board);
    }
    for c in &m.cores {
        let clock = if c.max_khz > 0 { format!(" up to {:.2} GHz", c.max_khz as f64 / 1e6) } else { String::new() };
        let _ = writeln!(out, "cores     {} x {}{clock}", c.count, c.name);
    }
    let _ = writeln!(out, "usable    {} cores", m.usable);
    let _ = writeln!(out, "isa       {} (of {})", bourn_kernels::best().isa, isas.join(", "));
    for c in m.caches.iter().filter(|c| c.kind != "Instruction") {
        let _ = writeln!(out, "cache     L{} {} ({} cores)", c.level, bytes(c.bytes), c.shared_by);
    }
    let _ = writeln!(out, "memory    {}, {} to be had", bytes(m.memory_bytes), bytes(m.available_bytes));
    for (i, b) in bandwidth.iter().enumerate() {
        let _ = writeln!(out, "reads     {:.1} GB/s with {} threads", b / 1e9, i + 1);
    }
    if let Some(s) = storage {
        let _ = writeln!(out, "storage   {:.0} MB/s", s / 1e6);
    }
    let _ = writeln!(out, "at most, by bandwidth over bytes per token (4-bit body, 8-bit head):");
    for (name, per_token, speed) in &predicted {
        let _ = writeln!(out, "  {name:<24}{:>10} per token {speed:>8.0} tok/s", bytes(*per_token));
    }
    print(&out)?;
    Ok(ExitCode::SUCCESS)
}

#[cfg(target_os = "linux")]
fn storage(path: &std::path::Path) -> std::io::Result<f64> {
    bourn_host::machine::storage_read(path, STORAGE_BYTES)
}

#[cfg(not(target_os = "linux"))]
fn storage(_: &std::path::Path) -> std::io::Result<f64> {
    Err(std::io::ErrorKind::Unsupported.into())
}
