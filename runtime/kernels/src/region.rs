//! One call of [`Rows::each`](crate::rows::Rows::each) shared by several workers, without a lock. Who the workers are and how they wait, sleep and are
//! woken is theirs: threads on a host, cores on a bare machine.
//!
//! The caller publishes the region, takes part, closes it when no piece is left, and waits for those who entered. A worker that
//! sleeps through a region is not waited for, so a slow one never holds a token up.
//!
//! ```text
//! caller   publish ─ take pieces ─ close ─ wait until nobody is inside
//! others   watch ─ enter (count + 1, only while open) ─ take pieces ─ leave (count − 1) ─ watch …
//! ```

use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

// The state word: bits 0..16 workers inside the region, 16..32 workers admitted (by number), 32 open, 33.. region number.
const INSIDE: u64 = 0xffff;
const OPEN: u64 = 1 << 32;
const NUMBER: u32 = 33;

/// A job while a region runs; [`Lead::each`] sees to it that no one follows a pointer to it later.
type Job = dyn Fn(usize) + Sync + 'static;

/// What a region does. Written only by the holder of `busy` while the region is closed and nobody is inside.
struct Work {
    job: *const Job,
    n: usize,
    share: usize,
}

/// Its own cache line, so that the counter does not bounce with its neighbours.
#[repr(align(128))]
struct Line<T>(T);

/// Where a caller and its workers meet: one region after the other.
pub struct Region {
    state: Line<AtomicU64>,
    next: Line<AtomicUsize>,
    work: UnsafeCell<Work>,
    /// A caller leads: the exclusive right to write `work`.
    busy: AtomicBool,
}

// SAFETY: all fields but `work` are Sync themselves. `work` is written only by the caller that holds `busy`, while the
// state word says closed and nobody inside; it is read by workers between entering (an acquiring read-modify-write of the
// state word that saw the region open, after its releasing store) and leaving (a releasing decrement, which the caller
// acquires before it returns). So no read overlaps a write. The job it points to is Sync.
unsafe impl Sync for Region {}
// SAFETY: as above; the raw pointer is only followed inside a region, by whichever worker, and the job is Sync.
unsafe impl Send for Region {}

impl Default for Region {
    fn default() -> Self {
        Self::new()
    }
}

/// A worker's place: its number, and the last region that it was in.
pub struct Seat {
    id: usize,
    done: u64,
}

impl Seat {
    /// Of worker `id`, counted from 0. The caller has no number.
    pub const fn new(id: usize) -> Self {
        Self { id, done: 0 }
    }

    #[inline(always)]
    const fn is_called(&self, state: u64) -> bool {
        state & OPEN != 0 && state >> NUMBER != self.done && (self.id as u64) < (state >> 16 & INSIDE)
    }
}

/// The pieces of an open region that nobody has taken.
pub struct Pieces<'r> {
    next: &'r AtomicUsize,
    n: usize,
    share: usize,
    job: &'r (dyn Fn(usize) + Sync),
}

impl Pieces<'_> {
    /// Takes pieces until none is left: each is done once, whoever calls this. A run of pieces at a time, shorter towards the
    /// end, so that all finish together.
    pub fn take(&self) {
        let mut from = self.next.load(Ordering::Relaxed);
        while from < self.n {
            let run = ((self.n - from) / self.share).max(1);
            match self.next.compare_exchange_weak(from, from + run, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => {
                    (from..from + run).for_each(self.job);
                    from = self.next.load(Ordering::Relaxed);
                }
                Err(now) => from = now,
            }
        }
    }

    /// Leaves what nobody has taken undone: for a job that panicked.
    pub fn give_up(&self) {
        self.next.store(self.n, Ordering::Relaxed);
    }
}

impl Region {
    /// Closed, nobody inside.
    pub const fn new() -> Self {
        Self {
            state: Line(AtomicU64::new(0)),
            next: Line(AtomicUsize::new(0)),
            work: UnsafeCell::new(Work { job: &|_| {}, n: 0, share: 1 }),
            busy: AtomicBool::new(false),
        }
    }

    /// Whether a region is open that admits this worker and that it was not in. A worker that wrote that it sleeps, with
    /// `SeqCst`, and then sees false here will be seen asleep by whoever opens the next. Always part of the loop that waits, so that
    /// waiting can be told from work by its address.
    #[inline(always)]
    pub fn calls(&self, seat: &Seat) -> bool {
        seat.is_called(self.state.0.load(Ordering::SeqCst))
    }

    /// Enters the open region, if there is one that [calls](Self::calls), does `work` inside and leaves: true. `work` is not to unwind: the caller
    /// would wait for ever.
    pub fn join(&self, seat: &mut Seat, work: impl FnOnce(&Pieces<'_>)) -> bool {
        let mut seen = self.state.0.load(Ordering::Relaxed);
        loop {
            if !seat.is_called(seen) {
                return false;
            }
            match self.state.0.compare_exchange_weak(seen, seen + 1, Ordering::Acquire, Ordering::Relaxed) {
                Ok(_) => break,
                Err(now) => seen = now,
            }
        }
        seat.done = seen >> NUMBER;
        // SAFETY: inside the region (see `Sync`): nobody writes it until this worker has left.
        let &Work { job, n, share } = unsafe { &*self.work.get() };
        // SAFETY: `each` borrows the job until every worker that entered has left; this one has entered and not left.
        let job = unsafe { &*job };
        work(&Pieces { next: &self.next.0, n, share, job });
        self.state.0.fetch_sub(1, Ordering::Release);
        true
    }

    /// Whether a worker is inside; what it did is seen once none is. Part of the loop that waits, as [`Self::calls`].
    #[inline(always)]
    pub fn is_entered(&self) -> bool {
        self.state.0.load(Ordering::Acquire) & INSIDE != 0
    }

    /// The right to open regions, unless another caller, or this one further out, has it.
    pub fn lead(&self) -> Option<Lead<'_>> {
        (!self.busy.swap(true, Ordering::Acquire)).then(|| Lead(self))
    }

    fn close(&self) {
        self.state.0.fetch_and(!OPEN, Ordering::Relaxed);
    }
}

/// The right to open regions, until dropped.
pub struct Lead<'r>(&'r Region);

impl Drop for Lead<'_> {
    fn drop(&mut self) {
        self.0.busy.store(false, Ordering::Release);
    }
}

/// Closes the region and sees the last worker leave, should the caller unwind.
struct Inside<'r>(&'r Region);

impl Drop for Inside<'_> {
    fn drop(&mut self) {
        self.0.close();
        while self.0.is_entered() {
            core::hint::spin_loop();
        }
    }
}

impl Lead<'_> {
    /// Shares `job(i)`, `i` in `0..n`, with workers `0..helpers`: `wake` wakes those who sleep, `work` does the caller's part, `wait`
    /// waits until no worker [is inside](Region::is_entered). Each `i` is done once, and done on return, if all take their pieces with
    /// [`Pieces::take`] until none is left.
    ///
    /// # Panics
    /// If `helpers` is more than 65 535.
    pub fn each(
        &mut self,
        helpers: usize,
        n: usize,
        job: &(dyn Fn(usize) + Sync),
        wake: impl FnOnce(),
        work: impl FnOnce(&Pieces<'_>),
        wait: impl FnOnce(),
    ) {
        let region = self.0;
        assert!(helpers as u64 <= INSIDE);
        let share = 3 * (helpers + 1);
        // SAFETY: only the lifetime changes. The pointer is followed by workers inside the region, and this call does not return
        // or unwind before it has closed the region and seen the last of them leave.
        let lasting = unsafe { core::mem::transmute::<&(dyn Fn(usize) + Sync), &'static Job>(job) };
        // SAFETY: `busy` is held, the region is closed and nobody is inside (the end of the previous `each`).
        unsafe { *region.work.get() = Work { job: lasting, n, share } };
        region.next.0.store(0, Ordering::Relaxed);
        let number = (region.state.0.load(Ordering::Relaxed) >> NUMBER) + 1;
        let inside = Inside(region);
        region.state.0.store(number << NUMBER | OPEN | (helpers as u64) << 16, Ordering::SeqCst);
        wake();
        work(&Pieces { next: &region.next.0, n, share, job });
        region.close();
        wait();
        while region.is_entered() {
            core::hint::spin_loop();
        }
        core::mem::forget(inside);
    }
}
