//! The cross-built programs: the tests of the kernels, the checksum that all ISAs share, and `bourn` itself.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

/// Files of the folder of programs.
pub const NAMES: [&str; 3] = ["bourn", "conformance", "bits"];

/// The root of the workspace.
pub fn root() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
}

/// The folder with [`NAMES`] in it: `BOURN_PROGRAMS`, else what `cargo xtask hil --programs` builds now.
///
/// # Errors
/// If they cannot be built (no compiler: the message says what to type) or one is missing.
pub fn folder() -> Result<PathBuf> {
    let folder = match std::env::var_os("BOURN_PROGRAMS") {
        Some(folder) => PathBuf::from(folder),
        None => build()?,
    };
    for name in NAMES {
        ensure!(folder.join(name).is_file(), "{}: need the program {name}, found none", folder.display());
    }
    Ok(folder)
}

fn build() -> Result<PathBuf> {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args(["xtask", "hil", "--programs"]).current_dir(root()).stdout(Stdio::piped());
    let built = cargo.spawn().and_then(std::process::Child::wait_with_output).context("cargo xtask hil --programs")?;
    ensure!(built.status.success(), "cargo xtask hil --programs: {}; what it said is above", built.status);
    let text = String::from_utf8_lossy(&built.stdout).into_owned();
    Ok(PathBuf::from(text.lines().last().context("cargo xtask hil --programs named no folder")?))
}
