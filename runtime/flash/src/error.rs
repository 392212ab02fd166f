use core::fmt;

/// Why an image cannot be read from, or written to, a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Error {
    /// The image, or a page of it, is not valid.
    Format(bourn_format::Error),
    /// The device ends before the image does.
    Short {
        /// Bytes from where the image begins that are needed.
        need: u64,
        /// Bytes that the device has from there.
        have: u64,
    },
    /// The memory lent is too small.
    Buffer {
        /// Bytes needed.
        need: u64,
        /// Bytes lent.
        have: u64,
    },
    /// Where the image begins is not a place that the device can read or erase from.
    Align {
        /// Bytes that it must be a multiple of.
        need: u64,
        /// Where it begins.
        found: u64,
    },
    /// The device failed. What it said is kept by who asked it.
    Device {
        /// Where in the image.
        offset: u64,
        /// How many bytes were asked for.
        bytes: u64,
    },
    /// What was written reads back as something else.
    Verify {
        /// Where in the image.
        offset: u64,
    },
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Format(e) => e.fmt(f),
            Self::Short { need, have } => write!(f, "device too short: the image needs {need} bytes, have {have}"),
            Self::Buffer { need, have } => write!(f, "buffer too small: need {need} bytes, have {have}"),
            Self::Align { need, found } => write!(f, "image offset out of step: need a multiple of {need}, found {found}"),
            Self::Device { offset, bytes } => write!(f, "the device failed: {bytes} bytes at offset {offset}"),
            Self::Verify { offset } => write!(f, "written bytes read back wrong: the page at offset {offset}"),
        }
    }
}

impl core::error::Error for Error {}

impl From<bourn_format::Error> for Error {
    fn from(e: bourn_format::Error) -> Self {
        Self::Format(e)
    }
}
