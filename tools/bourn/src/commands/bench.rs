//! `bourn bench`: speed and memory of one model on this machine.

use crate::args::Bench;
use crate::output::{bytes, hinted, json, line, ms, print, round3};
use crate::{gpu, models, ram, signal};
use anyhow::Result;
use bourn::{Finish, GenerateOptions, Speculate};
use bourn_host::{Machine, Pager, machine};
use serde_json::json as object;
use std::ops::ControlFlow;
use std::process::ExitCode;
use std::time::Duration;

/// Time for measuring the memory's read bandwidth.
const BANDWIDTH: Duration = Duration::from_millis(300);

/// Reads a prompt and writes an answer a few times; the best run counts.
pub fn bench(a: &Bench, quiet: bool) -> Result<ExitCode> {
    let model = models::open(&a.model, &a.open, quiet)?;
    let shape = *model.image().shape();
    let mut session_args = a.session.clone();
    session_args.context.get_or_insert(a.prompt.saturating_add(a.generate).min(shape.max_context));
    let draft = models::draft(&a.speculation, &a.open, quiet)?;
    if a.profile && !model.is_on_gpu() {
        return Err(hinted("kernels of the cpu have no clock of their own", "--profile needs --device gpu, and a build with it"));
    }
    let mut session = models::speculating(&model, draft.as_ref(), &session_args, &a.speculation, Speculate::Off, false)?;
    models::announce(&model, &session, quiet);
    // Ids spread over the vocabulary: the speed does not depend on which.
    let prompt: Vec<u32> = (0..a.prompt).map(|i| (u64::from(i) * 7919 % u64::from(shape.vocab)) as u32).collect();
    let options = GenerateOptions { max_tokens: Some(a.generate as usize), ignore_eos: true, ..GenerateOptions::default() };
    let (mut prefill, mut decode, mut first) = (0f64, 0f64, Duration::MAX);
    let (mut read, mut written) = (0, 0);
    let (mut passes, mut drafted, mut accepted) = (1.0, 0, 0);
    for _ in 0..a.repeat {
        session.clear()?;
        let stats = session.generate(&prompt, &options, &mut |_| {
            if signal::stopped() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        let stats = match stats {
            Err(e) if models::was_cancelled(&e) => break,
            stats => stats.map_err(|e| models::failed(&model, e))?,
        };
        if stats.finish == Finish::Cancelled && read > 0 {
            // The runs before it were whole.
            break;
        }
        (read, written) = (stats.prompt_tokens, stats.generated_tokens);
        prefill = prefill.max(stats.prefill_tok_s);
        if stats.decode_tok_s >= decode {
            decode = stats.decode_tok_s;
            (passes, drafted, accepted) = (stats.tokens_per_pass(), stats.drafted, stats.accepted);
        }
        first = first.min(stats.first_token);
        if signal::stopped() {
            break;
        }
    }
    let profile = if a.profile && !signal::stopped() { gpu::profile(&mut session, &prompt)? } else { Vec::new() };
    let peak = machine::peak_rss_bytes();
    let threads = session.threads();
    // Measuring memory takes memory: not under a budget, and not of a GPU that has none left.
    let bandwidth = match (model.is_on_gpu(), a.open.ram) {
        (true, _) => model.gpu_bandwidth().ok().flatten().unwrap_or(0.0),
        (false, None) => Machine::detect().read_bandwidth(threads.decode, BANDWIDTH).last().copied().unwrap_or(0.0),
        (false, Some(_)) => 0.0,
    };
    let per_token = model.image().bytes_per_token();
    let file = model.image().superblock().file_bytes;
    // Mapped or resident, all weights stay in memory: none is streamed from storage for every token.
    let (resident, streamed) = match model.file().pager().map(Pager::plan) {
        Some(plan) => (plan.head_bytes + plan.pinned_bytes, plan.bytes_per_token()),
        None => (file, 0),
    };
    let read_per_token = gpu::bytes_per_token(&session).unwrap_or(per_token);
    let fraction = if bandwidth > 0.0 { decode / passes * read_per_token as f64 / bandwidth } else { 0.0 };
    if a.json {
        json(&object!({
            "isa": model.kernels().isa,
            "device": model.device(),
            "gpu": gpu::stats(&session, &profile),
            "threads": threads.decode,
            "prefill_threads": threads.prefill,
            "prompt_tokens": read,
            "generated_tokens": written,
            "prefill_tok_s": round3(prefill),
            "decode_tok_s": round3(decode),
            "tokens_per_pass": round3(passes),
            "drafted": drafted,
            "accepted": accepted,
            "first_token_ms": ms(first),
            "open_ms": ms(model.opened_in()),
            "peak_rss_bytes": peak,
            "bytes_per_token": per_token,
            "read_bandwidth_gb_s": round3(bandwidth / 1e9),
            "bandwidth_fraction": round3(fraction),
            "resident_bytes": resident,
            "streamed_bytes": streamed,
            "stream": model.file().kind().name(),
            "paged": ram::json(&model),
            "workspace_bytes": session.workspace_bytes(),
        }))?;
    } else {
        line(&format!("open      {:>10.2} ms", ms(model.opened_in())))?;
        line(&format!("prefill   {prefill:>10.1} tok/s ({read} tokens, first token after {:.1} ms)", ms(first)))?;
        let speculated =
            if drafted == 0 { String::new() } else { format!(", {passes:.2} a pass, {accepted} of {drafted} drafts right") };
        line(&format!("decode    {decode:>10.1} tok/s ({written} tokens{speculated})"))?;
        if let Some(text) = gpu::stats_line(&session) {
            line(&text)?;
        }
        if bandwidth > 0.0 {
            line(&format!(
                "read      {:>10} per token, {:.0} % of {:.1} GB/s",
                bytes(read_per_token),
                100.0 * fraction,
                bandwidth / 1e9
            ))?;
        }
        line(&format!("memory    {:>10} peak, image {} {}", bytes(peak), bytes(file), ram::stream_name(&model)))?;
        if let Some(pager) = model.file().pager() {
            let forecast = pager.plan().tokens_per_second(pager.bandwidth()).unwrap_or(f64::INFINITY);
            line(&format!(
                "streamed  {:>10} per token, {:.0} % of the forecast",
                bytes(streamed),
                100.0 * decode / passes / forecast
            ))?;
        }
    }
    if !a.json {
        print(&gpu::table(&profile, bandwidth))?;
    }
    Ok(if signal::stopped() { ExitCode::from(signal::EXIT) } else { ExitCode::SUCCESS })
}
