//! `bourn chat`: turns typed in a terminal, answered by the model.

use super::run;
use super::turns::Conversation;
use crate::args::Chat;
use crate::output::{hinted, json, line, note, print};
use crate::prompt_cache::PromptCache;
use crate::{models, signal};
use anyhow::Result;
use bourn::{Finish, GenerateOptions, Speculate, Stats};
use serde_json::json as object;
use std::io;
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
        max_tokens: a.turns.max_tokens.map(|n| n as usize),
        sampling: models::sampling(&model, &a.turns.sampling),
        stop: a.turns.sampling.stop.clone(),
        ignore_eos: false,
    };
    let mut talk = Conversation::new(a.turns.system.as_deref(), quiet);
    while talk.turn()? {
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
        let (cached, loading) = cache.load(&mut session, &model.chat_prompt(&talk.messages)?);
        let mut stats = session.chat(&talk.messages, &options, &mut on_text);
        if let Err(bourn::Error::Core(bourn_core::Error::ContextFull { need, context })) = stats {
            note(
                quiet,
                &format!("the conversation needs {need} positions, the context has {context}: forgetting what came before"),
            );
            talk.forget_earlier();
            stats = session.chat(&talk.messages, &options, &mut on_text);
        }
        let stats = match stats {
            Ok(stats) => Stats { first_token: stats.first_token + loading, ..stats },
            Err(bourn::Error::Core(bourn_core::Error::ContextFull { need, context })) => {
                note(quiet, &format!("the message alone needs {need} positions, the context has {context}"));
                if a.json {
                    json(&object!({"text": "", "ids": [], "finish": run::finish(Finish::ContextFull)}))?;
                }
                talk.forget();
                continue;
            }
            Err(e) if models::was_cancelled(&e) => {
                // What was written stands; the model reads it again with the next turn.
                line("")?;
                signal::clear();
                talk.answered(&answer);
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
            note(quiet || !talk.terminal, &run::summary(&stats));
        }
        if stats.finish == Finish::Cancelled {
            signal::clear();
        }
        cache.save(&session, session.tokens().len(), false);
        talk.answered(&answer);
    }
    cache.save(&session, session.tokens().len(), true);
    Ok(ExitCode::SUCCESS)
}
