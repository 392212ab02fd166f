//! defmt frames in a ring: written from any core or interrupt, drained by whoever owns the serial line.
//!
//! A frame that does not fit is left out whole and counted, so a slow line never stops the machine and never tears a frame.

/// A ring of whole frames.
#[derive(Debug)]
pub struct Ring<const N: usize> {
    bytes: [u8; N],
    /// First byte to drain.
    start: usize,
    /// Bytes of whole frames.
    len: usize,
    /// Bytes of the frame being written.
    open: usize,
    /// The frame being written does not fit.
    spilled: bool,
    dropped: u32,
}

impl<const N: usize> Default for Ring<N> {
    fn default() -> Self {
        Self::new()
    }
}

impl<const N: usize> Ring<N> {
    /// Nothing written.
    pub const fn new() -> Self {
        Self { bytes: [0; N], start: 0, len: 0, open: 0, spilled: false, dropped: 0 }
    }

    /// Adds to the frame being written.
    pub fn push(&mut self, bytes: &[u8]) {
        if self.spilled || self.len + self.open + bytes.len() > N {
            self.spilled = true;
            return;
        }
        for &byte in bytes {
            self.bytes[(self.start + self.len + self.open) % N] = byte;
            self.open += 1;
        }
    }

    /// Ends the frame: it is kept whole, or was not there.
    pub fn end_frame(&mut self) {
        if self.spilled {
            self.dropped = self.dropped.saturating_add(1);
        } else {
            self.len += self.open;
        }
        (self.open, self.spilled) = (0, false);
    }

    /// Takes the oldest bytes, as many as fit; returns how many.
    pub fn drain(&mut self, into: &mut [u8]) -> usize {
        // A frame is never being written here: whoever drains has the lock.
        let n = into.len().min(self.len);
        for (i, byte) in into[..n].iter_mut().enumerate() {
            *byte = self.bytes[(self.start + i) % N];
        }
        self.start = (self.start + n) % N;
        self.len -= n;
        n
    }

    /// Frames left out so far.
    pub const fn dropped(&self) -> u32 {
        self.dropped
    }
}

#[cfg(target_os = "none")]
pub use global::{break_lock, drain, dropped};

/// The ring that defmt writes to.
#[cfg(target_os = "none")]
mod global {
    use super::Ring;
    use core::cell::UnsafeCell;
    use core::sync::atomic::{AtomicBool, Ordering};

    const BYTES: usize = 8192;

    struct Log {
        locked: AtomicBool,
        /// Touched only with the lock.
        inner: UnsafeCell<Inner>,
    }

    struct Inner {
        ring: Ring<BYTES>,
        encoder: defmt::Encoder,
        /// Interrupt mask of who holds the lock.
        mask: u64,
    }

    // SAFETY: `inner` is touched only between `lock` and `unlock`, which one core at a time can be.
    unsafe impl Sync for Log {}

    static LOG: Log = Log {
        locked: AtomicBool::new(false),
        inner: UnsafeCell::new(Inner { ring: Ring::new(), encoder: defmt::Encoder::new(), mask: 0 }),
    };

    /// Masks interrupts on this core and takes the lock; returns what the mask was.
    fn lock() -> u64 {
        let mask = crate::platform::mask_interrupts();
        while LOG.locked.swap(true, Ordering::Acquire) {
            core::hint::spin_loop();
        }
        mask
    }

    fn unlock(mask: u64) {
        LOG.locked.store(false, Ordering::Release);
        crate::platform::restore_interrupts(mask);
    }

    /// The log, for the holder of the lock.
    ///
    /// # Safety
    /// The caller holds the lock, and no other reference from here is alive.
    #[allow(clippy::mut_from_ref)]
    unsafe fn inner() -> &'static mut Inner {
        // SAFETY: the caller's promise.
        unsafe { &mut *LOG.inner.get() }
    }

    /// Takes the oldest bytes of log, as many as fit; returns how many.
    pub fn drain(into: &mut [u8]) -> usize {
        let mask = lock();
        // SAFETY: the lock is held.
        let n = unsafe { inner() }.ring.drain(into);
        unlock(mask);
        n
    }

    /// Frames left out because the ring was full.
    pub fn dropped() -> u32 {
        let mask = lock();
        // SAFETY: the lock is held.
        let n = unsafe { inner() }.ring.dropped();
        unlock(mask);
        n
    }

    /// For faults: the lock's holder will not go on. What it was writing is dropped.
    pub fn break_lock() {
        if LOG.locked.swap(true, Ordering::Acquire) {
            // SAFETY: whoever held the lock is stopped, or is this core, which does not go back.
            let inner = unsafe { inner() };
            inner.ring.spilled = true;
            inner.ring.end_frame();
            inner.encoder = defmt::Encoder::new();
        }
        LOG.locked.store(false, Ordering::Release);
    }

    #[defmt::global_logger]
    struct Logger;

    // SAFETY: `acquire` gives the lock to one core at a time, with interrupts masked, until `release`.
    unsafe impl defmt::Logger for Logger {
        fn acquire() {
            let mask = lock();
            // SAFETY: the lock is held.
            let inner = unsafe { inner() };
            inner.mask = mask;
            let Inner { ring, encoder, .. } = inner;
            encoder.start_frame(|bytes| ring.push(bytes));
        }

        unsafe fn flush() {}

        unsafe fn release() {
            // SAFETY: the lock is held since `acquire`.
            let inner = unsafe { inner() };
            let Inner { ring, encoder, .. } = inner;
            encoder.end_frame(|bytes| ring.push(bytes));
            ring.end_frame();
            let mask = inner.mask;
            unlock(mask);
        }

        unsafe fn write(bytes: &[u8]) {
            // SAFETY: the lock is held since `acquire`.
            let Inner { ring, encoder, .. } = unsafe { inner() };
            encoder.write(bytes, |bytes| ring.push(bytes));
        }
    }

    defmt::timestamp!("{=u64:us}", crate::time::micros());
}

#[cfg(test)]
mod tests {
    use super::Ring;

    #[test]
    fn frames_come_out_whole_or_not_at_all() {
        let mut ring = Ring::<8>::new();
        let mut out = [0; 8];
        for round in 0..20_u8 {
            ring.push(&[round, 1]);
            ring.push(&[2]);
            ring.end_frame();
            ring.push(&[round; 6]);
            ring.end_frame();
            ring.push(&[round, 9, 9, 9, 9]);
            ring.end_frame();
            assert_eq!(ring.drain(&mut out[..2]), 2);
            assert_eq!(ring.drain(&mut out[2..]), 6);
            assert_eq!(out, [round, 1, 2, round, 9, 9, 9, 9]);
            assert_eq!(ring.drain(&mut out), 0);
        }
        assert_eq!(ring.dropped(), 20);
    }
}
