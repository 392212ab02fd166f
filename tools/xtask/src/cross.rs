//! ARM: the compiler, the emulator, and what is run with them.
//!
//! A compiler for aarch64 is looked for in this order: a target that rustup has installed; Debian's own packages; on Debian
//! as root, those packages are installed; else rustup is asked to fetch its target. Where none of it works the tests are
//! skipped, loudly, with the line to type; in CI that is a failure.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::baseline;
use crate::process::{command, find, in_ci, run, target_dir};

/// CPUs to emulate and the best tier that each must choose: the first two have no dot product, `max` has everything.
pub(crate) const CPUS: &[(&str, &str)] =
    &[("cortex-a53", "neon"), ("cortex-a72", "neon"), ("cortex-a76", "dotprod"), ("neoverse-n1", "dotprod"), ("max", "i8mm")];

/// What runs under emulation: everything that has kernels under it, and the checksum that all ISAs share.
const EMULATED_CRATES: &[&str] = &["bourn-format", "bourn-kernels", "bourn-core"];
const EMULATED_CHECKSUM: &[&str] = &["--package", "bourn-oracle", "--test", "bits"];

/// What must build for a machine without operating system.
const BARE_CRATES: &[&str] = &["bourn-format", "bourn-kernels", "bourn-core", "bourn-flash", "bourn-protocol", "bourn-app"];
const BARE_TARGET: &str = "aarch64-unknown-none";

const GNU: &str = "aarch64-unknown-linux-gnu";
const MUSL: &str = "aarch64-unknown-linux-musl";
const DEBIAN_CARGO: &str = "/usr/bin/cargo";
const DEBIAN_RUSTC: &str = "/usr/bin/rustc";
const DEBIAN_STD: &str = "/usr/lib/rustlib/aarch64-unknown-linux-gnu";
const DEBIAN_SRC: &str = "/usr/lib/rustlib/src/rust/library/core";
const GCC: &str = "aarch64-linux-gnu-gcc";
const DEBIAN_PACKAGES: &[&str] = &[
    "rustc-web",
    "cargo-web",
    "rust-web-src",
    "libstd-rust-web-dev:arm64",
    "gcc-aarch64-linux-gnu",
    "libc6-dev-arm64-cross",
    "qemu-user-static",
];

/// Cross builds the tests once and runs them once per emulated CPU.
pub fn arm() -> Result<()> {
    if cfg!(target_arch = "aarch64") {
        eprintln!("emulated ARM: not needed, this machine is one: its own tests cover it");
        return Ok(());
    }
    let found = Toolchain::for_linux().and_then(|toolchain| Ok((toolchain, emulator()?)));
    let (toolchain, emulator) = match found {
        Ok(found) => found,
        Err(missing) => return skip("emulated ARM tests", &missing),
    };
    eprintln!("emulated ARM: {} under {}", toolchain.name, emulator.display());
    let tests = emulated_tests();
    for test in &tests {
        run(toolchain.cargo("test", &emulator, "max").args(["--no-run"]).args(test))?;
    }
    // The program that writes fixtures was built for the checksum: it holds every layer and every tier.
    baseline::check_file(&toolchain.products("debug").join("write-fixture"))?;
    for (cpu, isa) in CPUS {
        eprintln!("\n-- {cpu}");
        for test in &tests {
            run(toolchain.cargo("test", &emulator, cpu).args(test).env("BOURN_EXPECT_ISA", isa))?;
        }
    }
    Ok(())
}

/// What `cargo test` is given for the tests that run under emulation: twice, for the checksum needs other features.
pub(crate) fn emulated_tests() -> [Vec<&'static str>; 2] {
    let mut crates = vec!["--lib", "--tests"];
    crates.extend(EMULATED_CRATES.iter().flat_map(|name| ["--package", *name]));
    [crates, EMULATED_CHECKSUM.to_vec()]
}

/// Builds the core crates where there is neither `std` nor `alloc` to link.
pub fn bare() -> Result<()> {
    let mut cargo = match bare_cargo() {
        Ok(cargo) => cargo,
        Err(missing) => return skip("bare-metal build", &missing),
    };
    cargo.args(["--locked", "--release", "--target", BARE_TARGET, "--target-dir"]).arg(target_dir().join("cross"));
    run(cargo.args(BARE_CRATES.iter().flat_map(|name| ["--package", *name])))
}

/// A compiler that makes static programs for ARM Linux.
pub(crate) struct Toolchain {
    /// Whose it is, and its target.
    pub(crate) name: String,
    debian: bool,
    /// The target's name.
    pub(crate) target: &'static str,
    linker: &'static str,
}

impl Toolchain {
    /// The first that is installed or can be.
    ///
    /// # Errors
    /// When there is none: what to type.
    pub(crate) fn for_linux() -> Result<Self> {
        if let Some(found) = Self::installed() {
            return Ok(found);
        }
        if apt_install(DEBIAN_PACKAGES)?
            && let Some(found) = Self::installed()
        {
            return Ok(found);
        }
        if rustup_add(MUSL)
            && let Some(found) = Self::installed()
        {
            return Ok(found);
        }
        bail!(
            "no compiler for {GNU}; to get one: `rustup target add {MUSL}`, or on Debian 12 as root: \
             `dpkg --add-architecture arm64 && apt-get update && apt-get install -y --no-install-recommends {}`",
            DEBIAN_PACKAGES.join(" ")
        )
    }

    fn installed() -> Option<Self> {
        let targets = rustup_targets();
        if targets.iter().any(|target| target == MUSL) {
            return Some(Self { name: format!("rustup's {MUSL}"), debian: false, target: MUSL, linker: "rust-lld" });
        }
        if targets.iter().any(|target| target == GNU) && find(GCC).is_some() {
            return Some(Self { name: format!("rustup's {GNU}"), debian: false, target: GNU, linker: GCC });
        }
        let debian = [DEBIAN_CARGO, DEBIAN_RUSTC, DEBIAN_STD].iter().all(|path| Path::new(path).exists());
        (debian && find(GCC).is_some()).then(|| Self { name: format!("Debian's {GNU}"), debian: true, target: GNU, linker: GCC })
    }

    /// `cargo <subcommand>` for the target.
    pub(crate) fn plain(&self, subcommand: &str) -> Command {
        let mut cargo = if self.debian { debian_cargo() } else { command("cargo") };
        let upper = self.target.replace('-', "_").to_uppercase();
        cargo.args([subcommand, "--locked", "--target", self.target, "--target-dir"]).arg(target_dir().join("cross"));
        cargo.env(format!("CARGO_TARGET_{upper}_LINKER"), self.linker);
        cargo.env(format!("CARGO_TARGET_{upper}_RUSTFLAGS"), "-C target-feature=+crt-static");
        if let Some(compiler) = self.c_compiler() {
            cargo.env(format!("CC_{}", self.target.replace('-', "_")), compiler);
        }
        cargo.env_remove("RUSTFLAGS").env_remove("LD_LIBRARY_PATH");
        cargo
    }

    /// `cargo <subcommand>` for programs that load libraries when they run: linked to the target's C library. (With all of a GPU's drivers
    /// in reach a static program would also be too large for the C library's small tables of addresses.)
    pub(crate) fn dynamic(&self, subcommand: &str) -> Command {
        let mut cargo = self.plain(subcommand);
        let upper = self.target.replace('-', "_").to_uppercase();
        cargo.env(format!("CARGO_TARGET_{upper}_RUSTFLAGS"), "-C target-feature=-crt-static");
        cargo
    }

    /// `cargo <subcommand>` for the target, its programs run by the emulator as the given CPU.
    pub(crate) fn cargo(&self, subcommand: &str, emulator: &Path, cpu: &str) -> Command {
        let mut cargo = self.plain(subcommand);
        let upper = self.target.replace('-', "_").to_uppercase();
        cargo.env(format!("CARGO_TARGET_{upper}_RUNNER"), format!("{} -cpu {cpu}", emulator.display()));
        cargo
    }

    /// Whether C can be built too: the TLS for fetching from the hub is part C.
    pub(crate) fn has_c_compiler(&self) -> bool {
        self.c_compiler().is_some()
    }

    /// A C compiler for the target. Code for musl needs no C library here, so any that knows the CPU will do.
    fn c_compiler(&self) -> Option<PathBuf> {
        let of_musl = || find("aarch64-linux-musl-gcc").or_else(|| find("clang"));
        find(GCC).or_else(|| if self.target == MUSL { of_musl() } else { None })
    }

    /// Where `cargo` puts the programs of a profile.
    pub(crate) fn products(&self, profile: &str) -> PathBuf {
        target_dir().join("cross").join(self.target).join(profile)
    }
}

/// `cargo build` with a standard library for [`BARE_TARGET`]: rustup's, else `core` built from Debian's source.
pub(crate) fn bare_cargo() -> Result<Command> {
    let from_rustup = || {
        let mut cargo = command("cargo");
        cargo.arg("build");
        cargo
    };
    let from_source = || {
        let mut cargo = debian_cargo();
        cargo.args(["build", "-Zbuild-std=core"]).env("RUSTC_BOOTSTRAP", "1");
        cargo
    };
    let has_source = || Path::new(DEBIAN_SRC).exists() && Path::new(DEBIAN_CARGO).exists();
    if rustup_targets().iter().any(|target| target == BARE_TARGET) {
        return Ok(from_rustup());
    }
    if has_source() || (apt_install(DEBIAN_PACKAGES)? && has_source()) {
        return Ok(from_source());
    }
    if rustup_add(BARE_TARGET) {
        return Ok(from_rustup());
    }
    bail!("no standard library for {BARE_TARGET}; to get one: `rustup target add {BARE_TARGET}`")
}

/// Debian's cargo with Debian's compiler, whatever else is on the search path.
fn debian_cargo() -> Command {
    let mut cargo = command(DEBIAN_CARGO);
    cargo.env("RUSTC", DEBIAN_RUSTC);
    for inherited in ["RUSTUP_TOOLCHAIN", "RUSTFLAGS", "LD_LIBRARY_PATH", "RUSTC_WRAPPER"] {
        cargo.env_remove(inherited);
    }
    cargo
}

/// QEMU's user emulation.
///
/// # Errors
/// What to type where there is none.
pub(crate) fn emulator() -> Result<PathBuf> {
    let installed = || find("qemu-aarch64-static").or_else(|| find("qemu-aarch64"));
    if let Some(found) = installed() {
        return Ok(found);
    }
    if apt_install(DEBIAN_PACKAGES)?
        && let Some(found) = installed()
    {
        return Ok(found);
    }
    bail!("no emulator for ARM programs; to get one on Debian or Ubuntu: `sudo apt-get install -y qemu-user-static`")
}

/// Targets that rustup has a standard library for; none where there is no rustup.
fn rustup_targets() -> Vec<String> {
    let output = Command::new("rustup").args(["target", "list", "--installed"]).stderr(Stdio::null()).output();
    match output {
        Ok(output) => String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect(),
        Err(_) => Vec::new(),
    }
}

/// Asks rustup for a target's standard library; false where there is no rustup or no way out to its server.
fn rustup_add(target: &str) -> bool {
    find("rustup").is_some() && run(command("rustup").args(["target", "add", target])).is_ok()
}

/// Installs Debian's packages; false where this is not Debian or we may not.
pub(crate) fn apt_install(packages: &[&str]) -> Result<bool> {
    let may = is_root() && Path::new("/etc/debian_version").exists() && find("apt-get").is_some();
    if !may {
        return Ok(false);
    }
    eprintln!("installing from Debian: {}", packages.join(" "));
    run(command("dpkg").args(["--add-architecture", "arm64"]))?;
    let mut update = command("apt-get");
    run(update.args(["-q", "update"]))?;
    let mut install = command("apt-get");
    install.args(["-q", "install", "-y", "--no-install-recommends"]).args(packages);
    Ok(run(install.env("DEBIAN_FRONTEND", "noninteractive")).is_ok())
}

fn is_root() -> bool {
    let id = Command::new("id").arg("-u").output();
    id.is_ok_and(|output| output.stdout.trim_ascii() == b"0")
}

/// A failure in CI; elsewhere one skip, with its reason, that nobody can overlook.
pub(crate) fn skip(what: &str, missing: &anyhow::Error) -> Result<()> {
    if in_ci() {
        return Err(anyhow::anyhow!("{missing:#}")).with_context(|| format!("{what} cannot run"));
    }
    eprintln!("\n*** skipped 1: {what}\n*** {missing:#}\n");
    Ok(())
}
