//! Frames: `0x00 COBS(version u8 ‖ channel u8 ‖ sequence u16 ‖ body ‖ CRC-32 u32) 0x00`, numbers little-endian.
//!
//! A zero byte occurs nowhere inside a frame, so a receiver that has lost its way finds the next beginning by itself. The CRC (IEEE
//! 802.3) is over everything before it.

use serde::Serialize;

/// Version of frames and messages. The places of the version byte and of the CRC never change.
pub const VERSION: u8 = 3;
/// Bytes of an image, a prompt, a template in one message.
pub const CHUNK: usize = 1024;
/// Longest body: a chunk and what stands before it.
pub const MAX_BODY: usize = CHUNK + 64;
/// Bytes before the body.
pub const HEADER: usize = 4;
const CRC: usize = 4;
const MAX_PLAIN: usize = HEADER + MAX_BODY + CRC;
/// Longest frame between its zeros: COBS adds a byte for each 254 begun.
pub const MAX_CODED: usize = MAX_PLAIN + MAX_PLAIN.div_ceil(254);
/// Longest frame on the line.
pub const MAX_WIRE: usize = MAX_CODED + 2;

/// What a frame carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Channel {
    /// A request, or an answer to one.
    Control,
    /// Bytes of the board's log, as they come: defmt's, or text.
    Log,
}

impl Channel {
    const fn code(self) -> u8 {
        match self {
            Self::Control => 0,
            Self::Log => 1,
        }
    }
}

/// A frame whose checksum was right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame<'a> {
    /// Sender's [`VERSION`].
    pub version: u8,
    /// The channel's number; [`Frame::channel`] says whether it is known.
    pub code: u8,
    /// The request that this is, or that it answers.
    pub sequence: u16,
    /// The message.
    pub body: &'a [u8],
}

impl Frame<'_> {
    /// The channel, if this version knows it.
    pub fn channel(&self) -> Option<Channel> {
        [Channel::Control, Channel::Log].into_iter().find(|c| c.code() == self.code)
    }
}

/// Writes a frame with `message` as its body; returns the bytes for the line, or nothing if the message is longer than [`MAX_BODY`].
pub fn encode<'w>(sequence: u16, message: &impl Serialize, wire: &'w mut [u8; MAX_WIRE]) -> Option<&'w [u8]> {
    let mut plain = [0; MAX_PLAIN];
    let n = postcard::to_slice(message, &mut plain[HEADER..HEADER + MAX_BODY]).ok()?.len();
    Some(seal(Channel::Control, sequence, &mut plain, n, wire))
}

/// Writes a frame of log bytes, of which there may be [`MAX_BODY`]; the rest is cut off.
pub fn encode_log<'w>(bytes: &[u8], wire: &'w mut [u8; MAX_WIRE]) -> &'w [u8] {
    let mut plain = [0; MAX_PLAIN];
    let n = bytes.len().min(MAX_BODY);
    plain[HEADER..HEADER + n].copy_from_slice(&bytes[..n]);
    seal(Channel::Log, 0, &mut plain, n, wire)
}

/// Header and CRC around the body's `n` bytes, then COBS.
fn seal<'w>(channel: Channel, sequence: u16, plain: &mut [u8; MAX_PLAIN], n: usize, wire: &'w mut [u8; MAX_WIRE]) -> &'w [u8] {
    plain[0] = VERSION;
    plain[1] = channel.code();
    plain[2..4].copy_from_slice(&sequence.to_le_bytes());
    let end = HEADER + n;
    let crc = crc32fast::hash(&plain[..end]);
    plain[end..end + CRC].copy_from_slice(&crc.to_le_bytes());
    wire[0] = 0;
    let coded = cobs::encode(&plain[..end + CRC], &mut wire[1..]);
    wire[1 + coded] = 0;
    &wire[..coded + 2]
}

/// What a receiver has met.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Faults {
    /// Frames that were whole and right.
    pub good: u32,
    /// Frames whose checksum or coding was wrong.
    pub corrupt: u32,
    /// Runs of bytes longer than any frame.
    pub oversized: u32,
}

/// Bytes → frames. Whatever comes, the next whole frame is found.
#[derive(Clone, Debug)]
pub struct Receiver {
    buffer: [u8; MAX_CODED],
    len: usize,
    /// More bytes came than any frame has: wait for a zero.
    lost: bool,
    /// Bytes of the decoded frame in `buffer`, 0 when there is none.
    plain: usize,
    faults: Faults,
}

impl Default for Receiver {
    fn default() -> Self {
        Self::new()
    }
}

impl Receiver {
    /// A receiver between frames.
    pub const fn new() -> Self {
        let faults = Faults { good: 0, corrupt: 0, oversized: 0 };
        Self { buffer: [0; MAX_CODED], len: 0, lost: false, plain: 0, faults }
    }

    /// Takes a byte from the line; true when a frame is complete, which [`Self::frame`] shows until the next byte.
    pub fn push(&mut self, byte: u8) -> bool {
        self.plain = 0;
        if byte != 0 {
            match self.buffer.get_mut(self.len) {
                Some(place) => *place = byte,
                None if self.lost => return false,
                None => {
                    self.lost = true;
                    self.faults.oversized = self.faults.oversized.saturating_add(1);
                    return false;
                }
            }
            self.len += 1;
            return false;
        }
        let (len, lost) = (self.len, self.lost);
        (self.len, self.lost) = (0, false);
        if len == 0 || lost {
            return false;
        }
        match Self::open(&mut self.buffer[..len]) {
            Some(plain) => {
                self.plain = plain;
                self.faults.good = self.faults.good.saturating_add(1);
                true
            }
            None => {
                self.faults.corrupt = self.faults.corrupt.saturating_add(1);
                false
            }
        }
    }

    /// Undoes COBS in place and holds the CRC against the rest; the length without the CRC.
    fn open(coded: &mut [u8]) -> Option<usize> {
        let n = cobs::decode_in_place(coded).ok()?;
        let (rest, crc) = coded.get(..n)?.split_last_chunk::<CRC>()?;
        (rest.len() >= HEADER && crc32fast::hash(rest) == u32::from_le_bytes(*crc)).then_some(rest.len())
    }

    /// The frame that [`Self::push`] has just completed.
    pub fn frame(&self) -> Option<Frame<'_>> {
        let (header, body) = self.buffer.get(..self.plain)?.split_first_chunk::<HEADER>()?;
        let [version, code, a, b] = *header;
        Some(Frame { version, code, sequence: u16::from_le_bytes([a, b]), body })
    }

    /// What it has met so far.
    pub const fn faults(&self) -> Faults {
        self.faults
    }
}
