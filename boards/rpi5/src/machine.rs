//! The machine: where its devices are, and what the firmware does with them.
//!
//! Nothing behind RP1 is used, so PCIe stays as the loader left it: the line is the PL011 of the debug connector, the card
//! hangs on the BCM2712 itself.

use core::sync::atomic::AtomicU64;

use bourn_boot::memory::{Kind, Region, StartTable};
use bourn_boot::pi::{Chip, Pi};
use bourn_boot::platform::{self, Boot};
use bourn_boot::shell;
use bourn_boot::time;
use bourn_drivers::Mmio;
use bourn_drivers::gic::Gic;
use bourn_drivers::pl011::Pl011;
use bourn_drivers::sdhci::{Config, Sdhci};

/// The block of the BCM2712 with all that is used, in the gigabyte at 64 GiB.
const DEVICES: u64 = 0x10_0000_0000;
const GIC_BASE: usize = 0x10_7fff_8000;
const UART: usize = 0x10_7d00_1000;
/// UART10: shared interrupt 121 of the GIC.
const UART_INTERRUPT: u32 = 32 + 121;
/// The debug UART's clock, which the loader sets.
const UART_HZ: u32 = 44_236_800;
const CARD_HZ: u32 = 200_000_000;
/// Cores' memory where the video core does not say: 1 GiB less 64 MiB.
const DEFAULT_MEMORY: u64 = 960 << 20;

/// Registers at an address.
const fn device(address: usize, bytes: usize) -> Mmio {
    // SAFETY: every caller names a device of the BCM2712; the one that writes memory, the mailbox, is given `Pi`'s words only.
    unsafe { Mmio::new(address, bytes) }
}

const CARD: Mmio = device(0x10_00ff_f000, 0x100);
const GIC: Gic<Mmio, Mmio> = Gic::new(device(GIC_BASE + 0x1000, 0x1000), device(GIC_BASE + 0x2000, 0x2000), UART_INTERRUPT);

static PI: Pi<Pl011<Mmio>, Gic<Mmio, Mmio>> = Pi::new(
    Pl011::new(device(UART, 0x1000)),
    GIC,
    Chip {
        mailbox: device(0x10_7c01_3880, 0x40),
        power: device(0x10_7d20_0000, 0x30),
        default_memory: DEFAULT_MEMORY,
        // What the video core tells of is below 1 GiB; the rest of a larger board is left alone.
        most_memory: 1 << 30,
        others: &[Region::new(DEVICES, DEVICES + (2 << 30), Kind::Device)],
        start: |_| PI.line.port().start(UART_HZ, shell::BAUD),
        start_cores,
        light: |_| {},
    },
);

// Until the board says how much memory there is: 64 MiB of it, and devices.
static LOW: StartTable<2> = StartTable::new().memory(0, 64 << 20);

bourn_boot::entry!(PI, main, StartTable::new().table(0, &LOW).devices(DEVICES, DEVICES + (2 << 30)));

/// Trusted Firmware holds the cores. On the A76 a core's number is in the second field of its affinity.
fn start_cores(entry: u64, _release: &AtomicU64) {
    for core in 1..bourn_boot::CORES as u64 {
        platform::power_on(core << 8, entry);
    }
}

fn main(boot: Boot) -> ! {
    let card = Sdhci::new(CARD, Config { clock_hz: CARD_HZ, max_hz: 50_000_000, write_gap_us: 0, now_us: time::micros });
    shell::run(boot, "rpi5", &PI.line, Some(card))
}
