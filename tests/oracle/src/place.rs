//! Where the data lies that is not in the repository.

use std::path::{Path, PathBuf};

fn root() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
}

/// The oracle's folder: `BOURN_ORACLE`, else `../shared/oracle` beside the checkout.
///
/// # Errors
/// The reason why there is none.
pub fn oracle() -> Result<PathBuf, String> {
    let folder = std::env::var_os("BOURN_ORACLE").map_or_else(|| root().join("../shared/oracle"), PathBuf::from);
    if folder.join("dev").is_dir() { Ok(folder) } else { Err("no oracle fixtures here (BOURN_ORACLE)".to_owned()) }
}

/// Fixtures in the repository, or where `BOURN_FIXTURES` says that a copy of them lies: on a board there is no repository.
pub fn fixtures() -> PathBuf {
    std::env::var_os("BOURN_FIXTURES").map_or_else(|| root().join("tests/fixtures"), PathBuf::from)
}

/// A file of the user's cache, where `cargo xtask fetch-test-data` puts weights and tokenizers.
///
/// # Errors
/// The reason why it is not there.
pub fn cached(path: &str) -> Result<PathBuf, String> {
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let cache = cache.or_else(|| std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache")));
    let file = cache.map(|cache| cache.join("bourn").join(path)).filter(|file| file.exists());
    file.ok_or_else(|| format!("{path} is not in the cache (cargo xtask fetch-test-data)"))
}
