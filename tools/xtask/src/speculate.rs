//! What speculation and the prompt cache are worth: the program against itself, with and without, in turn in one run.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::process::{cache_dir, cargo, command, output, root, run, target_dir};

const MODELS: &[&str] = &["smollm2-135m-instruct", "gemma-3-270m"];
/// Files in `prompts`, what they stand for, and whether the model writes on from the bare text.
const PROMPTS: &[(&str, &str, bool)] =
    &[("tools", "JSON, tool calls", true), ("summary", "summary", false), ("prose", "free prose", false)];
/// Tokens of the prefix that the prompt cache is judged with.
const PREFIX: u64 = 2000;

/// What both measurements take: the program, turns, and options handed on to `bourn run`.
struct Arguments<'a> {
    program: PathBuf,
    rounds: usize,
    generate: &'a str,
    models: Vec<&'a str>,
    passed_on: Vec<&'a str>,
}

impl<'a> Arguments<'a> {
    fn of(args: &[&'a str]) -> Result<Self> {
        let mut found =
            Self { program: PathBuf::new(), rounds: 3, generate: "200", models: MODELS.to_vec(), passed_on: Vec::new() };
        let mut args = args.iter().copied();
        while let Some(arg) = args.next() {
            let mut value = || args.next().with_context(|| format!("{arg} needs a value"));
            match arg {
                "--program" => found.program = value()?.into(),
                "--rounds" => found.rounds = value()?.parse::<usize>()?.max(1),
                "--generate" => found.generate = value()?,
                "--model" => found.models = vec![value()?],
                "--threads" | "--ram" | "--throttle" | "--draft" => {
                    let value = value()?;
                    found.passed_on.extend([arg, value]);
                }
                other => bail!("no such option: {other}"),
            }
        }
        if found.program.as_os_str().is_empty() {
            run(&mut cargo(&["build", "--locked", "--release", "--package", "bourn-cli"]))?;
            found.program = target_dir().join("release/bourn");
        }
        Ok(found)
    }

    /// The keys of a run.
    fn run(&self, model: &str, args: &[&str]) -> Result<Value> {
        let mut bourn = command(&self.program);
        bourn.args(["--quiet", "run", model, "--json"]).args(&self.passed_on).args(args);
        Ok(serde_json::from_str(&output(&mut bourn)?)?)
    }
}

/// `[--program FILE] [--rounds N] [--generate N] [--model NAME] [--threads N] [--ram SIZE] [--throttle SIZE] [--draft IMAGE]`
pub fn speculation(args: &[&str]) -> Result<()> {
    let arguments = Arguments::of(args)?;
    println!("| model | prompt | drawn | tokens | per pass | drafts right | plain tok/s | speculating tok/s | ratio |");
    println!("|---|---|---|---|---|---|---|---|---|");
    for model in &arguments.models {
        for (file, name, raw) in PROMPTS {
            let prompt = std::fs::read_to_string(root().join(format!("tools/xtask/prompts/{file}.txt")))?;
            for (drawn, sampling) in [("greedy", ["--temperature", "0"]), ("sampled", ["--temperature", "0.7"])] {
                let mut rounds = Vec::new();
                for _ in 0..arguments.rounds {
                    let [plain, fast] = ["off", "auto"].map(|speculate| {
                        let args = ["-n", arguments.generate, "--seed", "1", "--speculate", speculate, prompt.trim_end()];
                        let raw: &[&str] = if *raw { &["--raw"] } else { &[] };
                        arguments.run(model, &[raw, &sampling[..], &args[..]].concat())
                    });
                    let (plain, fast) = (plain?, fast?);
                    ensure!(plain["ids"] == fast["ids"], "{model} {file}: speculation changed the text");
                    rounds.push((plain, fast));
                }
                let speed = |run: &Value| run["decode_tok_s"].as_f64().unwrap_or(0.0);
                let ratio = median(rounds.iter().map(|(plain, fast)| speed(fast) / speed(plain)));
                let (plain, fast) = (median(rounds.iter().map(|r| speed(&r.0))), median(rounds.iter().map(|r| speed(&r.1))));
                let last = &rounds[rounds.len() - 1].1;
                println!(
                    "| {model} | {name} | {drawn} | {} | {:.2} | {} of {} | {plain:.1} | {fast:.1} | {ratio:.2} |",
                    last["generated_tokens"],
                    median(rounds.iter().filter_map(|r| r.1["tokens_per_pass"].as_f64())),
                    last["accepted"],
                    last["drafted"],
                );
            }
        }
    }
    Ok(())
}

/// `[--program FILE] [--rounds N] [--model NAME] [--threads N] [--ram SIZE] [--throttle SIZE]`
pub fn prompt_cache(args: &[&str]) -> Result<()> {
    let arguments = Arguments::of(args)?;
    let folder = cache_dir()?.join("compare");
    std::fs::create_dir_all(&folder)?;
    println!("| model | prefix | file | first token without | with | ratio |");
    println!("|---|---|---|---|---|---|");
    for model in &arguments.models {
        let file = folder.join(format!("{}.prompt-cache", model.replace(['/', '.'], "-")));
        if file.exists() {
            std::fs::remove_file(&file)?;
        }
        let system = house(|text| {
            let mut tokenize = command(&arguments.program);
            let ids: Value = serde_json::from_str(&output(tokenize.args(["--quiet", "tokenize", model, "--json", text]))?)?;
            Ok(ids["ids"].as_array().map_or(0, |ids| ids.len() as u64))
        })?;
        let ask = |question: &str, cache: Option<&Path>| {
            // As bare text: a base model has no template that would place a system prompt.
            let prompt = format!("{system}\nQuestion: {question}\nAnswer:");
            let mut args = vec!["-n", "2", "--temperature", "0", "--raw", &prompt];
            let cache = cache.map(|path| path.to_string_lossy().into_owned());
            args.extend(cache.iter().flat_map(|path| ["--prompt-cache", path]));
            arguments.run(model, &args)
        };
        ask("Is the window of the cellar open?", Some(&file))?;
        let mut rounds = Vec::new();
        let mut prefix = 0;
        for round in 0..arguments.rounds {
            let question = format!("What is the temperature in room {round}?");
            let (without, with) = (ask(&question, None)?, ask(&question, Some(&file))?);
            ensure!(without["ids"] == with["ids"], "{model}: the cache changed the text");
            prefix = with["cached_tokens"].as_u64().unwrap_or(0);
            ensure!(prefix >= PREFIX, "{model}: only {prefix} tokens came from the cache");
            let ms = |run: &Value| run["first_token_ms"].as_f64().unwrap_or(0.0);
            rounds.push((ms(&without), ms(&with)));
        }
        println!(
            "| {model} | {prefix} tokens | {:.1} MB | {:.0} ms | {:.1} ms | {:.1} |",
            std::fs::metadata(&file)?.len() as f64 / 1e6,
            median(rounds.iter().map(|r| r.0)),
            median(rounds.iter().map(|r| r.1)),
            median(rounds.iter().map(|r| r.0 / r.1)),
        );
        std::fs::remove_file(&file)?;
    }
    Ok(())
}

/// A system prompt of just over 2 000 tokens: the devices of a house, as many as it takes.
fn house(tokens: impl Fn(&str) -> Result<u64>) -> Result<String> {
    let mut text = "You answer questions about this house. It has these devices:\n".to_owned();
    let kinds = [("lamp", "is on"), ("heater", "is set to degrees"), ("window", "is shut"), ("socket", "draws watts")];
    let rooms = ["kitchen", "hall", "cellar", "attic", "bedroom", "bathroom", "study", "garage", "pantry"];
    for i in 0.. {
        let ((kind, state), room) = (kinds[i * 7 % kinds.len()], rooms[i * 5 % rooms.len()]);
        text += &format!("- The {kind} {} in the {room} {state} {}.\n", i + 1, (i * 37 + 11) % 100);
        if i >= 100 && i % 5 == 0 && tokens(&text)? > PREFIX {
            break;
        }
    }
    Ok(text)
}

fn median(samples: impl Iterator<Item = f64>) -> f64 {
    let mut samples: Vec<f64> = samples.collect();
    samples.sort_by(f64::total_cmp);
    samples.get(samples.len() / 2).copied().unwrap_or(0.0)
}
