//! The board's judgement of itself: every kernel of every tier against `scalar`, the cores, the clock, the image.

mod kernels;

use crate::board::Board;
use crate::desk::Desk;
use crate::model::Watched;
use crate::trouble::Trouble;
use bourn_core::WeightStream;
use bourn_format::{Image, PAGE};
use bourn_kernels::Kernels;
use bourn_protocol::message::{Answer, Outcome, Why};
use core::fmt::Write as _;
use core::sync::atomic::{AtomicU32, Ordering};
use embedded_io::{Read, ReadReady, Write};
use heapless::String;

/// Tests besides those of kernels.
const OTHERS: [&str; 3] = ["rows/every_piece_once", "clock/runs", "image/every_page"];
/// Pieces of work that the cores are given.
const PIECES: usize = 64;
/// Times that the clock is looked at.
const LOOKS: u32 = 1_000_000;

/// The test of the open image.
pub(crate) type ImageTest<'t, B, S> = dyn FnMut(&mut Desk<'_, B, S>) -> (Outcome, Trouble) + 't;

/// Tiers that are compared with `scalar`.
fn tiers<'a>(all: &'a [&'static Kernels]) -> impl Iterator<Item = &'static Kernels> + 'a {
    all.iter().copied().filter(|k| k.isa != "scalar")
}

/// How many tests there are.
pub(crate) fn count(all: &[&'static Kernels]) -> u16 {
    (OTHERS.len() + tiers(all).count() * kernels::TESTS.len()) as u16
}

/// Runs a test, or only names it, and says how it went. `image` is the test of the open image.
pub(crate) fn answer<B: Board, S: Read + Write + ReadReady>(
    desk: &mut Desk<'_, B, S>,
    sequence: u16,
    index: u16,
    run: bool,
    image: &mut ImageTest<'_, B, S>,
) {
    let of = count(desk.tiers);
    let i = usize::from(index);
    let mut name = String::<64>::new();
    let kernel = i.checked_sub(OTHERS.len()).and_then(|i| {
        let tier = tiers(desk.tiers).nth(i / kernels::TESTS.len())?;
        Some((tier, kernels::TESTS[i % kernels::TESTS.len()]))
    });
    let written = match (OTHERS.get(i), kernel) {
        (Some(other), _) => name.write_str(other),
        (None, Some((tier, (kernel, _)))) => write!(name, "{kernel}/{}", tier.isa),
        (None, None) => {
            desk.refuse(sequence, &Trouble::new(Why::Option, format_args!("no test {index}: the board has {of}")));
            return;
        }
    };
    debug_assert!(written.is_ok(), "names are short");
    let start = desk.board.now_us();
    let (outcome, trouble) = match (run, i, kernel) {
        (false, ..) => (Outcome::Named, none()),
        (true, _, Some((tier, (_, test)))) => judged(test(tier), "differs from scalar"),
        (true, 0, None) => judged(every_piece_once(desk), "a piece of work was done twice or not at all"),
        (true, 1, None) => judged(clock_runs(desk), "the clock stands still or goes back"),
        (true, ..) => image(desk),
    };
    let micros = desk.board.now_us().saturating_sub(start);
    desk.answer(sequence, &Answer::Test { index, of, name: &name, outcome, text: &trouble.text, micros });
}

fn none() -> Trouble {
    Trouble::new(Why::Compute, format_args!(""))
}

fn judged(good: bool, text: &str) -> (Outcome, Trouble) {
    if good { (Outcome::Passed, none()) } else { (Outcome::Failed, Trouble::new(Why::Compute, format_args!("{text}"))) }
}

/// Both sharers do every piece exactly once.
fn every_piece_once<B, S>(desk: &Desk<'_, B, S>) -> bool {
    let counts: [AtomicU32; PIECES] = [const { AtomicU32::new(0) }; PIECES];
    for rows in [desk.decode, desk.prefill] {
        for n in [0, 1, 2, 3, PIECES] {
            rows.each(n, &|i| {
                counts[i].fetch_add(1, Ordering::Relaxed);
            });
        }
    }
    // Both times pieces 0, 1 and 2 are in four, three and two of the calls, the others in one.
    counts.iter().enumerate().all(|(i, n)| n.load(Ordering::Relaxed) == 2 * [4, 3, 2].get(i).copied().unwrap_or(1))
}

fn clock_runs<B: Board, S>(desk: &Desk<'_, B, S>) -> bool {
    let start = desk.board.now_us();
    let mut last = start;
    for _ in 0..LOOKS {
        let now = desk.board.now_us();
        if now < last {
            return false;
        }
        last = now;
        if last > start + 1 {
            return true;
        }
    }
    false
}

/// Every page of every segment, from where the weights lie, against its checksum.
pub(crate) fn segments(image: &Image<'_>, stream: &mut Watched<'_>) -> (Outcome, Trouble) {
    let payload = image.superblock().payload_offset;
    for i in 0..image.n_segments() {
        let first = (image.segment(i).offset.saturating_sub(payload) / PAGE as u64) as usize;
        let checked = stream.segment(i).and_then(|bytes| {
            bytes.chunks(PAGE).enumerate().try_for_each(|(i, page)| image.check_page(first + i, page))?;
            Ok(())
        });
        match checked {
            Ok(()) => {}
            Err(bourn_core::Error::Cancelled) => {
                return (Outcome::Skipped, Trouble::new(Why::Busy, format_args!("cancelled")));
            }
            Err(e) => return (Outcome::Failed, e.into()),
        }
    }
    (Outcome::Passed, none())
}
