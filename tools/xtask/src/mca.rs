//! Cycles of the kernels' inner loops on the cores of the boards, by LLVM's machine code analyser.
//!
//! The loops are lifted out of the cross-built program by disassembly: of every tier's functions the innermost loops with
//! products of bytes, told apart by what they do ([`inner::Kind`]). The figures are a model's: all loads hit the L1 cache, branches are
//! foreseen. LLVM has no model of A72 (its A57 stands in) nor of A76 (neoverse-n1, the same pipeline); its A53 gives every vector
//! instruction a latency of 6, which is pessimistic, so A55 and the bound of the ports stand beside it.

mod inner;

use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use crate::arm_cost::build_bourn;
use crate::cross::{Toolchain, apt_install};
use crate::disassembly::{self, Function};
use crate::process::{command, find, root};
use inner::{Inner, Kind};

const MCA: &str = "llvm-mca-19";
const PACKAGE: &str = "llvm-19";
/// LLVM's name of a core, and what it stands for.
const CORES: [(&str, &str); 4] =
    [("cortex-a53", "A53"), ("cortex-a55", "A55"), ("cortex-a57", "A57, A72"), ("neoverse-n1", "A76")];
const TIERS: [&str; 3] = ["neon", "dotprod", "i8mm"];

/// A loop and a core for which there is a bar, a figure of llama.cpp, or both, in cycles per 32 products.
struct Known {
    kind: Kind,
    tier: &'static str,
    core: &'static str,
    bar: Option<f64>,
    /// Source: llvm-mca on llama.cpp 0c1e57098, same models.
    llama: Option<f64>,
}

const KNOWN: &[Known] = &[
    Known { kind: Kind::DecodeLinear, tier: "neon", core: "cortex-a53", bar: Some(12.0), llama: Some(39.5) },
    Known { kind: Kind::DecodeLinear, tier: "neon", core: "cortex-a55", bar: None, llama: Some(27.0) },
    Known { kind: Kind::DecodeLinear, tier: "neon", core: "cortex-a57", bar: Some(5.0), llama: Some(12.0) },
    Known { kind: Kind::DecodeLinear, tier: "dotprod", core: "neoverse-n1", bar: Some(2.3), llama: Some(3.13) },
    Known { kind: Kind::DecodeBytes, tier: "dotprod", core: "neoverse-n1", bar: None, llama: Some(2.25) },
    // llama.cpp's takes 4-bit weights; ours multiplies bytes, to which 4-bit weights are unpacked once for all tokens of a block.
    Known { kind: Kind::PrefillBytes, tier: "dotprod", core: "neoverse-n1", bar: None, llama: Some(1.66) },
];

/// What a core makes of a loop.
#[derive(Clone, Copy)]
struct Figure {
    /// Cycles per 32 products in the steady state.
    cycles: f64,
    /// The same if only the ports counted.
    bound: f64,
}

/// What predictions are made from: one source for `bourn board` and the tables in docs.
const TABLE: &str = "boards/cycles.toml";
const TABLE_HEAD: &str =
    "# Cycles per 32 products of bytes in the kernels' inner loops, by tier and by the core as LLVM names it.
# Written by `cargo xtask mca --write`; all loads hit the L1 cache.
";

/// `[--program FILE] [--list] [--schedule CORE] [--write] [--json]`
pub fn analyse(args: &[&str]) -> Result<()> {
    let (mut program, mut list, mut schedule, mut as_json, mut write) = (None, false, None, false, false);
    let mut args = args.iter();
    while let Some(&arg) = args.next() {
        match arg {
            "--program" => program = Some(PathBuf::from(args.next().context("--program needs a file")?)),
            "--schedule" => schedule = Some(*args.next().context("--schedule needs a core")?),
            "--list" => list = true,
            "--write" => write = true,
            "--json" => as_json = true,
            other => bail!("no such option: {other}"),
        }
    }
    if let Some(core) = schedule
        && !CORES.iter().any(|(name, _)| *name == core)
    {
        bail!("no such core: {core}; there are {}", CORES.map(|(name, _)| name).join(", "));
    }
    let mca = mca()?;
    let program = match program {
        Some(program) => program,
        None => build_bourn(&Toolchain::for_linux()?)?,
    };
    let functions = disassembly::disassemble(&program)?;
    let mut results = Vec::new();
    for tier in TIERS {
        let loops = loops_of(&functions, tier);
        if list {
            loops.iter().for_each(|inner| println!("{tier:<8} {}", inner.describe()));
            continue;
        }
        for kind in Kind::ALL {
            let Some(inner) = inner::choose(&loops, kind) else { continue };
            if let Some(core) = schedule {
                println!("{tier} {}, {}\n{}", kind.name(), inner.describe(), run_mca(&mca, inner, core, &SCHEDULE)?);
                continue;
            }
            let figures = CORES.iter().map(|(core, _)| figure(&mca, inner, core)).collect::<Result<Vec<_>>>()?;
            results.push((tier, kind, inner.code.len(), inner.products, figures));
        }
    }
    if list || schedule.is_some() {
        return Ok(());
    }
    if results.is_empty() {
        bail!("{}: no function of bourn_kernels has a loop with products of bytes", program.display());
    }
    if write {
        std::fs::write(root().join(TABLE), table(&results)).context(TABLE)?;
        eprintln!("wrote {TABLE}; `cargo xtask predict` brings docs/boards.md up to date");
    }
    if as_json {
        let rows: Vec<Value> = results.iter().map(row_json).collect();
        println!("{}", json!({ "unit": "cycles per 32 products", "loops": rows }));
    } else {
        print(&results);
    }
    Ok(())
}

/// A loop's tier, kind, instructions, products, and figures in the order of [`CORES`].
type Row = (&'static str, Kind, usize, usize, Vec<Figure>);

fn print(results: &[Row]) {
    println!("cycles per 32 products (in decode: weights), in brackets the bound of the ports");
    print!("{:<8} {:<16} {:>12} ", "", "", "instructions");
    CORES.iter().for_each(|(core, of)| print!(" {:>22}", format!("{core} ({of})")));
    println!();
    for (tier, kind, instructions, products, figures) in results {
        print!("{tier:<8} {:<16} {:>12} ", kind.name(), format!("{instructions}/{products}"));
        figures.iter().for_each(|f| print!(" {:>22}", format!("{:.2} ({:.2})", f.cycles, f.bound)));
        println!();
    }
    println!("\n{:<8} {:<16} {:<12} {:>7} {:>10} {:>6}", "", "", "", "bourn", "llama.cpp", "bar");
    for known in KNOWN {
        let Some(cycles) = known.of(results) else { continue };
        let number = |n: Option<f64>| n.map_or(String::new(), |n| format!("{n:.2}"));
        let verdict = known.bar.map_or("", |bar| if cycles <= bar { "held" } else { "MISSED" });
        let (llama, bar) = (number(known.llama), number(known.bar));
        println!("{:<8} {:<16} {:<12} {cycles:>7.2} {llama:>10} {bar:>6} {verdict}", known.tier, known.kind.name(), known.core);
    }
}

/// The results as [`TABLE`] holds them.
fn table(results: &[Row]) -> String {
    let mut text = TABLE_HEAD.to_owned();
    for tier in TIERS {
        for (i, (core, _)) in CORES.iter().enumerate() {
            let of_tier: Vec<&Row> = results.iter().filter(|row| row.0 == tier).collect();
            if !of_tier.is_empty() {
                text += &format!("\n[{tier}.{core}]\n");
            }
            for (_, kind, _, _, figures) in of_tier {
                text += &format!("{} = {:.2}\n", kind.name().replace(' ', "-"), figures[i].cycles);
            }
        }
    }
    text
}

impl Known {
    fn of(&self, results: &[Row]) -> Option<f64> {
        let core = CORES.iter().position(|(name, _)| *name == self.core)?;
        let row = results.iter().find(|(tier, kind, ..)| *tier == self.tier && *kind == self.kind)?;
        row.4.get(core).map(|figure| figure.cycles)
    }
}

fn row_json((tier, kind, instructions, products, figures): &Row) -> Value {
    let cores = CORES.iter().zip(figures).map(|((core, _), f)| {
        let known = KNOWN.iter().find(|k| k.core == *core && k.tier == *tier && k.kind == *kind);
        json!({
            "core": core, "cycles": f.cycles, "bound": f.bound,
            "bar": known.and_then(|k| k.bar), "llama_cpp": known.and_then(|k| k.llama),
        })
    });
    let cores: Vec<Value> = cores.collect();
    json!({ "tier": tier, "kind": kind.name(), "instructions": instructions, "products": products, "cores": cores })
}

/// The loops with products of bytes in a tier's functions.
fn loops_of<'a>(functions: &'a [Function], tier: &str) -> Vec<Inner<'a>> {
    let path = format!("bourn_kernels::{tier}::");
    let of_tier = functions.iter().filter(|function| function.name.contains(&path));
    of_tier.flat_map(|function| function.innermost_loops()).filter_map(Inner::of).collect()
}

fn mca() -> Result<PathBuf> {
    if find(MCA).is_none() {
        apt_install(&[PACKAGE])?;
    }
    find(MCA).with_context(|| format!("no {MCA}; to get it on Debian or Ubuntu: `sudo apt-get install -y {PACKAGE}`"))
}

/// The steady state: what 50 iterations more cost.
fn figure(mca: &Path, inner: &Inner<'_>, core: &str) -> Result<Figure> {
    let run = |iterations: usize| run_mca(mca, inner, core, &[&format!("-iterations={iterations}")]);
    let (shorter, longer) = (run(50)?, run(100)?);
    let cycles = (field(&longer, "Total Cycles:")? - field(&shorter, "Total Cycles:")?) / 50.0;
    let per_32 = 32.0 / inner.products as f64;
    Ok(Figure { cycles: cycles * per_32, bound: field(&longer, "Block RThroughput:")? * per_32 })
}

/// One iteration as it goes through the pipeline, and what held it up.
const SCHEDULE: [&str; 5] =
    ["-timeline", "-timeline-max-iterations=2", "-timeline-max-cycles=400", "-iterations=100", "-all-stats"];

fn run_mca(mca: &Path, inner: &Inner<'_>, core: &str, options: &[&str]) -> Result<String> {
    let mut analyser = command(mca);
    analyser.args(["-mtriple=aarch64", &format!("-mcpu={core}"), "-mattr=+dotprod,+i8mm,+fullfp16"]).args(options);
    let mut child = analyser.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    let mut input = child.stdin.take().context("no pipe")?;
    std::io::Write::write_all(&mut input, inner.assembly().as_bytes())?;
    drop(input);
    let ran = child.wait_with_output()?;
    if !ran.status.success() {
        bail!("{MCA} for {core}: {}", String::from_utf8_lossy(&ran.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&ran.stdout).into_owned())
}

fn field(printed: &str, name: &str) -> Result<f64> {
    let value = printed.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok());
    value.with_context(|| format!("{MCA} did not print {name}"))
}
