//! The program under test and a small image for it.

#![allow(dead_code, reason = "each test file uses some of it")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;

/// The oracle's folder, if this machine has it.
pub fn oracle() -> Option<PathBuf> {
    let beside = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/oracle");
    let path = std::env::var_os("BOURN_ORACLE").map_or(beside, PathBuf::from);
    path.join("dev").is_dir().then_some(path)
}

/// `bourn` with `args`: the one built with the tests, or the words of `BOURN_PROGRAM` (an emulator and a cross-built one).
pub fn bourn(args: &[&str]) -> Command {
    let other = std::env::var("BOURN_PROGRAM").unwrap_or_default();
    let mut words = other.split_whitespace();
    let mut command = Command::new(words.next().unwrap_or(env!("CARGO_BIN_EXE_bourn")));
    command.args(words).args(args);
    command
}

/// What a command said and how it ended.
pub fn ran(args: &[&str]) -> Output {
    bourn(args).output().unwrap()
}

/// Standard output of a command that must succeed.
pub fn stdout(args: &[&str]) -> String {
    let out = ran(args);
    assert!(out.status.success(), "{args:?}: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).unwrap()
}

/// The JSON object of a command that must succeed.
pub fn json(args: &[&str]) -> serde_json::Value {
    serde_json::from_str(&stdout(args)).unwrap()
}

/// Exit status and the first line on stderr.
pub fn failure(args: &[&str]) -> (i32, String) {
    let out = ran(args);
    let text = String::from_utf8(out.stderr).unwrap();
    assert!(out.stdout.is_empty(), "{args:?} wrote to stdout");
    (out.status.code().unwrap(), text.lines().next().unwrap_or_default().to_owned())
}

/// A folder that lives as long as the tests, and in it the packed fixture `smollm2`; nothing where there is no oracle.
pub fn image() -> Option<&'static str> {
    static IMAGE: OnceLock<Option<(tempfile::TempDir, String)>> = OnceLock::new();
    let image = IMAGE.get_or_init(|| {
        let Some(oracle) = oracle() else {
            println!("skipped: no oracle on this machine (set BOURN_ORACLE)");
            return None;
        };
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("smollm2.bourn").to_str().unwrap().to_owned();
        let source = oracle.join("dev/smollm2");
        let report = json(&["pack", source.to_str().unwrap(), "-o", &path, "--weights", "f32", "--json"]);
        assert!(report["parameters"].as_u64().unwrap() > 0);
        Some((dir, path))
    });
    image.as_ref().map(|(_, path)| path.as_str())
}

/// An image of the tree: small, with a tokenizer.
pub fn fixture() -> String {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/v1-f16.bourn").to_str().unwrap().to_owned()
}
