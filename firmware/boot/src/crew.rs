//! Four cores that share out rows, with no operating system: what `bourn_host::Pool` is on Linux.
//!
//! Idle cores watch for a moment in low power (WFE, woken by SEV), then sleep (WFI) until the caller sends an interrupt; a core that
//! sleeps through a region is not waited for.

use bourn_kernels::region::{Pieces, Region, Seat};
use bourn_kernels::rows::Rows;
use core::fmt;
use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use crate::CORES;

/// How often an idle core looks for work before it sleeps.
const LOOKS: u32 = 2000;

/// The cores of a machine: the first calls, the others serve.
pub struct Crew {
    region: Region,
    stop: AtomicBool,
    /// Cores that have come to serve, numbered as they come.
    arrived: AtomicUsize,
    /// Which core a number is.
    core: [AtomicUsize; CORES - 1],
    asleep: [AtomicBool; CORES - 1],
}

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

    /// Waits for a region that calls core number `id`; false: for the end. In a section of its own: what is counted as work is not this.
    #[inline(never)]
    #[cfg_attr(target_os = "none", unsafe(link_section = ".text.waiting"))]
    fn watch(&self, id: usize, seat: &Seat) -> bool {
        let mut looks = 0;
        while !self.region.calls(seat) {
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
            if !self.region.calls(seat) && !self.stop.load(Ordering::SeqCst) {
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
        board().interrupts().slept(core);
    }

    pub(super) fn wake(core: usize) {
        board().interrupts().wake(core);
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
