//! Asking for memory before it is used: what the CPU cannot foresee by itself, such as rows picked out of a head.

/// Bytes of a line of the caches, at least on every CPU with a tier of its own.
const LINE: usize = 64;

/// Begins to fetch `bytes` into the caches. Reads nothing, changes nothing; a page that is not there stays away.
#[inline]
pub fn fetch(bytes: &[u8]) {
    for line in bytes.chunks(LINE) {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: every x86-64 has SSE, and PREFETCHT0 is a hint: it accesses nothing and never faults.
        unsafe {
            core::arch::x86_64::_mm_prefetch::<{ core::arch::x86_64::_MM_HINT_T0 }>(line.as_ptr().cast());
        }
        #[cfg(target_arch = "aarch64")]
        // SAFETY: PRFM is a hint: it accesses nothing, faults never and changes no register or flag.
        unsafe {
            core::arch::asm!("prfm pldl1keep, [{}]", in(reg) line.as_ptr(), options(nostack, preserves_flags, readonly));
        }
        #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
        let _ = line;
    }
}
