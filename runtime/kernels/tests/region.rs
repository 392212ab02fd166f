//! A region shared by threads that watch for it.

use bourn_kernels::region::{Pieces, Region, Seat};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// Runs `body` while `n` workers watch; the n-th joins every region that calls it.
fn with_workers(n: usize, body: impl FnOnce(&Region)) {
    let (region, stop) = (Region::new(), AtomicBool::new(false));
    std::thread::scope(|scope| {
        for id in 0..n {
            let (region, stop) = (&region, &stop);
            scope.spawn(move || {
                let mut seat = Seat::new(id);
                while !stop.load(Ordering::Relaxed) {
                    region.join(&mut seat, |pieces| pieces.take());
                    std::thread::yield_now();
                }
            });
        }
        body(&region);
        stop.store(true, Ordering::Relaxed);
    });
}

#[test]
fn each_piece_is_done_once_and_before_the_caller_goes_on() {
    with_workers(3, |region| {
        for n in (0..300).chain([10_000]) {
            let counts: Vec<AtomicUsize> = (0..n).map(|_| AtomicUsize::new(0)).collect();
            let job = |i: usize| _ = counts[i].fetch_add(1, Ordering::Relaxed);
            region.lead().unwrap().each(3, n, &job, || {}, |pieces| pieces.take(), || {});
            assert!(counts.iter().all(|count| count.load(Ordering::Relaxed) == 1), "{n} pieces");
        }
    });
}

#[test]
fn there_is_one_caller_at_a_time() {
    let region = Region::new();
    let lead = region.lead();
    assert!(lead.is_some() && region.lead().is_none());
    drop(lead);
    assert!(region.lead().is_some());
}

#[test]
fn a_caller_that_unwinds_waits_for_those_inside() {
    with_workers(2, |region| {
        let (begun, ended) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let job = |_| {
            begun.fetch_add(1, Ordering::Relaxed);
            std::thread::sleep(std::time::Duration::from_millis(20));
            ended.fetch_add(1, Ordering::Relaxed);
        };
        let mut lead = region.lead().unwrap();
        let falls = |pieces: &Pieces<'_>| {
            while begun.load(Ordering::Relaxed) == 0 {
                std::thread::yield_now();
            }
            pieces.give_up();
            panic!("the caller's own");
        };
        let unwound = catch_unwind(AssertUnwindSafe(|| lead.each(2, 100, &job, || {}, falls, || {})));
        assert!(unwound.is_err() && !region.is_entered());
        assert_eq!(begun.load(Ordering::Relaxed), ended.load(Ordering::Relaxed));
    });
}
