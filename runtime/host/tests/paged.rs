//! A paged stream gives the bytes of the file, whatever is pinned and whatever order they are asked for in.

mod support;

use bourn_core::{Error, WeightStream};
use bourn_host::stream::ReadOptions;
use bourn_host::{ImageFile, StreamKind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use support::{Faulty, bytes, cycle, fixture, paged, plan, random};

const IMAGE: &str = "v1-quantized.bourn";

/// The bytes of segment `i` in the file.
fn segment<'a>(file: &ImageFile, all: &'a [u8], i: usize) -> &'a [u8] {
    let s = file.image().segment(i);
    &all[s.offset as usize..(s.offset + s.bytes) as usize]
}

#[test]
fn passes_give_the_bytes_of_the_file_whatever_is_pinned() {
    let all = bytes(IMAGE);
    let order = cycle(paged(IMAGE).image());
    let every_third: Vec<usize> = order.iter().copied().step_by(3).collect();
    let cases =
        [vec![], every_third, order[1..].to_vec(), order.clone()].into_iter().flat_map(|p| [(p.clone(), true), (p, false)]);
    for (pinned, uring) in cases {
        let file = paged(IMAGE);
        let options = ReadOptions { uring, ..ReadOptions::default() };
        let pager = file.page(&plan(file.image(), &pinned), &options, false).unwrap();
        assert!(uring || pager.reader() == "threads");
        let mut stream = file.stream();
        for _ in 0..20 {
            for &i in &order {
                assert_eq!(stream.segment(i).unwrap(), segment(&file, &all, i), "segment {i}, pinned {pinned:?}");
            }
        }
        assert_eq!(pager.stats().misses, 0, "pinned {pinned:?}");
    }
}

#[test]
fn tiles_and_segments_come_in_any_order() {
    let all = bytes(IMAGE);
    let file = paged(IMAGE);
    let order = cycle(file.image());
    let pager = file.page(&plan(file.image(), &order[..1]), &ReadOptions::default(), false).unwrap();
    let mut stream = file.stream();
    let payload = file.image().superblock().payload_offset;
    let mut state = 7;
    for _ in 0..2000 {
        if random(&mut state).is_multiple_of(2) {
            let i = order[random(&mut state) as usize % order.len()];
            assert_eq!(stream.segment(i).unwrap(), segment(&file, &all, i));
        } else {
            let n = 1 + random(&mut state) as usize % 40_000;
            let at = payload + random(&mut state) % (all.len() as u64 - payload - n as u64 + 1);
            assert_eq!(stream.read(at, n).unwrap(), &all[at as usize..at as usize + n]);
        }
    }
    assert!(pager.stats().misses > 0);
    // Outside the payload, larger than a tile place, not there.
    for (at, n) in [(payload - 1, 16), (all.len() as u64 - 8, 16), (payload, 1 << 20), (u64::MAX, 2)] {
        assert!(matches!(stream.read(at, n), Err(Error::Read { .. })), "{n} bytes at {at}");
    }
    assert!(matches!(stream.segment(order.len() + 100), Err(Error::Read { .. })));
}

#[test]
fn a_hint_saves_what_was_read_ahead() {
    let all = bytes(IMAGE);
    let misses = |hints: bool| {
        let file = paged(IMAGE);
        let order = cycle(file.image());
        let pager = file.page(&plan(file.image(), &[]), &ReadOptions::default(), false).unwrap();
        let mut stream = file.stream();
        let (first, middle, last) = (order[0], order[order.len() / 2], order[order.len() - 1]);
        for _ in 0..10 {
            if hints {
                // Half the cycle again, then all of it.
                stream.turn(middle, first);
            }
            for &i in order.iter().take_while(|&&i| i <= middle).chain(&order) {
                assert_eq!(stream.segment(i).unwrap(), segment(&file, &all, i));
            }
            assert_eq!(last, order[order.len() - 1]);
        }
        pager.stats().misses
    };
    assert!(misses(false) >= 10);
    assert_eq!(misses(true), 0);
}

#[test]
fn there_is_one_stream_at_a_time_and_none_before_the_plan() {
    let file = paged(IMAGE);
    let first = cycle(file.image())[0];
    assert_eq!(file.stream().segment(first).unwrap_err(), Error::Busy);
    file.page(&plan(file.image(), &[]), &ReadOptions::default(), false).unwrap();
    let mut one = file.stream();
    assert_eq!(file.stream().segment(first).unwrap_err(), Error::Busy);
    assert!(one.segment(first).is_ok());
    drop(one);
    assert!(file.stream().segment(first).is_ok());
}

#[test]
fn a_throttle_sets_the_pace_and_a_flag_ends_the_wait() {
    let file = paged(IMAGE);
    let order = cycle(file.image());
    let total: u64 = order.iter().map(|&i| file.image().segment(i).bytes).sum();
    let cancel = Arc::new(AtomicBool::new(false));
    let rate = 2 * total;
    let options = ReadOptions { throttle: Some(rate), cancel: Some(Arc::clone(&cancel)), ..ReadOptions::default() };
    let pager = file.page(&plan(file.image(), &[]), &options, false).unwrap();
    assert!(pager.bandwidth() < 1.2 * rate as f64, "{} of {rate}", pager.bandwidth());
    let mut stream = file.stream();
    let start = Instant::now();
    for &i in order.iter().chain(&order) {
        stream.segment(i).unwrap();
    }
    // Two passes at half a second each, less what was read ahead.
    let took = start.elapsed().as_secs_f64();
    assert!(took > 0.5 && took < 3.0, "{took}");
    cancel.store(true, Ordering::SeqCst);
    let start = Instant::now();
    let answers: Vec<_> = order.iter().chain(&order).map(|&i| stream.segment(i).map(<[u8]>::len)).collect();
    assert!(answers.contains(&Err(Error::Cancelled)), "{answers:?}");
    assert!(start.elapsed() < Duration::from_secs(2));
}

#[test]
fn a_file_replaced_before_the_plan_is_refused() {
    let path = std::env::temp_dir().join(format!("bourn-replaced-{}.bourn", std::process::id()));
    std::fs::copy(fixture(IMAGE), &path).unwrap();
    let file = ImageFile::open(&path, StreamKind::Paged).unwrap();
    std::fs::remove_file(&path).unwrap();
    std::fs::copy(fixture("v1-q4.bourn"), &path).unwrap();
    let refused = file.page(&plan(file.image(), &[]), &ReadOptions::default(), false).unwrap_err().to_string();
    std::fs::remove_file(&path).unwrap();
    assert!(refused.contains("another file than was opened"), "{refused}");
}

#[test]
fn a_source_that_is_not_a_file_streams_as_well() {
    let all = bytes(IMAGE);
    let file = paged(IMAGE);
    let source = Arc::new(Faulty::new(all.clone()));
    file.page_from(source, &plan(file.image(), &[]), &ReadOptions::default()).unwrap();
    let mut stream = file.stream();
    for &i in &cycle(file.image()) {
        assert_eq!(stream.segment(i).unwrap(), segment(&file, &all, i));
    }
}

/// Passes until one fails.
fn fails(file: &ImageFile, order: &[usize]) -> Error {
    let mut stream = file.stream();
    let mut pass = || order.iter().find_map(|&i| stream.segment(i).err());
    (0..5).find_map(|_| pass()).expect("a fault that nobody saw")
}

#[test]
fn a_file_that_is_cut_short_or_written_over_while_it_streams_is_told_of() {
    for uring in [true, false] {
        let path = std::env::temp_dir().join(format!("bourn-harmed-{}-{uring}.bourn", std::process::id()));
        let whole = bytes(IMAGE);
        std::fs::write(&path, &whole).unwrap();
        let file = ImageFile::open(&path, StreamKind::Paged).unwrap();
        let order = cycle(file.image());
        let options = ReadOptions { uring, ..ReadOptions::default() };
        let pager = file.page(&plan(file.image(), &[]), &options, false).unwrap();
        let harm = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
        harm.set_len(whole.len() as u64 - 20_000).unwrap();
        let error = fails(&file, &order);
        assert!(matches!(error, Error::Format(bourn_format::Error::Truncated { .. })), "{}: {error}", pager.reader());
        // Mended, it goes on; written over, it does not.
        std::fs::write(&path, &whole).unwrap();
        // What was read ahead meanwhile may still fail, once.
        let mut stream = file.stream();
        let mut pass = || order.iter().try_for_each(|&i| stream.segment(i).map(|b| assert_eq!(b, segment(&file, &whole, i))));
        assert!((0..10).any(|_| pass().is_ok()));
        pass().unwrap();
        drop(stream);
        std::os::unix::fs::FileExt::write_all_at(&harm, &[7; 30_000], whole.len() as u64 - 30_000).unwrap();
        let error = fails(&file, &order);
        assert!(matches!(error, Error::Format(bourn_format::Error::Checksum { .. })), "{}: {error}", pager.reader());
        assert!(pager.stats().rereads >= 2);
        std::fs::remove_file(&path).unwrap();
    }
}
