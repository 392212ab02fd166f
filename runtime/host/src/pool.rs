//! Persistent workers that share out rows: spin, then park; pieces go to whoever is free.

#![allow(unsafe_code)]

use bourn_kernels::region::{Pieces, Region, Seat};
use bourn_kernels::rows::Rows;
use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle, Thread};
use std::time::{Duration, Instant};

/// How long an idle worker watches for work before it sleeps.
const SPIN: Duration = Duration::from_micros(60);
/// Most threads of a pool.
const MAX_THREADS: usize = 1024;

struct Shared {
    region: Region,
    stop: AtomicBool,
    /// Workers that have begun to serve.
    started: AtomicUsize,
    asleep: Box<[AtomicBool]>,
    panic: Mutex<Option<Box<dyn Any + Send>>>,
}

impl Shared {
    /// Takes part; a panic ends the region early and is kept for the caller.
    fn work(&self, pieces: &Pieces<'_>) {
        if let Err(payload) = catch_unwind(AssertUnwindSafe(|| pieces.take())) {
            pieces.give_up();
            let mut kept = self.panic.lock().unwrap_or_else(PoisonError::into_inner);
            match &*kept {
                None => *kept = Some(payload),
                // Dropping a payload may panic again, here where nothing catches it.
                Some(_) => std::mem::forget(payload),
            }
        }
    }

    /// Life of worker `id`.
    fn serve(&self, id: usize) {
        self.started.fetch_add(1, Ordering::Release);
        let mut seat = Seat::new(id);
        let (mut idle, mut spins) = (Instant::now(), 0u32);
        while !self.stop.load(Ordering::Relaxed) {
            if self.region.calls(&seat) {
                self.region.join(&mut seat, |pieces| self.work(pieces));
                (idle, spins) = (Instant::now(), 0);
                continue;
            }
            std::hint::spin_loop();
            spins = spins.wrapping_add(1);
            if spins.is_multiple_of(64) && idle.elapsed() > SPIN {
                // Says that it sleeps, then looks once more: whoever publishes first writes, then looks who sleeps.
                self.asleep[id].store(true, Ordering::SeqCst);
                if !self.region.calls(&seat) && !self.stop.load(Ordering::SeqCst) {
                    thread::park();
                }
                self.asleep[id].store(false, Ordering::SeqCst);
                idle = Instant::now();
            }
        }
    }
}

/// A fixed crew of threads that the calling thread joins for every region.
///
/// Calls from inside a job, or from a second thread while a region runs, are done by the calling thread alone.
/// A panic in a job ends the region early and comes out of [`Rows::each`] once everyone has left it.
pub struct Pool {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
    handles: Vec<Thread>,
}

impl std::fmt::Debug for Pool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pool").field("workers", &self.workers()).finish()
    }
}

impl Pool {
    /// `threads` workers, the caller counted: 1 starts none. Fewer when the system refuses to start more.
    pub fn new(threads: usize) -> Self {
        let n = threads.clamp(1, MAX_THREADS) - 1;
        let shared = Arc::new(Shared {
            region: Region::new(),
            stop: AtomicBool::new(false),
            started: AtomicUsize::new(0),
            asleep: (0..n).map(|_| AtomicBool::new(false)).collect(),
            panic: Mutex::new(None),
        });
        let threads: Vec<_> = (0..n)
            .map_while(|id| {
                let shared = Arc::clone(&shared);
                thread::Builder::new().name(format!("bourn-{}", id + 1)).spawn(move || shared.serve(id)).ok()
            })
            .collect();
        let handles = threads.iter().map(|t| t.thread().clone()).collect();
        Self { shared, threads, handles }
    }

    /// Waits until every worker has begun to serve: what the system does to start a thread is over then.
    pub fn wait_started(&self) {
        while self.shared.started.load(Ordering::Acquire) < self.threads.len() {
            thread::yield_now();
        }
    }

    /// The same crew with at most `threads` at work at a time.
    pub fn limited(&self, threads: usize) -> Limited<'_> {
        Limited { pool: self, threads: threads.clamp(1, self.workers()) }
    }

    /// [`Rows::each`] with at most `threads` at work.
    fn each_on(&self, threads: usize, n: usize, job: &(dyn Fn(usize) + Sync)) {
        let helpers = (threads - 1).min(n.saturating_sub(1));
        let shared = &*self.shared;
        let Some(mut lead) = (helpers > 0).then(|| shared.region.lead()).flatten() else {
            (0..n).for_each(job);
            return;
        };
        let wake = || {
            for (asleep, thread) in shared.asleep.iter().zip(&self.handles).take(helpers) {
                if asleep.load(Ordering::SeqCst) {
                    thread.unpark();
                }
            }
        };
        let wait = || {
            let mut spins = 0u32;
            while shared.region.is_entered() {
                spins = spins.wrapping_add(1);
                if spins < 4096 {
                    std::hint::spin_loop();
                } else {
                    thread::yield_now();
                }
            }
        };
        lead.each(helpers, n, job, wake, |pieces| shared.work(pieces), wait);
        let panic = shared.panic.lock().unwrap_or_else(PoisonError::into_inner).take();
        drop(lead);
        if let Some(payload) = panic {
            resume_unwind(payload);
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        for thread in &self.handles {
            thread.unpark();
        }
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

// SAFETY: all who take part, the caller among them, take pieces until none is left, so `Lead::each` calls each index once and
// before it returns. After a panic this does not return but unwinds, and not before the others have left. Alone, a plain loop.
unsafe impl Rows for Pool {
    fn each(&self, n: usize, job: &(dyn Fn(usize) + Sync)) {
        self.each_on(self.workers(), n, job);
    }

    fn workers(&self) -> usize {
        self.handles.len() + 1
    }
}

/// A pool of which only some threads work.
#[derive(Clone, Copy, Debug)]
pub struct Limited<'p> {
    pool: &'p Pool,
    threads: usize,
}

// SAFETY: as `Pool`: `each_on` calls each index once and returns after the last call.
unsafe impl Rows for Limited<'_> {
    fn each(&self, n: usize, job: &(dyn Fn(usize) + Sync)) {
        self.pool.each_on(self.threads, n, job);
    }

    fn workers(&self) -> usize {
        self.threads
    }
}
