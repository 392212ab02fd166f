//! Which tier of kernels a core can run, from its id registers.
//!
//! A board says what its cores may have (feature `dotprod`), so that its firmware holds no kernels which none of them can run.
//! No board has products of int8 matrices.
//!
//! Source: Arm ARM, `ID_AA64PFR0_EL1`, `ID_AA64ISAR0_EL1`.

/// What a core's id registers say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Features {
    /// Advanced SIMD.
    pub neon: bool,
    /// Its dot products.
    pub dotprod: bool,
}

impl Features {
    /// From the values of `ID_AA64PFR0_EL1`, `ID_AA64ISAR0_EL1`.
    pub const fn new(pfr0: u64, isar0: u64) -> Self {
        let neon = pfr0 >> 20 & 15 != 15;
        Self { neon, dotprod: neon && isar0 >> 44 & 15 >= 1 }
    }

    /// What both cores have.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self { neon: self.neon && other.neon, dotprod: self.dotprod && other.dotprod }
    }

    /// Of the core that asks.
    #[cfg(target_os = "none")]
    pub fn of_this_core() -> Self {
        use aarch64_cpu::registers::{ID_AA64ISAR0_EL1, ID_AA64PFR0_EL1, Readable as _};
        Self::new(ID_AA64PFR0_EL1.get(), ID_AA64ISAR0_EL1.get())
    }

    /// The tiers a core with these features can run, the fastest first.
    ///
    /// # Safety
    /// Every core that will run the kernels has these features.
    #[cfg(target_arch = "aarch64")]
    pub unsafe fn tiers(self) -> impl Iterator<Item = &'static bourn_kernels::Kernels> {
        use bourn_kernels::{neon::Neon, scalar};
        #[cfg(feature = "dotprod")]
        // SAFETY: the caller promises what the id registers said.
        let dotprod = self.dotprod.then(|| unsafe { bourn_kernels::dotprod::Dotprod::assume() }.kernels());
        #[cfg(not(feature = "dotprod"))]
        let dotprod = None;
        // SAFETY: as above.
        let neon = self.neon.then(|| unsafe { Neon::assume() }.kernels());
        [dotprod, neon, Some(&scalar::TABLE)].into_iter().flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::Features;

    #[test]
    fn reads_the_fields_of_known_cores() {
        // QEMU's cortex-a53 and cortex-a76.
        let a53 = Features::new(0x0000_2222, 0x0001_1120);
        assert_eq!(a53, Features { neon: true, dotprod: false });
        let a76 = Features::new(0x1100_0000_1011_1112, 0x0000_1000_1021_1120);
        assert_eq!(a76, Features { neon: true, dotprod: true });
        assert_eq!(a76.and(a53), a53);
        let without_vectors = Features::new(0x00ff_2222, 1 << 44);
        assert_eq!(without_vectors, Features { neon: false, dotprod: false });
    }
}
