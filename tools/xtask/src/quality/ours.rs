//! Our images of the float weights, judged by `bourn eval`.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context, Result, bail};
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::{Figures, WINDOW};
use crate::process::{command, output};

/// Name, what `bourn pack` is told, and what its help must say for it to be asked.
pub(super) const SETTINGS: &[(&str, &[&str], &str)] = &[
    ("default", &[], ""),
    ("8-bit head", &["--head", "q8"], "q8"),
    ("8-bit head, rounded to nearest", &["--head", "q8", "--method", "rtn"], "gptq"),
    ("precise screened head", &["--head", "precise"], "precise"),
    ("4-bit head", &["--head", "q4"], "q4"),
    ("5 bits", &["--bits", "5"], "--bits"),
    ("8 bits", &["--weights", "q8"], "q8"),
];

/// The program.
pub(super) struct Bourn {
    pub(super) program: PathBuf,
    pub(super) threads: usize,
    help: String,
}

/// An image: what it is called by whatever name it has, and what a token reads of it.
pub(super) struct Packed {
    pub(super) path: PathBuf,
    pub(super) sha256: String,
    pub(super) bytes_per_token: u64,
}

impl Bourn {
    /// Asks the program what it knows.
    pub(super) fn new(program: PathBuf, threads: usize) -> Result<Self> {
        let help = output(command(&program).args(["pack", "--help"]))?;
        Ok(Self { program, threads, help })
    }

    /// Whether this program has the setting.
    pub(super) fn has(&self, setting: usize) -> bool {
        self.help.contains(SETTINGS[setting].2)
    }

    /// The float weights in that setting, packed now if there is no image or a new one is asked for.
    pub(super) fn packed(&self, float: &Path, setting: usize, anew: bool) -> Result<Packed> {
        let (name, args, _) = SETTINGS[setting];
        self.image(float, &name.replace([' ', ','], "-"), args, anew)
    }

    /// The float weights as an image of the same values.
    pub(super) fn float(&self, float: &Path) -> Result<PathBuf> {
        Ok(self.image(float, "float", &["--weights", "f16"], false)?.path)
    }

    fn image(&self, float: &Path, name: &str, args: &[&str], anew: bool) -> Result<Packed> {
        let path = float.with_extension(format!("{name}.bourn"));
        let time = |path: &Path| std::fs::metadata(path).and_then(|file| file.modified());
        if !anew && time(&path).is_ok_and(|packed| time(&self.program).is_ok_and(|built| packed < built)) {
            eprintln!("quality: {name}: packed by an older program (--repack packs anew)");
        }
        if anew || !path.exists() {
            output(command(&self.program).args(["--quiet", "pack"]).arg(float).arg("-o").arg(&path).args(args).arg("--json"))?;
        }
        let inspected = output(command(&self.program).args(["--quiet", "inspect", "--json"]).arg(&path))?;
        let inspected: Value = serde_json::from_str(&inspected)?;
        let bytes_per_token = inspected["bytes_per_token"].as_u64().context("bourn inspect: no bytes_per_token")?;
        let bytes = std::fs::read(&path)?;
        let sha256 = Sha256::digest(&bytes).iter().map(|byte| format!("{byte:02x}")).collect();
        Ok(Packed { path, sha256, bytes_per_token })
    }

    /// An image against the float one, over what llama-perplexity scores.
    pub(super) fn judge(&self, image: &Packed, float: &Path, text: &Path, windows: usize) -> Result<Figures> {
        let (window, score, windows) = (WINDOW.to_string(), (WINDOW / 2 - 1).to_string(), windows.to_string());
        let mut eval = command(&self.program);
        eval.args(["--quiet", "eval", "--json"]).arg(&image.path).arg("--text").arg(text).arg("--against").arg(float);
        eval.args(["--window", &window, "--stride", &window, "--score", &score, "--windows", &windows]);
        eval.args(["--threads", &self.threads.to_string()]).stderr(Stdio::inherit());
        let found: Value = serde_json::from_str(&output(&mut eval)?)?;
        let figure = |key: &str| found[key].as_f64().with_context(|| format!("bourn eval: no {key}"));
        if found["windows"].as_u64().map(|n| n.to_string()) != Some(windows) {
            bail!("{}: only {} windows", text.display(), found["windows"]);
        }
        Ok(Figures {
            bytes_per_token: image.bytes_per_token,
            perplexity: figure("perplexity")?,
            float_perplexity: figure("against_perplexity")?,
            kl_mean: figure("kl_mean")?,
            kl_median: figure("kl_median")?,
            kl_p99: figure("kl_p99")?,
            top1: figure("top1_agreement")?,
        })
    }
}
