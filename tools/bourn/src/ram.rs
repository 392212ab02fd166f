//! What a RAM budget comes to: the plan as text and JSON, the forecast that a run prints before it starts, what was read.

use crate::output::{bytes, round3};
use bourn::{Model, RamPlan};
use bourn_format::{Image, SegmentKind};
use serde_json::{Value, json as object};
use std::fmt::Write;

/// The stream in the line that every run prints first: `mapped`, `resident`, `paged(64 MiB)`.
pub fn stream_name(model: &Model) -> String {
    match model.file().pager() {
        Some(pager) => format!("paged({})", mib(pager.plan().budget)),
        None => model.file().kind().name().to_owned(),
    }
}

/// Bytes in binary units, as budgets are given.
pub fn mib(n: u64) -> String {
    let mib = n as f64 / (1 << 20) as f64;
    if mib.fract() == 0.0 { format!("{mib:.0} MiB") } else { format!("{mib:.1} MiB") }
}

/// What a run under a budget will reach; nothing without one.
pub fn forecast(model: &Model) -> Option<String> {
    let pager = model.file().pager()?;
    let plan = pager.plan();
    let context = format!("context {} of {}", plan.context, model.image().shape().max_context);
    let device = pager.device().unwrap_or("the file");
    Some(match plan.tokens_per_second(pager.bandwidth()) {
        Some(speed) => format!(
            "streams {}{} per token from {device} at {}/s{}: about {} tok/s; {context}{}",
            if plan.row_bytes > 0 { "up to " } else { "" },
            bytes(plan.bytes_per_token()),
            bytes(pager.bandwidth() as u64),
            if pager.is_direct() { "" } else { " (through the page cache)" },
            rate(speed),
            // A pass that verifies drafts reads the same bytes.
            if plan.logit_rows >= 4 { format!("; 4-token verification: at most {}", rate(4.0 * speed)) } else { String::new() },
        ),
        None => format!("streams nothing: {} of weights fit in memory; {context}", bytes(plan.pinned_bytes)),
    })
}

/// A speed with as many digits as it deserves.
fn rate(speed: f64) -> String {
    if speed < 10.0 { format!("{speed:.2}") } else { format!("{speed:.0}") }
}

/// The stream's part of a result in JSON; null without a budget.
pub fn json(model: &Model) -> Value {
    let Some(pager) = model.file().pager() else { return Value::Null };
    let (plan, stats) = (pager.plan(), pager.stats());
    object!({
        "ram_bytes": plan.budget,
        "planned_bytes": plan.total_bytes(),
        "pinned_bytes": plan.pinned_bytes,
        "streamed_bytes": plan.streamed_bytes,
        "row_bytes": plan.row_bytes,
        "ring_bytes": plan.ring_bytes,
        "context": plan.context,
        "prefill_block": plan.prefill_block,
        "device": pager.device(),
        "direct": pager.is_direct(),
        "reader": pager.reader(),
        "device_mb_s": round3(pager.bandwidth() / 1e6),
        "forecast_tok_s": plan.tokens_per_second(pager.bandwidth()).map(round3),
        "read_bytes": stats.read_bytes,
        "retries": stats.retries,
        "rereads": stats.rereads,
        "misses": stats.misses,
        "check_s": round3(stats.check_seconds),
        "read_s": round3(stats.read_seconds),
        "wait_s": round3(stats.wait_seconds),
    })
}

/// A plan in JSON.
pub fn plan_json(image: &Image<'_>, plan: &RamPlan) -> Value {
    object!({
        "ram_bytes": plan.budget,
        "planned_bytes": plan.total_bytes(),
        "program_bytes": plan.program_bytes,
        "head_bytes": plan.head_bytes,
        "workspace_bytes": plan.workspace_bytes,
        "sampler_bytes": plan.sampler_bytes,
        "tiles_bytes": plan.tiles_bytes(),
        "ring_bytes": plan.ring_bytes,
        "pinned_bytes": plan.pinned_bytes,
        "streamed_bytes": plan.streamed_bytes,
        "row_bytes": plan.row_bytes,
        "context": plan.context,
        "prefill_block": plan.prefill_block,
        "pinned": plan.pinned.iter().map(|&i| segment_name(image, i)).collect::<Vec<_>>(),
        "streamed": plan.streamed.iter().map(|&i| segment_name(image, i)).collect::<Vec<_>>(),
    })
}

/// A plan in lines.
pub fn plan_text(image: &Image<'_>, plan: &RamPlan) -> String {
    let mut out = format!("within {}: context {}, prefill in blocks of {}\n", mib(plan.budget), plan.context, plan.prefill_block);
    let rows = [
        ("program", plan.program_bytes),
        ("head", plan.head_bytes),
        ("workspace", plan.workspace_bytes),
        ("sampler", plan.sampler_bytes),
        ("tiles", plan.tiles_bytes()),
        ("ring", plan.ring_bytes),
        ("pinned", plan.pinned_bytes),
        ("in all", plan.total_bytes()),
    ];
    for (what, n) in rows {
        let _ = writeln!(out, "  {what:<10}{:>11}", mib((n as f64 / (1 << 20) as f64 * 10.0).round() as u64 * (1 << 20) / 10));
    }
    let names = |list: &[usize]| list.iter().map(|&i| segment_name(image, i)).collect::<Vec<_>>().join(" ");
    let _ = writeln!(out, "pinned: {}", names(&plan.pinned));
    let _ = writeln!(out, "streamed in this order, {} per token: {}", bytes(plan.streamed_bytes), names(&plan.streamed));
    if plan.row_bytes > 0 {
        let _ = writeln!(out, "rows of the head's candidates: up to {} per token", bytes(plan.row_bytes));
    }
    for speed in [25, 90, 400, 1000] {
        if let Some(rate_of) = plan.tokens_per_second(f64::from(speed) * 1e6) {
            let _ = writeln!(out, "  a device of {speed:>4} MB/s: at most {} tok/s", rate(rate_of));
        }
    }
    out
}

/// A segment in a word: `attn3`, `ffn3`, `norm`, `head12`.
fn segment_name(image: &Image<'_>, i: usize) -> String {
    let s = image.segment(i);
    match s.kind {
        SegmentKind::Embed => format!("embed{}", s.layer),
        SegmentKind::Attention => format!("attn{}", s.layer),
        SegmentKind::FeedForward => format!("ffn{}", s.layer),
        SegmentKind::FinalNorm => "norm".to_owned(),
        SegmentKind::Head => format!("head{}", s.layer),
        SegmentKind::Screen => "screen".to_owned(),
        SegmentKind::ScreenCodes => format!("codes{}", s.layer),
    }
}
