use core::fmt;

/// Why a token could not be computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Error {
    /// The image, or a page of it, is not valid.
    Format(bourn_format::Error),
    /// Bytes could not be read.
    Read {
        /// Where in the image.
        offset: u64,
        /// How many were asked for.
        bytes: u64,
        /// The system's error number, 0 if it gave none.
        code: i32,
    },
    /// A read did not come back in time.
    Stalled {
        /// Where in the image.
        offset: u64,
        /// How many bytes were asked for.
        bytes: u64,
        /// How long was waited.
        seconds: u64,
    },
    /// The stream is lent to someone else.
    Busy,
    /// The caller's flag said stop while bytes were waited for.
    Cancelled,
    /// An option is outside what the image allows.
    Option {
        /// The option.
        what: &'static str,
        /// Smallest or largest value allowed.
        need: u64,
        /// The value given.
        found: u64,
    },
    /// A sampling option is outside its range.
    Sampling {
        /// The option.
        what: &'static str,
        /// The range.
        need: &'static str,
        /// Bits of the f32 given.
        found_bits: u32,
    },
    /// The workspace is too small.
    Workspace {
        /// Bytes needed.
        need: u64,
        /// Bytes lent.
        have: u64,
    },
    /// A token id beyond the embedding.
    Token {
        /// The id.
        id: u32,
        /// Rows of the embedding.
        vocab: u32,
    },
    /// More tokens than the context holds.
    ContextFull {
        /// Positions needed.
        need: u64,
        /// Positions in the context.
        context: u64,
    },
    /// A position that the cache has overwritten cannot be returned to.
    Rewind {
        /// Position asked for.
        to: u64,
        /// Oldest position that can be returned to.
        oldest: u64,
    },
    /// A snapshot of a KV state does not fit, or is damaged.
    Snapshot {
        /// What of it.
        what: &'static str,
        /// What was needed, or the limit.
        need: u64,
        /// What was found.
        found: u64,
    },
    /// No token was given.
    Empty,
    /// No logit is finite, or one that was to be sampled from is NaN: the weights are broken.
    NotFinite {
        /// Position of the token.
        position: u64,
    },
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Format(e) => e.fmt(f),
            Self::Read { offset, bytes, code } => {
                write!(f, "read failed: {bytes} bytes at offset {offset} (system error {code})")
            }
            Self::Stalled { offset, bytes, seconds } => {
                write!(f, "read stalled: no answer within {seconds} s for {bytes} bytes at offset {offset}")
            }
            Self::Busy => f.write_str("the weight stream is in use: need it free, found it lent"),
            Self::Cancelled => f.write_str("cancelled while waiting for weights"),
            Self::Option { what, need, found } => write!(f, "{what} out of range: limit {need}, given {found}"),
            Self::Sampling { what, need, found_bits } => {
                write!(f, "{what} out of range: need {need}, found {}", f32::from_bits(found_bits))
            }
            Self::Workspace { need, have } => write!(f, "workspace too small: need {need} bytes, have {have}"),
            Self::Token { id, vocab } => write!(f, "token id {id} out of range: the model has {vocab}"),
            Self::ContextFull { need, context } => {
                write!(f, "context full: need {need} positions, have {context}")
            }
            Self::Rewind { to, oldest } => write!(f, "cannot rewind to position {to}: oldest kept is {oldest}"),
            Self::Snapshot { what, need, found } if what.starts_with("checksum") || what.contains("image") || what == "magic" => {
                write!(f, "{what}: need {need:#018x}, found {found:#018x}")
            }
            Self::Snapshot { what, need, found } => write!(f, "{what}: need {need}, found {found}"),
            Self::Empty => f.write_str("no tokens: need at least 1, have 0"),
            Self::NotFinite { position } => {
                write!(f, "logits at position {position} are not finite: need numbers, found NaN or infinity")
            }
        }
    }
}

impl core::error::Error for Error {}

impl From<bourn_format::Error> for Error {
    fn from(e: bourn_format::Error) -> Self {
        Self::Format(e)
    }
}
