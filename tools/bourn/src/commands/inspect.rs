//! `bourn inspect`: what an image holds.

use crate::args::{self, Inspect};
use crate::output::{bytes, json, print};
use crate::{models, ram};
use anyhow::{Context, Result};
use bourn::{KvDtype, RamPlan, StreamKind};
use bourn_format::{Image, Role};
use bourn_host::stream::page_bytes;
use bourn_host::{ImageFile, RamOptions};
use serde_json::{Value, json as object};
use std::fmt::Write;
use std::process::ExitCode;

/// Shows an image; with `--verify` every page is checked first.
pub fn inspect(a: &Inspect, quiet: bool) -> Result<ExitCode> {
    let path = models::image(&a.model, quiet)?;
    let file = ImageFile::open(&path, StreamKind::Mapped)?;
    if a.verify {
        file.check_all().with_context(|| path.display().to_string())?;
    }
    let (image, shape) = (file.image(), file.image().shape());
    if let Some(budget) = a.ram {
        return plan(image, budget, a);
    }
    let tensors: Vec<_> = (0..image.n_tensors()).map(|i| image.tensor(i)).collect();
    if a.json {
        let list: Vec<Value> = tensors
            .iter()
            .map(|t| object!({"name": t.name, "shape": [t.rows, t.cols], "dtype": t.dtype.name(), "bytes": t.bytes}))
            .collect();
        let provenance: Value = serde_json::from_str(image.provenance()).unwrap_or_else(|_| image.provenance().into());
        json(&object!({
            "format_version": image.superblock().version,
            "family": shape.family.name(),
            "parameters": image.parameters(),
            "file_bytes": image.superblock().file_bytes,
            "bytes_per_token": image.bytes_per_token(),
            "layers": shape.n_layers,
            "hidden": shape.hidden,
            "heads": shape.n_heads,
            "kv_heads": shape.n_kv_heads,
            "head_dim": shape.head_dim,
            "ffn": shape.ffn,
            "vocab": shape.vocab,
            "context": shape.max_context,
            "window": shape.window,
            "tied": shape.tied,
            "screen": image.screen().map(|s| object!({"bits_per_row": 4 * s.n_subs(), "candidates": s.candidates(), "margin": s.margin()})),
            "tokenizer": image.tokenizer().is_some(),
            "chat_template": image.chat_template().is_some(),
            "verified": a.verify,
            "tensors": list,
            "license": image.license(),
            "provenance": provenance,
        }))?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut out = String::new();
    let _ = writeln!(
        out,
        "{}: bourn image v{}, {}",
        path.display(),
        image.superblock().version,
        bytes(image.superblock().file_bytes)
    );
    let _ = writeln!(
        out,
        "{}: {:.1} M parameters, {} layers, hidden {}, heads {}/{} of {}, ffn {}, vocab {}, context {}",
        shape.family.name(),
        image.parameters() as f64 / 1e6,
        shape.n_layers,
        shape.hidden,
        shape.n_heads,
        shape.n_kv_heads,
        shape.head_dim,
        shape.ffn,
        shape.vocab,
        shape.max_context
    );
    let _ = writeln!(out, "{} read per token", bytes(image.bytes_per_token()));
    if let Some(s) = image.screen() {
        let bits = 4 * s.n_subs();
        let _ = writeln!(
            out,
            "screened head: {bits} bits of every row, then at most {} rows exactly, of scores within {} of the best",
            s.candidates(),
            s.margin()
        );
    }
    let _ = writeln!(out, "licence: {}", image.license().lines().next().unwrap_or("not stated"));
    if a.verify {
        let _ = writeln!(out, "all {} pages match their checksums", image.n_pages());
    }
    for t in &tensors {
        let _ =
            writeln!(out, "{:>5} {:>14} {:>10}  {}", t.dtype.name(), format!("{}x{}", t.rows, t.cols), bytes(t.bytes), t.name);
    }
    print(&out)?;
    Ok(ExitCode::SUCCESS)
}

/// Shows what is pinned and what streamed within a budget.
fn plan(image: &Image<'_>, budget: u64, a: &Inspect) -> Result<ExitCode> {
    let float = image.layer(0).get(Role::Down).is_some_and(|t| !t.dtype.is_quantized());
    let kv = a.session.kv.map_or(if float { KvDtype::F32 } else { KvDtype::F16 }, args::Kv::dtype);
    let options = RamOptions {
        context: a.session.context.map(|n| n as usize),
        prefill_block: a.session.prefill_block.map(|n| n as usize),
        page: page_bytes(),
        ..RamOptions::new(budget, kv)
    };
    let plan = RamPlan::new(image, &options)?;
    if a.json {
        json(&ram::plan_json(image, &plan))?;
    } else {
        print(&ram::plan_text(image, &plan))?;
    }
    Ok(ExitCode::SUCCESS)
}
