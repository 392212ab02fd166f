//! Instructions of each core while text is written: one core alone, and four that keep step (`tools/cores.c`).

use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use bourn_hil_runner::qemu::Machine;
use object::{Object as _, ObjectSymbol as _};

use super::prove::{Card, machine};
use crate::arm_cost::counter::header;
use crate::process::{command, root, run, target_dir};

/// Four cores must take at most this part of one core's instructions.
const MOST_SHARE: f64 = 1.0 / 3.0;

/// Instructions per token.
struct Counted {
    /// From one token to the next by the first core's clock: what it executes, and what passes while it waits for others.
    way: f64,
    /// Of each core, waiting left out.
    cores: Vec<f64>,
    /// Checksum of the text.
    sum: u64,
}

/// Counts one core and four, per token written, and holds one against the other.
///
/// # Errors
/// If the plugin cannot be compiled, or four cores do not help enough.
pub(super) fn cores(card: &Card, tokens: u32) -> Result<()> {
    let plugin = plugin()?;
    let words = format!("{},{}", plugin.display(), addresses(&std::fs::read(&card.firmware.elf)?)?);
    let mut found = Vec::new();
    for n in [1, 4] {
        let extra = vec!["-plugin".to_owned(), words.clone()];
        let counted = counted(&Machine { cores: n, extra, ..machine("qemu-virt", "cortex-a53") }, card, tokens)?;
        let shown: Vec<String> = counted.cores.iter().map(|n| format!("{:.2}", n / 1e6)).collect();
        eprintln!(
            "{n} cores, millions of instructions per token: {}; from token to token {:.2}",
            shown.join(" + "),
            counted.way / 1e6
        );
        found.push(counted);
    }
    let [one, four] = found.as_slice() else { bail!("need two counts, found {}", found.len()) };
    ensure!(one.sum == four.sum, "one core and four differ: {:016x}, {:016x}", one.sum, four.sum);
    let share = four.way / one.way;
    eprintln!("four cores: {:.2} times fewer instructions from token to token, the same bits ({:016x})", 1.0 / share, one.sum);
    ensure!(share <= MOST_SHARE, "need at most {MOST_SHARE:.3} of one core's, found {share:.3}");
    Ok(())
}

/// Writes text on a machine that counts.
fn counted(machine: &Machine, card: &Card, tokens: u32) -> Result<Counted> {
    let mut running = card.start(machine)?;
    running.wait_for_model()?;
    let (written, _) = running.write(super::prove::PROMPT, tokens)?;
    let said = running.said();
    let marks: Vec<&str> = said.lines().filter_map(|line| line.strip_prefix("mark ")).collect();
    // One mark a token, and the prompt's own; the last so many are tokens for sure.
    let n = tokens as usize / 2;
    ensure!(marks.len() > n, "need more than {n} marks, found {}", marks.len());
    let (from, to) = (Mark::parse(marks[marks.len() - 1 - n])?, Mark::parse(marks[marks.len() - 1])?);
    let late = to.late - from.late;
    ensure!(late == 0, "the host is too busy to keep cores in step: need every wait answered, found {late} that were not");
    let per_token = |to: u64, from: u64| (to - from) as f64 / n as f64;
    Ok(Counted {
        way: per_token(to.clock, from.clock),
        cores: to.cores.iter().zip(&from.cores).map(|(to, from)| per_token(*to, *from)).take(machine.cores as usize).collect(),
        sum: written.sum,
    })
}

/// What the plugin says where a token begins: "CLOCK WORK…[ late N]".
struct Mark {
    clock: u64,
    cores: Vec<u64>,
    late: u64,
}

impl Mark {
    fn parse(text: &str) -> Result<Self> {
        let (numbers, late) = text.split_once(" late ").unwrap_or((text, "0"));
        let numbers = numbers.split(' ').map(str::parse).collect::<Result<Vec<u64>, _>>();
        let numbers = numbers.with_context(|| format!("need numbers behind a mark, found {text}"))?;
        let (clock, cores) = numbers.split_first().context("a mark without numbers")?;
        Ok(Self { clock: *clock, cores: cores.to_vec(), late: late.parse()? })
    }
}

/// The plugin's words: where a token begins, and where cores wait for each other.
fn addresses(elf: &[u8]) -> Result<String> {
    let file = object::File::parse(elf)?;
    // As names are mangled: each with its length before it.
    let find = |part: &str| {
        let mut all = file.symbols().filter(|symbol| symbol.size() > 0 && symbol.name().is_ok_and(|name| name.ends_with(part)));
        let found = all.next().map(|symbol| (symbol.address(), symbol.address() + symbol.size()));
        found.with_context(|| format!("the firmware has no function {part} to count by"))
    };
    let (mark, _) = find("7Session7prefill")?;
    let (watch, leave) = (find("4Crew5watch")?, find("4Crew16wait_for_leavers")?);
    let (low, high) = (watch.0.min(leave.0), watch.1.max(leave.1));
    ensure!(high - low < 8192, "where idle cores wait is not in one place: {low:#x} to {high:#x}");
    Ok(format!("mark={mark:#x},skip={low:#x}-{high:#x}"))
}

fn plugin() -> Result<std::path::PathBuf> {
    let header = header()?;
    let folder = target_dir().join("arm-cost");
    std::fs::create_dir_all(&folder)?;
    let plugin = folder.join("libcores.so");
    let mut compile: Command = command("gcc");
    compile.args(["-shared", "-fPIC", "-O2", "-Wall", "-Wextra", "-I"]).arg(header);
    run(compile.arg(root().join("tools/xtask/tools/cores.c")).args(["-pthread", "-o"]).arg(&plugin)).context("gcc is needed")?;
    Ok(plugin)
}
