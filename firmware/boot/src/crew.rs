//! Four cores that share out rows, with no operating system: what `bourn_host::Pool` is on Linux.
//!
//! Idle cores watch for a moment in low power (WFE, woken by SEV), then sleep (WFI) until the caller sends an interrupt; a core that
//! sleeps through a region is not waited for. One at a time may be called away for an [`Errand`] while the others share rows.

use bourn_kernels::region::{Pieces, Region, Seat};
use bourn_kernels::rows::Rows;
use core::cell::UnsafeCell;
use core::fmt;
use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use crate::CORES;

/// How often an idle core looks for work before it sleeps.
const LOOKS: u32 = 2000;

/// What a core is called away for.
pub trait Errand: Sync {
    /// Works until nothing is left for now, then returns. Runs on any core, on several at a time.
    fn run(&self);
}

/// The cores of a machine: the first calls, the others serve.
pub struct Crew {
    region: Region,
    stop: AtomicBool,
    /// Cores that have come to serve, numbered as they come.
    arrived: AtomicUsize,
    /// Which core a number is.
    core: [AtomicUsize; CORES - 1],
    asleep: [AtomicBool; CORES - 1],
    /// Somebody is to run the errand.
    called: AtomicBool,
    errand: UnsafeCell<Option<&'static dyn Errand>>,
    /// The errand was written and is not written any more.
    has_errand: AtomicBool,
}

// SAFETY: `errand` is written once, by the unsafe function that says so, before a releasing store of `has_errand`, and read after an acquiring
// load that saw it. All else is Sync itself.
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
            region: Region::new(),
            stop: AtomicBool::new(false),
            arrived: AtomicUsize::new(0),
            core: [const { AtomicUsize::new(0) }; CORES - 1],
            asleep: [const { AtomicBool::new(false) }; CORES - 1],
            called: AtomicBool::new(false),
            errand: UnsafeCell::new(None),
            has_errand: AtomicBool::new(false),
        }
    }

    /// What cores are called away for by [`Self::call`].
    ///
    /// # Safety
    /// Called once.
    pub unsafe fn set_errand(&self, errand: &'static dyn Errand) {
        // SAFETY: the only time that it is written, and nobody reads before `has_errand`.
        unsafe { *self.errand.get() = Some(errand) };
        self.has_errand.store(true, Ordering::Release);
    }

    /// Has one of the others run the errand, soon.
    pub fn call(&self) {
        if self.workers() == 1 || !self.has_errand.load(Ordering::Acquire) {
            return;
        }
        self.called.store(true, Ordering::SeqCst);
        machine::signal();
        // Who is about to sleep looks once more after it has said so.
        let all = &self.asleep[..self.workers() - 1];
        if all.iter().all(|asleep| asleep.load(Ordering::SeqCst)) {
            machine::wake(self.core[0].load(Ordering::SeqCst));
        }
    }

    /// Runs the errand if somebody is to.
    fn answer_call(&self) {
        if self.called.load(Ordering::Relaxed)
            && self.called.swap(false, Ordering::AcqRel)
            && self.has_errand.load(Ordering::Acquire)
        {
            // SAFETY: it was written before `has_errand`, and is not written again.
            if let Some(errand) = unsafe { *self.errand.get() } {
                errand.run();
            }
        }
    }

    /// Core `core`, not the first, serves until [`Self::stop`]. At most `CORES − 1` may come; others return at once.
    pub fn serve(&self, core: usize) {
        let id = self.arrived.load(Ordering::Relaxed);
        let id = if id < CORES - 1 { self.arrived.fetch_add(1, Ordering::AcqRel) } else { id };
        let Some(name) = self.core.get(id) else { return };
        name.store(core, Ordering::SeqCst);
        let mut seat = Seat::new(id);
        while self.watch(id, &seat) {
            self.answer_call();
            if self.region.join(&mut seat, Self::work) {
                machine::signal();
            }
        }
    }

    /// Sends those who serve home.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::SeqCst);
        self.wake(CORES - 1);
    }

    /// Waits for a region that calls core number `id`, or for a call; false: for the end. In a section of its own: what is counted as work is not this.
    #[inline(never)]
    #[cfg_attr(target_os = "none", unsafe(link_section = ".text.waiting"))]
    fn watch(&self, id: usize, seat: &Seat) -> bool {
        let mut looks = 0;
        while !self.region.calls(seat) && !self.called.load(Ordering::SeqCst) {
            if self.stop.load(Ordering::Relaxed) {
                return false;
            }
            if looks < LOOKS {
                looks += 1;
                machine::pause();
                continue;
            }
            // Says that it sleeps, then looks once more: whoever publishes first writes, then looks who sleeps.
            self.asleep[id].store(true, Ordering::SeqCst);
            if !self.region.calls(seat) && !self.called.load(Ordering::SeqCst) && !self.stop.load(Ordering::SeqCst) {
                machine::sleep(self.core[id].load(Ordering::Relaxed));
            }
            self.asleep[id].store(false, Ordering::SeqCst);
            looks = 0;
        }
        true
    }

    /// Waits until nobody is inside the region.
    #[inline(never)]
    #[cfg_attr(target_os = "none", unsafe(link_section = ".text.waiting"))]
    fn wait_for_leavers(&self) {
        while self.region.is_entered() {
            machine::pause();
        }
    }

    /// Takes part. A function of its own, so that instructions in shared work can be told from others.
    #[inline(never)]
    fn work(pieces: &Pieces<'_>) {
        pieces.take();
    }

    /// Those who sleep and are called, and an event for those who watch.
    fn wake(&self, helpers: usize) {
        machine::signal();
        for (asleep, core) in self.asleep.iter().zip(&self.core).take(helpers) {
            if asleep.load(Ordering::SeqCst) {
                machine::wake(core.load(Ordering::SeqCst));
            }
        }
    }
}

// SAFETY: all who take part, the caller among them, take pieces until none is left, so `Lead::each` calls each index once and
// before it returns. Alone, a plain loop.
unsafe impl Rows for Crew {
    fn each(&self, n: usize, job: &(dyn Fn(usize) + Sync)) {
        machine::alive();
        let helpers = (self.workers() - 1).min(n.saturating_sub(1));
        match (helpers > 0).then(|| self.region.lead()).flatten() {
            Some(mut lead) => lead.each(helpers, n, job, || self.wake(helpers), Self::work, || self.wait_for_leavers()),
            None => (0..n).for_each(job),
        }
    }

    fn workers(&self) -> usize {
        self.arrived.load(Ordering::Acquire).min(CORES - 1) + 1
    }
}

/// Waiting and waking, on the machine itself.
#[cfg(target_os = "none")]
pub(crate) mod machine {
    use crate::platform::{alive as feed, board};
    use aarch64_cpu::asm;

    /// Until an event, or for a while.
    pub(crate) fn pause() {
        asm::wfe();
    }

    /// An event for all cores, after everything written before.
    pub(crate) fn signal() {
        asm::barrier::dsb(asm::barrier::ISHST);
        asm::sev();
    }

    /// Until an interrupt is due. They are masked on these cores, so nothing runs but what comes next.
    pub(super) fn sleep(core: usize) {
        asm::wfi();
        board().interrupts().slept(core);
    }

    pub(super) fn wake(core: usize) {
        board().interrupts().wake(core);
    }

    pub(crate) fn alive() {
        feed();
    }
}

/// Waiting and waking in tests on a host.
#[cfg(not(target_os = "none"))]
pub(crate) mod machine {
    pub(crate) fn pause() {
        core::hint::spin_loop();
    }

    pub(crate) fn signal() {}

    pub(super) fn sleep(_core: usize) {
        core::hint::spin_loop();
    }

    pub(super) fn wake(_core: usize) {}

    pub(crate) fn alive() {}
}
