//! The machine: where its devices are, and what the firmware does with them.

use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use bourn_boot::memory::{Kind, Region, StartTable};
use bourn_boot::pi::{self, Chip, Pi, VideoCore};
use bourn_boot::platform::Boot;
use bourn_boot::{shell, time};
use bourn_drivers::Mmio;
use bourn_drivers::bcm_irq::BcmIrq;
use bourn_drivers::gpio::{Function, Gpio, Pull};
use bourn_drivers::mailbox::Clock;
use bourn_drivers::sdhci::{Config, Sdhci};

const PERIPHERALS: u64 = 0x3f00_0000;
const PERIPHERALS_END: u64 = 0x4000_0000;
/// The Arm block: timers and mailboxes of the cores.
const LOCAL: u64 = 0x4000_0000;
/// The PL011's clock where the video core does not say a usable one: config.txt's default.
const UART_HZ: u32 = 48_000_000;
/// The card controller's, likewise.
const EMMC_HZ: u32 = 250_000_000;
/// Cores' memory where the video core does not say: 512 MiB less 64 for itself.
const DEFAULT_MEMORY: u64 = 448 << 20;

/// Registers of the peripherals at an offset.
const fn peripheral(offset: usize, bytes: usize) -> Mmio {
    // SAFETY: every caller names a device of the BCM2837; the one that writes memory, the mailbox, is given `Pi`'s words only.
    unsafe { Mmio::new(PERIPHERALS as usize + offset, bytes) }
}

const GPIO: Gpio<Mmio> = Gpio::new(peripheral(0x20_0000, 0xb0));
const EMMC: Mmio = peripheral(0x30_0000, 0x100);
// SAFETY: the Arm block of the BCM2837, which does nothing to memory.
const ARM: Mmio = unsafe { Mmio::new(LOCAL as usize, 0x100) };

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

static PI: Pi<uart::Port, BcmIrq<Mmio, Mmio>> = Pi::new(
    uart::PORT,
    BcmIrq::new(peripheral(0xb000, 0x300), ARM, uart::INTERRUPT),
    Chip {
        mailbox: peripheral(0xb880, 0x40),
        power: peripheral(0x10_0000, 0x30),
        default_memory: DEFAULT_MEMORY,
        most_memory: PERIPHERALS,
        others: &[
            // The loader's stub, with the spin table.
            Region::new(0, 0x1000, Kind::Data),
            Region::new(PERIPHERALS, PERIPHERALS_END, Kind::Device),
            Region::new(LOCAL, LOCAL + 0x1000, Kind::Device),
        ],
        start,
        start_cores: pi::release_spinning,
        light,
    },
);
static LED: AtomicU32 = AtomicU32::new(Led::None as u32);
static LIT: AtomicBool = AtomicBool::new(false);

// Until the board says how much memory there is: 64 MiB of it, and devices.
static LOW: StartTable<2> = StartTable::new().memory(0, 64 << 20).devices(PERIPHERALS, PERIPHERALS_END);

bourn_boot::entry!(PI, main, StartTable::new().table(0, &LOW).devices(LOCAL, 2 * LOCAL));

fn start(video: &mut VideoCore<'_>) {
    for pin in [14, 15] {
        GPIO.function(pin, uart::PINS);
        GPIO.pull(pin, Pull::Up, &mut time::Delay);
    }
    let hz = video.clock_hz_or(uart::CLOCK, 16 * shell::BAUD, uart::DEFAULT_HZ);
    PI.line.port().start(hz, shell::BAUD);
    let led = video.revision().map_or(Led::None, Led::of);
    if matches!(led, Led::High | Led::Low) {
        GPIO.function(29, Function::Output);
    }
    LED.store(led as u32, Ordering::Relaxed);
}

fn light(lit: bool) {
    if LIT.swap(lit, Ordering::Relaxed) == lit {
        return;
    }
    let led = LED.load(Ordering::Relaxed);
    if led == Led::Expander as u32 {
        // An LED that stays dark is no reason to stop.
        let _ = PI.video_core().set_expander_pin(130, lit);
    } else if led != Led::None as u32 {
        GPIO.write(29, lit == (led == Led::High as u32));
    }
}

fn main(boot: Boot) -> ! {
    for pin in 48..54 {
        GPIO.function(pin, Function::Alt3);
        GPIO.pull(pin, if pin == 48 { Pull::Off } else { Pull::Up }, &mut time::Delay);
    }
    let clock_hz = PI.video_core().clock_hz_or(Clock::Emmc, 1, EMMC_HZ);
    let card = Sdhci::new(EMMC, Config { clock_hz, max_hz: 50_000_000, write_gap_us: 6, now_us: time::micros });
    shell::run(boot, "rpi3", &PI.line, Some(card))
}
