//! `bourn run`: a prompt in, text out.

use super::turns;
use crate::args::Run;
use crate::output::{json, line, ms, note, print, round3};
use crate::prompt_cache::PromptCache;
use crate::{models, ram, signal};
use anyhow::Result;
use bourn::{EncodeOptions, Finish, GenerateOptions, Model, Speculate, Stats};
use bourn_host::machine;
use serde_json::json as object;
use std::io;
use std::ops::ControlFlow;
use std::process::ExitCode;

/// Generates; Ctrl-C ends the line, prints what it took and exits with status 130.
pub fn run(a: &Run, quiet: bool) -> Result<ExitCode> {
    let model = models::open(&a.model, &a.open, quiet)?;
    let prompt = prompt(&model, a)?;
    models::check_ids(&model, &prompt)?;
    let mut cache = PromptCache::new(a.prompt_cache.as_deref(), quiet);
    let draft = models::draft(&a.speculation, &a.open, quiet)?;
    let mut session =
        models::speculating(&model, draft.as_ref(), &a.session, &a.speculation, Speculate::Auto, cache.asked_for())?;
    models::announce(&model, &session, quiet);
    let options = GenerateOptions {
        max_tokens: a.ask.max_tokens.map(|n| n as usize),
        sampling: models::sampling(&model, &a.ask.sampling),
        stop: a.ask.sampling.stop.clone(),
        ignore_eos: a.ask.ignore_eos,
    };
    let mut text = String::new();
    let mut write: io::Result<()> = Ok(());
    let (cached, loading) = cache.load(&mut session, &prompt);
    let stats = session.generate_from(&prompt, &options, &mut |piece| {
        if a.json {
            text.push_str(piece);
        } else {
            write = print(piece);
        }
        if signal::stopped() || write.is_err() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    let mut stats = match stats {
        Ok(stats) => stats,
        Err(e) if models::was_cancelled(&e) => {
            line("")?;
            note(quiet, "cancelled while weights were read");
            return Ok(ExitCode::from(signal::EXIT));
        }
        Err(e) => return Err(models::failed(&model, e)),
    };
    stats.first_token += loading;
    write?;
    if a.json {
        json(&object!({
            "text": text,
            "ids": session.answer(),
            "prompt_tokens": stats.prompt_tokens,
            "generated_tokens": stats.generated_tokens,
            "cached_tokens": cached,
            "first_token_ms": ms(stats.first_token),
            "prefill_tok_s": round3(stats.prefill_tok_s),
            "decode_tok_s": round3(stats.decode_tok_s),
            "tokens_per_pass": round3(stats.tokens_per_pass()),
            "drafted": stats.drafted,
            "accepted": stats.accepted,
            "peak_rss_bytes": machine::peak_rss_bytes(),
            "bytes_per_token": model.image().bytes_per_token(),
            "isa": model.kernels().isa,
            "device": model.device(),
            "threads": session.threads().decode,
            "finish": finish(stats.finish),
            "stream": ram::json(&model),
        }))?;
    } else {
        line("")?;
        note(quiet, &summary(&stats));
    }
    cache.save(&session, prompt.len(), false);
    Ok(if stats.finish == Finish::Cancelled { ExitCode::from(signal::EXIT) } else { ExitCode::SUCCESS })
}

/// What a generation took, in a line.
pub fn summary(s: &Stats) -> String {
    let speculated = match s.drafted {
        0 => String::new(),
        n => format!(" ({:.2} a pass, {} of {n} drafts right)", s.tokens_per_pass(), s.accepted),
    };
    format!(
        "{} tokens read at {:.1}/s, first token after {:.1} ms, {} written at {:.1}/s{speculated}, {}, peak {}",
        s.prompt_tokens,
        s.prefill_tok_s,
        ms(s.first_token),
        s.generated_tokens,
        s.decode_tok_s,
        finish(s.finish),
        crate::output::bytes(machine::peak_rss_bytes()),
    )
}

/// Why it ended, in a word.
pub fn finish(f: Finish) -> &'static str {
    match f {
        Finish::EndOfText => "end of text",
        Finish::StopString => "stop string",
        Finish::Length => "length",
        Finish::ContextFull => "context full",
        Finish::Cancelled => "cancelled",
    }
}

/// The ids to begin with: given, or the text through the chat template where the model has one and `--raw` was not said.
fn prompt(model: &Model, a: &Run) -> Result<Vec<u32>> {
    if let Some(ids) = &a.ask.ids {
        return Ok(ids.clone());
    }
    let text = turns::text(&a.ask)?;
    if a.ask.raw || !model.has_chat_template() {
        return Ok(model.encode(&text, EncodeOptions { add_special: true, parse_special: true })?);
    }
    Ok(model.chat_prompt(&turns::messages(&a.ask, &text))?)
}
