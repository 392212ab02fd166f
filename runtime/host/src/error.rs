use std::fmt;
use std::io;
use std::path::PathBuf;

/// Why an image could not be opened or read.
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// The file could not be opened, read or mapped.
    Io {
        /// The file.
        path: PathBuf,
        /// What was being done.
        doing: &'static str,
        /// The system's answer.
        source: io::Error,
    },
    /// The file is not a valid image.
    Image {
        /// The file.
        path: PathBuf,
        /// What was needed and what was found.
        source: bourn_format::Error,
    },
    /// The RAM budget is too small for the model.
    Ram {
        /// The smallest budget that works.
        need: u64,
        /// The budget.
        have: u64,
    },
    /// The session asks for more than the RAM budget was shared out for.
    RamSession {
        /// Bytes of workspace that it needs.
        need: u64,
        /// Bytes that the plan has for one; 0 while another session has them.
        have: u64,
    },
    /// Memory or a thread could not be had.
    Memory {
        /// Bytes needed.
        need: u64,
        /// The system's answer.
        source: io::Error,
    },
    /// Memory could not be locked.
    Lock {
        /// Bytes to lock.
        bytes: u64,
        /// What RLIMIT_MEMLOCK allows.
        limit: u64,
        /// The system's answer.
        source: io::Error,
    },
    /// Weights could not be read from the device.
    Device {
        /// The file.
        path: PathBuf,
        /// The block device, where the system tells.
        device: String,
        /// What was needed and what was found, and where.
        source: bourn_core::Error,
    },
    /// An option is outside what the image allows.
    Core(bourn_core::Error),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io { path, doing, source } => write!(f, "{}: {doing}: {source}", path.display()),
            Self::Image { path, source } => write!(f, "{}: {source}", path.display()),
            Self::Ram { need, have } => write!(f, "ram budget too small: need {need} bytes, have {have}"),
            Self::RamSession { need, have } => {
                write!(f, "session larger than its share of the ram budget: need {need} bytes, have {have}")
            }
            Self::Memory { need, source } => write!(f, "out of memory: need {need} bytes: {source}"),
            Self::Lock { bytes, limit, source } => {
                write!(f, "memory cannot be locked: need {bytes} bytes, RLIMIT_MEMLOCK allows {limit}: {source}")
            }
            Self::Device { path, device, source } => write!(f, "{} on {device}: {source}", path.display()),
            Self::Core(source) => source.fmt(f),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Io { source, .. } => Some(source),
            Self::Image { source, .. } => Some(source),
            Self::Memory { source, .. } | Self::Lock { source, .. } => Some(source),
            Self::Device { source, .. } | Self::Core(source) => Some(source),
            Self::Ram { .. } | Self::RamSession { .. } => None,
        }
    }
}
