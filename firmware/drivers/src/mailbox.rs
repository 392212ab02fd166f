//! The mailbox to the Raspberry Pi's video core: properties of the machine.
//!
//! A request is a list of words in memory, at an address below 1 GiB on a 16-byte boundary; the answer is written over it.
//! Source: raspberrypi/firmware wiki, Mailbox property interface.

use core::fmt;

use crate::registers::Registers;

const READ: usize = 0x00;
const STATUS: usize = 0x18;
const WRITE: usize = 0x20;
const EMPTY: u32 = 1 << 30;
const FULL: u32 = 1 << 31;
/// The channel of property lists.
const PROPERTIES: u32 = 8;
const DONE: u32 = 0x8000_0000;
/// Looks before the video core is taken for dead.
const LOOKS: u32 = 10_000_000;
const QEMU_FIRMWARE: u32 = 346_337;
/// Words of a request.
pub const WORDS: usize = 16;

/// A clock's number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Clock {
    /// The EMMC controller.
    Emmc = 1,
    /// The PL011.
    Uart = 2,
    /// The Arm cores.
    Arm = 3,
    /// The core clock, which feeds the mini-UART.
    Core = 4,
    /// The second EMMC controller (Pi 4).
    Emmc2 = 12,
}

/// Why a property could not be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Error {
    /// The video core does not answer.
    Silent {
        /// The property's tag.
        tag: u32,
    },
    /// It does not know the property.
    Unknown {
        /// The property's tag.
        tag: u32,
        /// What it says instead.
        code: u32,
    },
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Silent { tag } => write!(f, "mailbox: need an answer for property {tag:#x}, found none"),
            Self::Unknown { tag, code } => write!(f, "mailbox: need property {tag:#x}, found code {code:#x}"),
        }
    }
}

impl core::error::Error for Error {}

/// Memory that both sides see: where requests are written.
pub trait Shared {
    /// Where the video core finds it.
    fn address(&self) -> u32;
    /// Writes a request; when this returns the video core sees it.
    fn put(&mut self, words: &[u32; WORDS]);
    /// Reads the answer, as the video core wrote it.
    fn get(&mut self) -> [u32; WORDS];
}

/// The mailbox.
#[derive(Debug)]
pub struct Mailbox<R, S> {
    registers: R,
    shared: S,
}

impl<R: Registers, S: Shared> Mailbox<R, S> {
    /// On the registers of the mailbox, 0xb880 from the start of the peripherals.
    pub const fn new(registers: R, shared: S) -> Self {
        Self { registers, shared }
    }

    /// The property `tag`, asked for with `arguments`: the answer's first words.
    ///
    /// # Errors
    /// [`Error`].
    pub fn property(&mut self, tag: u32, arguments: &[u32; 3]) -> Result<[u32; 8], Error> {
        let mut words = [0; WORDS];
        words[..3].copy_from_slice(&[4 * WORDS as u32, 0, tag]);
        words[3..5].copy_from_slice(&[32, 12]);
        words[5..8].copy_from_slice(arguments);
        self.shared.put(&words);
        let message = self.shared.address() & !15 | PROPERTIES;
        let silent = Error::Silent { tag };
        self.wait(FULL).ok_or(silent)?;
        self.registers.write(WRITE, message);
        loop {
            self.wait(EMPTY).ok_or(silent)?;
            if self.registers.read(READ) == message {
                break;
            }
        }
        let words = self.shared.get();
        if words[1] != DONE || words[4] & DONE == 0 {
            return Err(Error::Unknown { tag, code: words[1] });
        }
        let mut answer = [0; 8];
        answer.copy_from_slice(&words[5..13]);
        Ok(answer)
    }

    fn wait(&self, bit: u32) -> Option<()> {
        (0..LOOKS).find(|_| self.registers.read(STATUS) & bit == 0).map(|_| ())
    }

    /// Whether this is QEMU's video core, by the date that it calls its firmware.
    pub fn is_emulated(&mut self) -> bool {
        self.property(1, &[0; 3]).map_or(QEMU_FIRMWARE, |answer| answer[0]) == QEMU_FIRMWARE
    }

    /// The board's revision code.
    ///
    /// # Errors
    /// [`Error`].
    pub fn revision(&mut self) -> Result<u32, Error> {
        self.property(0x0001_0002, &[0; 3]).map(|answer| answer[0])
    }

    /// Its serial number.
    ///
    /// # Errors
    /// [`Error`].
    pub fn serial(&mut self) -> Result<u64, Error> {
        self.property(0x0001_0004, &[0; 3]).map(|answer| u64::from(answer[1]) << 32 | u64::from(answer[0]))
    }

    /// One past the last byte of memory that is the Arm cores'.
    ///
    /// # Errors
    /// [`Error`].
    pub fn memory_end(&mut self) -> Result<u64, Error> {
        self.property(0x0001_0005, &[0; 3]).map(|answer| u64::from(answer[0]) + u64::from(answer[1]))
    }

    /// A clock's rate, in Hz.
    ///
    /// # Errors
    /// [`Error`].
    pub fn clock_hz(&mut self, clock: Clock) -> Result<u32, Error> {
        self.property(0x0003_0002, &[clock as u32, 0, 0]).map(|answer| answer[1])
    }

    /// A clock's rate, in Hz, or `default` where the video core does not say one of at least `least`: QEMU's says of some that they are
    /// too slow for anything.
    pub fn clock_hz_or(&mut self, clock: Clock, least: u32, default: u32) -> u32 {
        self.clock_hz(clock).ok().filter(|hz| *hz >= least).unwrap_or(default)
    }

    /// The fastest that a clock may be.
    ///
    /// # Errors
    /// [`Error`].
    pub fn max_clock_hz(&mut self, clock: Clock) -> Result<u32, Error> {
        self.property(0x0003_0004, &[clock as u32, 0, 0]).map(|answer| answer[1])
    }

    /// Sets a clock; returns what it is then.
    ///
    /// # Errors
    /// [`Error`].
    pub fn set_clock_hz(&mut self, clock: Clock, hz: u32) -> Result<u32, Error> {
        self.property(0x0003_8002, &[clock as u32, hz, 0]).map(|answer| answer[1])
    }

    /// The chip's temperature, in thousandths of a degree.
    ///
    /// # Errors
    /// [`Error`].
    pub fn temperature(&mut self) -> Result<u32, Error> {
        self.property(0x0003_0006, &[0; 3]).map(|answer| answer[1])
    }

    /// What slows it down: bits 0 to 3 under-voltage, capped, throttled, soft limit now; 16 to 19 the same since reset.
    ///
    /// # Errors
    /// [`Error`].
    pub fn throttled(&mut self) -> Result<u32, Error> {
        self.property(0x0003_0046, &[0; 3]).map(|answer| answer[0])
    }

    /// Switches a pin of the board's expander: 130 is the activity LED of the Pi 3 B.
    ///
    /// # Errors
    /// [`Error`].
    pub fn set_expander_pin(&mut self, pin: u32, high: bool) -> Result<(), Error> {
        self.property(0x0003_8041, &[pin, u32::from(high), 0]).map(|_| ())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::cell::Cell;

    /// A video core that knows the memory and one clock.
    struct Fake<'w> {
        words: &'w Cell<[u32; WORDS]>,
        message: Cell<u32>,
    }

    struct Memory<'w>(&'w Cell<[u32; WORDS]>);

    impl Shared for Memory<'_> {
        fn address(&self) -> u32 {
            0x10_0040
        }

        fn put(&mut self, words: &[u32; WORDS]) {
            self.0.set(*words);
        }

        fn get(&mut self) -> [u32; WORDS] {
            self.0.get()
        }
    }

    impl Registers for Fake<'_> {
        fn read(&self, offset: usize) -> u32 {
            if offset == READ { self.message.get() } else { 0 }
        }

        fn write(&self, offset: usize, value: u32) {
            assert_eq!((offset, value), (WRITE, 0x10_0048));
            self.message.set(value);
            let mut words = self.words.get();
            words[1] = DONE;
            match (words[2], words[5]) {
                (0x0001_0005, _) => words[4..7].copy_from_slice(&[DONE | 8, 0, 0x3b40_0000]),
                (0x0003_0002, 2) => words[4..7].copy_from_slice(&[DONE | 8, 2, 48_000_000]),
                _ => {}
            }
            self.words.set(words);
        }
    }

    #[test]
    fn asks_and_understands_the_answer() {
        let words = Cell::new([0; WORDS]);
        let fake = Fake { words: &words, message: Cell::new(0) };
        let mut mailbox = Mailbox::new(&fake, Memory(&words));
        assert_eq!(mailbox.memory_end(), Ok(0x3b40_0000));
        assert_eq!(mailbox.clock_hz(Clock::Uart), Ok(48_000_000));
        assert_eq!(mailbox.throttled(), Err(Error::Unknown { tag: 0x0003_0046, code: DONE }));
    }
}
