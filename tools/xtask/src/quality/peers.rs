//! llama.cpp's quantizations of the float weights, judged by its own llama-perplexity.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context, Result, bail};

use super::gguf::Gguf;
use super::{Figures, WINDOW};
use crate::compare::peer;
use crate::process::{command, output};

/// Name, type, and what llama-quantize is told beyond that.
pub(super) const SETTINGS: &[(&str, &str, &[&str])] = &[
    ("Q4_0, 4-bit head", "q4_0", &["--pure", "--token-embedding-type", "q4_0"]),
    ("Q4_0, 8-bit head", "q4_0", &["--pure", "--token-embedding-type", "q8_0"]),
    ("IQ4_NL, 4-bit head", "iq4_nl", &["--pure", "--token-embedding-type", "iq4_nl"]),
    ("IQ4_NL, 8-bit head", "iq4_nl", &["--pure", "--token-embedding-type", "q8_0"]),
    ("Q4_K_M", "q4_k_m", &[]),
    ("Q5_K_M", "q5_k_m", &[]),
    ("Q8_0", "q8_0", &[]),
];

/// The float weights in that setting, made now if they are missing, and the bytes that a token reads of them.
pub(super) fn quantized(float: &Path, setting: usize) -> Result<(PathBuf, u64)> {
    let (name, kind, args) = SETTINGS[setting];
    let path = float.with_extension(format!("{}.gguf", name.to_lowercase().replace(", ", "-").replace(' ', "-")));
    if !path.exists() {
        let part = path.with_extension("part");
        let mut quantize = command(peer("llama-quantize")?);
        output(quantize.args(args).arg(float).arg(&part).arg(kind).stderr(Stdio::null()))?;
        std::fs::rename(part, &path)?;
    }
    let bytes = Gguf::open(&path)?.bytes_per_token()?;
    Ok((path, bytes))
}

/// A float model's logits over the first windows of a text: a large file that goes when this does.
pub(super) struct Base {
    path: PathBuf,
    text: PathBuf,
    windows: usize,
    threads: usize,
}

impl Base {
    /// Has llama.cpp compute them.
    pub(super) fn new(float: &Path, text: &Path, windows: usize, threads: usize) -> Result<Self> {
        let path = float.with_extension("logits");
        let base = Self { path, text: text.to_owned(), windows, threads };
        base.perplexity(float, &[])?;
        Ok(base)
    }

    /// A quantized model against them.
    pub(super) fn judge(&self, model: &Path, bytes_per_token: u64) -> Result<Figures> {
        let printed = self.perplexity(model, &["--kl-divergence"])?;
        let figure = |name: &str| number(&printed, name).with_context(|| format!("llama-perplexity printed no {name}"));
        Ok(Figures {
            bytes_per_token,
            perplexity: figure("Mean PPL(Q)")?,
            float_perplexity: figure("Mean PPL(base)")?,
            kl_mean: figure("Mean KLD")?,
            kl_median: figure("Median KLD")?,
            kl_p99: figure("99.0% KLD")?,
            top1: figure("Same top p")? / 100.0,
        })
    }

    fn perplexity(&self, model: &Path, args: &[&str]) -> Result<String> {
        let mut perplexity = command(peer("llama-perplexity")?);
        perplexity.args(args).arg("--kl-divergence-base").arg(&self.path).arg("-m").arg(model).arg("-f").arg(&self.text);
        let (window, windows, threads) = (WINDOW.to_string(), self.windows.to_string(), self.threads.to_string());
        perplexity.args(["-c", &window, "-b", &window, "--chunks", &windows, "-t", &threads, "-fit", "off"]);
        let done = perplexity.output().context("cannot start llama-perplexity")?;
        let printed = [&done.stdout[..], &done.stderr[..]].map(String::from_utf8_lossy).concat();
        if !done.status.success() {
            let end: Vec<&str> = printed.lines().rev().take(5).collect();
            bail!("llama-perplexity {}: {}", done.status, end.into_iter().rev().collect::<Vec<_>>().join("\n"));
        }
        Ok(printed)
    }
}

impl Drop for Base {
    fn drop(&mut self) {
        // Gone already where it was never written.
        let _ = std::fs::remove_file(&self.path);
    }
}

/// The number after `name`, any spaces and a colon, at the beginning of a line.
fn number(printed: &str, name: &str) -> Option<f64> {
    let words = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>().join(" ");
    let value = printed.lines().find_map(|line| {
        let (key, value) = line.split_once(':')?;
        (words(key) == name).then_some(value)
    })?;
    value.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_figures_in_what_llama_perplexity_prints() {
        let printed = "Mean PPL(Q)                   :  34.206 ±   1.2\nMean    KLD:   0.275763 ±   0.0021\n\
            99.0%   KLD:   1.51\nMedian  KLD:   0.1706\nSame top p: 70.151 ± 0.374 %\n";
        assert_eq!(number(printed, "Mean PPL(Q)"), Some(34.206));
        assert_eq!(number(printed, "Mean KLD"), Some(0.275763));
        assert_eq!(number(printed, "99.0% KLD"), Some(1.51));
        assert_eq!(number(printed, "Same top p"), Some(70.151));
        assert_eq!(number(printed, "Maximum KLD"), None);
    }
}
