//! The memory map, drawn, and the page tables that make it so.
//!
//! Everything is mapped where it lies (identity), with 4 KiB pages where the firmware is and blocks of 2 MiB or 1 GiB elsewhere:
//!
//! ```text
//!  BASE  ┌──────────────────────┐ 0x0008_0000 on a Pi, 0x4008_0000 on qemu-virt
//!        │ code                 │ read, execute
//!        ├──────────────────────┤ __text_end
//!        │ constants            │ read
//!        ├──────────────────────┤ __rodata_end
//!        │ data, then zeroed    │ read, write
//!        ├──────────────────────┤ __stacks
//!        │ guard page  ┐ core 0 │ not mapped: an overflow is a fault, not a wrong token
//!        │ stack       ┘ 256 KiB│ read, write
//!        │   … cores 1, 2, 3    │
//!        ├──────────────────────┤ __fault_stacks
//!        │ 4 × 16 KiB           │ on which faults are reported
//!        ├──────────────────────┤ __image_end
//!        │ lent to the          │ read, write; from here to the end of the board's memory: the model, the
//!        │ application          │ workspace, buffers. One slice, and the only large memory there is
//!        └──────────────────────┘
//!          devices                read, write, in order, uncached; where the board has them
//! ```
//!
//! Before the tables are made, each board's [`StartTable`], which lies ready in the image, maps just enough
//! to run: until the MMU is on, memory is uncached, unaligned loads fault and exclusive loads do not work, so no Rust runs.
//!
//! Source: Arm ARM, D8 (VMSAv8-64 translation, 4 KiB granule, 39-bit addresses: a level-1 table of 1 GiB entries).

use core::fmt;

/// A page.
pub const PAGE: u64 = 4096;
/// A core's stack with its guard page; as in `link.ld`. Blocked prefill on ARM keeps 55 KiB there.
pub const STACK_BYTES: u64 = 0x4_0000;
/// Attributes by index: 0 memory, written back; 1 devices, early acknowledgement.
pub const MAIR: u64 = 0x04ff;
/// 39-bit addresses, 4 KiB pages, tables in cacheable shared memory, no upper half; the size of physical addresses is added.
pub const TCR: u64 = 25 | 1 << 8 | 1 << 10 | 3 << 12 | 1 << 23;

const VALID: u64 = 1;
const BLOCK: u64 = 1;
const TABLE: u64 = 3;
const DEVICE: u64 = 1 << 2;
const READ_ONLY: u64 = 1 << 7;
const SHARED: u64 = 3 << 8;
const ACCESSED: u64 = 1 << 10;
const NO_EXECUTE: u64 = 1 << 53;
const NO_USER_EXECUTE: u64 = 1 << 54;
const ADDRESS: u64 = 0x0000_ffff_ffff_f000;
const ENTRIES: usize = 512;

/// What a stretch of addresses is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Read and executed.
    Code,
    /// Read.
    Constants,
    /// Read and written.
    Data,
    /// Registers.
    Device,
}

impl Kind {
    const fn attributes(self) -> u64 {
        ACCESSED
            | NO_USER_EXECUTE
            | match self {
                Self::Code => READ_ONLY | SHARED,
                Self::Constants => READ_ONLY | SHARED | NO_EXECUTE,
                Self::Data => SHARED | NO_EXECUTE,
                Self::Device => DEVICE | NO_EXECUTE,
            }
    }
}

/// A stretch of addresses, mapped where it lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Region {
    /// First byte, at the start of a page.
    pub start: u64,
    /// One past the last byte, at the start of a page.
    pub end: u64,
    /// What it is for.
    pub kind: Kind,
}

impl Region {
    /// Addresses `start..end`.
    pub const fn new(start: u64, end: u64, kind: Kind) -> Self {
        Self { start, end, kind }
    }

    /// Bytes.
    pub const fn bytes(&self) -> u64 {
        self.end.saturating_sub(self.start)
    }
}

/// Why a memory map cannot be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Error {
    /// A region does not begin and end with a page, ends before it begins, or is beyond 39 bits.
    Region {
        /// First byte.
        start: u64,
        /// One past the last byte.
        end: u64,
    },
    /// An address is in two regions.
    Overlap {
        /// The address.
        address: u64,
    },
    /// The map needs more tables than there are.
    Tables {
        /// Tables there are.
        have: usize,
    },
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Region { start, end } => {
                write!(f, "memory region: need whole pages in rising order below 1 << 39, found {start:#x} to {end:#x}")
            }
            Self::Overlap { address } => write!(f, "memory regions overlap: need one, found two at {address:#x}"),
            Self::Tables { have } => write!(f, "memory map: need more than {have} page tables, have {have}"),
        }
    }
}

impl core::error::Error for Error {}

/// One table.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(4096))]
struct Table([u64; ENTRIES]);

/// A table that lies ready in the image: `LEVEL` 1 of gigabytes, 2 of blocks of 2 MiB.
#[derive(Debug)]
#[repr(C, align(4096))]
pub struct StartTable<const LEVEL: u32>([*const u8; ENTRIES]);

// SAFETY: its pointers are entries for the MMU, never followed here.
unsafe impl<const LEVEL: u32> Sync for StartTable<LEVEL> {}

impl<const LEVEL: u32> Default for StartTable<LEVEL> {
    fn default() -> Self {
        Self::new()
    }
}

impl<const LEVEL: u32> StartTable<LEVEL> {
    /// Nothing mapped.
    pub const fn new() -> Self {
        Self([core::ptr::null(); ENTRIES])
    }

    /// Maps whole entries as memory, for code and data alike.
    pub const fn memory(self, start: u64, end: u64) -> Self {
        self.map(start, end, SHARED)
    }

    /// Maps whole entries as devices.
    pub const fn devices(self, start: u64, end: u64) -> Self {
        self.map(start, end, DEVICE | NO_EXECUTE)
    }

    const fn map(mut self, start: u64, end: u64, attributes: u64) -> Self {
        assert!(start.is_multiple_of(size(LEVEL)) && end.is_multiple_of(size(LEVEL)));
        let mut at = start;
        while at < end {
            let entry = at | BLOCK | ACCESSED | NO_USER_EXECUTE | attributes;
            self.0[index(at, LEVEL)] = core::ptr::without_provenance(entry as usize);
            at += size(LEVEL);
        }
        self
    }
}

impl StartTable<1> {
    /// Has the gigabyte that holds `address` mapped by a table.
    pub const fn table(mut self, address: u64, table: &'static StartTable<2>) -> Self {
        self.0[index(address, 1)] = core::ptr::from_ref(table).cast::<u8>().wrapping_add(TABLE as usize);
        self
    }
}

/// `N` page tables, the first the root. They hold their own addresses: they stay where they were when the first region was mapped.
#[derive(Debug)]
#[repr(C, align(4096))]
pub struct Tables<const N: usize> {
    tables: [Table; N],
    /// Tables in use beside the root.
    used: usize,
}

impl<const N: usize> Default for Tables<N> {
    fn default() -> Self {
        Self::new()
    }
}

impl<const N: usize> Tables<N> {
    /// No region mapped.
    pub const fn new() -> Self {
        Self { tables: [Table([0; ENTRIES]); N], used: 0 }
    }

    /// Where the walk begins.
    pub fn root(&self) -> u64 {
        core::ptr::from_ref(&self.tables[0]).addr() as u64
    }

    /// Maps a region with the largest blocks that fit.
    ///
    /// # Errors
    /// [`Error::Region`], [`Error::Overlap`], [`Error::Tables`]; what was mapped before the error stays.
    pub fn map(&mut self, region: &Region) -> Result<(), Error> {
        let Region { start, end, kind } = *region;
        if start % PAGE != 0 || end % PAGE != 0 || start > end || end > 1 << 39 {
            return Err(Error::Region { start, end });
        }
        let mut address = start;
        while address < end {
            let fits = |size: u64| address.is_multiple_of(size) && end - address >= size;
            let level = [1, 2].into_iter().find(|&level| fits(size(level))).unwrap_or(3);
            let table = self.table(address, level)?;
            let entry = &mut self.tables[table].0[index(address, level)];
            if *entry & VALID != 0 {
                return Err(Error::Overlap { address });
            }
            let kind_of_entry = if level == 3 { TABLE } else { BLOCK };
            *entry = address | kind.attributes() | kind_of_entry;
            address += size(level);
        }
        Ok(())
    }

    /// The table of a level that holds an address, made where there is none.
    fn table(&mut self, address: u64, level: u32) -> Result<usize, Error> {
        let first = self.root();
        let mut table = 0;
        for above in 1..level {
            let slot = index(address, above);
            let entry = self.tables[table].0[slot];
            table = match entry & TABLE {
                TABLE => ((entry & ADDRESS) - first) as usize / size_of::<Table>(),
                0 if self.used + 1 < N => {
                    self.used += 1;
                    let made = self.used;
                    self.tables[table].0[slot] = (first + (made * size_of::<Table>()) as u64) | TABLE;
                    made
                }
                0 => return Err(Error::Tables { have: N }),
                _ => return Err(Error::Overlap { address }),
            };
        }
        Ok(table)
    }

    /// What an address is mapped as, as the MMU would find it; `None` where it would fault.
    pub fn look_up(&self, address: u64) -> Option<Kind> {
        let mut table = 0;
        for level in 1..=3 {
            let entry = self.tables[table].0[index(address, level)];
            match (entry & TABLE, level) {
                (TABLE, 1 | 2) => table = ((entry & ADDRESS) - self.root()) as usize / size_of::<Table>(),
                (BLOCK, 1 | 2) | (TABLE, 3) => {
                    let found = entry & !(ADDRESS | TABLE);
                    let kinds = [Kind::Code, Kind::Constants, Kind::Data, Kind::Device];
                    let same_place = (entry & ADDRESS) == address / size(level) * size(level);
                    return kinds.into_iter().find(|kind| same_place && kind.attributes() == found);
                }
                _ => return None,
            }
        }
        None
    }
}

/// Bytes of an entry of a level.
const fn size(level: u32) -> u64 {
    PAGE << (9 * (3 - level))
}

const fn index(address: u64, level: u32) -> usize {
    (address / size(level)) as usize % ENTRIES
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn maps_pages_blocks_and_gigabytes_where_they_lie() {
        let mut tables = Tables::<8>::new();
        let regions = [
            Region::new(0x8_0000, 0x9_3000, Kind::Code),
            Region::new(0x9_3000, 0x9_4000, Kind::Constants),
            Region::new(0x9_5000, 0x3b40_0000, Kind::Data),
            Region::new(0x3f00_0000, 0x4000_0000, Kind::Device),
            Region::new(0x4000_0000, 0x8000_0000, Kind::Device),
        ];
        for region in &regions {
            tables.map(region).unwrap();
        }
        for region in &regions {
            for address in [region.start, region.start + 4, region.end - 1] {
                assert_eq!(tables.look_up(address), Some(region.kind), "{address:#x}");
            }
        }
        for hole in [0, 0x7_ffff, 0x9_4000, 0x9_4fff, 0x3b40_0000, 0x3eff_ffff, 0x8000_0000, 1 << 38] {
            assert_eq!(tables.look_up(hole), None, "{hole:#x}");
        }
        // Root, one of level 2, pages at the beginning and none at the end, where blocks fit.
        assert_eq!(tables.used, 2);
    }

    #[test]
    fn a_table_in_the_image_is_what_the_mmu_reads() {
        static LOW: StartTable<2> = StartTable::new().memory(0, 4 << 20).devices(0x3f00_0000, 0x4000_0000);
        let root = StartTable::<1>::new().table(0, &LOW).devices(64 << 30, 66 << 30).0.map(|entry| entry.addr() as u64);
        assert_eq!((root[0], root[64], root[65]), (LOW.0.as_ptr().addr() as u64 | 3, 0x60_0010_0000_0405, 0x60_0010_4000_0405));
        let low = LOW.0.map(|entry| entry.addr() as u64);
        assert_eq!(
            (low[0], low[1], low[504], low[511]),
            (0x40_0000_0000_0701, 0x40_0000_0020_0701, 0x60_0000_3f00_0405, 0x60_0000_3fe0_0405)
        );
        assert_eq!((root.iter().filter(|entry| **entry != 0).count(), low.iter().filter(|entry| **entry != 0).count()), (3, 10));
    }

    #[test]
    fn no_region_is_both_written_and_executed() {
        for kind in [Kind::Constants, Kind::Data, Kind::Device] {
            assert_ne!(kind.attributes() & NO_EXECUTE, 0);
        }
        assert_ne!(Kind::Code.attributes() & READ_ONLY, 0);
    }

    #[test]
    fn refuses_what_it_cannot_map() {
        let mut tables = Tables::<2>::new();
        let odd = Region::new(0x1001, 0x2000, Kind::Data);
        assert_eq!(tables.map(&odd), Err(Error::Region { start: 0x1001, end: 0x2000 }));
        let far = Region::new(0, (1 << 39) + PAGE, Kind::Data);
        assert!(matches!(tables.map(&far), Err(Error::Region { .. })));
        tables.map(&Region::new(0x4000_0000, 0x8000_0000, Kind::Data)).unwrap();
        let twice = Region::new(0x4000_0000, 0x4000_1000, Kind::Code);
        assert_eq!(tables.map(&twice), Err(Error::Overlap { address: 0x4000_0000 }));
        assert_eq!(tables.map(&Region::new(0, PAGE, Kind::Data)), Err(Error::Tables { have: 2 }));
    }
}
