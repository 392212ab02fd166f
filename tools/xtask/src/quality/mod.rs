//! `cargo xtask quality`: what 4 bits cost, ours and llama.cpp's, of the same float weights over the same windows of text.
//!
//! Every figure is kept in the cache as soon as it is there, under the digest of the image or the version of llama.cpp, so
//! that a run that was stopped goes on, and one with a new packer measures only what changed.

mod float;
mod gguf;
mod ours;
mod page;
mod peers;
mod plot;
mod texts;

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use crate::compare::VERSION;
use crate::process::{cache_dir, cargo, run, target_dir};
use ours::Bourn;
use peers::Base;
use texts::{TEXTS, Text};

/// Tokens of a window; its second half is scored.
const WINDOW: usize = 512;
/// Models whose weights `fetch-test-data` knows.
const MODELS: &[&str] = &["smollm2-135m-instruct", "gemma-3-270m"];

/// One model in one setting over one text.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Figures {
    bytes_per_token: u64,
    perplexity: f64,
    /// Of the float model, in the same arithmetic.
    float_perplexity: f64,
    kl_mean: f64,
    kl_median: f64,
    kl_p99: f64,
    top1: f64,
}

impl Figures {
    fn to_json(self) -> Value {
        json!({
            "bytes_per_token": self.bytes_per_token, "perplexity": self.perplexity, "float_perplexity": self.float_perplexity,
            "kl_mean": self.kl_mean, "kl_median": self.kl_median, "kl_p99": self.kl_p99, "top1": self.top1,
        })
    }

    fn of_json(value: &Value) -> Option<Self> {
        let figure = |key: &str| value[key].as_f64();
        Some(Self {
            bytes_per_token: value["bytes_per_token"].as_u64()?,
            perplexity: figure("perplexity")?,
            float_perplexity: figure("float_perplexity")?,
            kl_mean: figure("kl_mean")?,
            kl_median: figure("kl_median")?,
            kl_p99: figure("kl_p99")?,
            top1: figure("top1")?,
        })
    }
}

/// A setting's figures over the texts, in their order.
struct Row {
    ours: bool,
    setting: &'static str,
    figures: Vec<Figures>,
}

/// What was measured so far, in a file.
struct Results {
    path: PathBuf,
    known: BTreeMap<String, Value>,
}

impl Results {
    fn open(path: PathBuf) -> Result<Self> {
        let known = match std::fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes).with_context(|| path.display().to_string())?,
            Err(_) => BTreeMap::new(),
        };
        Ok(Self { path, known })
    }

    fn figures(&self, key: &str) -> Option<Figures> {
        self.known.get(key).and_then(Figures::of_json)
    }

    /// Adds to what is in the file, where another run may have added too.
    fn keep(&mut self, key: String, value: Value) -> Result<()> {
        self.known.append(&mut Self::open(self.path.clone())?.known);
        self.known.insert(key, value);
        let part = self.path.with_extension("part");
        std::fs::write(&part, serde_json::to_vec_pretty(&self.known)?)?;
        Ok(std::fs::rename(part, &self.path)?)
    }
}

/// What to measure.
struct Plan {
    models: Vec<&'static str>,
    kinds: Vec<&'static str>,
    texts: Vec<&'static Text>,
    windows: usize,
    threads: usize,
    program: Option<PathBuf>,
    repack: bool,
    page_only: bool,
}

impl Plan {
    fn of(args: &[&str]) -> Result<Self> {
        let mut plan = Self {
            models: Vec::new(),
            kinds: Vec::new(),
            texts: Vec::new(),
            windows: 8,
            threads: std::thread::available_parallelism()?.get(),
            program: None,
            repack: false,
            page_only: false,
        };
        let mut args = args.iter().copied();
        while let Some(arg) = args.next() {
            let mut value = || args.next().with_context(|| format!("{arg} needs a value"));
            match arg {
                "--model" => plan.models.push(one_of(MODELS, value()?, |model| model)?),
                "--float" => plan.kinds.push(one_of(float::KINDS, value()?, |kind| kind)?),
                "--text" => {
                    let name = value()?;
                    let text = TEXTS.iter().find(|text| text.name == name);
                    plan.texts.push(text.with_context(|| format!("no such text: {name}"))?);
                }
                "--windows" => plan.windows = value()?.parse::<usize>()?.max(1),
                "--threads" => plan.threads = value()?.parse::<usize>()?.max(1),
                "--program" => plan.program = Some(std::path::absolute(value()?)?),
                "--repack" => plan.repack = true,
                "--page" => plan.page_only = true,
                other => bail!("no such option: {other}"),
            }
        }
        if plan.models.is_empty() {
            plan.models = MODELS.to_vec();
        }
        if plan.kinds.is_empty() {
            plan.kinds = float::KINDS.to_vec();
        }
        if plan.texts.is_empty() {
            plan.texts = TEXTS.iter().filter(|text| text.usual).collect();
        }
        Ok(plan)
    }
}

fn one_of<T: Copy>(known: &'static [T], name: &str, of: impl Fn(T) -> &'static str) -> Result<&'static str> {
    let found = known.iter().map(|&k| of(k)).find(|&k| k == name);
    found.with_context(|| format!("need one of {}, found {name}", known.iter().map(|&k| of(k)).collect::<Vec<_>>().join(", ")))
}

/// `[--model NAME]… [--float KIND]… [--text NAME]… [--windows N] [--threads N] [--program FILE] [--repack] [--page]`
pub fn measure(args: &[&str]) -> Result<()> {
    let plan = Plan::of(args)?;
    let folder = cache_dir()?.join("quality");
    std::fs::create_dir_all(&folder)?;
    let mut results = Results::open(folder.join("results.json"))?;
    if !plan.page_only {
        let program = match &plan.program {
            Some(program) => program.clone(),
            None => {
                run(&mut cargo(&["build", "--locked", "--release", "--package", "bourn-cli"]))?;
                target_dir().join("release/bourn")
            }
        };
        let bourn = Bourn::new(program, plan.threads)?;
        for model in &plan.models {
            for kind in &plan.kinds {
                let measured = Measured { plan: &plan, folder: &folder, model, kind };
                measured.theirs(&mut results)?;
                measured.ours(&bourn, &mut results)?;
                page::write(&plan, &results)?;
            }
        }
    }
    page::write(&plan, &results)
}

/// One float model.
struct Measured<'a> {
    plan: &'a Plan,
    folder: &'a std::path::Path,
    model: &'a str,
    kind: &'a str,
}

impl Measured<'_> {
    fn theirs(&self, results: &mut Results) -> Result<()> {
        for text in &self.plan.texts {
            let mut base = None;
            for (setting, (name, ..)) in peers::SETTINGS.iter().enumerate() {
                let key = their_key(self.plan, self.model, self.kind, text.name, name);
                if results.figures(&key).is_some() {
                    continue;
                }
                eprintln!("quality: {key}");
                let float = float::model(self.model, self.kind, self.folder)?;
                if base.is_none() {
                    let text = texts::file(text, self.folder)?;
                    base = Some(Base::new(&float, &text, self.plan.windows, self.plan.threads)?);
                }
                let (model, bytes) = peers::quantized(&float, setting)?;
                let figures = base.as_ref().context("no base")?.judge(&model, bytes)?;
                results.keep(key, figures.to_json())?;
            }
        }
        Ok(())
    }

    fn ours(&self, bourn: &Bourn, results: &mut Results) -> Result<()> {
        for (setting, (name, ..)) in ours::SETTINGS.iter().enumerate().filter(|(setting, _)| bourn.has(*setting)) {
            let float = float::model(self.model, self.kind, self.folder)?;
            eprintln!("quality: bourn {} {} {name}", self.model, self.kind);
            let image = match bourn.packed(&float, setting, self.plan.repack) {
                Ok(image) => image,
                // A setting that this model cannot have is left out of its table.
                Err(error) => {
                    eprintln!("quality: *** left out: {error:#}");
                    results.known.remove(&our_key(self.model, self.kind, name));
                    continue;
                }
            };
            results.keep(our_key(self.model, self.kind, name), image.sha256.clone().into())?;
            for text in &self.plan.texts {
                let key = image_key(self.plan, &image.sha256, text.name);
                if results.figures(&key).is_none() {
                    let whole = bourn.float(&float)?;
                    let figures = bourn.judge(&image, &whole, &texts::file(text, self.folder)?, self.plan.windows)?;
                    results.keep(key, figures.to_json())?;
                }
            }
        }
        Ok(())
    }
}

fn their_key(plan: &Plan, model: &str, kind: &str, text: &str, setting: &str) -> String {
    format!("llama.cpp {VERSION} | {model} | {kind} | {text} | {} windows | {setting}", plan.windows)
}

/// Which image is ours in a setting.
fn our_key(model: &str, kind: &str, setting: &str) -> String {
    format!("bourn | {model} | {kind} | {setting}")
}

fn image_key(plan: &Plan, sha256: &str, text: &str) -> String {
    format!("image {sha256} | {text} | {} windows", plan.windows)
}

/// What is known of a float model over all texts of the plan; of our settings that come to the same the first.
fn rows(plan: &Plan, results: &Results, model: &str, kind: &str) -> Vec<Row> {
    let mut rows: Vec<Row> = Vec::new();
    let mut add = |ours: bool, setting: &'static str, key: &dyn Fn(&Text) -> String| {
        let figures: Option<Vec<Figures>> = plan.texts.iter().map(|text| results.figures(&key(text))).collect();
        if let Some(figures) = figures.filter(|figures| !ours || rows.iter().all(|row| row.figures != *figures)) {
            rows.push(Row { ours, setting, figures });
        }
    };
    for (setting, ..) in ours::SETTINGS {
        if let Some(sha256) = results.known.get(&our_key(model, kind, setting)).and_then(Value::as_str) {
            add(true, setting, &|text| image_key(plan, sha256, text.name));
        }
    }
    for (setting, ..) in peers::SETTINGS {
        add(false, setting, &|text| their_key(plan, model, kind, text.name, setting));
    }
    rows
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figures(kl_mean: f64) -> Figures {
        Figures {
            bytes_per_token: 90,
            perplexity: 20.5,
            float_perplexity: 20.0,
            kl_mean,
            kl_median: 0.125,
            kl_p99: 1.5,
            top1: 0.75,
        }
    }

    #[test]
    fn a_table_has_what_is_whole_and_each_image_of_ours_once() {
        let plan = Plan::of(&["--windows", "3"]).unwrap();
        let folder = std::env::temp_dir().join(format!("bourn-quality-results-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let path = folder.join("results.json");
        let mut results = Results::open(path.clone()).unwrap();
        for (setting, image) in [("default", "a"), ("8-bit head", "b"), ("4-bit head", "c")] {
            results.keep(our_key("m", "dithered", setting), image.into()).unwrap();
        }
        for text in &plan.texts {
            results.keep(image_key(&plan, "a", text.name), figures(0.25).to_json()).unwrap();
            results.keep(image_key(&plan, "b", text.name), figures(0.25).to_json()).unwrap();
            results.keep(their_key(&plan, "m", "dithered", text.name, "Q8_0"), figures(0.25).to_json()).unwrap();
        }
        // Of one text only.
        results.keep(image_key(&plan, "c", plan.texts[0].name), figures(0.5).to_json()).unwrap();
        let rows = rows(&plan, &Results::open(path).unwrap(), "m", "dithered");
        assert_eq!(rows.iter().map(|row| (row.ours, row.setting)).collect::<Vec<_>>(), [(true, "default"), (false, "Q8_0")]);
        assert_eq!(rows[0].figures, [figures(0.25); 2]);
        std::fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn refuses_what_it_does_not_know() {
        let error = |args: &[&str]| Plan::of(args).err().unwrap().to_string();
        assert_eq!(error(&["--model", "gpt"]), "need one of smollm2-135m-instruct, gemma-3-270m, found gpt");
        assert_eq!(error(&["--windows"]), "--windows needs a value");
        assert_eq!(error(&["--fast"]), "no such option: --fast");
    }
}
