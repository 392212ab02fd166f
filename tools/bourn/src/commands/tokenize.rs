//! `bourn tokenize`: text to ids and back.

use crate::args::Tokenize;
use crate::models;
use crate::output::{hinted, json, line};
use anyhow::{Context, Result};
use bourn::{EncodeOptions, Model, OpenOptions, Threads};
use serde_json::{Value, json as object};
use std::process::ExitCode;

/// Prints ids, or with `--decode` text, or with `--chat` the rendered conversation and its ids.
pub fn tokenize(a: &Tokenize, quiet: bool) -> Result<ExitCode> {
    // One thread: nothing is computed, and no worker need be started.
    let options = OpenOptions { threads: Some(Threads::both(1)), ..OpenOptions::default() };
    let model = Model::open(&models::image(&a.model, quiet)?, &options)?;
    let listed = |ids: &[u32]| ids.iter().map(u32::to_string).collect::<Vec<_>>().join(",");
    if let Some(ids) = &a.decode {
        let text = model.decode(ids, a.skip_special)?;
        if a.json {
            json(&object!({ "text": text }))?
        } else {
            line(&text)?
        }
        return Ok(ExitCode::SUCCESS);
    }
    if let Some(path) = &a.chat {
        let bytes = std::fs::read(path).with_context(|| format!("{}: read", path.display()))?;
        let value: Value = serde_json::from_slice(&bytes).with_context(|| format!("{}: not JSON", path.display()))?;
        let variables = match value {
            Value::Object(map) if map.contains_key("messages") => map,
            Value::Array(messages) => [("messages".to_owned(), Value::Array(messages))].into_iter().collect(),
            _ => {
                return Err(hinted(
                    format!("{}: need an object with a list `messages`, found none", path.display()),
                    r#"such as {"messages": [{"role": "user", "content": "Hi"}], "add_generation_prompt": true}"#,
                ));
            }
        };
        let rendered = model.render_chat(&variables)?;
        // Templates write every special token themselves.
        let ids = model.encode(&rendered, EncodeOptions { add_special: false, parse_special: true })?;
        if a.json {
            json(&object!({"rendered": rendered, "ids": ids}))?;
        } else {
            line(&rendered)?;
            line(&listed(&ids))?;
        }
        return Ok(ExitCode::SUCCESS);
    }
    let text = match a.text.as_deref() {
        Some("-") => models::utf8(models::stdin()?, "stdin")?,
        other => other.unwrap_or_default().to_owned(),
    };
    let ids = model.encode(&text, EncodeOptions { add_special: a.add_special, parse_special: !a.no_parse_special })?;
    if a.json {
        json(&object!({ "ids": ids }))?
    } else {
        line(&listed(&ids))?
    }
    Ok(ExitCode::SUCCESS)
}
