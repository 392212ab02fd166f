//! `bourn pack`: a checkpoint into an image.

use crate::args::{Method, Pack};
use crate::models;
use crate::output::{bytes, json, line, round3};
use anyhow::{Context, Result};
use serde_json::json as object;
use std::process::ExitCode;
use std::time::Instant;

/// Packs and reports the loss.
pub fn pack(a: &Pack, quiet: bool) -> Result<ExitCode> {
    let start = Instant::now();
    let checkpoint = models::checkpoint(&a.src, quiet)?;
    let mut options = models::pack_options(a.weights, a.head);
    options.method = a.method.map(|method| match method {
        Method::Gptq => bourn_pack::Method::Gptq,
        Method::Rtn => bourn_pack::Method::Rtn,
    });
    options.bits = a.bits;
    if let Some(path) = &a.calibration {
        let bytes = std::fs::read(path).with_context(|| format!("{}: read", path.display()))?;
        options.calibration = Some(models::utf8(bytes, &path.display().to_string())?.into());
    }
    let report = models::pack(&checkpoint, &a.out, &options, quiet)?;
    if let Some(path) = &a.report {
        let title = format!("{} as {}", a.src, a.out.display());
        std::fs::write(path, report.to_html(&title)).with_context(|| format!("{}: write", path.display()))?;
    }
    let seconds = round3(start.elapsed().as_secs_f64());
    if a.json {
        let tensors: Vec<_> = report
            .tensors
            .iter()
            .map(|t| {
                object!({
                    "name": t.name,
                    "shape": [t.rows, t.cols],
                    "dtype": t.dtype.name(),
                    "bytes": t.bytes,
                    "exact": t.transferred,
                    "relative_squared_error": t.relative_error(),
                })
            })
            .collect();
        json(&object!({
            "image": a.out,
            "weights": options.weights.name(),
            "method": report.method.name(),
            "parameters": report.parameters,
            "file_bytes": report.file_bytes,
            "bytes_per_token": report.bytes_per_token,
            "relative_squared_error": report.body_error(),
            "seconds": seconds,
            "tensors": tensors,
        }))?;
    } else {
        line(&format!(
            "{}: {} ({:.1} M parameters, {} per token, squared error {:.5} of the weights) in {seconds} s",
            a.out.display(),
            bytes(report.file_bytes),
            report.parameters as f64 / 1e6,
            bytes(report.bytes_per_token),
            report.body_error(),
        ))?;
    }
    Ok(ExitCode::SUCCESS)
}
