//! A serial line behind `embedded-io`: an interrupt fills a ring, so that nothing is lost while cores compute.

use core::convert::Infallible;
use core::sync::atomic::{AtomicU8, AtomicU32, AtomicUsize, Ordering};

use embedded_io::{ErrorType, Read, ReadReady, Write};

/// What a UART can do without waiting.
pub trait Port {
    /// A byte that came, if one did.
    fn receive(&self) -> Option<u8>;
    /// Sends a byte, if there is room.
    fn send(&self, byte: u8) -> bool;
    /// Bytes are still on their way.
    fn is_sending(&self) -> bool;
    /// Takes an interrupt back.
    fn acknowledge(&self);
}

/// A line, whatever its port.
pub trait Wire {
    /// Called by the line's interrupt: takes what came.
    fn interrupt(&self);
    /// Bytes that wait to be read.
    fn waiting(&self) -> usize;
    /// Sends all of `bytes`, waiting for room.
    fn send(&self, bytes: &[u8]);
}

/// Bytes that came: one writer (the interrupt), one reader.
#[derive(Debug)]
struct Ring<const N: usize> {
    bytes: [AtomicU8; N],
    /// Bytes ever written and ever read; they wrap.
    written: AtomicUsize,
    read: AtomicUsize,
}

/// A line: its port, and a ring of `N` bytes (a power of two) for what came.
#[derive(Debug)]
pub struct Line<P, const N: usize> {
    port: P,
    ring: Ring<N>,
    lost: AtomicU32,
}

impl<P: Port, const N: usize> Line<P, N> {
    /// Nothing came yet.
    pub const fn new(port: P) -> Self {
        assert!(N.is_power_of_two());
        let ring = Ring { bytes: [const { AtomicU8::new(0) }; N], written: AtomicUsize::new(0), read: AtomicUsize::new(0) };
        Self { port, ring, lost: AtomicU32::new(0) }
    }

    /// The port.
    pub const fn port(&self) -> &P {
        &self.port
    }

    /// Bytes lost because the ring was full.
    pub fn lost(&self) -> u32 {
        self.lost.load(Ordering::Relaxed)
    }

    fn take(&self) -> Option<u8> {
        let read = self.ring.read.load(Ordering::Relaxed);
        if read == self.ring.written.load(Ordering::Acquire) {
            return None;
        }
        let byte = self.ring.bytes[read % N].load(Ordering::Relaxed);
        self.ring.read.store(read.wrapping_add(1), Ordering::Release);
        Some(byte)
    }
}

impl<P: Port, const N: usize> Wire for Line<P, N> {
    fn interrupt(&self) {
        self.port.acknowledge();
        while let Some(byte) = self.port.receive() {
            let ring = &self.ring;
            let written = ring.written.load(Ordering::Relaxed);
            if written.wrapping_sub(ring.read.load(Ordering::Acquire)) == N {
                self.lost.fetch_add(1, Ordering::Relaxed);
                continue;
            }
            ring.bytes[written % N].store(byte, Ordering::Relaxed);
            ring.written.store(written.wrapping_add(1), Ordering::Release);
        }
    }

    fn waiting(&self) -> usize {
        self.ring.written.load(Ordering::Acquire).wrapping_sub(self.ring.read.load(Ordering::Relaxed))
    }

    fn send(&self, bytes: &[u8]) {
        for &byte in bytes {
            while !self.port.send(byte) {
                core::hint::spin_loop();
            }
        }
    }
}

/// The reader's and writer's end of a line. `idle` is called while nothing came, and with every look.
#[derive(Debug)]
pub struct End<'l, P, const N: usize> {
    line: &'l Line<P, N>,
    idle: fn(&Line<P, N>),
}

impl<'l, P: Port, const N: usize> End<'l, P, N> {
    /// There is to be one end of a line. `idle` may sleep until an interrupt comes.
    pub const fn new(line: &'l Line<P, N>, idle: fn(&Line<P, N>)) -> Self {
        Self { line, idle }
    }
}

impl<P, const N: usize> ErrorType for End<'_, P, N> {
    type Error = Infallible;
}

impl<P: Port, const N: usize> Read for End<'_, P, N> {
    fn read(&mut self, buf: &mut [u8]) -> Result<usize, Infallible> {
        if buf.is_empty() {
            return Ok(0);
        }
        while self.line.waiting() == 0 {
            (self.idle)(self.line);
        }
        let mut n = 0;
        for slot in buf {
            let Some(byte) = self.line.take() else { break };
            *slot = byte;
            n += 1;
        }
        Ok(n)
    }
}

impl<P: Port, const N: usize> ReadReady for End<'_, P, N> {
    fn read_ready(&mut self) -> Result<bool, Infallible> {
        Ok(self.line.waiting() > 0)
    }
}

impl<P: Port, const N: usize> Write for End<'_, P, N> {
    fn write(&mut self, buf: &[u8]) -> Result<usize, Infallible> {
        self.line.send(buf);
        Ok(buf.len())
    }

    fn flush(&mut self) -> Result<(), Infallible> {
        while self.line.port.is_sending() {
            core::hint::spin_loop();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use core::cell::RefCell;
    use std::collections::VecDeque;
    use std::vec::Vec;

    #[derive(Default)]
    struct Fake {
        came: RefCell<VecDeque<u8>>,
        sent: RefCell<Vec<u8>>,
    }

    impl Port for Fake {
        fn receive(&self) -> Option<u8> {
            self.came.borrow_mut().pop_front()
        }

        fn send(&self, byte: u8) -> bool {
            self.sent.borrow_mut().push(byte);
            true
        }

        fn is_sending(&self) -> bool {
            false
        }

        fn acknowledge(&self) {}
    }

    #[test]
    fn what_came_is_read_in_order_and_what_did_not_fit_is_counted() {
        let line = Line::<Fake, 8>::new(Fake::default());
        let mut end = End::new(&line, |line| line.interrupt());
        let mut buf = [0; 16];
        for round in 0..100_u8 {
            line.port.came.borrow_mut().extend([round, 1, 2, 3, 4]);
            line.interrupt();
            assert!(end.read_ready().unwrap());
            assert_eq!(end.read(&mut buf[..3]), Ok(3));
            assert_eq!(buf[..3], [round, 1, 2]);
            assert_eq!(end.read(&mut buf), Ok(2));
            assert!(!end.read_ready().unwrap());
        }
        line.port.came.borrow_mut().extend(0..11);
        line.interrupt();
        assert_eq!((end.read(&mut buf), line.lost()), (Ok(8), 3));
        assert_eq!(buf[..8], [0, 1, 2, 3, 4, 5, 6, 7]);
        end.write_all(b"out").unwrap();
        assert_eq!(*line.port.sent.borrow(), b"out");
    }

    #[test]
    fn reading_waits_for_a_byte() {
        let line = Line::<Fake, 8>::new(Fake::default());
        let mut end = End::new(&line, |line| {
            line.port.came.borrow_mut().push_back(5);
            line.interrupt();
        });
        let mut buf = [0; 4];
        assert_eq!(end.read(&mut buf), Ok(1));
        assert_eq!(buf[0], 5);
    }
}
