//! The machine: where its devices are, and what the firmware does with them.

use core::arch::global_asm;
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use aarch64_cpu::asm;
use bourn_boot::memory::{BOOT_DEVICE, BOOT_MEMORY, BOOT_TABLE, Kind, Region};
use bourn_boot::platform::{self, Boot, Health, MemoryMap, Platform, SharedWords};
use bourn_boot::shell::{self, BoardLine};
use bourn_boot::time;
use bourn_drivers::Mmio;
use bourn_drivers::bcm_irq::{Cores, Devices};
use bourn_drivers::gpio::{Function, Gpio, Pull};
use bourn_drivers::mailbox::{Clock, Mailbox};
use bourn_drivers::sdhci::{Config, Sdhci};
use bourn_drivers::watchdog::Watchdog;

const PERIPHERALS: u64 = 0x3f00_0000;
const PERIPHERALS_END: u64 = 0x4000_0000;
/// The Arm block: timers and mailboxes of the cores.
const LOCAL: u64 = 0x4000_0000;
/// Where the loader's stub holds the other cores: a word for each.
const SPIN_TABLE: usize = 0xd8;
/// The PL011's clock where the video core does not say a usable one: config.txt's default.
const UART_HZ: u32 = 48_000_000;
/// The card controller's, likewise.
const EMMC_HZ: u32 = 250_000_000;
const WATCHDOG_SECONDS: u32 = 15;
/// Cores' memory where the video core does not say: 512 MiB less 64 for itself.
const DEFAULT_MEMORY: u64 = 448 << 20;

// Until the board says how much memory there is: 64 MiB of it, the peripherals, the Arm block.
global_asm!(
    ".section .rodata.boot_tables, \"a\"",
    ".balign 4096",
    ".global boot_tables",
    "boot_tables:",
    ".quad boot_blocks + {table}",
    ".quad 0x40000000 + {device}",
    ".fill 510, 8, 0",
    "boot_blocks:",
    ".set block, 0",
    ".rept 32",
    ".quad block + {memory}",
    ".set block, block + 0x200000",
    ".endr",
    ".fill 472, 8, 0",
    ".set block, 0x3f000000",
    ".rept 8",
    ".quad block + {device}",
    ".set block, block + 0x200000",
    ".endr",
    table = const BOOT_TABLE,
    device = const BOOT_DEVICE,
    memory = const BOOT_MEMORY,
);

/// Registers of the peripherals at an offset.
const fn peripheral(offset: usize, bytes: usize) -> Mmio {
    // SAFETY: every caller names a device of the BCM2837; the one that writes memory, the mailbox, is given `WORDS` only.
    unsafe { Mmio::new(PERIPHERALS as usize + offset, bytes) }
}

const INTERRUPTS: Devices<Mmio> = Devices::new(peripheral(0xb000, 0x300));
const MAILBOX: Mmio = peripheral(0xb880, 0x40);
const POWER: Watchdog<Mmio> = Watchdog::new(peripheral(0x10_0000, 0x30));
const GPIO: Gpio<Mmio> = Gpio::new(peripheral(0x20_0000, 0xb0));
const EMMC: Mmio = peripheral(0x30_0000, 0x100);
// SAFETY: the Arm block of the BCM2837, which does nothing to memory.
const ARM: Cores<Mmio> = Cores::new(unsafe { Mmio::new(LOCAL as usize, 0x100) });

#[cfg(not(feature = "mini-uart"))]
mod uart {
    //! The PL011.
    use super::{Clock, Function, Mmio, UART_HZ, peripheral};
    pub(super) type Port = bourn_drivers::pl011::Pl011<Mmio>;
    pub(super) const PORT: Port = Port::new(peripheral(0x20_1000, 0x1000));
    pub(super) const INTERRUPT: u32 = 57;
    pub(super) const PINS: Function = Function::Alt0;
    pub(super) const CLOCK: Clock = Clock::Uart;
    pub(super) const DEFAULT_HZ: u32 = UART_HZ;
}

#[cfg(feature = "mini-uart")]
mod uart {
    //! The mini-UART.
    use super::{Clock, Function, Mmio, peripheral};
    pub(super) type Port = bourn_drivers::mini_uart::MiniUart<Mmio>;
    pub(super) const PORT: Port = Port::new(peripheral(0x21_5000, 0x100));
    pub(super) const INTERRUPT: u32 = 29;
    pub(super) const PINS: Function = Function::Alt5;
    pub(super) const CLOCK: Clock = Clock::Core;
    pub(super) const DEFAULT_HZ: u32 = 250_000_000;
}

/// Requests to the video core, which does not see the caches.
static WORDS: SharedWords = SharedWords::new(0xc000_0000);

/// The mailbox. Used on the first core only, outside interrupts.
fn video_core() -> Mailbox<Mmio, &'static SharedWords> {
    Mailbox::new(MAILBOX, &WORDS)
}

/// How the activity LED is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
enum Led {
    None,
    /// Pin 2 of the expander, by mailbox: Pi 3 B.
    Expander,
    /// Pin 29, lit when high: Pi 3 B+, 3 A+.
    High,
    /// Pin 29, lit when low: Zero 2 W.
    Low,
}

impl Led {
    /// By the type in the board's revision code.
    fn of(revision: u32) -> Self {
        match revision >> 4 & 0xff {
            0x08 => Self::Expander,
            0x0d | 0x0e => Self::High,
            0x12 => Self::Low,
            _ => Self::None,
        }
    }
}

/// The machine.
struct Pi {
    line: BoardLine<uart::Port>,
    led: AtomicU32,
    lit: AtomicBool,
    /// The watchdog may be used: QEMU's resets at once.
    watched: AtomicBool,
}

static PI: Pi = Pi {
    line: BoardLine::new(uart::PORT),
    led: AtomicU32::new(Led::None as u32),
    lit: AtomicBool::new(false),
    watched: AtomicBool::new(false),
};

bourn_boot::entry!(PI, main);

impl Pi {
    /// Lights the activity LED, or not.
    fn light(&self, lit: bool) {
        if self.lit.swap(lit, Ordering::Relaxed) == lit {
            return;
        }
        let led = self.led.load(Ordering::Relaxed);
        if led == Led::Expander as u32 {
            // An LED that stays dark is no reason to stop.
            let _ = video_core().set_expander_pin(130, lit);
        } else if led != Led::None as u32 {
            GPIO.write(29, lit == (led == Led::High as u32));
        }
    }
}

impl Platform for Pi {
    fn memory(&self, _device_tree: usize) -> MemoryMap {
        let end = video_core().memory_end().unwrap_or(DEFAULT_MEMORY).min(PERIPHERALS);
        let mut others = [None; 8];
        // The loader's stub, with the spin table.
        others[0] = Some(Region::new(0, 0x1000, Kind::Data));
        others[1] = Some(Region::new(PERIPHERALS, PERIPHERALS_END, Kind::Device));
        others[2] = Some(Region::new(LOCAL, LOCAL + 0x1000, Kind::Device));
        MemoryMap { memory_end: end, others }
    }

    fn start(&self) {
        let mut video = video_core();
        for pin in [14, 15] {
            GPIO.function(pin, uart::PINS);
            GPIO.pull(pin, Pull::Up, &mut time::Delay);
        }
        // A clock that cannot make the speed is no answer: QEMU says 3 MHz.
        let hz = video.clock_hz(uart::CLOCK).ok().filter(|hz| *hz >= 16 * shell::BAUD).unwrap_or(uart::DEFAULT_HZ);
        self.line.port().start(hz, shell::BAUD);
        INTERRUPTS.enable(uart::INTERRUPT);
        let led = video.revision().map_or(Led::None, Led::of);
        if matches!(led, Led::High | Led::Low) {
            GPIO.function(29, Function::Output);
        }
        self.led.store(led as u32, Ordering::Relaxed);
        self.watched.store(!video.is_emulated(), Ordering::Relaxed);
        // The loader leaves the cores at their slowest.
        if let Ok(most) = video.max_clock_hz(Clock::Arm) {
            let _ = video.set_clock_hz(Clock::Arm, most);
        }
        self.feed(true);
    }

    fn start_cores(&self, entry: u64, release: &AtomicU64) {
        platform::release_spinning(entry, release, SPIN_TABLE);
    }

    fn core_started(&self, core: usize) {
        ARM.enable(core);
    }

    fn interrupt(&self) {
        if INTERRUPTS.is_pending(uart::INTERRUPT) {
            self.line.interrupt();
        }
    }

    fn wake(&self, core: usize) {
        ARM.wake(core);
    }

    fn slept(&self, core: usize) {
        ARM.clear(core);
    }

    fn feed(&self, working: bool) {
        self.light(working);
        if self.watched.load(Ordering::Relaxed) {
            POWER.feed(WATCHDOG_SECONDS);
        }
    }

    fn health(&self) -> Health {
        platform::health_of(&mut video_core())
    }

    fn last_words(&self, bytes: &[u8]) {
        self.line.send(bytes);
    }

    fn reset(&self) -> ! {
        POWER.reset();
        loop {
            asm::wfi();
        }
    }
}

fn main(boot: Boot) -> ! {
    for pin in 48..54 {
        GPIO.function(pin, Function::Alt3);
        GPIO.pull(pin, if pin == 48 { Pull::Off } else { Pull::Up }, &mut time::Delay);
    }
    let clock_hz = video_core().clock_hz(Clock::Emmc).unwrap_or(EMMC_HZ);
    let card = Sdhci::new(EMMC, Config { clock_hz, max_hz: 50_000_000, write_gap_us: 6, now_us: time::micros });
    shell::run(boot, "rpi3", &PI.line, Some(card))
}
