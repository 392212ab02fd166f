//! Instructions of each core while text is written: one core alone, and four.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use object::{Object as _, ObjectSymbol as _};

use super::emulated::Emulated;
use super::prove::machine;
use super::{TARGET, board};
use crate::arm_cost::counter::header;
use crate::emulate::Machine;
use crate::process::{command, root, run, target_dir};

/// Four cores must do with at most this part of one core's instructions, each.
const MOST_SHARE: f64 = 1.0 / 3.0;

/// Counts both, per token written, and holds the busiest of four cores against the one.
///
/// # Errors
/// If the plugin cannot be compiled, or four cores do not help enough.
pub(super) fn cores(card: &Path, tokens: u32) -> Result<()> {
    let plugin = plugin()?;
    let elf = target_dir().join("cross").join(TARGET).join("firmware").join(board("qemu-virt")?.program);
    let (mark, low, high) = addresses(&std::fs::read(elf)?)?;
    let words = format!("{},mark={mark:#x},skip={low:#x}-{high:#x}", plugin.display());
    let mut busiest = Vec::new();
    let mut sums = Vec::new();
    for n in [1, 4] {
        let machine = Machine { cores: n, ..machine("qemu-virt", "cortex-a53") };
        let log = target_dir().join(format!("cores-{n}.txt"));
        let extra = ["-plugin".to_owned(), words.clone()];
        let (per_token, sum) = counted(&machine, card, tokens, &extra, &log)?;
        let shown: Vec<String> = per_token.iter().map(|n| format!("{:.2}", n / 1e6)).collect();
        eprintln!("{n} cores, millions of instructions per token: {}", shown.join(", "));
        busiest.push(per_token.iter().copied().fold(0.0, f64::max));
        sums.push(sum);
    }
    ensure!(sums[0] == sums[1], "one core and four differ: {:016x}, {:016x}", sums[0], sums[1]);
    let share = busiest[1] / busiest[0];
    eprintln!("the busiest of four cores executes {share:.3} of what one does alone: {:.2} times fewer", 1.0 / share);
    ensure!(share <= MOST_SHARE, "need at most {MOST_SHARE:.3}, found {share:.3}");
    Ok(())
}

/// Instructions of each core per token, and the checksum of the text.
fn counted(machine: &Machine, card: &Path, tokens: u32, extra: &[String], log: &Path) -> Result<(Vec<f64>, u64)> {
    let mut running = Emulated::start(machine, card, extra, Some(log))?;
    running.wait_for_model()?;
    let (written, _) = running.write(super::prove::PROMPT, tokens).map_err(anyhow::Error::msg)?;
    drop(running);
    let text = std::fs::read_to_string(log)?;
    let marks: Vec<Vec<f64>> = text
        .lines()
        .filter_map(|line| line.strip_prefix("mark "))
        .map(|line| line.split(' ').filter_map(|n| n.parse().ok()).collect())
        .collect();
    // One mark a token, and the prompt's own; the last so many are tokens for sure.
    let n = tokens as usize / 2;
    ensure!(marks.len() > n, "need more than {n} marks, found {}", marks.len());
    let (from, to) = (&marks[marks.len() - 1 - n], &marks[marks.len() - 1]);
    let cores = machine.cores as usize;
    Ok((to.iter().zip(from).take(cores).map(|(to, from)| (to - from) / n as f64).collect(), written.sum))
}

/// Where a token begins, and from where to where idle cores wait.
fn addresses(elf: &[u8]) -> Result<(u64, u64, u64)> {
    let file = object::File::parse(elf)?;
    let all = |part: &str| -> Vec<(u64, u64)> {
        let found = file.symbols().filter(|symbol| symbol.name().is_ok_and(|name| name.contains(part)));
        found.filter(|symbol| symbol.size() > 0).map(|symbol| (symbol.address(), symbol.address() + symbol.size())).collect()
    };
    // As names are mangled: each with its length before it.
    let marks = all("7Session7prefill");
    let waits: Vec<(u64, u64)> = ["4Crew5watch", "4Crew16wait_for_leavers"].iter().flat_map(|name| all(name)).collect();
    let (Some(&(mark, _)), Some(low), Some(high)) =
        (marks.first(), waits.iter().map(|w| w.0).min(), waits.iter().map(|w| w.1).max())
    else {
        bail!("the firmware has not the symbols to count by");
    };
    ensure!(high - low < 8192, "where idle cores wait is not in one place: {low:#x} to {high:#x}");
    Ok((mark, low, high))
}

fn plugin() -> Result<std::path::PathBuf> {
    let header = header()?;
    let folder = target_dir().join("arm-cost");
    std::fs::create_dir_all(&folder)?;
    let plugin = folder.join("libcores.so");
    let mut compile: Command = command("gcc");
    compile.args(["-shared", "-fPIC", "-O2", "-Wall", "-Wextra", "-I"]).arg(header);
    run(compile.arg(root().join("tools/xtask/tools/cores.c")).arg("-o").arg(&plugin)).context("gcc and glib are needed")?;
    Ok(plugin)
}
