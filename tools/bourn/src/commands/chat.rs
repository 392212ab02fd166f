//! `bourn chat`: turns typed in a terminal, answered by the model.

use super::run;
use crate::args::Chat;
use crate::output::{hinted, json, line, note, print};
use crate::prompt_cache::PromptCache;
use crate::{models, signal};
use anyhow::{Context, Result};
use bourn::{Finish, GenerateOptions, Message, Speculate, Stats};
use serde_json::json as object;
use std::io::{self, BufRead, IsTerminal};
use std::ops::ControlFlow;
use std::process::ExitCode;

/// Talks until the input ends. Ctrl-C ends an answer; at the prompt a second one ends the program.
pub fn chat(a: &Chat, quiet: bool) -> Result<ExitCode> {
    let model = models::open(&a.model, &a.open, quiet)?;
    if !model.has_chat_template() {
        return Err(hinted(
            format!("{}: need a chat template, found none: a base model?", a.model),
            "to write on from a text: bourn run MODEL TEXT",
        ));
    }
    let mut cache = PromptCache::new(a.prompt_cache.as_deref(), quiet);
    let draft = models::draft(&a.speculation, &a.open, quiet)?;
    let mut session =
        models::speculating(&model, draft.as_ref(), &a.session, &a.speculation, Speculate::Auto, cache.asked_for())?;
    models::announce(&model, &session, quiet);
    let options = GenerateOptions {
        max_tokens: a.max_tokens.map(|n| n as usize),
        sampling: models::sampling(&model, &a.sampling),
        stop: a.sampling.stop.clone(),
        ignore_eos: false,
    };
    let terminal = io::stdin().is_terminal() && io::stdout().is_terminal();
    if terminal {
        note(quiet, "/clear forgets the conversation, /exit or Ctrl-D ends it, Ctrl-C ends an answer");
    }
    let system = || a.system.iter().map(|s| Message::new("system", s)).collect::<Vec<_>>();
    let mut messages = system();
    let mut input = io::stdin().lock();
    loop {
        if terminal {
            print("> ")?;
        }
        let mut bytes = Vec::new();
        if input.read_until(b'\n', &mut bytes).context("stdin: read")? == 0 {
            break;
        }
        let text = models::utf8(bytes, "stdin")?;
        match text.trim() {
            "" => continue,
            "/exit" | "/quit" => break,
            "/clear" => {
                messages = system();
                continue;
            }
            said => messages.push(Message::new("user", said)),
        }
        signal::clear();
        let mut answer = String::new();
        let mut write: io::Result<()> = Ok(());
        let mut on_text = |piece: &str| {
            answer.push_str(piece);
            if !a.json {
                write = print(piece);
            }
            if signal::stopped() || write.is_err() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        };
        let (cached, loading) = cache.load(&mut session, &model.chat_prompt(&messages)?);
        let mut stats = session.chat(&messages, &options, &mut on_text);
        if let Err(bourn::Error::Core(bourn_core::Error::ContextFull { need, context })) = stats {
            note(
                quiet,
                &format!("the conversation needs {need} positions, the context has {context}: forgetting what came before"),
            );
            let said = messages.pop();
            messages = system();
            messages.extend(said);
            stats = session.chat(&messages, &options, &mut on_text);
        }
        let stats = match stats {
            Ok(stats) => Stats { first_token: stats.first_token + loading, ..stats },
            Err(bourn::Error::Core(bourn_core::Error::ContextFull { need, context })) => {
                note(quiet, &format!("the message alone needs {need} positions, the context has {context}"));
                if a.json {
                    json(&object!({"text": "", "ids": [], "finish": run::finish(Finish::ContextFull)}))?;
                }
                messages = system();
                continue;
            }
            Err(e) if models::was_cancelled(&e) => {
                // What was written stands; the model reads it again with the next turn.
                line("")?;
                signal::clear();
                messages.push(Message::new("assistant", &answer));
                continue;
            }
            Err(e) => return Err(models::failed(&model, e)),
        };
        write?;
        if a.json {
            json(
                &object!({"text": answer, "ids": session.answer(), "finish": run::finish(stats.finish), "cached_tokens": cached}),
            )?;
        } else {
            line("")?;
            note(quiet || !terminal, &run::summary(&stats));
        }
        if stats.finish == Finish::Cancelled {
            signal::clear();
        }
        cache.save(&session, session.tokens().len(), false);
        messages.push(Message::new("assistant", &answer));
    }
    cache.save(&session, session.tokens().len(), true);
    Ok(ExitCode::SUCCESS)
}
