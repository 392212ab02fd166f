//! What can be wrong with a checkpoint.

use std::fmt;
use std::path::PathBuf;

/// Why a checkpoint could not be opened or read. Fields hold what was needed and what was found.
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// The operating system refused a file.
    Io {
        /// The file.
        path: PathBuf,
        /// What it said.
        source: std::io::Error,
    },
    /// Fewer bytes than a structure needs.
    Truncated {
        /// The structure.
        what: String,
        /// Bytes it needs.
        need: u64,
        /// Bytes there are.
        have: u64,
    },
    /// A file in a format or version this reader does not know.
    Format {
        /// What is read.
        needed: &'static str,
        /// What is there.
        found: String,
    },
    /// JSON that does not parse.
    Json {
        /// The file.
        file: String,
        /// What serde_json said, with line and column.
        message: String,
    },
    /// A value outside what makes sense.
    Invalid {
        /// The key, field or table.
        what: String,
        /// What would do.
        needed: String,
        /// What is there.
        found: String,
    },
    /// A key, file or tensor that must be there and is not.
    Missing {
        /// Its name.
        what: String,
        /// Where it was looked for.
        place: String,
    },
    /// An architecture without a mapping.
    Family {
        /// What the checkpoint calls itself.
        found: String,
        /// The names that are known.
        supported: String,
    },
    /// A feature of a known architecture that the decoder does not have.
    Unsupported {
        /// The feature: a key and its value, or a tensor.
        what: String,
        /// What there is instead.
        supported: String,
    },
    /// A tensor whose elements are stored in a way that is not read.
    Dtype {
        /// The tensor.
        tensor: String,
        /// Its type.
        found: String,
    },
    /// A tensor of another shape than the config asks for.
    Shape {
        /// The tensor.
        tensor: String,
        /// Outermost dimension first.
        needed: Vec<u64>,
        /// Outermost dimension first.
        found: Vec<u64>,
    },
    /// Two tensors that share bytes.
    Overlap {
        /// The one that begins first.
        first: String,
        /// The one that begins before the other ends.
        second: String,
    },
    /// A request outside a tensor, or a slice of another length.
    Request {
        /// What was asked for.
        what: &'static str,
        /// What would do.
        need: u64,
        /// What was given.
        have: u64,
    },
}

impl Error {
    /// [`Error::Invalid`] from anything that can be displayed.
    pub(crate) fn invalid(what: impl Into<String>, needed: impl Into<String>, found: impl fmt::Display) -> Self {
        Self::Invalid { what: what.into(), needed: needed.into(), found: clip(&found.to_string()) }
    }

    /// [`Error::Missing`].
    pub(crate) fn missing(what: impl Into<String>, place: impl Into<String>) -> Self {
        Self::Missing { what: what.into(), place: place.into() }
    }
}

/// At most 120 characters: foreign text in a message stays short.
pub(crate) fn clip(text: &str) -> String {
    match text.char_indices().nth(120) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io { path, source } => write!(f, "{}: {source}", path.display()),
            Self::Truncated { what, need, have } => write!(f, "{what} truncated: need {need} bytes, have {have}"),
            Self::Format { needed, found } => write!(f, "need {needed}, found {found}"),
            Self::Json { file, message } => write!(f, "{file}: {message}"),
            Self::Invalid { what, needed, found } => write!(f, "{what}: need {needed}, found {found}"),
            Self::Missing { what, place } => write!(f, "{place} has no {what}"),
            Self::Family { found, supported } => write!(f, "model family {found} is not supported; supported: {supported}"),
            Self::Unsupported { what, supported } => write!(f, "{what} is not supported; supported: {supported}"),
            Self::Dtype { tensor, found } => {
                write!(f, "tensor {tensor}: need F32, F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q4_K, Q5_K or Q6_K, found {found}")
            }
            Self::Shape { tensor, needed, found } => write!(f, "tensor {tensor}: need shape {needed:?}, found {found:?}"),
            Self::Overlap { first, second } => write!(f, "tensors {first} and {second} share bytes"),
            Self::Request { what, need, have } => write!(f, "{what}: need {need}, have {have}"),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Io { source, .. } => Some(source),
            _ => None,
        }
    }
}
