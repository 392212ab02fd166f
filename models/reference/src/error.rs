//! What can go wrong, with what was needed and what was found.

use std::fmt;

/// Why a reference could not be opened or asked.
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// The checkpoint could not be read.
    Checkpoint(bourn_checkpoint::Error),
    /// A tensor of the model was not filled from the checkpoint, or one of the checkpoint has no place in the model.
    Load {
        /// burn-store's words.
        reason: String,
    },
    /// No backend of that name in this build.
    Device {
        /// The name asked for.
        name: String,
        /// The names there are.
        known: String,
    },
    /// A token id that the embedding has no row for.
    Token {
        /// The id.
        id: u32,
        /// Rows of the embedding.
        vocab: u32,
    },
    /// No token at all.
    Empty,
    /// More tokens than the model was trained for.
    Context {
        /// Positions asked for.
        need: u64,
        /// Positions there are.
        have: u64,
    },
    /// The backend failed to hand over a result.
    Read {
        /// Its words.
        reason: String,
    },
    /// Statistics of other sizes, or of another input, than those they were compared with.
    Statistics {
        /// What was compared.
        what: &'static str,
        /// Values needed.
        need: u64,
        /// Values found.
        have: u64,
    },
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Checkpoint(error) => error.fmt(f),
            Self::Load { reason } => write!(f, "checkpoint does not fill the model: {reason}"),
            Self::Device { name, known } => write!(f, "no backend {name} in this build: there are {known}"),
            Self::Token { id, vocab } => write!(f, "token {id} outside the vocabulary of {vocab}"),
            Self::Empty => f.write_str("no tokens: need at least 1, have 0"),
            Self::Context { need, have } => write!(f, "context too short: need {need} positions, have {have}"),
            Self::Read { reason } => write!(f, "the backend gave no result: {reason}"),
            Self::Statistics { what, need, have } => write!(f, "{what}: need {need} values, have {have}"),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Checkpoint(error) => Some(error),
            _ => None,
        }
    }
}

impl From<bourn_checkpoint::Error> for Error {
    fn from(error: bourn_checkpoint::Error) -> Self {
        Self::Checkpoint(error)
    }
}
