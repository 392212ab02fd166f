//! Arm's interrupt controller, version 2: qemu-virt, Pi 4, Pi 5.
//!
//! Source: Arm IHI 0048B.

use crate::interrupts::Interrupts;
use crate::registers::Registers;

const GICD_CTLR: usize = 0x000;
const GICD_ISENABLER: usize = 0x100;
const GICD_IPRIORITYR: usize = 0x400;
const GICD_ITARGETSR: usize = 0x800;
const GICD_SGIR: usize = 0xf00;
const GICC_CTLR: usize = 0x00;
const GICC_PMR: usize = 0x04;
const GICC_IAR: usize = 0x0c;
const GICC_EOIR: usize = 0x10;
/// Interrupt numbers from here on mean that none is due.
const SPURIOUS: u32 = 1020;
/// The software interrupt that wakes a core.
const WAKE: u32 = 0;

/// The distributor, one for all cores, and the face that each core sees of its own interface.
#[derive(Clone, Copy, Debug)]
pub struct Gic<D, C> {
    distributor: D,
    core: C,
    line: u32,
}

impl<D: Registers, C: Registers> Gic<D, C> {
    /// On these registers; `line` is the serial line's interrupt, a shared one (from 32).
    pub const fn new(distributor: D, core: C, line: u32) -> Self {
        Self { distributor, core, line }
    }

    /// Takes the interrupts that are due on this core, `each` in turn.
    fn take(&self, each: &mut dyn FnMut(u32)) {
        loop {
            let acknowledged = self.core.read(GICC_IAR);
            let n = acknowledged & 0x3ff;
            if n >= SPURIOUS {
                return;
            }
            each(n);
            self.core.write(GICC_EOIR, acknowledged);
        }
    }
}

impl<D: Registers, C: Registers> Interrupts for Gic<D, C> {
    fn start(&self) {
        let (d, n) = (&self.distributor, self.line);
        let (word, shift) = ((n / 4 * 4) as usize, n % 4 * 8);
        d.write(GICD_CTLR, 0);
        d.modify(GICD_IPRIORITYR + word, 0xff << shift, 0x80 << shift);
        d.modify(GICD_ITARGETSR + word, 0xff << shift, 1 << shift);
        d.write(GICD_ISENABLER + (n / 32 * 4) as usize, 1 << (n % 32));
        d.write(GICD_CTLR, 1);
        self.start_core(0);
    }

    fn start_core(&self, _core: usize) {
        self.distributor.write(GICD_ISENABLER, 1 << WAKE);
        self.core.write(GICC_PMR, 0xff);
        self.core.write(GICC_CTLR, 1);
    }

    fn serve(&self, line: &mut dyn FnMut()) {
        self.take(&mut |n| {
            if n == self.line {
                line();
            }
        });
    }

    fn wake(&self, core: usize) {
        self.distributor.write(GICD_SGIR, 1 << (16 + core) | WAKE);
    }

    fn slept(&self, _core: usize) {
        self.take(&mut |_| {});
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use core::cell::RefCell;
    use std::vec;
    use std::vec::Vec;

    #[derive(Default)]
    struct Fake {
        due: RefCell<Vec<u32>>,
        written: RefCell<Vec<(usize, u32)>>,
    }

    impl Registers for Fake {
        fn read(&self, offset: usize) -> u32 {
            if offset == GICC_IAR { self.due.borrow_mut().pop().unwrap_or(1023) } else { 0 }
        }

        fn write(&self, offset: usize, value: u32) {
            self.written.borrow_mut().push((offset, value));
        }
    }

    #[test]
    fn serves_what_is_due_and_says_that_it_is_done() {
        let fake = Fake::default();
        let gic = Gic::new(&fake, &fake, 33);
        gic.start();
        assert!(fake.written.borrow_mut().contains(&(GICD_ISENABLER + 4, 2)));
        assert!(fake.written.borrow_mut().contains(&(GICD_ITARGETSR + 32, 1 << 8)));
        *fake.due.borrow_mut() = vec![33, 2 << 10];
        fake.written.borrow_mut().clear();
        let mut seen = 0;
        gic.serve(&mut || seen += 1);
        assert_eq!(seen, 1);
        assert_eq!(*fake.written.borrow_mut(), [(GICC_EOIR, 2 << 10), (GICC_EOIR, 33)]);
    }
}
