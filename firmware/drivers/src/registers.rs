//! 32-bit registers at offsets: the seam between a driver and its device.

/// Registers of one device. Reading and writing may have effects, in the order in which they are done.
pub trait Registers {
    /// The register at byte `offset`.
    fn read(&self, offset: usize) -> u32;
    /// Writes the register at byte `offset`.
    fn write(&self, offset: usize, value: u32);

    /// Sets the bits of `mask` to those of `value`.
    fn modify(&self, offset: usize, mask: u32, value: u32) {
        self.write(offset, self.read(offset) & !mask | value & mask);
    }
}

impl<R: Registers + ?Sized> Registers for &R {
    fn read(&self, offset: usize) -> u32 {
        (**self).read(offset)
    }

    fn write(&self, offset: usize, value: u32) {
        (**self).write(offset, value);
    }
}

/// Registers in the address space.
#[derive(Clone, Copy, Debug)]
pub struct Mmio {
    base: usize,
    bytes: usize,
}

impl Mmio {
    /// Registers at `base`, `bytes` of them.
    ///
    /// # Safety
    /// A device's registers lie there, mapped as a device for as long as this value or a copy is used, and nothing that its driver
    /// makes the device do breaks memory safety.
    pub const unsafe fn new(base: usize, bytes: usize) -> Self {
        Self { base, bytes }
    }

    fn at(&self, offset: usize) -> *mut u32 {
        assert!(offset.is_multiple_of(4) && offset < self.bytes);
        core::ptr::with_exposed_provenance_mut(self.base + offset)
    }
}

impl Registers for Mmio {
    fn read(&self, offset: usize) -> u32 {
        let at = self.at(offset);
        // SAFETY: within the device's registers (`at`), aligned, which `new`'s caller promised.
        unsafe { at.read_volatile() }
    }

    fn write(&self, offset: usize, value: u32) {
        let at = self.at(offset);
        // SAFETY: as above.
        unsafe { at.write_volatile(value) }
    }
}
