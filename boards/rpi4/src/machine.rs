//! The machine: where its devices are, and what the firmware does with them.

use bourn_boot::memory::{Kind, Region, StartTable};
use bourn_boot::pi::{self, Chip, Pi, VideoCore};
use bourn_boot::platform::Boot;
use bourn_boot::{shell, time};
use bourn_drivers::Mmio;
use bourn_drivers::gic::Gic;
use bourn_drivers::gpio::{Function, Gpio, Pull};
use bourn_drivers::mailbox::Clock;
use bourn_drivers::pl011::Pl011;
use bourn_drivers::sdhci::{Config, Sdhci};

/// The low-peripheral mode, in which the loader starts kernels.
const PERIPHERALS: u64 = 0xfe00_0000;
const PERIPHERALS_END: u64 = 0xff80_0000;
/// The Arm block and the interrupt controller.
const LOCAL: u64 = 0xff80_0000;
const LOCAL_END: u64 = 0x1_0000_0000;
const GIC_BASE: usize = 0xff84_0000;
/// UART0: shared interrupt 121 of the GIC.
const UART_INTERRUPT: u32 = 32 + 121;
/// The activity LED.
const LED: u32 = 42;
/// The PL011's clock where the video core does not say a usable one.
const UART_HZ: u32 = 48_000_000;
/// The card controller's, likewise.
const EMMC_HZ: u32 = 100_000_000;
/// Cores' memory where the video core does not say: 1 GiB less 76 MiB for itself.
const DEFAULT_MEMORY: u64 = 948 << 20;

/// Registers at an address.
const fn device(address: usize, bytes: usize) -> Mmio {
    // SAFETY: every caller names a device of the BCM2711; the one that writes memory, the mailbox, is given `Pi`'s words only.
    unsafe { Mmio::new(address, bytes) }
}

const fn peripheral(offset: usize, bytes: usize) -> Mmio {
    device(PERIPHERALS as usize + offset, bytes)
}

const GPIO: Gpio<Mmio> = Gpio::new(peripheral(0x20_0000, 0xf4));
const EMMC2: Mmio = peripheral(0x34_0000, 0x100);
/// The older controller, which talks to the radio on a board, and has the card in QEMU's raspi4b.
const EMMC: Mmio = peripheral(0x30_0000, 0x100);
const GIC: Gic<Mmio, Mmio> = Gic::new(device(GIC_BASE + 0x1000, 0x1000), device(GIC_BASE + 0x2000, 0x2000), UART_INTERRUPT);

static PI: Pi<Pl011<Mmio>, Gic<Mmio, Mmio>> = Pi::new(
    Pl011::new(peripheral(0x20_1000, 0x1000)),
    GIC,
    Chip {
        mailbox: peripheral(0xb880, 0x40),
        power: peripheral(0x10_0000, 0x30),
        default_memory: DEFAULT_MEMORY,
        // What the video core tells of is below 1 GiB; the rest of a larger board is left alone.
        most_memory: 1 << 30,
        others: &[
            // The loader's stub, with the spin table.
            Region::new(0, 0x1000, Kind::Data),
            Region::new(PERIPHERALS, PERIPHERALS_END, Kind::Device),
            Region::new(LOCAL, LOCAL_END, Kind::Device),
        ],
        start,
        start_cores: pi::release_spinning,
        light: |lit| GPIO.write(LED, lit),
    },
);

// Until the board says how much memory there is: 64 MiB of it, and devices.
static LOW: StartTable<2> = StartTable::new().memory(0, 64 << 20);
static HIGH: StartTable<2> = StartTable::new().devices(PERIPHERALS, LOCAL_END);

bourn_boot::entry!(PI, main, StartTable::new().table(0, &LOW).table(PERIPHERALS, &HIGH));

fn start(video: &mut VideoCore<'_>) {
    for pin in [14, 15] {
        GPIO.function(pin, Function::Alt0);
        GPIO.pull_2711(pin, Pull::Up);
    }
    GPIO.function(LED, Function::Output);
    let hz = video.clock_hz_or(Clock::Uart, 16 * shell::BAUD, UART_HZ);
    PI.line.port().start(hz, shell::BAUD);
}

fn main(boot: Boot) -> ! {
    let mut video = PI.video_core();
    let (registers, clock) = if video.is_emulated() { (EMMC, Clock::Emmc) } else { (EMMC2, Clock::Emmc2) };
    let clock_hz = video.clock_hz_or(clock, 1, EMMC_HZ);
    let card = Sdhci::new(registers, Config { clock_hz, max_hz: 50_000_000, write_gap_us: 0, now_us: time::micros });
    shell::run(boot, "rpi4", &PI.line, Some(card))
}
