//! Instructions per token on emulated ARM cores, ours and llama.cpp's: exact, repeatable, and no board is needed.
//!
//! Both programs run under `qemu-aarch64 -cpu CPU` with a counter plugged in ([`counter`]), on one thread, over the same
//! weights: a GGUF in Q4_0, head included, and the image packed from it. What a phase costs is the difference of two runs that differ
//! in that phase alone, so neither program needs to know that it is counted:
//!
//! - a generated token after `p`: `(T(p, 9) − T(p, 1)) / 8`, `T(p, n)` being a process that reads `p` tokens and writes `n`;
//! - a prompt token: `(T(p, 1) − T(1, 1)) / (p − 1)`;
//! - the start: `T(1, 1)` less a generated token, as nothing shorter than one token can be asked for.

pub(crate) mod counter;
mod peer;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use crate::compare;
use crate::cross::Toolchain;
use crate::process::{cache_dir, output, run, target_dir};
use counter::Counter;
use peer::Peer;

/// The cores to emulate.
const CPUS: &[Cpu] = &[
    Cpu { name: "cortex-a53", peer: peer::ARMV8, generated: 0.40, prompt: 0.35 },
    Cpu { name: "cortex-a72", peer: peer::ARMV8, generated: 0.40, prompt: 0.35 },
    Cpu { name: "cortex-a76", peer: peer::DOTPROD, generated: 0.70, prompt: 0.60 },
];
/// At most this share of llama.cpp's start, on every core.
const START: f64 = 0.05;
/// Tokens of a prompt at which reading is counted; the last one is the bar's.
const PROMPTS: [usize; 3] = [32, 128, 256];
/// Tokens of a prompt after which writing is counted.
const BEFORE: [usize; 2] = [32, 128];
/// Tokens that the longer of two runs writes more than the shorter.
const MORE: usize = 8;
/// Functions that a profile shows.
const SHOWN: usize = 16;

/// A core and what its counts are held to.
struct Cpu {
    name: &'static str,
    /// The build of llama.cpp for it. It chooses its code when it is compiled, so one core is counted for each build.
    peer: peer::Build,
    /// Bars: at most this share of llama.cpp's instructions per generated token, and per prompt token.
    generated: f64,
    prompt: f64,
}

/// What was asked for.
struct Options<'a> {
    cpus: Vec<&'static Cpu>,
    model: &'a str,
    json: bool,
    /// Count llama.cpp too.
    peer: bool,
    /// Count what is in the cache of counts anew.
    recount: bool,
    /// Show which functions of ours a generated token goes through, instead of comparing.
    profile: bool,
}

/// `[--cpu CPU]… [--model NAME] [--ours-only] [--recount] [--profile] [--json]`
pub fn count(args: &[&str]) -> Result<()> {
    let options = parse(args)?;
    let counter = Counter::ready()?;
    let toolchain = Toolchain::for_linux()?;
    let bourn = build_bourn(&toolchain)?;
    let gguf = compare::quantized(options.model, "q4_0")?;
    let image = pack(&counter, &bourn, &gguf)?;
    let ours =
        |cpu: &str, prompt: usize, generate: usize| counter.count(cpu, &bourn, &bourn_args(&image, prompt, generate), None);
    if options.profile {
        return options.cpus.iter().try_for_each(|cpu| profile(&counter, cpu.name, &bourn, &image));
    }
    let peer = if options.peer { Some(Peer::ready()?) } else { None };
    let mut cache = Cache::open(options.recount)?;
    let mut results = Vec::new();
    for cpu in &options.cpus {
        eprintln!("counting on {}", cpu.name);
        let ours = Phases::count(|prompt, generate| ours(cpu.name, prompt, generate))?;
        let theirs = match &peer {
            None => None,
            Some(peer) => Some(Phases::count(|prompt, generate| {
                let build = cpu.peer;
                let key = format!("{} {} {} {prompt} {generate}", peer::VERSION, options.model, build.name);
                cache.get(key, || {
                    let args = [gguf.display().to_string(), prompt.to_string(), generate.to_string()];
                    counter.count(build.cpu, &peer.program(build), &args, None)
                })
            })?),
        };
        results.push((*cpu, ours, theirs));
    }
    if options.json {
        let cpus: Vec<Value> = results.iter().map(|(cpu, ours, theirs)| as_json(cpu, ours, theirs.as_ref())).collect();
        println!("{}", json!({ "model": options.model, "weights": "q4_0, head included", "threads": 1, "cpus": cpus }));
    } else {
        println!("{}, Q4_0 with a 4-bit head, one thread; millions of instructions", options.model);
        for (cpu, ours, theirs) in &results {
            print(cpu, ours, theirs.as_ref());
        }
    }
    Ok(())
}

fn parse<'a>(args: &[&'a str]) -> Result<Options<'a>> {
    let mut options =
        Options { cpus: Vec::new(), model: "smollm2-135m-instruct", json: false, peer: true, recount: false, profile: false };
    let mut args = args.iter();
    while let Some(&arg) = args.next() {
        match arg {
            "--ours-only" => options.peer = false,
            "--recount" => options.recount = true,
            "--profile" => options.profile = true,
            "--json" => options.json = true,
            "--model" => options.model = args.next().context("--model needs a name of the catalogue")?,
            "--cpu" => {
                let name = args.next().context("--cpu needs a name")?;
                let known = || CPUS.iter().map(|cpu| cpu.name).collect::<Vec<_>>().join(", ");
                let cpu = CPUS.iter().find(|cpu| cpu.name == *name);
                options.cpus.push(cpu.with_context(|| format!("no such CPU: {name}; there are {}", known()))?);
            }
            other => bail!("no such option: {other}"),
        }
    }
    if options.cpus.is_empty() {
        options.cpus = CPUS.iter().collect();
    }
    Ok(options)
}

/// The static program, with its symbols, as `cargo xtask mca` takes it apart too.
pub(crate) fn build_bourn(toolchain: &Toolchain) -> Result<PathBuf> {
    let mut cargo = toolchain.cargo("build", Path::new("qemu-aarch64"), "max");
    run(cargo.args(["--release", "--package", "bourn-cli", "--no-default-features"]))?;
    Ok(toolchain.products("release").join("bourn"))
}

fn bourn_args(image: &Path, prompt: usize, generate: usize) -> Vec<String> {
    // Ids of every catalogue model's vocabulary; the counts do not depend on which.
    let ids: Vec<String> = (0..prompt).map(|i| (i * 7919 % 49_152).to_string()).collect();
    let fixed =
        ["--ignore-eos", "--threads", "1", "--context", "512", "--temperature", "0", "--json", "--speculate", "off", "--ids"];
    let mut args = vec!["run".to_owned(), image.display().to_string()];
    args.extend(fixed.map(str::to_owned));
    args.extend([ids.join(","), "-n".to_owned(), generate.to_string()]);
    args
}

/// The image of a GGUF, packed by the very program that is counted, in case the format has changed.
fn pack(counter: &Counter, bourn: &Path, gguf: &Path) -> Result<PathBuf> {
    let folder = target_dir().join("arm-cost");
    std::fs::create_dir_all(&folder)?;
    let image = folder.join(gguf.file_name().context("a model without a name")?).with_extension("bourn");
    let changed = |path: &Path| std::fs::metadata(path).and_then(|meta| meta.modified()).ok();
    if changed(&image).is_none_or(|packed| Some(packed) < changed(bourn) || Some(packed) < changed(gguf)) {
        let mut pack = counter.emulate("max", bourn);
        run(pack.args(["--quiet", "pack"]).arg(gguf).arg("-o").arg(&image))?;
    }
    Ok(image)
}

/// What the phases of a program cost, in instructions.
struct Phases {
    /// Process start until a token can be computed.
    start: f64,
    /// Process start to the first logits, their one token included.
    first_logits: f64,
    /// A prompt token, for each of [`PROMPTS`].
    prompt: Vec<f64>,
    /// A generated token, for each of [`BEFORE`].
    generated: Vec<f64>,
}

impl Phases {
    /// By differences of `total(prompt, generate)`.
    fn count(mut total: impl FnMut(usize, usize) -> Result<u64>) -> Result<Self> {
        let mut total = |prompt, generate| total(prompt, generate).map(|n| n as f64);
        let shortest = total(1, 1)?;
        let token_after = |prompt: usize, total: &mut dyn FnMut(usize, usize) -> Result<f64>| {
            Ok::<f64, anyhow::Error>((total(prompt, 1 + MORE)? - total(prompt, 1)?) / MORE as f64)
        };
        let first_token = token_after(1, &mut total)?;
        let generated = BEFORE.iter().map(|&p| token_after(p, &mut total)).collect::<Result<_>>()?;
        let prompt = PROMPTS.iter().map(|&p| Ok((total(p, 1)? - shortest) / (p - 1) as f64)).collect::<Result<_>>()?;
        Ok(Self { start: shortest - first_token, first_logits: shortest, prompt, generated })
    }

    /// Names, values and which bar they are held to.
    fn rows(&self) -> Vec<(String, f64)> {
        let mut rows = vec![("start, without a token".to_owned(), self.start)];
        rows.push(("start to first logits".to_owned(), self.first_logits));
        rows.extend(PROMPTS.iter().zip(&self.prompt).map(|(p, n)| (format!("prompt token of {p}"), *n)));
        rows.extend(BEFORE.iter().zip(&self.generated).map(|(p, n)| (format!("generated token at {p}"), *n)));
        rows
    }
}

/// The bar of a row, where it has one.
fn bar(cpu: &Cpu, row: &str) -> Option<f64> {
    match row {
        "start, without a token" => Some(START),
        "prompt token of 256" => Some(cpu.prompt),
        _ if row.starts_with("generated") => Some(cpu.generated),
        _ => None,
    }
}

fn print(cpu: &Cpu, ours: &Phases, theirs: Option<&Phases>) {
    println!("\n{:<12} {:<24} {:>10} {:>10} {:>7} {:>6}", cpu.name, "", "bourn", "llama.cpp", "ratio", "bar");
    let theirs = theirs.map(Phases::rows);
    for (i, (name, ours)) in ours.rows().into_iter().enumerate() {
        let mut line = format!("{:<12} {name:<24} {:>10.2}", "", ours / 1e6);
        if let Some((_, theirs)) = theirs.as_ref().map(|rows| &rows[i]) {
            line += &format!(" {:>10.2} {:>7.3}", theirs / 1e6, ours / theirs);
            if let Some(bar) = bar(cpu, &name) {
                line += &format!(" {bar:>6.2} {}", if ours / theirs <= bar { "held" } else { "MISSED" });
            }
        }
        println!("{line}");
    }
}

fn as_json(cpu: &Cpu, ours: &Phases, theirs: Option<&Phases>) -> Value {
    let theirs = theirs.map(Phases::rows);
    let rows = ours.rows().into_iter().enumerate().map(|(i, (name, ours))| {
        let theirs = theirs.as_ref().map(|rows| rows[i].1);
        let ratio = theirs.map(|theirs| ours / theirs);
        json!({ "phase": name, "bourn": ours, "llama_cpp": theirs, "ratio": ratio, "bar": bar(cpu, &name) })
    });
    json!({ "cpu": cpu.name, "llama_cpp_build": cpu.peer.arch, "phases": rows.collect::<Vec<_>>() })
}

/// The functions that a generated token goes through, by instructions.
fn profile(counter: &Counter, cpu: &str, bourn: &Path, image: &Path) -> Result<()> {
    let symbols = symbols(bourn)?;
    let mut by_function: BTreeMap<&str, f64> = BTreeMap::new();
    for (generate, sign) in [(1 + MORE, 1.0), (1, -1.0)] {
        let file = target_dir().join(format!("arm-cost/profile-{generate}"));
        counter.count(cpu, bourn, &bourn_args(image, 32, generate), Some(&file))?;
        for line in std::fs::read_to_string(&file)?.lines() {
            let mut words = line.split(' ');
            let mut word = || words.next().with_context(|| format!("{}: {line}", file.display()));
            let address = u64::from_str_radix(word()?, 16)?;
            let executed = word()?.parse::<f64>()? * word()?.parse::<f64>()?;
            let at = symbols.partition_point(|(start, _)| *start <= address);
            let name = at.checked_sub(1).map_or("?", |i| symbols[i].1.as_str());
            *by_function.entry(name).or_default() += sign * executed / MORE as f64;
        }
    }
    let total: f64 = by_function.values().sum();
    let mut functions: Vec<_> = by_function.into_iter().collect();
    functions.sort_by(|a, b| b.1.total_cmp(&a.1));
    println!("{cpu}: a generated token after 32, {:.2} million instructions", total / 1e6);
    for (name, executed) in functions.into_iter().take(SHOWN) {
        println!("{:>10.3} M {:>5.1} %  {name}", executed / 1e6, 100.0 * executed / total);
    }
    Ok(())
}

/// Functions of a program, by address.
fn symbols(program: &Path) -> Result<Vec<(u64, String)>> {
    let listed = output(crate::process::command("aarch64-linux-gnu-nm").args(["--demangle", "--defined-only"]).arg(program))?;
    let mut symbols: Vec<(u64, String)> = listed
        .lines()
        .filter_map(|line| {
            let (address, rest) = line.split_once(' ')?;
            let (kind, name) = rest.split_once(' ')?;
            let function = kind.eq_ignore_ascii_case("t") || kind.eq_ignore_ascii_case("w");
            // `$x` marks code for disassemblers and names nothing.
            (function && !name.starts_with('$')).then_some((u64::from_str_radix(address, 16).ok()?, name.to_owned()))
        })
        .collect();
    symbols.sort();
    Ok(symbols)
}

/// llama.cpp's counts, which change only with its version: kept, because they take minutes.
struct Cache {
    path: PathBuf,
    counts: BTreeMap<String, u64>,
    recount: bool,
}

impl Cache {
    fn open(recount: bool) -> Result<Self> {
        let path = cache_dir()?.join("compare/arm-cost.json");
        let counts = match std::fs::read_to_string(&path) {
            Ok(text) => serde_json::from_str(&text).with_context(|| path.display().to_string())?,
            Err(_) => BTreeMap::new(),
        };
        Ok(Self { path, counts, recount })
    }

    fn get(&mut self, key: String, count: impl FnOnce() -> Result<u64>) -> Result<u64> {
        if let Some(count) = self.counts.get(&key).filter(|_| !self.recount) {
            return Ok(*count);
        }
        let counted = count()?;
        self.counts.insert(key, counted);
        std::fs::write(&self.path, serde_json::to_string_pretty(&self.counts)?)?;
        Ok(counted)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tells_the_phases_apart() {
        // A program of 1000 to start, 10 a prompt token, 3 more for the first logits, 20 a generated token after that.
        let total = |prompt: usize, generate: usize| Ok((1000 + 10 * prompt + 3 + 20 * (generate - 1)) as u64);
        let phases = Phases::count(total).unwrap();
        assert_eq!(phases.prompt, [10.0; 3]);
        assert_eq!(phases.generated, [20.0; 2]);
        assert_eq!((phases.start, phases.first_logits), (993.0, 1013.0));
    }

    #[test]
    fn every_bar_belongs_to_a_row() {
        let phases = Phases { start: 0.0, first_logits: 0.0, prompt: vec![0.0; 3], generated: vec![0.0; 2] };
        let held = phases.rows().iter().filter(|(name, _)| bar(&CPUS[0], name).is_some()).count();
        assert_eq!(held, 4);
    }

    #[test]
    fn rejects_what_it_does_not_know() {
        assert!(parse(&["--cpu", "z80"]).is_err());
        assert!(parse(&["--cpu"]).is_err());
        assert!(parse(&["--faster"]).is_err());
        assert_eq!(parse(&["--cpu", "cortex-a76", "--json"]).unwrap().cpus.len(), 1);
    }
}
