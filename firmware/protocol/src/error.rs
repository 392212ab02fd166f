use crate::message::Why;
use core::fmt;
use heapless::String;

/// Longest text of a refusal that is kept.
pub const MAX_TEXT: usize = 240;

/// Why a board did not do what it was asked.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Error<E> {
    /// The line failed.
    Line(E),
    /// Nothing came back.
    Silent {
        /// Times asked.
        tries: u32,
        /// How long was waited in all, in milliseconds.
        millis: u64,
        /// Broken frames that came in that time.
        corrupt: u32,
    },
    /// The firmware speaks another version of the protocol.
    Version {
        /// This program's.
        need: u8,
        /// The firmware's.
        found: u8,
    },
    /// The board said no.
    Refused {
        /// In a word.
        why: Why,
        /// In its own words.
        text: String<MAX_TEXT>,
    },
    /// The board answered something that is no answer to this request.
    Unexpected {
        /// What was asked for.
        asked: &'static str,
    },
    /// What has arrived is not what was written.
    Garbled {
        /// CRC-32 needed.
        need: u32,
        /// CRC-32 of what arrived.
        found: u32,
    },
    /// The caller wanted no more, and the board did not confirm it.
    Stopped,
    /// A message that no frame can hold.
    TooLong,
}

impl<E: fmt::Display> fmt::Display for Error<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Line(e) => write!(f, "the line failed: {e}"),
            Self::Silent { tries, millis, corrupt: 0 } => {
                write!(f, "no answer from the board: asked {tries} times in {millis} ms")
            }
            Self::Silent { tries, millis, corrupt } => {
                write!(f, "no answer from the board: asked {tries} times in {millis} ms, {corrupt} broken frames came")
            }
            Self::Version { need, found } => {
                write!(f, "the firmware speaks version {found} of the protocol, this program version {need}")
            }
            Self::Refused { text, .. } => f.write_str(text),
            Self::Unexpected { asked } => write!(f, "the board answered {asked} with something else"),
            Self::Garbled { need, found } => write!(f, "the answer arrived damaged: CRC {need:08x} needed, {found:08x} found"),
            Self::Stopped => f.write_str("stopped"),
            Self::TooLong => write!(f, "message too long: at most {} bytes", crate::frame::MAX_BODY),
        }
    }
}

impl<E: fmt::Debug + fmt::Display> core::error::Error for Error<E> {}
