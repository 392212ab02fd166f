//! Predictions for every board that is known, as docs/boards.md shows them.

use super::outlook::Place;
use crate::catalogue;
use anyhow::Result;
use bourn_host::board::predict::{Weights, Work};
use bourn_host::board::{self, Board, Variant};
use std::fmt::Write;

/// More of a board's memory than this is not left for weights.
const FITS: f64 = 0.7;
/// Weights of a stretch of a matrix, all of one kind: ratios do not depend on how many.
const SOME: u64 = 1 << 20;

/// The tables.
pub(super) fn all() -> Result<String> {
    let mut out = String::new();
    let measured = || board::all().iter().filter(|board| board.cores.iter().any(|core| !core.read_gb_s.is_empty()));
    ratios(&mut out, measured());
    for board in measured() {
        for variant in &board.variants {
            tokens(&mut out, board, variant)?;
        }
    }
    Ok(out)
}

/// Arithmetic over memory, by the kind of weights.
fn ratios<'a>(out: &mut String, boards: impl Iterator<Item = &'a Board>) {
    let _ = writeln!(out, "Decode: what arithmetic allows over what memory allows, at the best count of threads.\n");
    let _ = writeln!(out, "| board | cores | threads | 4-bit, linear | 4-bit, fitted | 8-bit |\n|---|---|---|---|---|---|");
    for board in boards {
        for variant in &board.variants {
            let (kind, threads) = (&board.cores[0], board.threads.decode);
            let place = Place::on(kind, variant, threads, threads);
            let ratio = |weights, sixteenths: u64| {
                let bytes = SOME * sixteenths / 16;
                let work = Work { bytes, body: SOME, body_as: weights, head: 0, head_as: weights };
                let outlook = place.outlook(&work);
                outlook.compute.zip(outlook.memory).map_or("-".to_owned(), |(compute, memory)| format!("{:.2}", compute / memory))
            };
            let (linear, fitted, bytes) = (ratio(Weights::Linear, 9), ratio(Weights::Fitted, 9), ratio(Weights::Bytes, 17));
            let cores = format!("{} × {} at {:.1} GHz", kind.count, kind.kind, kind.hz(variant) / 1e9);
            let _ = writeln!(out, "| {} | {cores} | {threads} | {linear} | {fitted} | {bytes} |", variant.title);
        }
    }
}

/// Tokens per second of every model.
fn tokens(out: &mut String, board: &Board, variant: &Variant) -> Result<()> {
    let kind = &board.cores[0];
    let place = Place::on(kind, variant, board.threads.decode, board.threads.prefill);
    let (gb_s, decode, prefill) = (kind.read_bytes_s(place.decode) / 1e9, place.decode, place.prefill);
    let _ = writeln!(out, "\n### {}\n", variant.title);
    let _ = writeln!(
        out,
        "`boards/{}`: {} kernels, {gb_s:.1} GB/s; decode on {decode} threads, prefill on {prefill}.\n",
        board.name, place.isa
    );
    let _ = writeln!(out, "| model | MB per token | memory | arithmetic | decode | prefill |\n|---|---|---|---|---|---|");
    let largest = variant.memory_mib.iter().max().map_or(0.0, |mib| *mib as f64 * 1048576.0);
    for model in catalogue::all()? {
        let work = model.shape.q4_work();
        let outlook = place.outlook(&work);
        let number = |n: Option<f64>| n.map_or("-".to_owned(), |n| if n < 10.0 { format!("{n:.1}") } else { format!("{n:.0}") });
        let (memory, compute) = (number(outlook.memory), number(outlook.compute));
        let fits = (work.bytes as f64) < FITS * largest;
        let decode = if fits { number(outlook.decode()) } else { "storage decides: too large for its memory".to_owned() };
        let (megabytes, prefill) = (work.bytes as f64 / 1e6, number(outlook.prefill));
        let _ = writeln!(out, "| {} | {megabytes:.0} | {memory} | {compute} | {decode} | {prefill} |", model.name);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_floor_is_above_what_is_predicted() {
        for board in board::all() {
            for (model, floors) in &board.floors {
                let work = catalogue::find(model).unwrap().expect("a model of the catalogue").shape.q4_work();
                for variant in &board.variants {
                    let place = Place::on(&board.cores[0], variant, board.threads.decode, board.threads.prefill);
                    let outlook = place.outlook(&work);
                    for (key, predicted) in [("decode_tok_s", outlook.decode()), ("prefill_tok_s", outlook.prefill)] {
                        let floor = floors.get(key).copied().unwrap_or(0.0);
                        assert!(predicted.is_some_and(|p| floor < p), "{}: {model}: {key} {floor}, {predicted:?}", variant.title);
                    }
                }
            }
        }
    }
}
