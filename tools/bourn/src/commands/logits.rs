//! `bourn logits`: the numbers of every position, printed, stored, or summed up in one checksum.

use crate::args::Logits;
use crate::output::{json, line};
use crate::{cache, models, signal};
use anyhow::{Context, Result, bail};
use bourn::Speculate;
use serde_json::json as object;
use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use xxhash_rust::xxh3::Xxh3Default;

/// Positions computed between two looks for a Ctrl-C, where no block is asked for.
const BLOCK: usize = 64;
/// Positions whose logits are computed at once under a RAM budget, where each pass reads the head from the device.
const ROWS: usize = 32;

/// Computes the logits after each id.
pub fn logits(a: &Logits, quiet: bool) -> Result<ExitCode> {
    let model = models::open(&a.model, &a.open, quiet)?;
    models::check_ids(&model, &a.ids)?;
    let mut session = models::many_logits(&model, &models::session_options(&a.session, Speculate::Off), ROWS)?;
    models::announce(&model, &session, quiet);
    let vocab = model.image().shape().vocab as usize;
    let mut file = a.out.as_deref().map(|path| Tensor::create(path, a.ids.len(), vocab)).transpose()?;
    let mut sum = Xxh3Default::new();
    let print = file.is_none() && !a.checksum;
    let mut failed: Result<()> = Ok(());
    let (need, context) = (a.ids.len() as u64, session.context() as u64);
    if need > context {
        return Err(bourn::Error::from(bourn_core::Error::ContextFull { need, context }).into());
    }
    for block in a.ids.chunks(a.session.prefill_block.map_or(BLOCK, |n| n as usize)) {
        let read = session.logits_of_all(block, &mut |pos, logits| {
            if failed.is_err() {
                return;
            }
            failed = (|| {
                let bytes: Vec<u8> = logits.iter().flat_map(|v| v.to_le_bytes()).collect();
                sum.update(&bytes);
                if let Some(file) = &mut file {
                    file.write(&bytes)?;
                }
                if print {
                    json(&object!({"pos": pos, "logsumexp": logsumexp(logits), "top": top(logits, a.top)}))?;
                }
                Ok(())
            })();
        });
        read.map_err(|e| models::failed(&model, e))?;
        if failed.is_err() {
            break;
        }
        if signal::stopped() {
            bail!("stopped");
        }
    }
    failed?;
    if let Some(file) = file {
        file.finish()?;
    }
    let sum = format!("{:016x}", sum.digest());
    if a.json && !print {
        json(&object!({"n": a.ids.len(), "vocab": vocab, "checksum": sum, "out": a.out, "isa": model.kernels().isa}))?;
    } else if a.checksum {
        line(&sum)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// ln Σ exp, in double precision.
pub fn logsumexp(logits: &[f32]) -> f64 {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|&v| f64::from(v - max).exp()).sum();
    f64::from(max) + sum.ln()
}

/// The `k` best `(id, logit)`, best first; of equals the lower id.
fn top(logits: &[f32], k: usize) -> Vec<(usize, f32)> {
    let mut all: Vec<(usize, f32)> = logits.iter().copied().enumerate().collect();
    let order = |a: &(usize, f32), b: &(usize, f32)| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0));
    let k = k.min(all.len());
    if k > 0 && k < all.len() {
        all.select_nth_unstable_by(k - 1, order);
    }
    all.truncate(k);
    all.sort_by(order);
    all
}

/// A safetensors file with one tensor, written row by row and renamed into place when whole.
struct Tensor {
    path: PathBuf,
    partial: PathBuf,
    out: BufWriter<File>,
}

impl Tensor {
    fn create(path: &Path, rows: usize, cols: usize) -> Result<Self> {
        let partial = cache::partial(path);
        let file = File::create(&partial).with_context(|| format!("{}: create", partial.display()))?;
        let header = object!({"logits": {"dtype": "F32", "shape": [rows, cols], "data_offsets": [0, rows * cols * 4]}});
        let mut header = header.to_string();
        while !header.len().is_multiple_of(8) {
            header.push(' ');
        }
        let mut this = Self { path: path.to_owned(), partial, out: BufWriter::with_capacity(1 << 20, file) };
        this.write(&(header.len() as u64).to_le_bytes())?;
        this.write(header.as_bytes())?;
        Ok(this)
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.out.write_all(bytes).with_context(|| format!("{}: write", self.partial.display()))
    }

    fn finish(mut self) -> Result<()> {
        self.out.flush().with_context(|| format!("{}: write", self.partial.display()))?;
        fs::rename(&self.partial, &self.path).with_context(|| format!("{}: rename", self.path.display()))
    }
}

impl Drop for Tensor {
    fn drop(&mut self) {
        // Gone already when it was renamed.
        let _ = fs::remove_file(&self.partial);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_and_sorts() {
        assert!((logsumexp(&[0.0, 0.0]) - std::f64::consts::LN_2).abs() < 1e-12);
        assert!((logsumexp(&[1000.0, 0.0]) - 1000.0).abs() < 1e-9);
        assert_eq!(top(&[1.0, 3.0, 2.0, 3.0], 3), [(1, 3.0), (3, 3.0), (2, 2.0)]);
        assert_eq!(top(&[1.0], 5), [(0, 1.0)]);
        assert_eq!(top(&[1.0, 2.0], 0), []);
    }
}
