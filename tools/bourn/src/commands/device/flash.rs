//! A new image for the board.

use super::link::Board;
use crate::output::{bar, bytes, hinted, json, line};
use crate::signal;
use anyhow::{Context, Result};
use bourn_format::superblock::{BYTES, Superblock};
use bourn_protocol::client::Stage;
use bourn_protocol::message::Load;
use serde_json::json as object;
use std::fs::File;
use std::io::Read;
use std::ops::ControlFlow;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::ExitCode;
use std::time::Instant;

/// Sends, has it verified, switches, opens it.
pub fn flash(board: &mut Board, image: &Path, as_json: bool) -> Result<ExitCode> {
    let shown = image.display().to_string();
    let mut file = File::open(image).with_context(|| shown.clone())?;
    let have = file.metadata().with_context(|| shown.clone())?.len();
    let mut first = Vec::with_capacity(BYTES);
    (&mut file).take(BYTES as u64).read_to_end(&mut first).with_context(|| shown.clone())?;
    let superblock = Superblock::new_checked(&first).with_context(|| shown.clone())?;
    let need = superblock.file_bytes;
    if have < need {
        return Err(bourn_format::Error::Truncated { need, have }).with_context(|| shown.clone());
    }
    let sum = bourn_app::slots::id_of(&first);
    let start = Instant::now();
    let (sending, checking) = (bar(board.quiet, need, "send"), bar(board.quiet, need, "verify"));
    let mut sent = None;
    let slot = board.flash(need, sum, &mut |offset, to| file.read_exact_at(to, offset), &mut |stage, done, of| {
        match stage {
            Stage::Prepare => {}
            Stage::Send => {
                sent.get_or_insert_with(|| (done, Instant::now()));
                sending.set_position(done);
                sending.set_message(bytes(done));
            }
            Stage::Verify => {
                sending.finish_and_clear();
                checking.set_length(of);
                checking.set_position(done);
            }
        }
        if signal::stopped() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    sending.finish_and_clear();
    checking.finish_and_clear();
    let slot = match slot {
        Ok(slot) => slot,
        Err(_) if signal::stopped() => {
            return Err(hinted(
                "stopped; the old image is in use as before",
                "to go on where it stopped, start it again before the board is switched off",
            ));
        }
        Err(e) => return Err(e),
    };
    board.load(Load::default()).context("the new image is on the card but does not open")?;
    let seconds = start.elapsed().as_secs_f64();
    if as_json {
        json(&object!({
            "slot": slot, "bytes": need, "id": format!("{sum:016x}"), "seconds": seconds,
            "bytes_per_s": need as f64 / seconds.max(1e-9),
        }))?;
    } else {
        line(&format!("slot {slot}: image {sum:016x}, {} in {seconds:.1} s, in use", bytes(need)))?;
    }
    Ok(ExitCode::SUCCESS)
}
