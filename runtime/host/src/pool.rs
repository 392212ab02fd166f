//! Persistent workers that share out rows: spin, then park; pieces go to whoever is free.
//!
//! A region is one call of [`Rows::each`]. The caller publishes it, takes part, closes it when no piece is left, and waits
//! for those who entered. A worker that sleeps through a region is not waited for, so a slow or descheduled core never
//! holds a token up.

#![allow(unsafe_code)]

use bourn_kernels::rows::Rows;
use std::any::Any;
use std::cell::UnsafeCell;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle, Thread};
use std::time::{Duration, Instant};

/// How long an idle worker watches for work before it sleeps.
const SPIN: Duration = Duration::from_micros(60);
/// Most threads of a pool.
const MAX_THREADS: usize = 1024;

// The state word: bits 0..16 workers inside the region, 16..32 workers admitted (by number), 32 open, 33.. region number.
const INSIDE: u64 = 0xffff;
const OPEN: u64 = 1 << 32;
const REGION: u32 = 33;

/// A job while a region runs; `each_on` sees to it that no one follows a pointer to it later.
type Job = dyn Fn(usize) + Sync + 'static;

/// What a region does. Written only by the holder of `busy` while the region is closed and nobody is inside.
struct Region {
    job: *const Job,
    n: usize,
    share: usize,
}

/// Its own cache line, so that the counter does not bounce with its neighbours.
#[repr(align(128))]
struct Line<T>(T);

struct Shared {
    state: Line<AtomicU64>,
    next: Line<AtomicUsize>,
    region: UnsafeCell<Region>,
    /// A caller is in `each`: the exclusive right to write `region`.
    busy: AtomicBool,
    stop: AtomicBool,
    /// Workers that have begun to serve.
    started: AtomicUsize,
    asleep: Box<[AtomicBool]>,
    panic: Mutex<Option<Box<dyn Any + Send>>>,
}

// SAFETY: all fields but `region` are Sync themselves. `region` is written only by the thread that holds `busy`, while the
// state word says closed and nobody inside; it is read by that thread and by workers between entering (an acquiring
// read-modify-write of the state word that saw the region open, after its releasing store) and leaving (a releasing
// decrement, which the caller acquires before it returns). So no read overlaps a write. The job it points to is Sync.
unsafe impl Sync for Shared {}
// SAFETY: as above; the raw pointer is only followed inside a region, on whichever thread, and the job is Sync.
unsafe impl Send for Shared {}

impl Shared {
    /// Takes pieces until none is left. A run of pieces at a time, shorter towards the end, so that all finish together.
    fn work(&self, region: &Region, job: &(dyn Fn(usize) + Sync)) {
        let next = &self.next.0;
        let mut from = next.load(Ordering::Relaxed);
        while from < region.n {
            let run = ((region.n - from) / region.share).max(1);
            match next.compare_exchange_weak(from, from + run, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => {
                    for i in from..from + run {
                        job(i);
                    }
                    from = next.load(Ordering::Relaxed);
                }
                Err(now) => from = now,
            }
        }
    }

    /// As [`Self::work`]; a panic ends the region early and is kept for the caller.
    fn work_caught(&self, region: &Region, job: &(dyn Fn(usize) + Sync)) {
        if let Err(payload) = catch_unwind(AssertUnwindSafe(|| self.work(region, job))) {
            self.next.0.store(region.n, Ordering::Relaxed);
            let mut kept = self.panic.lock().unwrap_or_else(PoisonError::into_inner);
            match &*kept {
                None => *kept = Some(payload),
                // Dropping a payload may panic again, here where nothing catches it.
                Some(_) => std::mem::forget(payload),
            }
        }
    }

    /// Enters the open region that the state word `seen` showed to worker `id`, works, leaves.
    fn enter(&self, mut seen: u64, id: usize) {
        let region_number = seen >> REGION;
        loop {
            if seen & OPEN == 0 || seen >> REGION != region_number || !admitted(seen, id) {
                return;
            }
            match self.state.0.compare_exchange_weak(seen, seen + 1, Ordering::Acquire, Ordering::Relaxed) {
                Ok(_) => break,
                Err(now) => seen = now,
            }
        }
        // SAFETY: inside the region (see `Sync`): nobody writes it until this worker has left.
        let region = unsafe { &*self.region.get() };
        // SAFETY: `each` borrows the job until every worker that entered has left; this one has entered and not left.
        let job = unsafe { &*region.job };
        self.work_caught(region, job);
        self.state.0.fetch_sub(1, Ordering::Release);
    }

    /// Life of worker `id`.
    fn serve(&self, id: usize) {
        self.started.fetch_add(1, Ordering::Release);
        let mut done = 0;
        let wanted = |state: u64, done: u64| state & OPEN != 0 && state >> REGION != done && admitted(state, id);
        loop {
            let mut idle = Instant::now();
            let mut spins = 0u32;
            let state = loop {
                let state = self.state.0.load(Ordering::Relaxed);
                if wanted(state, done) {
                    break state;
                }
                if self.stop.load(Ordering::Relaxed) {
                    return;
                }
                std::hint::spin_loop();
                spins = spins.wrapping_add(1);
                if spins.is_multiple_of(64) && idle.elapsed() > SPIN {
                    // Says that it sleeps, then looks once more: whoever publishes first writes, then looks who sleeps.
                    self.asleep[id].store(true, Ordering::SeqCst);
                    let again = self.state.0.load(Ordering::SeqCst);
                    if !wanted(again, done) && !self.stop.load(Ordering::SeqCst) {
                        thread::park();
                    }
                    self.asleep[id].store(false, Ordering::SeqCst);
                    idle = Instant::now();
                }
            };
            done = state >> REGION;
            self.enter(state, id);
        }
    }
}

/// Whether worker `id` (the caller has no number) may enter.
const fn admitted(state: u64, id: usize) -> bool {
    (id as u64) < (state >> 16 & INSIDE)
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
            state: Line(AtomicU64::new(0)),
            next: Line(AtomicUsize::new(0)),
            region: UnsafeCell::new(Region { job: &|_| {}, n: 0, share: 1 }),
            busy: AtomicBool::new(false),
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
        if helpers == 0 || shared.busy.swap(true, Ordering::Acquire) {
            (0..n).for_each(job);
            return;
        }
        // SAFETY: only the lifetime changes. The pointer is followed by this call and by workers inside its region, and
        // this call does not return or unwind before it has closed the region and seen the last of them leave.
        let job: &'static Job = unsafe { std::mem::transmute::<&(dyn Fn(usize) + Sync), &'static Job>(job) };
        let slot = shared.region.get();
        // SAFETY: `busy` is held, the region is closed and nobody is inside (the end of the previous `each_on`).
        unsafe { *slot = Region { job, n, share: 3 * (helpers + 1) } };
        shared.next.0.store(0, Ordering::Relaxed);
        let number = (shared.state.0.load(Ordering::Relaxed) >> REGION) + 1;
        let open = number << REGION | OPEN | (helpers as u64) << 16;
        shared.state.0.store(open, Ordering::SeqCst);
        for (asleep, thread) in shared.asleep.iter().zip(&self.handles).take(helpers) {
            if asleep.load(Ordering::SeqCst) {
                thread.unpark();
            }
        }
        // SAFETY: this thread holds `busy`, and nobody writes the region while it is open.
        let region = unsafe { &*slot };
        shared.work_caught(region, job);
        shared.state.0.fetch_and(!OPEN, Ordering::Relaxed);
        let mut spins = 0u32;
        while shared.state.0.load(Ordering::Acquire) & INSIDE != 0 {
            spins = spins.wrapping_add(1);
            if spins < 4096 {
                std::hint::spin_loop();
            } else {
                thread::yield_now();
            }
        }
        let panic = shared.panic.lock().unwrap_or_else(PoisonError::into_inner).take();
        shared.busy.store(false, Ordering::Release);
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

// SAFETY: pieces are handed out by moving `next` from `from` to `from + run` in one atomic step that starts at 0 and stays
// below `n`: runs are disjoint and cover `0..n`, so each index is called once. Those inside the region have left before
// `each_on` returns. After a panic it does not return but unwinds, and not before the others have left. Alone, a plain loop.
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
