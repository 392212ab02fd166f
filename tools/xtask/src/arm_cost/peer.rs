//! llama.cpp for ARM: its library out of the source package, built twice, and a small program of ours that steps it.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};

use crate::compare;
use crate::cross::apt_install;
use crate::process::{cache_dir, command, find, root, run, target_dir};

pub(super) use crate::compare::VERSION;

const GXX: &str = "aarch64-linux-gnu-g++";
const PACKAGES: &[&str] = &["g++-aarch64-linux-gnu", "cmake", "make"];

/// A way to compile llama.cpp: its code is chosen then, not when it runs.
#[derive(Clone, Copy)]
pub(super) struct Build {
    pub(super) name: &'static str,
    /// For the compiler.
    pub(super) arch: &'static str,
    /// The core on which it is counted.
    pub(super) cpu: &'static str,
}

/// For A53, A57 and A72.
pub(super) const ARMV8: Build = Build { name: "armv8-a", arch: "armv8-a", cpu: "cortex-a72" };
/// What a Pi 5 gets.
pub(super) const DOTPROD: Build = Build { name: "dotprod", arch: "armv8.2-a+dotprod+fp16", cpu: "cortex-a76" };

/// Static programs, one for each architecture.
pub(super) struct Peer {
    programs: PathBuf,
}

impl Peer {
    /// Those in the cache, built now if they are missing: a quarter of an hour of one core.
    pub(super) fn ready() -> Result<Self> {
        if find(GXX).is_none() || find("cmake").is_none() {
            apt_install(PACKAGES)?;
        }
        if find(GXX).is_none() || find("cmake").is_none() {
            bail!("llama.cpp needs {GXX} and cmake; on Debian or Ubuntu: `sudo apt-get install -y {}`", PACKAGES.join(" "));
        }
        let sources = compare::sources()?;
        let peers = cache_dir()?.join("peers");
        let programs = target_dir().join("arm-cost");
        // Only ggml-cpu is compiled for an architecture: the rest is built once.
        let library = build(&sources, &peers, ARMV8, &["llama"])?;
        for of in [ARMV8, DOTPROD] {
            let ggml = build(&sources, &peers, of, &["ggml"])?;
            let mut link = command(GXX);
            link.args(["-O2", "-static", "-I"]).arg(sources.join("include")).arg("-I").arg(sources.join("ggml/include"));
            link.arg(root().join("tools/xtask/tools/llama_steps.cpp")).arg(library.join("src/libllama.a"));
            link.args(["ggml", "ggml-cpu", "ggml-base"].map(|name| ggml.join(format!("ggml/src/lib{name}.a"))));
            run(link.args(["-lpthread", "-lm", "-o"]).arg(program_of(&programs, of)))?;
        }
        Ok(Self { programs })
    }

    /// The program of a build.
    pub(super) fn program(&self, build: Build) -> PathBuf {
        program_of(&self.programs, build)
    }
}

fn program_of(folder: &Path, build: Build) -> PathBuf {
    folder.join(format!("llama-steps-{}", build.name))
}

/// Builds libraries of llama.cpp for an architecture in the cache.
fn build(sources: &Path, peers: &Path, of: Build, targets: &[&str]) -> Result<PathBuf> {
    let build = peers.join(format!("llama-build-{}", of.name));
    if !build.join("Makefile").exists() {
        let mut configure = command("cmake");
        configure.arg("-S").arg(sources).arg("-B").arg(&build).arg(format!("-DGGML_CPU_ARM_ARCH={}", of.arch));
        configure.args(["-DCMAKE_SYSTEM_NAME=Linux", "-DCMAKE_SYSTEM_PROCESSOR=aarch64", "-DCMAKE_BUILD_TYPE=Release"]);
        configure.args(["-DCMAKE_C_COMPILER=aarch64-linux-gnu-gcc".to_owned(), format!("-DCMAKE_CXX_COMPILER={GXX}")]);
        let off = ["GGML_NATIVE", "GGML_OPENMP", "BUILD_SHARED_LIBS", "LLAMA_CURL", "LLAMA_OPENSSL", "LLAMA_BUILD_COMMON"];
        let parts = ["TESTS", "TOOLS", "EXAMPLES", "SERVER", "APP"].map(|part| format!("-DLLAMA_BUILD_{part}=OFF"));
        run(configure.args(off.map(|name| format!("-D{name}=OFF"))).args(parts))?;
    }
    run(command("cmake").arg("--build").arg(&build).arg("--target").args(targets))?;
    Ok(build)
}
