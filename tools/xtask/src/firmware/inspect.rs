//! A firmware's ELF file → the flat image that is loaded, and what it promises: small, no allocator, Armv8.0 where no core was asked.

use std::fmt;

use anyhow::{Context, Result, bail};
use bourn_hil_runner::elf;
use object::read::elf::ElfFile64;
use object::{LittleEndian, Object as _, ObjectSymbol as _};

use crate::baseline;

/// Firmware without a model is smaller than this.
const MOST_BYTES: usize = 512 << 10;
/// Names that only an allocator has.
const ALLOCATORS: &[&str] = &[
    "__rust_alloc",
    "__rust_realloc",
    "__rust_alloc_zeroed",
    "__rust_no_alloc_shim_is_unstable",
    "__rustc",
    "__rg_alloc",
    "__rdl_alloc",
    "malloc",
    "calloc",
    "_sbrk",
    "alloc5alloc",
    "alloc3vec",
    "alloc5boxed",
    "linked_list_allocator",
];
/// Of these names parts are harmless: the compiler's own panic entry carries the same prefix.
const HARMLESS: &[&str] = &["rust_begin_unwind", "rust_panic", "no_alloc_shim"];

/// What is known of a firmware.
#[derive(Debug)]
pub(crate) struct Facts {
    /// Code, constants and data as they lie in memory.
    pub(crate) flat: Vec<u8>,
    /// Bytes of static memory: data, zeroed memory, stacks.
    static_bytes: u64,
    /// Of these the stacks.
    stack_bytes: u64,
    /// Symbols of an allocator.
    allocators: Vec<String>,
    /// Instructions that some cores lack, each behind its question.
    young: Vec<String>,
}

impl Facts {
    /// Reads an ELF file.
    ///
    /// # Errors
    /// If it is none, has no segments in rising order, or needs more than Armv8.0 where no core was asked.
    pub(crate) fn of(bytes: &[u8]) -> Result<Self> {
        let file = ElfFile64::<LittleEndian>::parse(bytes)?;
        let flat = elf::flat(bytes)?;
        let address = |name: &str| {
            let symbol = file.symbols().find(|symbol| symbol.name() == Ok(name));
            symbol.map(|symbol| symbol.address()).with_context(|| format!("no symbol {name}"))
        };
        let [constants_end, stacks, end] = [address("__rodata_end")?, address("__stacks")?, address("__image_end")?];
        let allocators = file.symbols().filter_map(|symbol| symbol.name().ok().map(str::to_owned));
        let allocators = allocators.filter(|name| is_allocator(name)).collect();
        Ok(Self {
            flat,
            static_bytes: end - constants_end,
            stack_bytes: end - stacks,
            allocators,
            young: baseline::check(bytes)?,
        })
    }

    /// Holds it to what is promised.
    ///
    /// # Errors
    /// If it is too large, or an allocator is linked.
    pub(crate) fn check(&self) -> Result<()> {
        if self.flat.len() >= MOST_BYTES {
            bail!("firmware too large: need less than {MOST_BYTES} bytes, found {}", self.flat.len());
        }
        if !self.allocators.is_empty() {
            bail!("an allocator is linked: {}", self.allocators.join(", "));
        }
        Ok(())
    }
}

/// Whether a symbol belongs to an allocator.
fn is_allocator(name: &str) -> bool {
    let exact = ["malloc", "calloc", "_sbrk"].contains(&name);
    let harmless = HARMLESS.iter().any(|part| name.contains(part));
    exact || (!harmless && ALLOCATORS.iter().any(|part| part.len() > 6 && name.contains(part)))
}

impl fmt::Display for Facts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let memory = self.static_bytes - self.stack_bytes;
        write!(
            f,
            "{} bytes of firmware, {} of static memory ({memory} and {} of stacks), no allocator, Armv8.0",
            self.flat.len(),
            self.static_bytes,
            self.stack_bytes
        )?;
        self.young.iter().try_for_each(|line| write!(f, ", {line}"))
    }
}

#[cfg(test)]
mod tests {
    use super::is_allocator;

    #[test]
    fn knows_an_allocator_by_its_symbols() {
        let found = ["__rust_alloc", "_RNvCs_7___rustc12___rust_alloc", "malloc", "_ZN5alloc5alloc18handle_alloc_error17h0E"];
        assert!(found.iter().all(|name| is_allocator(name)));
        let harmless = ["_RNvCs_7___rustc17rust_begin_unwind", "memcpy", "bourn_start", "_ZN4core9panicking5panic17hE"];
        assert!(!harmless.iter().any(|name| is_allocator(name)));
    }
}
