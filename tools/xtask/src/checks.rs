//! Format, lints, documentation and the tests of this machine.

use anyhow::Result;

use crate::process::{cargo, run};

/// What ordinary builds do without: Hugging Face's tokenizers crate to compare with.
const TEST_FEATURES: &str = "bourn-oracle/tokenizers";
/// The crate that has burn.
const REFERENCE: &str = "bourn-reference";
/// The crate that needs a Vulkan adapter: tested by a step of its own.
const GPU: &str = "bourn-gpu";
const FUZZ_MANIFEST: &str = "tests/fuzz/Cargo.toml";

/// Formats all Rust code, or with `check` fails where that would change something.
pub fn fmt(check: bool) -> Result<()> {
    for args in [&["fmt", "--all"][..], &["fmt", "--all", "--manifest-path", FUZZ_MANIFEST]] {
        let mut cargo = cargo(args);
        if check {
            cargo.arg("--check");
        }
        run(&mut cargo)?;
    }
    Ok(())
}

/// Clippy over every target of both workspaces, warnings denied.
pub fn lint() -> Result<()> {
    // All features but burn's GPU backend, whose 23 minutes of building are for those who use it: two crates have it as a feature.
    let most = ["clippy", "--locked", "--workspace", "--exclude", REFERENCE, "--exclude", GPU, "--all-targets"];
    run(cargo(&most).args(["--all-features", "--", "-D", "warnings"]))?;
    for package in [REFERENCE, GPU] {
        run(&mut cargo(&["clippy", "--locked", "--package", package, "--all-targets", "--", "-D", "warnings"]))?;
    }
    run(&mut cargo(&["clippy", "--locked", "--manifest-path", FUZZ_MANIFEST, "--lib", "--tests", "--", "-D", "warnings"]))
}

/// Documentation of every crate, private items too, warnings denied.
pub fn docs() -> Result<()> {
    // The program and the library face are both called bourn, which is one output name too many for one run.
    let flags = "-D warnings";
    let lib = ["doc", "--locked", "--workspace", "--no-deps", "--document-private-items", "--exclude", "bourn-cli"];
    run(cargo(&lib).env("RUSTDOCFLAGS", flags))?;
    let cli = ["doc", "--locked", "--no-deps", "--document-private-items", "--package", "bourn-cli"];
    run(cargo(&cli).env("RUSTDOCFLAGS", flags))
}

/// The examples in the documentation.
pub fn doc_tests() -> Result<()> {
    run(&mut cargo(&["test", "--locked", "--workspace", "--exclude", GPU, "--doc"]))
}

/// Unit and integration tests of every crate on this machine.
pub fn host_tests() -> Result<()> {
    let tests = ["test", "--locked", "--workspace", "--exclude", GPU, "--lib", "--bins", "--tests", "--examples"];
    run(cargo(&tests).args(["--features", TEST_FEATURES]))
}

/// Every tier against scalar, once more: seconds, and the output ends with a summary of cargo's own that counts tests.
pub fn conformance() -> Result<()> {
    run(&mut cargo(&workspace_test("conformance")))
}

/// The command line's tests, with the words of `program` in place of the program built here.
pub fn command_line(program: &str) -> Result<()> {
    run(cargo(&workspace_test("cli")).env("BOURN_PROGRAM", program))
}

/// One test file of the workspace, built as [`host_tests`] builds it, so that nothing is built twice.
pub fn workspace_test(name: &str) -> [&str; 9] {
    ["test", "--locked", "--workspace", "--exclude", GPU, "--test", name, "--features", TEST_FEATURES]
}

/// Writes the fixture of the current format version and its golden checksum.
pub fn fixtures() -> Result<()> {
    run(&mut cargo(&["run", "--locked", "--package", "bourn-oracle", "--bin", "write-fixture"]))
}
