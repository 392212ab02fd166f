//! Four cores that share out rows, with no operating system: what `bourn_host::Pool` is on Linux.
//!
//! A region is one call of [`Rows::each`]. The caller publishes it, takes part, closes it when no piece is left, and waits for
//! those who entered. Idle cores watch for a moment in low power (WFE, woken by SEV), then sleep (WFI) until the caller sends
//! an interrupt; a core that sleeps through a region is not waited for.
//!
//! ```text
//! caller   publish ─ take pieces ─ close ─ wait until nobody is inside
//! others   watch ─ enter (count + 1, only while open) ─ take pieces ─ leave (count − 1) ─ watch …
//! ```

use bourn_kernels::rows::Rows;
use core::cell::UnsafeCell;
use core::fmt;
use core::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use crate::CORES;

// The state word: bits 0..16 cores inside the region, 16..32 cores admitted (by number), 32 open, 33.. region number.
const INSIDE: u64 = 0xffff;
const OPEN: u64 = 1 << 32;
const REGION: u32 = 33;
/// How often an idle core looks for work before it sleeps.
const LOOKS: u32 = 2000;

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

/// The cores of a machine: the first calls, the others serve.
pub struct Crew {
    state: Line<AtomicU64>,
    next: Line<AtomicUsize>,
    region: UnsafeCell<Region>,
    /// A caller is in `each`: the exclusive right to write `region`.
    busy: AtomicBool,
    stop: AtomicBool,
    /// Cores that have come to serve, numbered as they come.
    arrived: AtomicUsize,
    /// Which core a number is.
    core: [AtomicUsize; CORES - 1],
    asleep: [AtomicBool; CORES - 1],
}

// SAFETY: all fields but `region` are Sync themselves. `region` is written only by the core that holds `busy`, while the
// state word says closed and nobody inside; it is read by that core and by others between entering (an acquiring
// read-modify-write of the state word that saw the region open, after its releasing store) and leaving (a releasing
// decrement, which the caller acquires before it returns). So no read overlaps a write. The job it points to is Sync.
unsafe impl Sync for Crew {}

impl fmt::Debug for Crew {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Crew").field("workers", &self.workers()).finish()
    }
}

impl Default for Crew {
    fn default() -> Self {
        Self::new()
    }
}

impl Crew {
    /// Nobody has come yet: the caller works alone.
    pub const fn new() -> Self {
        Self {
            state: Line(AtomicU64::new(0)),
            next: Line(AtomicUsize::new(0)),
            region: UnsafeCell::new(Region { job: &|_| {}, n: 0, share: 1 }),
            busy: AtomicBool::new(false),
            stop: AtomicBool::new(false),
            arrived: AtomicUsize::new(0),
            core: [const { AtomicUsize::new(0) }; CORES - 1],
            asleep: [const { AtomicBool::new(false) }; CORES - 1],
        }
    }

    /// The same crew with at most `cores` at work at a time.
    pub fn limited(&self, cores: usize) -> Limited<'_> {
        Limited { crew: self, cores: cores.max(1) }
    }

    /// Core `core`, not the first, serves until [`Self::stop`]. At most `CORES − 1` may come; others return at once.
    pub fn serve(&self, core: usize) {
        let id = self.arrived.load(Ordering::Relaxed);
        let id = if id < CORES - 1 { self.arrived.fetch_add(1, Ordering::AcqRel) } else { id };
        let Some(name) = self.core.get(id) else { return };
        name.store(core, Ordering::SeqCst);
        let mut done = 0;
        while let Some(state) = self.watch(id, done) {
            done = state >> REGION;
            self.enter(state, id);
        }
    }

    /// Sends those who serve home.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::SeqCst);
        machine::signal();
        for (asleep, core) in self.asleep.iter().zip(&self.core) {
            if asleep.load(Ordering::SeqCst) {
                machine::wake(core.load(Ordering::SeqCst));
            }
        }
    }

    /// Waits for a region after `done` that admits core number `id`. In a section of its own: what is counted as work is not this.
    #[inline(never)]
    #[cfg_attr(target_os = "none", unsafe(link_section = ".text.waiting"))]
    fn watch(&self, id: usize, done: u64) -> Option<u64> {
        let wanted = |state: u64| state & OPEN != 0 && state >> REGION != done && admitted(state, id);
        let mut looks = 0;
        loop {
            let state = self.state.0.load(Ordering::Relaxed);
            if wanted(state) {
                return Some(state);
            }
            if self.stop.load(Ordering::Relaxed) {
                return None;
            }
            if looks < LOOKS {
                looks += 1;
                machine::pause();
                continue;
            }
            // Says that it sleeps, then looks once more: whoever publishes first writes, then looks who sleeps.
            self.asleep[id].store(true, Ordering::SeqCst);
            if !wanted(self.state.0.load(Ordering::SeqCst)) && !self.stop.load(Ordering::SeqCst) {
                machine::sleep(self.core[id].load(Ordering::Relaxed));
            }
            self.asleep[id].store(false, Ordering::SeqCst);
            looks = 0;
        }
    }

    /// Waits until nobody is inside the region.
    #[inline(never)]
    #[cfg_attr(target_os = "none", unsafe(link_section = ".text.waiting"))]
    fn wait_for_leavers(&self) {
        while self.state.0.load(Ordering::Acquire) & INSIDE != 0 {
            machine::pause();
        }
    }

    /// Enters the open region that the state word `seen` showed to core number `id`, works, leaves.
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
        // SAFETY: inside the region (see `Sync`): nobody writes it until this core has left.
        let region = unsafe { &*self.region.get() };
        // SAFETY: `each` borrows the job until every core that entered has left; this one has entered and not left.
        let job = unsafe { &*region.job };
        self.work(region, job);
        self.state.0.fetch_sub(1, Ordering::Release);
        machine::signal();
    }

    /// Takes pieces until none is left. A run of pieces at a time, shorter towards the end, so that all finish together.
    /// A function of its own, so that instructions in shared work can be told from others.
    #[inline(never)]
    fn work(&self, region: &Region, job: &(dyn Fn(usize) + Sync)) {
        let next = &self.next.0;
        let mut from = next.load(Ordering::Relaxed);
        while from < region.n {
            let run = ((region.n - from) / region.share).max(1);
            match next.compare_exchange_weak(from, from + run, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => {
                    (from..from + run).for_each(job);
                    from = next.load(Ordering::Relaxed);
                }
                Err(now) => from = now,
            }
        }
    }

    /// [`Rows::each`] with at most `cores` at work.
    fn each_on(&self, cores: usize, n: usize, job: &(dyn Fn(usize) + Sync)) {
        machine::alive();
        let helpers = (cores - 1).min(n.saturating_sub(1)).min(self.workers() - 1);
        if helpers == 0 || self.busy.swap(true, Ordering::Acquire) {
            (0..n).for_each(job);
            return;
        }
        // SAFETY: only the lifetime changes. The pointer is followed by this call and by cores inside its region, and
        // this call does not return before it has closed the region and seen the last of them leave. A panic never unwinds.
        let job: &'static Job = unsafe { core::mem::transmute::<&(dyn Fn(usize) + Sync), &'static Job>(job) };
        let slot = self.region.get();
        // SAFETY: `busy` is held, the region is closed and nobody is inside (the end of the previous `each_on`).
        unsafe { *slot = Region { job, n, share: 3 * (helpers + 1) } };
        self.next.0.store(0, Ordering::Relaxed);
        let number = (self.state.0.load(Ordering::Relaxed) >> REGION) + 1;
        let open = number << REGION | OPEN | (helpers as u64) << 16;
        self.state.0.store(open, Ordering::SeqCst);
        machine::signal();
        for (asleep, core) in self.asleep.iter().zip(&self.core).take(helpers) {
            if asleep.load(Ordering::SeqCst) {
                machine::wake(core.load(Ordering::Relaxed));
            }
        }
        // SAFETY: this core holds `busy`, and nobody writes the region while it is open.
        let region = unsafe { &*slot };
        self.work(region, job);
        self.state.0.fetch_and(!OPEN, Ordering::Relaxed);
        self.wait_for_leavers();
        self.busy.store(false, Ordering::Release);
    }
}

/// Whether core number `id` (the caller has no number) may enter.
const fn admitted(state: u64, id: usize) -> bool {
    (id as u64) < (state >> 16 & INSIDE)
}

// SAFETY: pieces are handed out by moving `next` from `from` to `from + run` in one atomic step that starts at 0 and stays
// below `n`: runs are disjoint and cover `0..n`, so each index is called once. Those inside the region have left before
// `each_on` returns. Alone, a plain loop.
unsafe impl Rows for Crew {
    fn each(&self, n: usize, job: &(dyn Fn(usize) + Sync)) {
        self.each_on(CORES, n, job);
    }

    fn workers(&self) -> usize {
        self.arrived.load(Ordering::Acquire).min(CORES - 1) + 1
    }
}

/// A crew of which only some cores work.
#[derive(Clone, Copy, Debug)]
pub struct Limited<'c> {
    crew: &'c Crew,
    cores: usize,
}

// SAFETY: as `Crew`: `each_on` calls each index once and returns after the last call.
unsafe impl Rows for Limited<'_> {
    fn each(&self, n: usize, job: &(dyn Fn(usize) + Sync)) {
        self.crew.each_on(self.cores, n, job);
    }

    fn workers(&self) -> usize {
        self.cores.min(self.crew.workers())
    }
}

/// Waiting and waking, on the machine itself.
#[cfg(target_os = "none")]
mod machine {
    use crate::platform::{alive as feed, board};
    use aarch64_cpu::asm;

    /// Until an event, or for a while.
    pub(super) fn pause() {
        asm::wfe();
    }

    /// An event for all cores, after everything written before.
    pub(super) fn signal() {
        asm::barrier::dsb(asm::barrier::ISHST);
        asm::sev();
    }

    /// Until an interrupt is due. They are masked on these cores, so nothing runs but what comes next.
    pub(super) fn sleep(core: usize) {
        asm::wfi();
        board().slept(core);
    }

    pub(super) fn wake(core: usize) {
        board().wake(core);
    }

    pub(super) fn alive() {
        feed();
    }
}

/// Waiting and waking in tests on a host.
#[cfg(not(target_os = "none"))]
mod machine {
    pub(super) fn pause() {
        core::hint::spin_loop();
    }

    pub(super) fn signal() {}

    pub(super) fn sleep(_core: usize) {
        core::hint::spin_loop();
    }

    pub(super) fn wake(_core: usize) {}

    pub(super) fn alive() {}
}
