use bourn_format::{Dtype, Role};
use std::path::PathBuf;
use std::{fmt, io};

/// Why a checkpoint could not be packed.
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// The checkpoint could not be read.
    Checkpoint(bourn_checkpoint::Error),
    /// The image, or a source file while its digest was taken.
    Io {
        /// The file.
        path: PathBuf,
        /// What was being done: `create`, `write`, `sync`, `rename`, `read`.
        what: &'static str,
        /// Why it failed.
        source: io::Error,
    },
    /// No room for the image.
    DiskFull {
        /// The image.
        path: PathBuf,
        /// Its length in bytes.
        need: u64,
    },
    /// The checkpoint lacks a tensor that its shape asks for.
    Missing {
        /// What for.
        role: Role,
        /// Layer, for tensors of layers.
        layer: Option<usize>,
    },
    /// A tensor has other sizes than the shape asks for.
    Sizes {
        /// Its name.
        tensor: String,
        /// Rows and columns needed.
        need: (usize, usize),
        /// Rows and columns found.
        found: (usize, usize),
    },
    /// A weight is not a number, is infinite, or is larger than the element type can hold.
    DoesNotFit {
        /// The tensor's name.
        tensor: String,
        /// Its element type in the image.
        dtype: Dtype,
        /// Row of the tensor.
        row: usize,
        /// The weight.
        found: f32,
    },
    /// A number of the configuration does not fit its field of the image.
    TooLarge {
        /// The field.
        what: &'static str,
        /// Largest value that fits.
        most: u64,
        /// Value found.
        found: u64,
    },
    /// The tables made from the tokenizer are not what the format asks for, or the tokenizer cannot be expressed in them.
    Tokenizer {
        /// What was needed and what was found.
        what: String,
    },
    /// The calibration run could not be made.
    Calibration {
        /// What was needed and what was found.
        what: String,
    },
    /// [`crate::Options::bits`] is out of its range, or set for weights that are not 4-bit.
    Bits {
        /// The budget.
        found: f64,
        /// The type of the weights.
        weights: &'static str,
    },
    /// The image's own check refused what was about to be written: the shape is not one the format has room for.
    Image(bourn_format::Error),
    /// [`crate::Options::cancel`] was set.
    Cancelled,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Checkpoint(e) => e.fmt(f),
            Self::Io { path, what, source } => write!(f, "{what} {}: {source}", path.display()),
            Self::DiskFull { path, need } => write!(f, "no room for {}: need {need} bytes", path.display()),
            Self::Missing { role, layer: Some(layer) } => write!(f, "checkpoint lacks {} of layer {layer}", role.name()),
            Self::Missing { role, layer: None } => write!(f, "checkpoint lacks {}", role.name()),
            Self::Sizes { tensor, need, found } => {
                write!(f, "tensor {tensor}: need {} x {}, have {} x {}", need.0, need.1, found.0, found.1)
            }
            Self::DoesNotFit { tensor, dtype, row, found } => {
                write!(f, "tensor {tensor}, row {row}: weight {found:e} does not fit {}", dtype.name())
            }
            Self::TooLarge { what, most, found } => write!(f, "{what} too large: at most {most}, have {found}"),
            Self::Tokenizer { what } => write!(f, "tokenizer: {what}"),
            Self::Calibration { what } => write!(f, "calibration: {what}"),
            Self::Bits { found, weights } => {
                let (least, most) = (crate::wide::BITS.start(), crate::wide::BITS.end());
                write!(f, "bits per weight: need q4 weights and {least} to {most} bits, found {weights} weights and {found} bits")
            }
            Self::Image(e) => write!(f, "the image would be refused: {e}"),
            Self::Cancelled => f.write_str("cancelled"),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Checkpoint(e) => Some(e),
            Self::Io { source, .. } => Some(source),
            Self::Image(e) => Some(e),
            _ => None,
        }
    }
}

impl From<bourn_checkpoint::Error> for Error {
    fn from(e: bourn_checkpoint::Error) -> Self {
        Self::Checkpoint(e)
    }
}
