use core::fmt;

/// Why bytes are not a readable image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Error {
    /// The first eight bytes are not an image's.
    NotAnImage,
    /// Written by a newer bourn.
    NewerVersion {
        /// Version in the file.
        found: u32,
        /// Newest version this reader knows.
        newest: u32,
    },
    /// Fewer bytes than the file says it has.
    Truncated {
        /// Bytes needed.
        need: u64,
        /// Bytes present.
        have: u64,
    },
    /// A checksum does not match.
    Checksum {
        /// What was being checked: `superblock`, `head`, `page`.
        what: &'static str,
        /// Page number for pages, else 0.
        index: u64,
        /// Checksum in the file.
        need: u64,
        /// Checksum of the bytes.
        found: u64,
    },
    /// A field has a value that no valid image has.
    Invalid {
        /// The field.
        what: &'static str,
        /// Its value.
        found: u64,
    },
    /// Something every image of this shape has is not there.
    Missing {
        /// The section or tensor role.
        what: &'static str,
        /// Layer, or 0.
        layer: u32,
    },
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::NotAnImage => f.write_str("not a bourn image"),
            Self::NewerVersion { found, newest } => {
                write!(f, "image version {found} is newer than {newest}, the newest this program reads")
            }
            Self::Truncated { need, have } => write!(f, "image truncated: need {need} bytes, have {have}"),
            Self::Checksum { what, index, need, found } => {
                write!(f, "{what} {index} is corrupt: checksum {need:016x} needed, {found:016x} found")
            }
            Self::Invalid { what, found } => write!(f, "image invalid: {what} is {found}"),
            Self::Missing { what, layer } => write!(f, "image invalid: {what} missing (layer {layer})"),
        }
    }
}

impl core::error::Error for Error {}
