use std::fmt;
use std::io;
use std::path::PathBuf;

/// Why a model could not be opened or asked.
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// The image could not be opened or read.
    Host(bourn_host::Error),
    /// A token could not be computed.
    Core(bourn_core::Error),
    /// The chat template refused, is broken, or does not end.
    Template(String),
    /// The GPU could not be used.
    #[cfg(feature = "gpu")]
    Gpu(bourn_gpu::Error),
    /// A GPU was asked of a build without that feature.
    NoGpuBuild,
    /// A GPU has no room for a budget: it holds all weights.
    GpuRam,
    /// The image has no such part.
    Missing {
        /// The part.
        what: &'static str,
    },
    /// The CPU has no such tier of kernels.
    Isa {
        /// The name asked for.
        name: String,
        /// The names there are.
        available: Vec<&'static str>,
    },
    /// The workspace could not be had.
    Memory {
        /// Bytes needed.
        need: u64,
    },
    /// A prompt cache could not be read or written, does not fit, or is damaged.
    PromptCache {
        /// The file.
        path: PathBuf,
        /// What was being done.
        doing: &'static str,
        /// Why it failed.
        why: PromptCacheError,
    },
    /// A draft model has another vocabulary than the model it drafts for.
    Vocabulary {
        /// What differs first.
        what: String,
    },
    /// The prompt has no tokens.
    EmptyPrompt,
}

/// What is wrong with a prompt cache.
#[derive(Debug)]
#[non_exhaustive]
pub enum PromptCacheError {
    /// The system's answer.
    Io(io::Error),
    /// It is of another image or another kind of session, or its bytes are damaged.
    Refused(bourn_core::Error),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Host(e) => e.fmt(f),
            Self::Core(e) => e.fmt(f),
            #[cfg(feature = "gpu")]
            Self::Gpu(e) => e.fmt(f),
            Self::NoGpuBuild => f.write_str("no gpu in this build: need the feature gpu, found it left out"),
            Self::GpuRam => f.write_str("a gpu holds all weights: need no RAM budget, found one"),
            Self::Template(e) => write!(f, "chat template: {e}"),
            Self::Missing { what } => write!(f, "the image has no {what}"),
            Self::Isa { name, available } => write!(f, "isa {name} not found: this cpu has {}", available.join(", ")),
            Self::Memory { need } => write!(f, "out of memory: need {need} bytes for the session"),
            Self::PromptCache { path, doing, why: PromptCacheError::Io(e) } => write!(f, "{}: {doing}: {e}", path.display()),
            Self::PromptCache { path, doing, why: PromptCacheError::Refused(e) } => write!(f, "{}: {doing}: {e}", path.display()),
            Self::Vocabulary { what } => write!(f, "draft model of another vocabulary: {what}"),
            Self::EmptyPrompt => f.write_str("the prompt is empty: need at least 1 token, have 0"),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Host(e) => Some(e),
            #[cfg(feature = "gpu")]
            Self::Gpu(e) => Some(e),
            Self::Core(e) | Self::PromptCache { why: PromptCacheError::Refused(e), .. } => Some(e),
            Self::PromptCache { why: PromptCacheError::Io(e), .. } => Some(e),
            _ => None,
        }
    }
}

impl From<bourn_host::Error> for Error {
    fn from(e: bourn_host::Error) -> Self {
        Self::Host(e)
    }
}

impl From<bourn_core::Error> for Error {
    fn from(e: bourn_core::Error) -> Self {
        Self::Core(e)
    }
}

#[cfg(feature = "gpu")]
impl From<bourn_gpu::Error> for Error {
    fn from(e: bourn_gpu::Error) -> Self {
        match e {
            bourn_gpu::Error::Core(e) => Self::Core(e),
            e => Self::Gpu(e),
        }
    }
}
