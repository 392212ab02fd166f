//! A NOR flash chip on an SPI bus, behind `embedded-hal` 1.0 in and `embedded-storage` out.
//!
//! What the chip is comes from its own tables (SFDP), else from its JEDEC id. Chips above 16 MiB are read with commands that
//! carry four address bytes, so that the chip stays in the state that a boot ROM expects.
//!
//! One lane: `embedded-hal`'s `SpiDevice` moves one bit a clock each way, and has no word for turning the data line around, so
//! dual and quad reads cannot be said through it. A microcontroller's QSPI peripheral does them by itself; its driver gives
//! `ReadNorFlash`, and [`crate::NorSource`] takes that as it takes this.
//!
//! Source: JEDEC JESD216 (SFDP); Winbond W25Q128JV, W25Q256JV and Micron MT25QL data sheets.

use core::fmt;

use embedded_hal::delay::DelayNs;
use embedded_hal::spi::{Operation, SpiDevice};
use embedded_storage::nor_flash::{ErrorType, MultiwriteNorFlash, NorFlash, NorFlashError, NorFlashErrorKind, ReadNorFlash};

/// Bytes that one program command can write; it wraps around within them.
pub const PROGRAM_PAGE: usize = 256;
/// Bytes that one erase command sets to 0xff.
pub const SECTOR: usize = 4096;
/// Bytes that three address bytes can tell apart.
const THREE_BYTES: u64 = 1 << 24;

/// Commands; the ones with four address bytes beside their older twins.
mod op {
    pub const WRITE_ENABLE: u8 = 0x06;
    pub const STATUS: u8 = 0x05;
    pub const JEDEC_ID: u8 = 0x9f;
    pub const SFDP: u8 = 0x5a;
    pub const FAST_READ: u8 = 0x0b;
    pub const FAST_READ_4B: u8 = 0x0c;
    pub const PROGRAM: u8 = 0x02;
    pub const PROGRAM_4B: u8 = 0x12;
    pub const ERASE_SECTOR: u8 = 0x20;
    pub const ERASE_SECTOR_4B: u8 = 0x21;
    pub const POWER_DOWN: u8 = 0xb9;
    pub const WAKE: u8 = 0xab;
}

/// Status register: an erase or program is going on; the next one is allowed.
const BUSY: u8 = 1;
const WRITE_ENABLED: u8 = 2;
/// Longest times of the data sheets, doubled: waking, a program, an erase of a worn sector.
const WAKE_US: u32 = 100;
const PROGRAM_US: u32 = 10_000;
const ERASE_US: u32 = 4_000_000;
/// Pause between two looks at the status, growing to the second.
const LOOK_US: (u32, u32) = (10, 1000);

/// What a chip says it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct JedecId {
    /// `0xef` Winbond, `0xc8` GigaDevice, `0x20` Micron and XMC, `0xc2` Macronix, `0x9d` ISSI …
    pub manufacturer: u8,
    /// The maker's own.
    pub kind: u8,
    /// For most makers log2 of the bytes.
    pub capacity: u8,
}

/// Why a chip could not be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SpiNorError<E> {
    /// The bus failed.
    Bus(E),
    /// Nobody answers: the id reads as all ones or all zeros.
    NoChip(JedecId),
    /// The chip's size is in neither its tables nor its id.
    UnknownSize(JedecId),
    /// The chip's tables say that it cannot do what is needed.
    Unsupported(&'static str),
    /// The chip stayed busy.
    Busy {
        /// With what.
        doing: &'static str,
        /// How long was waited.
        us: u32,
    },
    /// The chip did not accept that the next command writes: it is protected.
    Protected,
    /// Beyond the end.
    OutOfBounds {
        /// Bytes needed.
        need: u64,
        /// Bytes of the chip.
        have: u64,
    },
    /// An erase does not begin and end on a sector.
    NotAligned {
        /// First byte.
        from: u32,
        /// Byte after the last.
        to: u32,
    },
}

impl<E: fmt::Debug> fmt::Display for SpiNorError<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bus(e) => write!(f, "the bus failed: {e:?}"),
            Self::NoChip(id) => write!(f, "no flash chip answers: need a JEDEC id, found {id:02x?}"),
            Self::UnknownSize(id) => write!(f, "size of the flash chip not known: found {id:02x?} and no tables"),
            Self::Unsupported(what) => write!(f, "flash chip not supported: need {what}"),
            Self::Busy { doing, us } => write!(f, "flash chip still busy with {doing} after {us} us"),
            Self::Protected => f.write_str("flash chip is protected: need write enable, found it refused"),
            Self::OutOfBounds { need, have } => write!(f, "beyond the end of the flash chip: need {need} bytes, have {have}"),
            Self::NotAligned { from, to } => write!(f, "erase of {from:#x}..{to:#x}: need multiples of {SECTOR}"),
        }
    }
}

impl<E: fmt::Debug> core::error::Error for SpiNorError<E> {}

impl<E: fmt::Debug> NorFlashError for SpiNorError<E> {
    fn kind(&self) -> NorFlashErrorKind {
        match self {
            Self::OutOfBounds { .. } => NorFlashErrorKind::OutOfBounds,
            Self::NotAligned { .. } => NorFlashErrorKind::NotAligned,
            _ => NorFlashErrorKind::Other,
        }
    }
}

/// How many address bytes a command carries, and whether it is the older or the newer twin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Addressing {
    /// Three bytes.
    Three,
    /// Four bytes after commands of their own.
    FourByCommand,
    /// Four bytes after the old commands: the chip knows no others.
    FourAlways,
}

/// A chip, awake and identified.
#[derive(Debug)]
pub struct SpiNor<B, D> {
    bus: B,
    delay: D,
    id: JedecId,
    bytes: u64,
    addressing: Addressing,
}

impl<B: SpiDevice, D: DelayNs> SpiNor<B, D> {
    /// Wakes the chip, waits until what it was doing is done, and asks what it is.
    ///
    /// # Errors
    /// [`SpiNorError`]: nobody answers, of unknown size, without erase of 4 KiB, or the bus fails.
    pub fn new(bus: B, delay: D) -> Result<Self, SpiNorError<B::Error>> {
        let id = JedecId { manufacturer: 0, kind: 0, capacity: 0 };
        let mut chip = Self { bus, delay, id, bytes: 0, addressing: Addressing::Three };
        chip.wake()?;
        chip.wait("an erase before the reset", ERASE_US)?;
        let mut id = [0; 3];
        chip.command(&[op::JEDEC_ID], &mut id)?;
        chip.id = JedecId { manufacturer: id[0], kind: id[1], capacity: id[2] };
        if id == [0; 3] || id == [0xff; 3] {
            return Err(SpiNorError::NoChip(chip.id));
        }
        match chip.tables()? {
            Some(()) => {}
            None => {
                // From 64 KiB; some makers go on with 0x20 after 0x19.
                let log2 = match chip.id.capacity {
                    code @ 0x10..=0x19 => code,
                    code @ 0x20..=0x22 => code - 6,
                    _ => return Err(SpiNorError::UnknownSize(chip.id)),
                };
                chip.bytes = 1 << log2;
                chip.addressing = if chip.bytes > THREE_BYTES { Addressing::FourByCommand } else { Addressing::Three };
            }
        }
        if chip.bytes > 1 << 32 {
            return Err(SpiNorError::Unsupported("at most 4 GiB"));
        }
        Ok(chip)
    }

    /// What the chip says it is.
    pub const fn id(&self) -> JedecId {
        self.id
    }

    /// Ends deep power-down, which a chip may be in from before the reset; no harm to one that is awake.
    ///
    /// # Errors
    /// [`SpiNorError::Bus`].
    pub fn wake(&mut self) -> Result<(), SpiNorError<B::Error>> {
        self.command(&[op::WAKE], &mut [])?;
        self.delay.delay_us(WAKE_US);
        Ok(())
    }

    /// Deep power-down: about 1 µA, and nothing answers until [`Self::wake`].
    ///
    /// # Errors
    /// [`SpiNorError::Bus`].
    pub fn power_down(&mut self) -> Result<(), SpiNorError<B::Error>> {
        self.command(&[op::POWER_DOWN], &mut [])
    }

    /// The bus and the delay again.
    pub fn into_parts(self) -> (B, D) {
        (self.bus, self.delay)
    }

    /// One command: words out, words in.
    fn command(&mut self, out: &[u8], back: &mut [u8]) -> Result<(), SpiNorError<B::Error>> {
        self.bus.transaction(&mut [Operation::Write(out), Operation::Read(back)]).map_err(SpiNorError::Bus)
    }

    /// Size and addressing from the chip's own tables; none if it has no tables. Source: JESD216, 6.2 and 6.4.
    fn tables(&mut self) -> Result<Option<()>, SpiNorError<B::Error>> {
        let mut header = [0; 16];
        self.command(&[op::SFDP, 0, 0, 0, 0], &mut header)?;
        // "SFDP", then the header of the basic table, which is always the first: id low 0x00, words, pointer of three bytes.
        if &header[..4] != b"SFDP" || header[8] != 0 || header[11] < 9 {
            return Ok(None);
        }
        let mut basic = [0; 64];
        let n = usize::from(header[11]).min(16);
        self.command(&[op::SFDP, header[14], header[13], header[12], 0], &mut basic[..4 * n])?;
        let word = |i: usize| u32::from_le_bytes([basic[4 * i], basic[4 * i + 1], basic[4 * i + 2], basic[4 * i + 3]]);
        let (first, density) = (word(0), word(1));
        let bits = if density >> 31 == 0 { u64::from(density) + 1 } else { 1u64.checked_shl(density & 0x7fff_ffff).unwrap_or(0) };
        if bits == 0 || bits % 8 != 0 {
            return Err(SpiNorError::Unsupported("a density that can be counted"));
        }
        if first & 0b11 != 0b01 || (first >> 8) as u8 != op::ERASE_SECTOR {
            return Err(SpiNorError::Unsupported("erase of 4 KiB with command 0x20"));
        }
        self.bytes = bits / 8;
        // Bits 17 and 18: three address bytes; three or four; four.
        self.addressing = match (first >> 17) & 0b11 {
            0b10 => Addressing::FourAlways,
            _ if self.bytes <= THREE_BYTES => Addressing::Three,
            0b01 => Addressing::FourByCommand,
            _ => return Err(SpiNorError::Unsupported("four address bytes above 16 MiB")),
        };
        Ok(Some(()))
    }

    /// A command with its address and `dummies` bytes after it; returns the words and how many.
    fn addressed(&self, old: u8, new: u8, address: u32, dummies: usize) -> ([u8; 6], usize) {
        let [a, b, c, d] = address.to_be_bytes();
        match self.addressing {
            Addressing::Three => ([old, b, c, d, 0, 0], 4 + dummies),
            Addressing::FourByCommand => ([new, a, b, c, d, 0], 5 + dummies),
            Addressing::FourAlways => ([old, a, b, c, d, 0], 5 + dummies),
        }
    }

    /// Until the chip is not busy.
    fn wait(&mut self, doing: &'static str, limit_us: u32) -> Result<(), SpiNorError<B::Error>> {
        let (mut waited, mut pause) = (0, LOOK_US.0);
        loop {
            if self.status()? & BUSY == 0 {
                return Ok(());
            }
            if waited >= limit_us {
                return Err(SpiNorError::Busy { doing, us: waited });
            }
            self.delay.delay_us(pause);
            waited += pause;
            pause = (2 * pause).min(LOOK_US.1);
        }
    }

    fn status(&mut self) -> Result<u8, SpiNorError<B::Error>> {
        let mut status = [0];
        self.command(&[op::STATUS], &mut status)?;
        Ok(status[0])
    }

    fn write_enable(&mut self) -> Result<(), SpiNorError<B::Error>> {
        self.command(&[op::WRITE_ENABLE], &mut [])?;
        if self.status()? & WRITE_ENABLED == 0 { Err(SpiNorError::Protected) } else { Ok(()) }
    }

    fn bounds(&self, offset: u32, bytes: usize) -> Result<(), SpiNorError<B::Error>> {
        let need = u64::from(offset).saturating_add(bytes as u64);
        if need > self.bytes { Err(SpiNorError::OutOfBounds { need, have: self.bytes }) } else { Ok(()) }
    }
}

impl<B: SpiDevice, D> ErrorType for SpiNor<B, D> {
    type Error = SpiNorError<B::Error>;
}

impl<B: SpiDevice, D: DelayNs> ReadNorFlash for SpiNor<B, D> {
    const READ_SIZE: usize = 1;

    fn read(&mut self, offset: u32, bytes: &mut [u8]) -> Result<(), Self::Error> {
        self.bounds(offset, bytes.len())?;
        let (words, n) = self.addressed(op::FAST_READ, op::FAST_READ_4B, offset, 1);
        self.command(&words[..n], bytes)
    }

    fn capacity(&self) -> usize {
        usize::try_from(self.bytes).unwrap_or(usize::MAX)
    }
}

impl<B: SpiDevice, D: DelayNs> NorFlash for SpiNor<B, D> {
    const WRITE_SIZE: usize = 1;
    const ERASE_SIZE: usize = SECTOR;

    fn erase(&mut self, from: u32, to: u32) -> Result<(), Self::Error> {
        let step = SECTOR as u32;
        if !from.is_multiple_of(step) || !to.is_multiple_of(step) || from > to {
            return Err(SpiNorError::NotAligned { from, to });
        }
        self.bounds(from, (to - from) as usize)?;
        for sector in (from..to).step_by(SECTOR) {
            self.write_enable()?;
            let (words, n) = self.addressed(op::ERASE_SECTOR, op::ERASE_SECTOR_4B, sector, 0);
            self.command(&words[..n], &mut [])?;
            self.wait("an erase", ERASE_US)?;
        }
        Ok(())
    }

    fn write(&mut self, offset: u32, bytes: &[u8]) -> Result<(), Self::Error> {
        self.bounds(offset, bytes.len())?;
        let (mut at, mut rest) = (offset, bytes);
        while !rest.is_empty() {
            // Up to the end of the page: beyond it the chip would begin again at its start.
            let n = (PROGRAM_PAGE - at as usize % PROGRAM_PAGE).min(rest.len());
            let (now, later) = rest.split_at(n);
            self.write_enable()?;
            let (words, n) = self.addressed(op::PROGRAM, op::PROGRAM_4B, at, 0);
            self.bus.transaction(&mut [Operation::Write(&words[..n]), Operation::Write(now)]).map_err(SpiNorError::Bus)?;
            self.wait("a program", PROGRAM_US)?;
            at = at.wrapping_add(now.len() as u32);
            rest = later;
        }
        Ok(())
    }
}

/// A bit that was cleared may be cleared again without an erase.
impl<B: SpiDevice, D: DelayNs> MultiwriteNorFlash for SpiNor<B, D> {}
