//! Where fetched checkpoints and packed images are kept: `BOURN_CACHE`, else `$XDG_CACHE_HOME/bourn`, else `~/.cache/bourn`.

use anyhow::{Context, Result};
use std::env;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

/// The cache's folder.
pub fn dir() -> Result<PathBuf> {
    let set = |key: &str| env::var_os(key).filter(|v| !v.is_empty()).map(PathBuf::from);
    set("BOURN_CACHE")
        .or_else(|| set("XDG_CACHE_HOME").filter(|p| p.is_absolute()).map(|p| p.join("bourn")))
        .or_else(|| set("HOME").map(|p| p.join(".cache").join("bourn")))
        .context("no place for the cache: need BOURN_CACHE, XDG_CACHE_HOME or HOME set, found none")
}

/// A folder of the cache, made if need be.
pub fn folder(name: &str) -> Result<PathBuf> {
    let path = dir()?.join(name);
    fs::create_dir_all(&path).with_context(|| format!("{}: make folder", path.display()))?;
    Ok(path)
}

/// Held while one process fetches or packs a model; the others wait.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

/// Waits for the lock of `name`.
pub fn lock(name: &str, quiet: bool) -> Result<Lock> {
    let path = folder("locks")?.join(format!("{name}.lock"));
    let file = File::create(&path).with_context(|| format!("{}: create", path.display()))?;
    if file.try_lock().is_err() {
        crate::output::note(quiet, &format!("waiting for another bourn that prepares {name}"));
        file.lock().with_context(|| format!("{}: lock", path.display()))?;
    }
    Ok(Lock { _file: file })
}

/// A path beside `path` for a file under way; the process number keeps two apart.
pub fn partial(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.partial", std::process::id()));
    path.with_file_name(name)
}
