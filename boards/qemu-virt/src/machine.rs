//! The machine: where its devices are, and what the firmware does with them.

use core::sync::atomic::AtomicU64;

use bourn_boot::CORES;
use bourn_boot::memory::{Kind, Region, StartTable};
use bourn_boot::platform::{Boot, MemoryMap, Platform};
use bourn_boot::shell::{self, BoardLine};
use bourn_drivers::Mmio;
use bourn_drivers::gic::Gic;
use bourn_drivers::interrupts::Interrupts;
use bourn_drivers::pl011::Pl011;
use bourn_drivers::serial::Wire;
use dtoolkit::fdt::Fdt;
use smccc::{Hvc, psci};

use crate::disk::Disk;

const GICD: usize = 0x0800_0000;
const GICC: usize = 0x0801_0000;
const UART: usize = 0x0900_0000;
const UART_INTERRUPT: u32 = 33;
/// What QEMU feeds its PL011 with; it sends at once whatever the speed.
const UART_HZ: u32 = 24_000_000;
const MEMORY: u64 = 0x4000_0000;
/// Memory where the loader does not say: QEMU's own default.
const DEFAULT_BYTES: u64 = 128 << 20;

/// The machine.
struct Virt {
    line: BoardLine<Pl011<Mmio>>,
    gic: Gic<Mmio, Mmio>,
}

// SAFETY: QEMU's virt machine has these devices there; they do nothing to memory.
const UART_REGISTERS: Mmio = unsafe { Mmio::new(UART, 0x1000) };
// SAFETY: as above.
const GICD_REGISTERS: Mmio = unsafe { Mmio::new(GICD, 0x1_0000) };
// SAFETY: as above.
const GICC_REGISTERS: Mmio = unsafe { Mmio::new(GICC, 0x1_0000) };

static VIRT: Virt =
    Virt { line: BoardLine::new(Pl011::new(UART_REGISTERS)), gic: Gic::new(GICD_REGISTERS, GICC_REGISTERS, UART_INTERRUPT) };

// Until the board says how much memory there is: a gigabyte of it, and devices below.
bourn_boot::entry!(VIRT, main, StartTable::new().devices(0, MEMORY).memory(MEMORY, 2 * MEMORY));

/// One past the last byte of memory, by the device tree.
fn memory_end(device_tree: usize) -> Option<u64> {
    // SAFETY: QEMU leaves a device tree there, mapped by the start-up tables, which nothing writes before the memory is lent out.
    let tree = unsafe { Fdt::from_raw(core::ptr::with_exposed_provenance(device_tree)) }.ok()?;
    let reg = tree.memory().ok()?.reg().ok()??.next()?;
    Some(reg.address::<u64>().ok()? + reg.size::<u64>().ok()?)
}

impl Platform for Virt {
    fn memory(&self, device_tree: usize) -> MemoryMap {
        let end = if device_tree == 0 { None } else { memory_end(device_tree) };
        const DEVICES: &[Region] = &[Region::new(0x0800_0000, 0x0c00_0000, Kind::Device)];
        MemoryMap { memory_end: end.unwrap_or(MEMORY + DEFAULT_BYTES), others: DEVICES }
    }

    fn start(&self) {
        self.line.port().start(UART_HZ, shell::BAUD);
    }

    fn line(&self) -> &dyn Wire {
        &self.line
    }

    fn interrupts(&self) -> &dyn Interrupts {
        &self.gic
    }

    fn start_cores(&self, entry: u64, _release: &AtomicU64) {
        for core in 1..CORES as u64 {
            // A machine with fewer cores refuses those it has not.
            let _ = psci::cpu_on::<Hvc>(core, entry, 0);
        }
    }

    fn reset(&self) -> ! {
        let _ = psci::system_reset::<Hvc>();
        loop {
            core::hint::spin_loop();
        }
    }
}

fn main(boot: Boot) -> ! {
    shell::run(boot, "qemu-virt", &VIRT.line, Disk::find())
}
