//! What every Raspberry Pi is: cores and devices that a video core knows of, a watchdog that resets, a serial line, a light.

use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use aarch64_cpu::asm;
use bourn_app::Health;
use bourn_drivers::Mmio;
use bourn_drivers::interrupts::Interrupts;
use bourn_drivers::mailbox::{Clock, Mailbox, Shared, WORDS};
use bourn_drivers::serial::{Port, Wire};
use bourn_drivers::watchdog::Watchdog;

use crate::CORES;
use crate::memory::Region;
use crate::platform::{MemoryMap, Platform, flush};
use crate::shell::BoardLine;

/// The longest that the watchdog waits.
const WATCHDOG_SECONDS: u32 = 15;

/// Requests to the video core. On the first core only, outside interrupts.
pub type VideoCore<'w> = Mailbox<Mmio, &'w SharedWords>;

/// What one chip, or one board, has otherwise than another.
#[derive(Clone, Copy, Debug)]
pub struct Chip {
    /// Registers of the mailbox.
    pub mailbox: Mmio,
    /// Registers of the power manager.
    pub power: Mmio,
    /// Cores' memory ends here where the video core does not say.
    pub default_memory: u64,
    /// It ends here at the latest, whatever it says.
    pub most_memory: u64,
    /// Devices, and memory below the firmware that is written to.
    pub others: &'static [Region],
    /// Starts the line and readies the light.
    pub start: fn(&mut VideoCore<'_>),
    /// Makes the other cores begin, as [`Platform::start_cores`].
    pub start_cores: fn(entry: u64, release: &AtomicU64),
    /// Lights the activity LED, or not. Called a few times a second.
    pub light: fn(lit: bool),
}

/// A Raspberry Pi.
#[derive(Debug)]
pub struct Pi<P: 'static, I> {
    /// The serial line.
    pub line: BoardLine<P>,
    interrupts: I,
    chip: Chip,
    words: SharedWords,
    /// The watchdog may be used: QEMU's resets at once.
    watched: AtomicBool,
}

impl<P: Port, I> Pi<P, I> {
    /// Nothing is started yet.
    pub const fn new(port: P, interrupts: I, chip: Chip) -> Self {
        let (words, watched) = (SharedWords::new(), AtomicBool::new(false));
        Self { line: BoardLine::new(port), interrupts, chip, words, watched }
    }

    /// The mailbox.
    pub fn video_core(&self) -> VideoCore<'_> {
        Mailbox::new(self.chip.mailbox, &self.words)
    }

    const fn watchdog(&self) -> Watchdog<Mmio> {
        Watchdog::new(self.chip.power)
    }
}

impl<P: Port + Sync, I: Interrupts + Sync> Platform for Pi<P, I> {
    fn memory(&self, _device_tree: usize) -> MemoryMap {
        let end = self.video_core().memory_end().unwrap_or(self.chip.default_memory);
        MemoryMap { memory_end: end.min(self.chip.most_memory), others: self.chip.others }
    }

    fn start(&self) {
        let mut video = self.video_core();
        (self.chip.start)(&mut video);
        self.watched.store(!video.is_emulated(), Ordering::Relaxed);
        // The loader leaves the cores at their slowest.
        if let Ok(most) = video.max_clock_hz(Clock::Arm) {
            let _ = video.set_clock_hz(Clock::Arm, most);
        }
        self.feed(true);
    }

    fn line(&self) -> &dyn Wire {
        &self.line
    }

    fn interrupts(&self) -> &dyn Interrupts {
        &self.interrupts
    }

    fn start_cores(&self, entry: u64, release: &AtomicU64) {
        (self.chip.start_cores)(entry, release);
    }

    fn feed(&self, working: bool) {
        (self.chip.light)(working);
        if self.watched.load(Ordering::Relaxed) {
            self.watchdog().feed(WATCHDOG_SECONDS);
        }
    }

    fn health(&self) -> Health {
        let mut video = self.video_core();
        Health {
            millicelsius: video.temperature().ok().and_then(|t| i32::try_from(t).ok()),
            core_hz: video.clock_hz(Clock::Arm).ok().map(u64::from),
            throttled: video.throttled().ok(),
        }
    }

    fn reset(&self) -> ! {
        self.watchdog().reset();
        loop {
            asm::wfi();
        }
    }
}

/// Lets cores go that wait in the loader's stub, which looks at a word for each from 0xd8 up, and those parked by `start`.
pub fn release_spinning(entry: u64, release: &AtomicU64) {
    const SPIN_TABLE: usize = 0xd8;
    release.store(entry, Ordering::SeqCst);
    // They look with caches off.
    flush(core::ptr::from_ref(release).addr(), size_of::<u64>());
    for core in 1..CORES {
        let word: *mut u64 = core::ptr::with_exposed_provenance_mut(SPIN_TABLE + 8 * core);
        // SAFETY: the board maps the stub's page as data, and nothing but the stub uses it.
        unsafe { word.write_volatile(entry) };
    }
    flush(SPIN_TABLE, 8 * CORES);
    asm::sev();
}

/// Memory that the video core, which does not see the caches, reads and writes.
#[derive(Debug)]
#[repr(C, align(64))]
pub struct SharedWords([AtomicU32; WORDS]);

impl SharedWords {
    /// The video core finds memory here, and up.
    const ALIAS: u32 = 0xc000_0000;

    const fn new() -> Self {
        Self([const { AtomicU32::new(0) }; WORDS])
    }

    fn flush(&self) {
        flush(self.0.as_ptr().addr(), size_of_val(&self.0));
    }
}

impl Shared for &SharedWords {
    fn address(&self) -> u32 {
        self.0.as_ptr().addr() as u32 | SharedWords::ALIAS
    }

    fn put(&mut self, words: &[u32; WORDS]) {
        for (to, from) in self.0.iter().zip(words) {
            to.store(*from, Ordering::Relaxed);
        }
        self.flush();
    }

    fn get(&mut self) -> [u32; WORDS] {
        // Lines that were fetched while the answer was written are dropped; none is dirty.
        self.flush();
        self.0.each_ref().map(|word| word.load(Ordering::Relaxed))
    }
}
