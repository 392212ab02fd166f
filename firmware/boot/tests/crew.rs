//! The crew, with threads for cores.

use bourn_boot::{CORES, Crew};
use bourn_kernels::rows::Rows;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Runs `body` while `CORES − 1` threads serve.
fn with_crew(body: impl FnOnce(&Crew)) {
    let crew = Crew::new();
    std::thread::scope(|scope| {
        for core in 1..CORES {
            let crew = &crew;
            scope.spawn(move || crew.serve(core));
        }
        while crew.workers() < CORES {
            std::thread::yield_now();
        }
        body(&crew);
        crew.stop();
    });
}

fn counts_once(rows: &dyn Rows, n: usize) {
    let seen: Vec<AtomicUsize> = (0..n).map(|_| AtomicUsize::new(0)).collect();
    rows.each(n, &|i| {
        seen[i].fetch_add(1, Ordering::Relaxed);
    });
    assert!(seen.iter().all(|count| count.load(Ordering::Relaxed) == 1), "{n} pieces");
}

#[test]
fn every_piece_is_done_once() {
    with_crew(|crew| {
        for _ in 0..200 {
            for n in [0, 1, 2, 3, 4, 5, 17, 64, 1000] {
                counts_once(crew, n);
            }
        }
    });
}

#[test]
fn alone_it_is_a_loop() {
    let crew = Crew::new();
    assert_eq!(crew.workers(), 1);
    counts_once(&crew, 100);
    crew.stop();
}

#[test]
fn a_call_from_inside_a_piece_is_done_by_the_caller() {
    with_crew(|crew| {
        let total = AtomicUsize::new(0);
        crew.each(8, &|_| {
            crew.each(8, &|_| {
                total.fetch_add(1, Ordering::Relaxed);
            });
        });
        assert_eq!(total.load(Ordering::Relaxed), 64);
    });
}

#[test]
fn more_cores_than_there_is_room_for_go_home() {
    with_crew(|crew| {
        crew.serve(CORES);
        assert_eq!(crew.workers(), CORES);
    });
}
