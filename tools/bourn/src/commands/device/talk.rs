//! Chat and run: the prompt is made here with the model's own template, which the board keeps; the answer comes token by token.

use super::link::Board;
use crate::args::device::Run;
use crate::args::{Sampling, Turns};
use crate::commands::turns::{self, Conversation};
use crate::output::{hinted, json, line, note, print, round3};
use crate::signal;
use anyhow::Result;
use bourn::Message;
use bourn::stop::{Held, StopFilter};
use bourn::template::Template;
use bourn_protocol::message::{Answer, Done, Finish, Form, Generate, Model, Part, Request};
use bourn_protocol::port::Written;
use serde_json::{Map, Value, json as object};
use std::io;
use std::ops::ControlFlow;
use std::process::ExitCode;

/// How the model turns a conversation into a prompt.
struct Prompts {
    template: Option<Template>,
    specials: [(&'static str, String); 2],
}

impl Prompts {
    fn read(board: &mut Board) -> Result<Self> {
        let source = board.read_part(Part::ChatTemplate)?;
        let template = if source.is_empty() { None } else { Some(Template::new(&source)?) };
        let specials = [("bos_token", board.read_part(Part::Bos)?), ("eos_token", board.read_part(Part::Eos)?)];
        Ok(Self { template, specials })
    }

    fn render(&self, template: &Template, messages: &[Message]) -> Result<String> {
        let messages: Vec<Value> = messages.iter().map(|m| object!({"role": m.role, "content": m.content})).collect();
        let mut variables = Map::new();
        for (name, text) in self.specials.iter().filter(|(_, text)| !text.is_empty()) {
            variables.insert((*name).to_owned(), text.as_str().into());
        }
        variables.insert("messages".to_owned(), messages.into());
        variables.insert("add_generation_prompt".to_owned(), true.into());
        Ok(template.render(&variables)?)
    }
}

/// The open model; an error that says why there is none.
fn model(board: &mut Board) -> Result<Model> {
    let (model, trouble) = board.ask("info", &Request::Info, &mut |answer| match answer {
        Answer::Info(info) => Some((info.model, info.trouble.to_owned())),
        _ => None,
    })?;
    model.ok_or_else(|| hinted(format!("no model on the board: {trouble}"), "to send one: bourn device LINE flash IMAGE"))
}

/// How to write: as the authors of the model recommend where nothing else is said.
fn options(model: &Model, s: &Sampling, max_tokens: Option<u32>, form: Form) -> Generate {
    Generate {
        prompt_bytes: 0,
        prompt_crc: 0,
        form,
        max_tokens: max_tokens.unwrap_or(0),
        temperature: s.temperature.unwrap_or(model.temperature),
        top_k: s.top_k.unwrap_or(model.top_k),
        top_p: s.top_p.unwrap_or(model.top_p),
        min_p: s.min_p.unwrap_or(model.min_p),
        repetition_penalty: s.repetition_penalty.unwrap_or(model.repetition_penalty),
        seed: s.seed,
        ignore_eos: false,
        sum: false,
    }
}

/// An answer as the user sees it.
struct Shown {
    text: String,
    done: Done,
    written: Written,
    finish: &'static str,
}

/// Generates, shows text as it comes unless `hide`, ends at a stop string. None if the prompt is longer than the context.
fn answer(board: &mut Board, prompt: &[u8], options: &Generate, stop: &[String], hide: bool) -> Result<Option<Shown>> {
    let filter = StopFilter::new(stop);
    let (mut text, mut held, mut stopped) = (String::new(), String::new(), false);
    let mut write: io::Result<()> = Ok(());
    let mut show = |piece: &str, text: &mut String| {
        text.push_str(piece);
        if !hide && write.is_ok() {
            write = print(piece);
        }
        write.is_ok()
    };
    let result = board.generate(prompt, options, &mut |piece| {
        if stopped {
            return ControlFlow::Break(());
        }
        held.push_str(piece);
        match filter.judge(&held) {
            Held::Stop(at) => {
                stopped = true;
                show(&held[..at], &mut text);
                ControlFlow::Break(())
            }
            Held::Free(n) => {
                let free: String = held.drain(..n).collect();
                if show(&free, &mut text) { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
            }
        }
    })?;
    let Some((done, written)) = result else { return Ok(None) };
    if !stopped {
        show(&held, &mut text);
    }
    write?;
    let finish = if stopped { "stop string" } else { finish(done.finish) };
    Ok(Some(Shown { text, done, written, finish }))
}

const fn finish(f: Finish) -> &'static str {
    match f {
        Finish::EndOfText => "end of text",
        Finish::Length => "length",
        Finish::ContextFull => "context full",
        Finish::Cancelled => "cancelled",
    }
}

fn per_second(n: u32, micros: u64) -> f64 {
    if n == 0 || micros == 0 { 0.0 } else { f64::from(n) * 1e6 / micros as f64 }
}

/// Speeds in tokens per second by the board's clock: reading the prompt, writing after the first token.
fn speeds(d: &Done) -> (f64, f64) {
    let prefill = per_second(d.prompt_tokens - d.reused_tokens.min(d.prompt_tokens), d.prefill_us);
    (prefill, per_second(d.tokens.saturating_sub(1), d.total_us.saturating_sub(d.first_token_us)))
}

fn summary(s: &Shown) -> String {
    let (prefill, decode) = speeds(&s.done);
    format!(
        "{} tokens read at {prefill:.1}/s ({} known), first token after {:.1} ms, {} written at {decode:.1}/s, {}",
        s.done.prompt_tokens,
        s.done.reused_tokens,
        s.done.first_token_us as f64 / 1e3,
        s.done.tokens,
        s.finish
    )
}

/// Keys as `bourn run --json` has them.
fn told(s: &Shown, sum: Option<u64>) -> Value {
    let (prefill, decode) = speeds(&s.done);
    object!({
        "text": s.text,
        "ids": s.written.ids,
        "prompt_tokens": s.done.prompt_tokens,
        "generated_tokens": s.done.tokens,
        "cached_tokens": s.done.reused_tokens,
        "first_token_ms": s.done.first_token_us as f64 / 1e3,
        "prefill_tok_s": round3(prefill),
        "decode_tok_s": round3(decode),
        "finish": s.finish,
        "checksum": sum.map(|sum| format!("{sum:016x}")),
    })
}

/// One prompt. Ctrl-C ends the answer on the board too (exit status 130).
pub fn run(board: &mut Board, a: &Run, as_json: bool) -> Result<ExitCode> {
    let model = model(board)?;
    let special = Form::Text { add_special: true, parse_special: true };
    let ask = &a.ask;
    let (prompt, form) = match &ask.ids {
        Some(ids) => (ids.iter().flat_map(|id| id.to_le_bytes()).collect(), Form::Ids),
        None => {
            let text = turns::text(ask)?;
            let prompts = Prompts::read(board)?;
            match &prompts.template {
                Some(template) if !ask.raw => {
                    // Templates write every special token themselves.
                    let form = Form::Text { add_special: false, parse_special: true };
                    (prompts.render(template, &turns::messages(ask, &text))?.into_bytes(), form)
                }
                _ => (text.into_bytes(), special),
            }
        }
    };
    let options =
        Generate { ignore_eos: ask.ignore_eos, sum: a.checksum, ..options(&model, &ask.sampling, ask.max_tokens, form) };
    let shown = answer(board, &prompt, &options, &ask.sampling.stop, as_json)?;
    let shown = shown.ok_or_else(|| {
        let context = model.context;
        hinted(
            format!("the prompt is longer than the context of {context} positions, or than {} bytes", model.prompt_bytes),
            "a longer one, if the board has the memory: bourn device LINE load --context N",
        )
    })?;
    let mut sum = None;
    if a.checksum {
        sum = Some(board.ask("sum", &Request::Sum, &mut |answer| match answer {
            Answer::Sum { sum, .. } => Some(*sum),
            _ => None,
        })?);
    }
    if as_json {
        json(&told(&shown, sum))?;
    } else {
        line("")?;
        if let Some(sum) = sum {
            line(&format!("{sum:016x}"))?;
        }
        note(board.quiet, &summary(&shown));
    }
    let cancelled = shown.done.finish == Finish::Cancelled && shown.finish != "stop string";
    Ok(if cancelled { ExitCode::from(signal::EXIT) } else { ExitCode::SUCCESS })
}

/// Talks until the input ends, as `bourn chat` does.
pub fn chat(board: &mut Board, a: &Turns, as_json: bool) -> Result<ExitCode> {
    let model = model(board)?;
    let prompts = Prompts::read(board)?;
    let Some(template) = &prompts.template else {
        return Err(hinted(
            "need a chat template, found none: a base model?",
            "to write on from a text: bourn device LINE run TEXT",
        ));
    };
    let quiet = board.quiet;
    note(quiet, &format!("board={} context={}", board.name, model.context));
    let form = Form::Text { add_special: false, parse_special: true };
    let options = options(&model, &a.sampling, a.max_tokens, form);
    let mut talk = Conversation::new(a.system.as_deref(), quiet);
    while talk.turn()? {
        signal::clear();
        let mut shown = answer(board, prompts.render(template, &talk.messages)?.as_bytes(), &options, &a.sampling.stop, as_json)?;
        if shown.is_none() && talk.forget_earlier() {
            note(
                quiet,
                &format!("the conversation is longer than the context of {}: forgetting what came before", model.context),
            );
            shown = answer(board, prompts.render(template, &talk.messages)?.as_bytes(), &options, &a.sampling.stop, as_json)?;
        }
        let Some(shown) = shown else {
            note(quiet, &format!("the message alone is longer than the context of {}", model.context));
            if as_json {
                json(&object!({"text": "", "ids": [], "finish": finish(Finish::ContextFull)}))?;
            }
            talk.forget();
            continue;
        };
        if as_json {
            json(&told(&shown, None))?;
        } else {
            line("")?;
            note(quiet || !talk.terminal, &summary(&shown));
        }
        signal::clear();
        talk.answered(&shown.text);
    }
    Ok(ExitCode::SUCCESS)
}
