//! `bourn eval`: perplexity of a text, and how far the image is from the float model.
//!
//! Windows do not overlap. Where the model's template begins a text with a token, a window is that token and `window − 1`
//! tokens of text, all of which are scored; else `window` tokens of text, of which all but the first are scored. The
//! incomplete last window is dropped.
//!
//! With `--stride N` a window begins at every N-th token of the text (the token that begins a text counts as its first, and takes
//! the first place of every window), and only its last predictions are scored: N of them, or as many as `--score` says. With
//! N below the window every token is so predicted once, from at least `window − N` others; `--window 512 --stride 512
//! --score 255` scores what llama-perplexity scores with `-c 512`: the second half of windows side by side.

use crate::args::Eval;
use crate::commands::logits::logsumexp;
use crate::output::{bar, hinted, json, line};
use crate::{models, signal};
use anyhow::{Context, Result, bail};
use bourn::{EncodeOptions, Model, Session, SessionOptions, Speculate};
use serde_json::json as object;
use std::process::ExitCode;

/// Positions whose logits of both models are held at once.
const BLOCK: usize = 32;

/// Sums over the scored positions.
#[derive(Default)]
struct Score {
    scored: usize,
    nll: f64,
    reference_nll: f64,
    kl: Vec<f64>,
    agreed: usize,
}

/// Judges a model on a text.
pub fn eval(a: &Eval, quiet: bool) -> Result<ExitCode> {
    if a.against.is_some() && a.open.ram.is_some() {
        bail!("--ram holds for one model: need --against left out, found both");
    }
    let model = models::open(&a.model, &a.open, quiet)?;
    let mut bytes = std::fs::read(&a.text).with_context(|| format!("{}: read", a.text.display()))?;
    if let Some(n) = a.bytes {
        bytes.truncate(n);
        // Not in the middle of a character.
        while a.bytes.is_some() && std::str::from_utf8(&bytes).is_err_and(|e| e.error_len().is_none()) {
            bytes.pop();
        }
    }
    let text = models::utf8(bytes, &a.text.display().to_string())?;
    let ids = model.encode(&text, EncodeOptions::default())?;
    let begin = model.tokenizer()?.prefix().next();
    let window = a.window as usize;
    let scored = a.score.or(a.stride).map_or(window - 1, |n| (n as usize).min(window - 1));
    let mut windows = cut(&ids, begin, window, a.stride.map(|n| n as usize));
    windows.truncate(a.windows.unwrap_or(usize::MAX));
    if windows.is_empty() {
        return Err(hinted(
            format!("{}: need at least one window of {window} tokens, found {} tokens", a.text.display(), ids.len()),
            "a longer text or a smaller --window",
        ));
    }
    for ids in &windows {
        models::check_ids(&model, ids)?;
    }
    let against = a.against.as_deref().map(|src| models::float_image(src, quiet)).transpose()?;
    // What is compared with reads its whole head.
    let device = crate::args::Compute::Given(bourn::Compute::Cpu);
    let whole = crate::args::Open { head: crate::args::Head::Exact, device, ..a.open.clone() };
    let reference = against.as_ref().map(|(path, _)| models::open_image(path, &whole)).transpose()?;
    if let Some(r) = &reference {
        let (need, found) = (model.image().shape().vocab, r.image().shape().vocab);
        if need != found {
            bail!("the models differ in vocabulary: need {need} tokens, found {found}");
        }
    }
    let options = |kv: Option<crate::args::Kv>| SessionOptions {
        context: Some(window),
        kv: kv.map(crate::args::Kv::dtype),
        prefill_block: Some(BLOCK),
        logit_rows: Some(BLOCK),
        speculate: Speculate::Off,
        rewindable: false,
    };
    let mut session = models::many_logits(&model, &options(a.kv), BLOCK)?;
    models::announce(&model, &session, quiet);
    let mut other = reference.as_ref().map(|r| r.session(&options(None))).transpose()?;
    let mut score = Score::default();
    let progress = bar(quiet, windows.len() as u64, "eval");
    for ids in &windows {
        match judge(&model, &mut session, other.as_mut(), ids, window - 1 - scored, &mut score) {
            Err(e) if models::was_cancelled(&e) => break,
            judged => judged.map_err(|e| models::failed(&model, e))?,
        }
        progress.inc(1);
        progress.set_message(format!("perplexity {:.3}", (score.nll / score.scored as f64).exp()));
        if signal::stopped() {
            break;
        }
    }
    progress.finish_and_clear();
    if score.scored == 0 {
        bail!("stopped before the first window was judged");
    }
    report(a, score, windows.len())
}

/// The windows of a text, each begun with the id that begins a text.
fn cut(ids: &[u32], begin: Option<u32>, window: usize, stride: Option<usize>) -> Vec<Vec<u32>> {
    let Some(stride) = stride else {
        let texts = ids.chunks_exact(window - usize::from(begin.is_some()));
        return texts.map(|text| begin.into_iter().chain(text.iter().copied()).collect()).collect();
    };
    let all: Vec<u32> = begin.into_iter().chain(ids.iter().copied()).collect();
    let windows = all.windows(window).step_by(stride).map(<[u32]>::to_vec);
    let begun = windows.map(|mut ids| {
        ids[0] = begin.unwrap_or(ids[0]);
        ids
    });
    begun.collect()
}

/// Runs both models over one window in step; scores the predictions made at position `from` and after.
fn judge(
    model: &Model,
    session: &mut Session<'_>,
    mut other: Option<&mut Session<'_>>,
    ids: &[u32],
    from: usize,
    score: &mut Score,
) -> Result<(), bourn::Error> {
    let vocab = model.image().shape().vocab as usize;
    session.clear()?;
    if let Some(other) = &mut other {
        other.clear()?;
    }
    let mut reference: Vec<f32> = Vec::new();
    for (block, tokens) in ids.chunks(BLOCK).enumerate() {
        let first = block * BLOCK;
        reference.clear();
        if first + tokens.len() <= from {
            // Nothing to score: no head, and the next block finds its keys and values.
            session.read(tokens)?;
            if let Some(other) = &mut other {
                other.read(tokens)?;
            }
            continue;
        }
        if let Some(other) = &mut other {
            other.logits_of_all(tokens, &mut |_, logits| reference.extend_from_slice(logits))?;
        }
        session.logits_of_all(tokens, &mut |pos, logits| {
            let Some(&next) = ids.get(pos + 1).filter(|_| pos >= from) else { return };
            let sum = logsumexp(logits);
            score.scored += 1;
            score.nll += sum - f64::from(logits[next as usize]);
            let Some(reference) = reference.get((pos - first) * vocab..(pos - first + 1) * vocab) else { return };
            let reference_sum = logsumexp(reference);
            score.reference_nll += reference_sum - f64::from(reference[next as usize]);
            let kl = reference.iter().zip(logits).map(|(&r, &q)| {
                let (log_r, log_q) = (f64::from(r) - reference_sum, f64::from(q) - sum);
                log_r.exp() * (log_r - log_q)
            });
            score.kl.push(kl.sum::<f64>().max(0.0));
            score.agreed += usize::from((model.kernels().argmax)(reference) == (model.kernels().argmax)(logits));
        })?;
    }
    Ok(())
}

fn report(a: &Eval, mut score: Score, windows: usize) -> Result<ExitCode> {
    let n = score.scored as f64;
    let mut out = object!({"tokens": score.scored, "perplexity": (score.nll / n).exp(), "nll": score.nll, "window": a.window, "stride": a.stride, "windows": windows});
    if a.against.is_some() {
        score.kl.sort_by(f64::total_cmp);
        out["kl_median"] = score.kl[score.kl.len() / 2].into();
        out["kl_mean"] = (score.kl.iter().sum::<f64>() / n).into();
        out["kl_p99"] = score.kl[((score.kl.len() * 99).div_ceil(100)).clamp(1, score.kl.len()) - 1].into();
        out["top1_agreement"] = (score.agreed as f64 / n).into();
        out["against_perplexity"] = (score.reference_nll / n).exp().into();
    }
    if a.json {
        json(&out)?;
    } else {
        line(&format!(
            "perplexity {:.4} over {} tokens ({windows} windows of {})",
            (score.nll / n).exp(),
            score.scored,
            a.window
        ))?;
        if a.against.is_some() {
            line(&format!(
                "against float (perplexity {:.4}): KL mean {:.5}, median {:.5}, 99th percentile {:.5}, same best token {:.2} %",
                (score.reference_nll / n).exp(),
                out["kl_mean"].as_f64().unwrap_or_default(),
                out["kl_median"].as_f64().unwrap_or_default(),
                out["kl_p99"].as_f64().unwrap_or_default(),
                100.0 * score.agreed as f64 / n
            ))?;
        }
    }
    Ok(if signal::stopped() { ExitCode::from(signal::EXIT) } else { ExitCode::SUCCESS })
}
