//! Pins of the BCM2835 family (Pi 3; Pi 4 with other pull registers).
//!
//! Source: BCM2835 ARM Peripherals, 6; BCM2711 ARM Peripherals, 5.

use core::convert::Infallible;

use embedded_hal::delay::DelayNs;
use embedded_hal::digital::{ErrorType, OutputPin};

use crate::registers::Registers;

const SET: usize = 0x1c;
const CLEAR: usize = 0x28;
const PULL: usize = 0x94;
const PULL_CLOCK: usize = 0x98;
const PULL_2711: usize = 0xe4;

/// What a pin does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Function {
    /// Read by software.
    Input = 0,
    /// Written by software.
    Output = 1,
    /// Alternative function 0: PL011 on pins 14 and 15.
    Alt0 = 4,
    /// Alternative function 3: the EMMC controller on pins 48 to 53.
    Alt3 = 7,
    /// Alternative function 5: mini-UART on pins 14 and 15.
    Alt5 = 2,
}

/// What holds a pin that nothing drives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pull {
    /// Nothing.
    Off,
    /// Up to the supply.
    Up,
}

/// The pins.
#[derive(Clone, Copy, Debug)]
pub struct Gpio<R> {
    registers: R,
}

impl<R: Registers> Gpio<R> {
    /// On the registers of the GPIO block.
    pub const fn new(registers: R) -> Self {
        Self { registers }
    }

    /// Chooses a pin's function.
    pub fn function(&self, pin: u32, function: Function) {
        let shift = pin % 10 * 3;
        self.registers.modify((pin / 10 * 4) as usize, 7 << shift, (function as u32) << shift);
    }

    /// Chooses a pin's pull (BCM2835 to 2837: a control word clocked into the pin).
    pub fn pull(&self, pin: u32, pull: Pull, delay: &mut impl DelayNs) {
        let word = match pull {
            Pull::Off => 0,
            Pull::Up => 2,
        };
        let clock = PULL_CLOCK + (pin / 32 * 4) as usize;
        self.registers.write(PULL, word);
        delay.delay_us(1);
        self.registers.write(clock, 1 << (pin % 32));
        delay.delay_us(1);
        self.registers.write(PULL, 0);
        self.registers.write(clock, 0);
    }

    /// Chooses a pin's pull (BCM2711: two bits a pin).
    pub fn pull_2711(&self, pin: u32, pull: Pull) {
        let word = match pull {
            Pull::Off => 0,
            Pull::Up => 1,
        };
        let shift = pin % 16 * 2;
        self.registers.modify(PULL_2711 + (pin / 16 * 4) as usize, 3 << shift, word << shift);
    }

    /// Drives a pin.
    pub fn write(&self, pin: u32, high: bool) {
        let at = if high { SET } else { CLEAR };
        self.registers.write(at + (pin / 32 * 4) as usize, 1 << (pin % 32));
    }

    /// A pin as an output, for `embedded-hal`.
    pub fn output(self, pin: u32) -> Output<R> {
        self.function(pin, Function::Output);
        Output { gpio: self, pin }
    }
}

/// A pin that is driven.
#[derive(Clone, Copy, Debug)]
pub struct Output<R> {
    gpio: Gpio<R>,
    pin: u32,
}

impl<R> ErrorType for Output<R> {
    type Error = Infallible;
}

impl<R: Registers> OutputPin for Output<R> {
    fn set_low(&mut self) -> Result<(), Infallible> {
        self.gpio.write(self.pin, false);
        Ok(())
    }

    fn set_high(&mut self) -> Result<(), Infallible> {
        self.gpio.write(self.pin, true);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use core::cell::RefCell;
    use std::collections::BTreeMap;

    #[derive(Default)]
    struct Fake(RefCell<BTreeMap<usize, u32>>);

    impl Registers for Fake {
        fn read(&self, offset: usize) -> u32 {
            self.0.borrow().get(&offset).copied().unwrap_or(0)
        }

        fn write(&self, offset: usize, value: u32) {
            self.0.borrow_mut().insert(offset, value);
        }
    }

    #[test]
    fn a_function_touches_its_pin_only() {
        let fake = Fake::default();
        let gpio = Gpio::new(&fake);
        gpio.function(14, Function::Alt0);
        gpio.function(15, Function::Alt0);
        gpio.function(14, Function::Alt5);
        assert_eq!(fake.read(4), 2 << 12 | 4 << 15);
        gpio.output(47).set_high().unwrap();
        assert_eq!((fake.read(16), fake.read(SET + 4)), (1 << 21, 1 << 15));
        gpio.pull_2711(17, Pull::Up);
        assert_eq!(fake.read(PULL_2711 + 4), 1 << 2);
    }
}
