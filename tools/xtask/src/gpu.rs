//! The GPU path on Mesa's software adapter: every machine has that one, and its answers do not depend on the machine.

use std::path::Path;

use anyhow::{Result, bail};

use crate::cross::{self, Toolchain, skip};
use crate::process::{cargo, run};

/// The adapter's name.
const ADAPTER: &str = "llvmpipe";
/// Where Vulkan drivers say that they are there.
const DRIVERS: &[&str] = &["/usr/share/vulkan/icd.d", "/etc/vulkan/icd.d"];
const PACKAGES: &[&str] = &["mesa-vulkan-drivers", "libvulkan1"];

/// The tests of the crate and of the command line with it, and the program for ARM.
pub fn gpu() -> Result<()> {
    match adapter() {
        Ok(()) => tests()?,
        Err(missing) => skip("tests on a software GPU", &missing)?,
    }
    match Toolchain::for_linux() {
        Ok(toolchain) => arm(&toolchain),
        Err(missing) => skip("the program with its GPU path for ARM", &missing),
    }
}

fn tests() -> Result<()> {
    // One build for both, so that nothing is built twice.
    let mut tests =
        cargo(&["test", "--locked", "--package", "bourn-gpu", "--package", "bourn-cli", "--features", "bourn-cli/gpu"]);
    tests.args(["--lib", "--test", "agree", "--test", "fixtures", "--test", "gpu", "--test", "idle", "--test", "wide"]);
    // What the driver caches it keeps where we may write.
    run(tests.env("BOURN_GPU", ADAPTER).env("XDG_RUNTIME_DIR", std::env::temp_dir()))
}

/// Links the program with the feature for ARM. A driver is looked for when the program runs, so it is linked to the system's C library.
fn arm(toolchain: &Toolchain) -> Result<()> {
    let mut build = toolchain.dynamic("build");
    run(build.args(["--package", "bourn-cli", "--bin", "bourn", "--no-default-features", "--features", "gpu"]))
}

fn adapter() -> Result<()> {
    if installed() || (cross::apt_install(PACKAGES)? && installed()) {
        return Ok(());
    }
    bail!("no software Vulkan; to get one on Debian or Ubuntu: `sudo apt-get install -y {}`", PACKAGES.join(" "))
}

/// Whether Mesa's software driver is there.
fn installed() -> bool {
    DRIVERS.iter().filter_map(|folder| std::fs::read_dir(Path::new(folder)).ok()).flatten().flatten().any(|entry| {
        let name = entry.file_name();
        name.to_string_lossy().starts_with("lvp_icd")
    })
}
