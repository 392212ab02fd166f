//! Instructions of each core while text is written: one core alone, and four.

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
    /// Of each core, waiting left out.
    cores: Vec<f64>,
    /// Of the first core, where others may help.
    shared: f64,
    /// Checksum of the text.
    sum: u64,
}

impl Counted {
    /// The longest way through a token with all cores: what the first does alone, and an even share of the rest. Under emulation
    /// the shares that cores take hang on what else the host does; on four real cores they are even, for pieces are handed out as cores get free.
    fn way(&self) -> f64 {
        let all: f64 = self.cores.iter().sum();
        let alone = self.cores.first().map_or(0.0, |first| first - self.shared);
        alone + (all - alone) / self.cores.len() as f64
    }
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
        eprintln!("{n} cores, millions of instructions per token: {}; longest way {:.2}", shown.join(" + "), counted.way() / 1e6);
        found.push(counted);
    }
    let [one, four] = found.as_slice() else { bail!("need two counts, found {}", found.len()) };
    ensure!(one.sum == four.sum, "one core and four differ: {:016x}, {:016x}", one.sum, four.sum);
    let share = four.way() / one.cores[0];
    eprintln!("four cores: {:.2} times fewer instructions on the longest way, the same bits ({:016x})", 1.0 / share, one.sum);
    ensure!(share <= MOST_SHARE, "need at most {MOST_SHARE:.3} of one core's, found {share:.3}");
    Ok(())
}

/// Writes text on a machine that counts.
fn counted(machine: &Machine, card: &Card, tokens: u32) -> Result<Counted> {
    let mut running = card.start(machine)?;
    running.wait_for_model()?;
    let (written, _) = running.write(super::prove::PROMPT, tokens)?;
    let text = running.said();
    let marks: Vec<Vec<f64>> = text
        .lines()
        .filter_map(|line| line.strip_prefix("mark "))
        .map(|line| line.split(' ').filter_map(|n| n.parse().ok()).collect())
        .collect();
    // One mark a token, and the prompt's own; the last so many are tokens for sure.
    let n = tokens as usize / 2;
    ensure!(marks.len() > n, "need more than {n} marks, found {}", marks.len());
    let (from, to) = (&marks[marks.len() - 1 - n], &marks[marks.len() - 1]);
    let mut per_token = to.iter().zip(from).map(|(to, from)| (to - from) / n as f64);
    let shared = per_token.next().context("a mark without numbers")?;
    Ok(Counted { shared, cores: per_token.take(machine.cores as usize).collect(), sum: written.sum })
}

/// The plugin's words: where a token begins, where idle cores wait, and where the first core shares out work.
fn addresses(elf: &[u8]) -> Result<String> {
    let file = object::File::parse(elf)?;
    // As names are mangled: each with its length before it.
    let find = |part: &str| {
        let mut all = file.symbols().filter(|symbol| symbol.size() > 0 && symbol.name().is_ok_and(|name| name.ends_with(part)));
        let found = all.next().map(|symbol| (symbol.address(), symbol.address() + symbol.size()));
        found.with_context(|| format!("the firmware has no function {part} to count by"))
    };
    let (mark, _) = find("7Session7prefill")?;
    let (work, _) = find("4Crew4work")?;
    let (watch, leave) = (find("4Crew5watch")?, find("4Crew16wait_for_leavers")?);
    let (low, high) = (watch.0.min(leave.0), watch.1.max(leave.1));
    ensure!(high - low < 8192, "where idle cores wait is not in one place: {low:#x} to {high:#x}");
    Ok(format!("mark={mark:#x},skip={low:#x}-{high:#x},share={work:#x}-{:#x}", leave.0))
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
