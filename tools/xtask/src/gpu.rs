//! The GPU path on Mesa's software adapter: every machine has that one, and its answers do not depend on the machine.

use std::path::Path;

use anyhow::{Context, Result, bail};

use crate::cross::{self, Toolchain, skip};
use crate::process::{cargo, command, root, run};

/// The adapter's name.
const ADAPTER: &str = "llvmpipe";
/// Where Vulkan drivers say that they are there.
const DRIVERS: &[&str] = &["/usr/share/vulkan/icd.d", "/etc/vulkan/icd.d"];
const PACKAGES: &[&str] = &["mesa-vulkan-drivers", "libvulkan1"];

/// Where the libraries of Debian's cross compiler lie.
const SYSROOT: &str = "/usr/aarch64-linux-gnu";
/// What a program says that found no GPU where it runs.
const NO_GPU: &str = "no gpu: need an adapter with a Vulkan driver, found none";

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
    tests.args(["--lib", "--test", "agree", "--test", "fixtures", "--test", "gpu", "--test", "idle"]);
    // What the driver caches it keeps where we may write.
    run(tests.env("BOURN_GPU", ADAPTER).env("XDG_RUNTIME_DIR", std::env::temp_dir()))
}

/// Links the program with the feature for ARM, and starts it where it can be started: a driver is looked for when the program runs, so it
/// is linked to the system's C library, and without a driver it says so.
fn arm(toolchain: &Toolchain) -> Result<()> {
    let mut build = toolchain.dynamic("build");
    run(build.args(["--package", "bourn-cli", "--bin", "bourn", "--no-default-features", "--features", "gpu"]))?;
    let loader = Path::new(SYSROOT).join("lib/ld-linux-aarch64.so.1");
    let (Ok(emulator), true) = (cross::emulator(), toolchain.target.ends_with("gnu") && loader.exists()) else {
        eprintln!("the program for ARM is linked; nothing here to start it with");
        return Ok(());
    };
    let image = root().join("tests/fixtures/v1-q4.bourn");
    let mut bourn = command(emulator);
    bourn.args(["-L", SYSROOT]).arg(toolchain.products("debug").join("bourn")).arg("run").arg(image);
    let ran = bourn.args(["--ids", "1", "--device", "gpu"]).output().context("start the program for ARM")?;
    let said = String::from_utf8_lossy(&ran.stderr);
    if ran.status.code() != Some(1) || !said.contains(NO_GPU) {
        bail!("the program for ARM, asked for a GPU that is not there: {}: {said}", ran.status);
    }
    eprintln!("the program for ARM starts, and says: {}", said.lines().next().unwrap_or_default());
    Ok(())
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
