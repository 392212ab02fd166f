//! Finding out what card there is, and waking it.

use super::{Answer, CONTROL_0, Error, FAST, FOUR_BITS, POWER_3V3, Sdhci, Transfer};
use crate::registers::Registers;

/// How long a card may take to get ready.
const READY_MICROS: u64 = 1_000_000;
/// 2.7 to 3.6 V, and larger cards are understood.
const VOLTAGES: u32 = 0x00ff_8000;
const LARGE: u32 = 1 << 30;

/// A card that was met.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Card {
    /// Its address, in the upper half.
    rca: u32,
    n_blocks: u32,
    /// Blocks are counted, not bytes.
    large: bool,
    /// Clocks above 25 MHz.
    fast: bool,
}

impl Card {
    /// Blocks of 512 bytes.
    pub const fn n_blocks(&self) -> u32 {
        self.n_blocks
    }

    /// Whether it runs in high-speed mode.
    pub const fn is_fast(&self) -> bool {
        self.fast
    }

    pub(super) const fn rca(&self) -> u32 {
        self.rca
    }

    /// What commands call block `block`.
    pub(super) const fn address(&self, block: u32) -> u32 {
        if self.large { block } else { block.wrapping_mul(512) }
    }
}

/// Blocks of 512 bytes, from the card's specific data without its checksum (as the controller keeps it).
pub const fn capacity_of(csd: [u32; 4]) -> u32 {
    let [_, b, c, d] = csd;
    if d >> 22 & 3 == 0 {
        let size = (c & 3) << 10 | b >> 22;
        let shift = (b >> 7 & 7) + 2 + (c >> 8 & 15);
        let bytes = ((size + 1) as u64) << shift;
        (bytes / 512) as u32
    } else {
        let blocks = ((b >> 8 & 0x3f_ffff) as u64 + 1) * 1024;
        if blocks > u32::MAX as u64 { u32::MAX } else { blocks as u32 }
    }
}

/// From power on to ready for data.
pub(super) fn identify<R: Registers>(host: &Sdhci<R>) -> Result<Card, Error> {
    let plain = |index, argument, answer| host.command(index, argument, answer, Transfer::None);
    plain(0, 0, Answer::None)?;
    // Cards of version 2 say the pattern back; older ones do not answer.
    let second = plain(8, 0x1aa, Answer::Short).is_ok_and(|answer| answer[0] & 0xfff == 0x1aa);
    let large = wake(host, second)?;
    plain(2, 0, Answer::Long)?;
    let rca = plain(3, 0, Answer::Short)?[0] & 0xffff_0000;
    let csd = plain(9, rca, Answer::Long)?;
    plain(7, rca, Answer::Busy)?;
    host.set_clock(host.config.max_hz.min(25_000_000))?;
    plain(16, 512, Answer::Short)?;
    // Four data lines, which every card has.
    plain(55, rca, Answer::Short)?;
    plain(6, 2, Answer::Short)?;
    host.set(CONTROL_0, POWER_3V3 | FOUR_BITS);
    let fast = host.config.max_hz > 25_000_000 && switch_to_fast(host)?;
    Ok(Card { rca, n_blocks: capacity_of(csd), large, fast })
}

/// Waits until the card is ready; whether it counts in blocks.
fn wake<R: Registers>(host: &Sdhci<R>, second: bool) -> Result<bool, Error> {
    let argument = if second { VOLTAGES | LARGE } else { VOLTAGES };
    let end = (host.config.now_us)() + READY_MICROS;
    loop {
        host.command(55, 0, Answer::Short, Transfer::None).map_err(|_| Error::NoCard)?;
        let ocr = host.command(41, argument, Answer::Unchecked, Transfer::None).map_err(|_| Error::NoCard)?[0];
        if ocr >> 31 != 0 {
            return Ok(ocr & LARGE != 0);
        }
        if (host.config.now_us)() > end {
            return Err(Error::NotReady);
        }
        host.wait_us(1000);
    }
}

/// Asks for high-speed mode (50 MHz); whether the card has it.
fn switch_to_fast<R: Registers>(host: &Sdhci<R>) -> Result<bool, Error> {
    // Version 1.1 and later have the command; a card that does not know it does not answer, and stays as it is.
    let mut status = [0_u32; 16];
    if host.read_small(6, 0x80ff_fff1, &mut status).is_err() {
        return Ok(false);
    }
    // Byte 16 of the status, lower half: the function now in group 1.
    let chosen = status[4].to_le_bytes()[0] & 15;
    if chosen != 1 {
        return Ok(false);
    }
    host.set(CONTROL_0, POWER_3V3 | FOUR_BITS | FAST);
    host.set_clock(host.config.max_hz.min(50_000_000))?;
    Ok(true)
}
