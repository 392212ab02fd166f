use std::fmt;

/// Why the GPU could not be used.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Error {
    /// No adapter answers to that name, or there is none at all.
    NoAdapter {
        /// What was asked for.
        need: String,
        /// The names there are.
        found: Vec<String>,
    },
    /// The only adapters there are compute on the CPU, and none was asked for by name.
    SoftwareOnly {
        /// Their names.
        found: Vec<String>,
    },
    /// The adapter offers less than the kernels need.
    Limit {
        /// The limit, by its name in WebGPU.
        what: &'static str,
        /// Smallest value that works.
        need: u64,
        /// What the adapter offers.
        found: u64,
    },
    /// A tensor or cache is larger than what the adapter can bind at once.
    BindingTooLarge {
        /// What it is.
        what: String,
        /// Bytes of it.
        need: u64,
        /// Bytes that can be bound.
        found: u64,
    },
    /// The adapter's memory is full.
    OutOfMemory {
        /// What was being made.
        what: String,
        /// Bytes of it.
        need: u64,
    },
    /// The device went away while it computed.
    DeviceLost {
        /// The driver's words.
        why: String,
    },
    /// The driver refused something.
    Driver {
        /// What was being done.
        doing: String,
        /// Its words.
        why: String,
    },
    /// The device did not answer in time.
    Stalled {
        /// How long was waited.
        seconds: u64,
    },
    /// The image or the tokens are at fault, not the GPU.
    Core(bourn_core::Error),
    /// The GPU's decoder cannot do this.
    Unsupported {
        /// What was asked for.
        what: &'static str,
        /// What can be used instead.
        instead: &'static str,
    },
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |names: &[String]| if names.is_empty() { "none".to_owned() } else { names.join(", ") };
        match self {
            Self::NoAdapter { need, found } => write!(f, "no gpu: need {need}, found {}", list(found)),
            Self::SoftwareOnly { found } => {
                write!(f, "no gpu: need one that is hardware, found {}, which computes on the cpu", list(found))
            }
            Self::Limit { what, need, found } => write!(f, "gpu too small: {what}: need {need}, found {found}"),
            Self::BindingTooLarge { what, need, found } => {
                write!(f, "binding too large: {what}: need {need} bytes, the gpu binds {found}")
            }
            Self::OutOfMemory { what, need } => write!(f, "gpu out of memory: need {need} bytes for {what}"),
            Self::DeviceLost { why } => write!(f, "gpu lost: {why}"),
            Self::Driver { doing, why } => write!(f, "gpu driver: {doing}: {why}"),
            Self::Stalled { seconds } => write!(f, "gpu stalled: no answer within {seconds} s"),
            Self::Core(e) => e.fmt(f),
            Self::Unsupported { what, instead } => write!(f, "the gpu has no {what}: use {instead}"),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Core(e) => Some(e),
            _ => None,
        }
    }
}

impl From<bourn_core::Error> for Error {
    fn from(e: bourn_core::Error) -> Self {
        Self::Core(e)
    }
}
