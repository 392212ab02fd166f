//! The pool keeps the contract of `Rows`: each index once, all done at return; panics and nesting do no harm.

use bourn_host::Pool;
use bourn_kernels::rows::Rows;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

fn each_once(rows: &dyn Rows, n: usize) {
    let seen: Vec<AtomicUsize> = (0..n).map(|_| AtomicUsize::new(0)).collect();
    rows.each(n, &|i| {
        seen[i].fetch_add(1, Ordering::Relaxed);
    });
    assert!(seen.iter().all(|s| s.load(Ordering::Relaxed) == 1), "n = {n}");
}

#[test]
fn calls_each_index_once() {
    for threads in [1, 2, 3, 8] {
        let pool = Pool::new(threads);
        assert_eq!(pool.workers(), threads);
        for n in (0..70).chain([1000, 4099]) {
            each_once(&pool, n);
            each_once(&pool.limited(2), n);
        }
        for _ in 0..2000 {
            each_once(&pool, 5);
        }
    }
}

#[test]
fn works_again_after_sleeping() {
    let pool = Pool::new(4);
    for _ in 0..20 {
        std::thread::sleep(Duration::from_millis(2));
        each_once(&pool, 100);
    }
}

#[test]
fn a_panic_comes_out_and_the_pool_lives_on() {
    let pool = Pool::new(3);
    for at in [0, 50, 99] {
        let result = catch_unwind(AssertUnwindSafe(|| {
            pool.each(100, &|i| {
                if i == at {
                    panic!("piece {i}");
                }
            });
        }));
        let payload = result.unwrap_err();
        assert_eq!(payload.downcast_ref::<String>().unwrap(), &format!("piece {at}"));
        each_once(&pool, 100);
    }
}

#[test]
fn nested_calls_run_on_the_spot() {
    let pool = Pool::new(3);
    let sum = AtomicUsize::new(0);
    pool.each(10, &|i| {
        pool.each(10, &|j| {
            sum.fetch_add(10 * i + j, Ordering::Relaxed);
        });
    });
    assert_eq!(sum.load(Ordering::Relaxed), 99 * 100 / 2);
}

#[test]
fn two_callers_do_not_disturb_each_other() {
    let pool = Pool::new(2);
    std::thread::scope(|s| {
        for _ in 0..3 {
            s.spawn(|| (0..300).for_each(|_| each_once(&pool, 37)));
        }
    });
}

#[test]
fn a_slow_worker_holds_nobody_up() {
    let pool = Pool::new(2);
    let caller = std::thread::current().id();
    let start = Instant::now();
    pool.each(200, &|_| {
        let slow = std::thread::current().id() != caller;
        std::thread::sleep(Duration::from_micros(if slow { 3000 } else { 50 }));
    });
    // Half each would take the slow one 300 ms; the quick one takes over.
    // The bound leaves room for a machine that is busy with other things.
    assert!(start.elapsed() < Duration::from_millis(290), "{:?}", start.elapsed());
}

/// Prints what a meeting costs.
#[test]
fn two_threads_meet_inside_a_region() {
    if bourn_host::machine::usable_cores() < 2 {
        println!("skipped: one core cannot meet itself");
        return;
    }
    let pool = Pool::new(2);
    let mut times: Vec<Duration> = (0..2000)
        .map(|_| {
            let arrived = AtomicUsize::new(0);
            let start = Instant::now();
            pool.each(2, &|_| {
                arrived.fetch_add(1, Ordering::Relaxed);
                while arrived.load(Ordering::Relaxed) < 2 {
                    std::hint::spin_loop();
                }
            });
            let took = start.elapsed();
            assert_eq!(arrived.load(Ordering::Relaxed), 2);
            took
        })
        .collect();
    times.sort();
    println!("region: {:?} at best, {:?} in the middle, with 2 threads", times[0], times[times.len() / 2]);
}
