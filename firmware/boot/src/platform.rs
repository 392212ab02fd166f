//! What a board adds, and how the parts of a machine come together.

use core::arch::asm;
use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicU64, Ordering};

use aarch64_cpu::asm::barrier;
use aarch64_cpu::registers::{CNTKCTL_EL1, DAIF, ID_AA64MMFR0_EL1, Readable as _, Writeable as _};
pub use bourn_app::Health;
use bourn_drivers::interrupts::Interrupts;
use bourn_drivers::serial::Wire;

use crate::crew::Crew;
use crate::memory::{Error, Kind, PAGE, Region, STACK_BYTES, Tables};
use crate::tier::Features;
use crate::{CORES, time};

/// Page tables: a root, tables of 2 MiB blocks for a few gigabytes, tables of pages around the firmware.
const N_TABLES: usize = 12;
/// Between two feedings of the watchdog.
const FEED_MICROS: u64 = 250_000;
/// The bit of the counter whose change is an event: every 2 to 3 ms at 19 to 62 MHz.
const EVENT_BIT: u64 = 15;
/// How long other cores may take to come.
const CORES_MICROS: u64 = 20_000;

unsafe extern "Rust" {
    /// The board, from [`crate::entry!`].
    safe static BOURN_BOARD: &'static dyn Platform;
    /// Its main function, from [`crate::entry!`].
    safe fn bourn_main(boot: Boot) -> !;
}

unsafe extern "C" {
    // What the linker script says: only the addresses of these mean anything.
    static __image: u8;
    static __text_end: u8;
    static __rodata_end: u8;
    static __loaded_end: u8;
    static __stacks: u8;
    static __fault_stacks: u8;
    static __image_end: u8;
    static core_release: AtomicU64;
    fn _start_core() -> !;
}

/// Names the board (a `static` that implements [`Platform`]), the function that is called once all is up, and the tables until the board says
/// how much memory there is.
#[macro_export]
macro_rules! entry {
    ($board:expr, $main:path, $tables:expr) => {
        #[unsafe(no_mangle)]
        static BOURN_TABLES: $crate::memory::StartTable<1> = $tables;

        #[unsafe(no_mangle)]
        static BOURN_BOARD: &'static dyn $crate::platform::Platform = &$board;

        #[unsafe(no_mangle)]
        fn bourn_main(boot: $crate::platform::Boot) -> ! {
            $main(boot)
        }
    };
}

/// What a board adds to a core.
pub trait Platform: Sync {
    /// Called once, on the start-up tables: where memory ends, and every stretch of devices. `device_tree` is what the loader left
    /// in x0, 0 if nothing.
    fn memory(&self, device_tree: usize) -> MemoryMap;
    /// Called once, on the final tables: serial line up.
    fn start(&self);
    /// The serial line.
    fn line(&self) -> &dyn Wire;
    /// The interrupt controller.
    fn interrupts(&self) -> &dyn Interrupts;
    /// Makes the other cores begin at `entry`, with MMU off; `release` is a cell that cores parked by `start` look at.
    fn start_cores(&self, entry: u64, release: &AtomicU64);
    /// Called a few times a second while the first core computes (`working`) or waits for the host: feeds the watchdog, and shows it.
    fn feed(&self, _working: bool) {}
    /// How the board is.
    fn health(&self) -> Health {
        Health::default()
    }
    /// Begins anew.
    fn reset(&self) -> !;
}

/// Memory and devices of a board.
#[derive(Clone, Copy, Debug)]
pub struct MemoryMap {
    /// One past the last byte of memory that follows the firmware.
    pub memory_end: u64,
    /// Everything else: devices, and memory below the firmware that is written to.
    pub others: &'static [Region],
}

/// What the main function gets.
#[derive(Debug)]
pub struct Boot {
    /// All memory that nothing else uses.
    pub memory: &'static mut [u8],
    /// All cores.
    pub crew: &'static Crew,
    /// What every core can run.
    pub features: Features,
    /// Ticks at reset, as far as this firmware saw it.
    pub start_ticks: u64,
    /// Code and constants, as they were loaded.
    pub fixed: &'static [u8],
    /// Bytes of code, constants and data: what a loader loads.
    pub loaded_bytes: usize,
    /// Bytes of static memory: data, zeroed memory, page tables and stacks.
    pub static_bytes: usize,
}

/// Page tables where they stay.
#[repr(transparent)]
pub struct TableCell(UnsafeCell<Tables<N_TABLES>>);

// SAFETY: written by the first core before others are started; the MMU only reads.
unsafe impl Sync for TableCell {}

/// The final page tables; their root is what `_start_core` hands to the MMU.
pub static TABLES: TableCell = TableCell(UnsafeCell::new(Tables::new()));

static CREW: Crew = Crew::new();
static FED: AtomicU64 = AtomicU64::new(0);
/// Bits of [`Features`] that all cores so far have.
static FEATURES: [AtomicU64; CORES] = [const { AtomicU64::new(u64::MAX) }; CORES];

/// The board.
pub fn board() -> &'static dyn Platform {
    BOURN_BOARD
}

/// Something goes on: the board is told now and then.
pub fn alive() {
    feed(true);
}

/// The first core waits for the host: the board is told now and then.
pub fn idle() {
    feed(false);
}

fn feed(working: bool) {
    let now = time::micros();
    let fed = FED.load(Ordering::Relaxed);
    if now.wrapping_sub(fed & !1) > FEED_MICROS || fed & 1 != u64::from(working) {
        FED.store(now & !1 | u64::from(working), Ordering::Relaxed);
        board().feed(working);
    }
}

/// Masks interrupts on this core; returns what to restore.
pub fn mask_interrupts() -> u64 {
    let mask = DAIF.get();
    DAIF.set(0x3c0);
    mask
}

/// Restores what [`mask_interrupts`] returned.
pub fn restore_interrupts(mask: u64) {
    DAIF.set(mask);
}

/// Lets interrupts come on this core.
pub fn unmask_interrupts() {
    DAIF.set(0x340);
}

/// Has Trusted Firmware (PSCI, by SMC) start the core of this affinity at `entry`.
pub fn power_on(affinity: u64, entry: u64) {
    // A machine with fewer cores refuses those it has not.
    let _ = smccc::psci::cpu_on::<smccc::Smc>(affinity, entry, 0);
}

/// Lets the counter send this core an event every few milliseconds, so that no wait for an event is for ever.
fn start_events() {
    CNTKCTL_EL1.write(CNTKCTL_EL1::EVNTEN::SET + CNTKCTL_EL1::EVNTI.val(EVENT_BIT));
}

/// Writes the cache lines of `bytes` back to memory and drops them, for masters that do not see caches.
pub fn flush(start: usize, bytes: usize) {
    const LINE: usize = 64;
    barrier::dsb(barrier::SY);
    for line in (start / LINE * LINE..start + bytes).step_by(LINE) {
        // SAFETY: maintenance by address changes no value that this core would read.
        unsafe { asm!("dc civac, {line}", line = in(reg) line, options(nostack, preserves_flags)) };
    }
    barrier::dsb(barrier::SY);
}

fn address_of(symbol: *const u8) -> u64 {
    symbol.addr() as u64
}

/// Maps the firmware, its memory and the board's devices, and changes to these tables.
fn map(others: &MemoryMap) -> Result<Region, Error> {
    // SAFETY: the first core alone runs, once, before anything else takes a reference.
    let tables = unsafe { &mut *TABLES.0.get() };
    let symbols = [&raw const __image, &raw const __text_end, &raw const __rodata_end, &raw const __stacks];
    let [image, text_end, rodata_end, stacks] = symbols.map(address_of);
    let (fault_stacks, end) = (address_of(&raw const __fault_stacks), address_of(&raw const __image_end));
    tables.map(&Region::new(image, text_end, Kind::Code))?;
    tables.map(&Region::new(text_end, rodata_end, Kind::Constants))?;
    tables.map(&Region::new(rodata_end, stacks, Kind::Data))?;
    for core in 0..CORES as u64 {
        let start = stacks + core * STACK_BYTES;
        tables.map(&Region::new(start + PAGE, start + STACK_BYTES, Kind::Data))?;
    }
    tables.map(&Region::new(fault_stacks, end, Kind::Data))?;
    let lent = Region::new(end, others.memory_end / PAGE * PAGE, Kind::Data);
    tables.map(&lent)?;
    for region in others.others {
        tables.map(region)?;
    }
    let root = tables.root();
    barrier::dsb(barrier::ISHST);
    // SAFETY: the new tables map code, data and stack of this core where the old ones do.
    unsafe {
        asm!("msr ttbr0_el1, {root}", "isb", "tlbi vmalle1", "dsb nsh", "isb", root = in(reg) root, options(nostack));
    }
    Ok(lent)
}

/// The first core, in Rust.
#[unsafe(no_mangle)]
extern "C" fn bourn_start(device_tree: usize, start_ticks: u64) -> ! {
    let board = board();
    let map_of_board = board.memory(device_tree);
    let mapped = map(&map_of_board);
    board.start();
    board.interrupts().start();
    let lent = match mapped {
        Ok(lent) => lent,
        Err(error) => panic!("{error}"),
    };
    start_events();
    unmask_interrupts();
    note_features(0);
    start_cores(board);
    let (loaded_bytes, static_bytes) = sizes();
    let features = features();
    let wide = ID_AA64MMFR0_EL1.get() & 15;
    defmt::info!("memory {=u64:#x}..{=u64:#x}, {=usize} cores, pa range {=u64}", lent.start, lent.end, workers(), wide);
    // SAFETY: mapped as data just now, behind everything the linker placed, and lent out once: this function runs once.
    let memory = unsafe { core::slice::from_raw_parts_mut(lent.start as *mut u8, lent.bytes() as usize) };
    bourn_main(Boot { memory, crew: &CREW, features, start_ticks, fixed: fixed(), loaded_bytes, static_bytes })
}

fn workers() -> usize {
    bourn_kernels::rows::Rows::workers(&CREW)
}

/// Code and constants, by which one firmware is told from another.
fn fixed() -> &'static [u8] {
    let bytes = (address_of(&raw const __rodata_end) - address_of(&raw const __image)) as usize;
    // SAFETY: mapped for reading and never written: what the linker placed from the image's beginning to the constants' end.
    unsafe { core::slice::from_raw_parts(&raw const __image, bytes) }
}

/// Bytes loaded, and bytes of static memory.
fn sizes() -> (usize, usize) {
    let [image, rodata_end, loaded_end, end] =
        [&raw const __image, &raw const __rodata_end, &raw const __loaded_end, &raw const __image_end].map(address_of);
    ((loaded_end - image) as usize, (end - rodata_end) as usize)
}

/// Starts the other cores and waits a moment for them.
fn start_cores(board: &dyn Platform) {
    let entry = _start_core as unsafe extern "C" fn() -> !;
    // SAFETY: defined in `start`; its only other users are parked cores, which read it as one word.
    let release = unsafe { &core_release };
    // What they read with caches off: the tables' root is reached with caches on, the rest is code.
    board.start_cores(entry as usize as u64, release);
    let end = time::micros() + CORES_MICROS;
    while workers() < CORES && time::micros() < end {
        core::hint::spin_loop();
    }
}

fn note_features(core: usize) {
    let found = Features::of_this_core();
    let bits = u64::from(found.neon) | u64::from(found.dotprod) << 1;
    FEATURES[core].store(bits, Ordering::Release);
}

/// What all cores that came have; those that did not come count as having everything.
fn features() -> Features {
    let bits = FEATURES.iter().fold(u64::MAX, |all, core| all & core.load(Ordering::Acquire));
    Features { neon: bits & 1 != 0, dotprod: bits & 2 != 0 }
}

/// The other cores, in Rust.
#[unsafe(no_mangle)]
extern "C" fn bourn_core(core: usize) {
    if core < CORES {
        start_events();
        note_features(core);
        board().interrupts().start_core(core);
        CREW.serve(core);
    }
}
