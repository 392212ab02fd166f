//! What is asked of a board that answers: its own tests, paging against memory, a noisy line, how fast it is.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use anyhow::{Context, Result, anyhow, ensure};
use bourn_protocol::client::Transport;
use bourn_protocol::frame::{MAX_WIRE, encode};
use bourn_protocol::message::{Answer, Done, Form, Generate, Load, Outcome, Request, Stats, Weights};
use bourn_protocol::port::{Written, greedy, prompt_of};
use bourn_protocol::{Client, Error};

/// A prompt in ids that every golden model has.
pub const PROMPT: [u32; 12] = [5, 72, 139, 206, 2, 69, 136, 203, 270, 66, 133, 200];
/// Tokens that are written after it.
pub const TOKENS: u32 = 16;

/// An error of the line, in words.
fn said<R, E: std::fmt::Display>(result: Result<R, Error<E>>) -> Result<R> {
    result.map_err(|error| anyhow!("{error}"))
}

/// A test of the board itself: name, how many there are, how it ended, and why.
fn test<T: Transport<Error: std::fmt::Display>>(
    client: &mut Client<T>,
    index: u16,
    run: bool,
) -> Result<(String, u16, Outcome, String)> {
    let asked = client.ask("self-test", &Request::SelfTest { index, run }, &mut |answer| match answer {
        Answer::Test { of, name, outcome, text, .. } => Some(((*name).to_owned(), *of, *outcome, (*text).to_owned())),
        _ => None,
    });
    said(asked)
}

/// Names of the board's own tests.
///
/// # Errors
/// If the line fails, or the board has more tests than it can number.
pub fn names<T: Transport<Error: std::fmt::Display>>(client: &mut Client<T>) -> Result<Vec<String>> {
    let mut names = Vec::new();
    loop {
        let (name, of, ..) = test(client, u16::try_from(names.len())?, false)?;
        names.push(name);
        if usize::from(of) <= names.len() {
            return Ok(names);
        }
    }
}

/// One of the board's own tests.
///
/// # Errors
/// The board's reason, if it does not pass.
pub fn self_test<T: Transport<Error: std::fmt::Display>>(client: &mut Client<T>, index: u16) -> Result<()> {
    let (_, _, outcome, text) = test(client, index, true)?;
    ensure!(outcome == Outcome::Passed, "{outcome:?}: {text}");
    Ok(())
}

/// The checksum in the open model's superblock, which stands for all of it.
///
/// # Errors
/// If the board has no model, and why, or the line fails.
pub fn model<T: Transport<Error: std::fmt::Display>>(client: &mut Client<T>) -> Result<u64> {
    // Opened anew, so that a board that is still at it is waited for.
    said(client.load(Load::default(), &mut |_, _| ControlFlow::Continue(())))?;
    let found = said(client.ask("info", &Request::Info, &mut |answer| match answer {
        Answer::Info(info) => Some(info.model.map(|model| model.id)),
        _ => None,
    }))?;
    found.context("the board has no model")
}

/// Tokens of the prompt and of the answer by which speed is measured, and how often; as `bourn bench` is asked by the tests of boards with Linux.
const SPEED: (u32, u32, u32) = (128, 64, 3);

fn per_second(tokens: u32, us: u64) -> f64 {
    f64::from(tokens) * 1e6 / us.max(1) as f64
}

/// The middle of three measurements by the board's own clock: `prefill_tok_s`, `decode_tok_s`.
///
/// # Errors
/// If the board has no model, or the line fails.
pub fn speed<T: Transport<Error: std::fmt::Display>>(client: &mut Client<T>) -> Result<BTreeMap<&'static str, f64>> {
    let (n_prompt, n, rounds) = SPEED;
    let mut all = Vec::new();
    for round in 0..rounds {
        // Another first token each time, so that nothing is known from the round before.
        let ids: Vec<u32> = (0..n_prompt).map(|i| PROMPT[(i + round) as usize % PROMPT.len()]).collect();
        let generate = Generate { sum: false, ..Generate::greedy(Form::Ids, n) };
        all.push(said(client.generate(&prompt_of(&ids), &generate, &mut Written::default(), &mut || false))?);
    }
    let middle = |of: fn(&Done) -> f64| {
        let mut found: Vec<f64> = all.iter().map(of).collect();
        found.sort_by(f64::total_cmp);
        found[found.len() / 2]
    };
    Ok(BTreeMap::from([
        ("prefill_tok_s", middle(|done| per_second(done.prompt_tokens - done.reused_tokens, done.prefill_us))),
        ("decode_tok_s", middle(|done| per_second(done.tokens.saturating_sub(1), done.total_us - done.first_token_us))),
    ]))
}

/// Greedy text after [`PROMPT`] with weights there: ids and text, checksum of the logits.
///
/// # Errors
/// If the board has no model, or the line fails.
pub fn written<T: Transport<Error: std::fmt::Display>>(client: &mut Client<T>, weights: Weights) -> Result<(Written, u64)> {
    let load = Load { weights, ..Load::default() };
    said(client.load(load, &mut |_, _| ControlFlow::Continue(())))?;
    let (written, done, sum) = said(greedy(client, &PROMPT, TOKENS))?;
    ensure!(done.tokens == TOKENS, "need {TOKENS} tokens, found {}", done.tokens);
    Ok((written, sum))
}

/// Weights read from the card for every token make the text and the logits that weights in memory make.
///
/// # Errors
/// If they do not.
pub fn paged_is_resident<T: Transport<Error: std::fmt::Display>>(client: &mut Client<T>) -> Result<()> {
    let resident = written(client, Weights::Resident)?;
    let paged = written(client, Weights::Paged)?;
    ensure!(resident == paged, "resident {:016x}, paged {:016x}", resident.1, paged.1);
    Ok(())
}

/// Noise, runs without end, frames that are cut off or changed: the next request is answered.
///
/// # Errors
/// If it is not, or the board did not notice what was broken.
pub fn noise_is_survived<T: Transport<Error: std::fmt::Display>>(client: &mut Client<T>) -> Result<()> {
    let mut wire = [0; MAX_WIRE];
    let hello = encode(9, &Request::Hello { nonce: 1 }, &mut wire).context("a short message")?.to_vec();
    let mut noise: Vec<Vec<u8>> = vec![vec![0x55; 3000], vec![0; 100], hello[..hello.len() / 2].to_vec()];
    for i in 0..hello.len() {
        let mut broken = hello.clone();
        broken[i] ^= 0x10;
        noise.push(broken);
    }
    for bytes in &noise {
        client.transport().write(bytes).map_err(|error| anyhow!("{error}"))?;
        said(client.ask("stats", &Request::Stats, &mut |answer| matches!(answer, Answer::Stats(_)).then_some(())))?;
    }
    let bad = said(client.ask("stats", &Request::Stats, &mut |answer| match answer {
        Answer::Stats(Stats { frames_bad, .. }) => Some(*frames_bad),
        _ => None,
    }))?;
    ensure!(bad as usize >= noise.len() / 2, "need {} broken frames noticed, found {bad}", noise.len() / 2);
    Ok(())
}
