//! Arrows go one way: `cargo metadata` against the table below, and what each crate's first lines promise.

use std::path::Path;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::process::{cargo, output};

/// A crate of the workspace and what it may depend on in an ordinary build (tests may use anything).
struct Layer {
    name: &'static str,
    may_use: &'static [&'static str],
    /// `no_std` without `alloc`: no heap, no I/O, no threads, no clock.
    no_alloc: bool,
    /// May hold unsafe code anywhere; the others deny it at the root and allow single items, each with its proof.
    may_unsafe: bool,
}

const CORE: &[&str] = &["bourn-format", "bourn-kernels"];
const SHELL: &[&str] = &["bourn-format", "bourn-kernels", "bourn-core"];
const LIBRARY: &[&str] = &["bourn-format", "bourn-kernels", "bourn-core", "bourn-host", "bourn-gpu"];
const PACK: &[&str] = &["bourn-format", "bourn-kernels", "bourn-core", "bourn-host", "bourn-checkpoint"];
const FIRMWARE: &[&str] = &["bourn-format", "bourn-kernels", "bourn-core", "bourn-flash", "bourn-protocol"];
const BOOT: &[&str] = &["bourn-flash", "bourn-kernels", "bourn-core", "bourn-app", "bourn-protocol", "bourn-drivers"];
const BOARD: &[&str] = &["bourn-boot", "bourn-drivers"];
const TOP: &[&str] = &[
    "bourn-format",
    "bourn-kernels",
    "bourn-core",
    "bourn-host",
    "bourn-gpu",
    "bourn",
    "bourn-checkpoint",
    "bourn-pack",
    "bourn-protocol",
    "bourn-app",
    "bourn-hil-runner",
];

const LAYERS: &[Layer] = &[
    Layer { name: "bourn-format", may_use: &[], no_alloc: true, may_unsafe: false },
    Layer { name: "bourn-kernels", may_use: &["bourn-format"], no_alloc: true, may_unsafe: true },
    Layer { name: "bourn-core", may_use: CORE, no_alloc: true, may_unsafe: false },
    Layer { name: "bourn-flash", may_use: SHELL, no_alloc: true, may_unsafe: false },
    Layer { name: "bourn-protocol", may_use: &[], no_alloc: true, may_unsafe: false },
    Layer { name: "bourn-app", may_use: FIRMWARE, no_alloc: true, may_unsafe: false },
    Layer { name: "bourn-drivers", may_use: &[], no_alloc: true, may_unsafe: true },
    Layer { name: "bourn-boot", may_use: BOOT, no_alloc: true, may_unsafe: true },
    Layer { name: "bourn-board-qemu-virt", may_use: BOARD, no_alloc: true, may_unsafe: true },
    Layer { name: "bourn-board-rpi3", may_use: BOARD, no_alloc: true, may_unsafe: true },
    Layer { name: "bourn-board-rpi4", may_use: BOARD, no_alloc: true, may_unsafe: true },
    Layer { name: "bourn-board-rpi5", may_use: BOARD, no_alloc: true, may_unsafe: true },
    Layer { name: "bourn-host", may_use: SHELL, no_alloc: false, may_unsafe: false },
    Layer { name: "bourn-gpu", may_use: SHELL, no_alloc: false, may_unsafe: false },
    Layer { name: "bourn", may_use: LIBRARY, no_alloc: false, may_unsafe: false },
    Layer { name: "bourn-checkpoint", may_use: &[], no_alloc: false, may_unsafe: false },
    Layer { name: "bourn-reference", may_use: &["bourn-checkpoint"], no_alloc: false, may_unsafe: false },
    Layer { name: "bourn-pack", may_use: PACK, no_alloc: false, may_unsafe: false },
    Layer { name: "bourn-hil-runner", may_use: &["bourn-protocol"], no_alloc: false, may_unsafe: false },
    Layer { name: "bourn-cli", may_use: TOP, no_alloc: false, may_unsafe: false },
    Layer { name: "bourn-oracle", may_use: TOP, no_alloc: false, may_unsafe: false },
    Layer { name: "bourn-hil", may_use: &["bourn-host"], no_alloc: false, may_unsafe: false },
    Layer {
        name: "xtask",
        may_use: &["bourn-checkpoint", "bourn-hil-runner", "bourn-protocol"],
        no_alloc: false,
        may_unsafe: false,
    },
];

/// Checks every crate of the workspace and reports all breaches at once.
pub fn check() -> Result<()> {
    let metadata = output(&mut cargo(&["metadata", "--locked", "--no-deps", "--format-version", "1"]))?;
    let metadata: Value = serde_json::from_str(&metadata).context("cargo metadata is not JSON")?;
    let packages = metadata["packages"].as_array().context("cargo metadata has no packages")?;
    let mut breaches = Vec::new();
    for package in packages {
        check_package(package, &mut breaches)?;
    }
    if !breaches.is_empty() {
        bail!("layers:\n  {}", breaches.join("\n  "));
    }
    eprintln!("layers: {} crates, every arrow points down", packages.len());
    Ok(())
}

fn check_package(package: &Value, breaches: &mut Vec<String>) -> Result<()> {
    let name = package["name"].as_str().context("a package has no name")?;
    let Some(layer) = LAYERS.iter().find(|layer| layer.name == name) else {
        breaches.push(format!("{name} has no line in the table of tools/xtask/src/layers.rs"));
        return Ok(());
    };
    for dependency in package["dependencies"].as_array().into_iter().flatten() {
        let used = dependency["name"].as_str().unwrap_or("");
        let in_workspace = dependency["path"].is_string();
        let for_tests = dependency["kind"].as_str() == Some("dev");
        if in_workspace && !for_tests && !layer.may_use.contains(&used) {
            breaches.push(format!("{name} must not depend on {used}"));
        }
    }
    for target in package["targets"].as_array().into_iter().flatten() {
        let kinds = target["kind"].as_array().into_iter().flatten();
        if kinds.filter_map(Value::as_str).any(|kind| kind == "lib" || kind == "bin") {
            let path = target["src_path"].as_str().context("a target has no source")?;
            check_source(layer, Path::new(path), breaches)?;
        }
    }
    Ok(())
}

/// What the root module of a crate must say, and what no module of a crate without heap may say.
fn check_source(layer: &Layer, root: &Path, breaches: &mut Vec<String>) -> Result<()> {
    let name = layer.name;
    let text = std::fs::read_to_string(root).with_context(|| root.display().to_string())?;
    let shown = root.file_name().unwrap_or_default().to_string_lossy();
    if !layer.may_unsafe && !text.contains("#![deny(unsafe_code)]") && !text.contains("#![forbid(unsafe_code)]") {
        breaches.push(format!("{name}: {shown} does not say #![deny(unsafe_code)]"));
    }
    if layer.no_alloc {
        if !text.lines().any(|line| line.starts_with("#![") && line.contains("no_std")) {
            breaches.push(format!("{name}: {shown} does not say #![no_std]"));
        }
        let folder = root.parent().context("a source file has no folder")?;
        check_no_alloc(name, folder, breaches)?;
    }
    Ok(())
}

/// The bare-metal build proves it (there is no `alloc` to link); this names the line.
fn check_no_alloc(name: &str, folder: &Path, breaches: &mut Vec<String>) -> Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            check_no_alloc(name, &path, breaches)?;
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = std::fs::read_to_string(&path)?;
            let mut previous = "";
            for (number, line) in text.lines().enumerate() {
                let line = line.trim();
                if line.starts_with("extern crate alloc") && previous != "#[cfg(test)]" {
                    breaches.push(format!("{name}: {}:{} asks for a heap", path.display(), number + 1));
                }
                previous = line;
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn breaches_of(dependency: Value) -> Vec<String> {
        let mut breaches = Vec::new();
        let package = json!({ "name": "bourn-core", "dependencies": [dependency], "targets": [] });
        check_package(&package, &mut breaches).unwrap();
        breaches
    }

    #[test]
    fn rejects_an_arrow_that_points_up() {
        let up = breaches_of(json!({ "name": "bourn-host", "path": "runtime/host", "kind": null }));
        assert_eq!(up, ["bourn-core must not depend on bourn-host"]);
        assert!(breaches_of(json!({ "name": "bourn-host", "path": "runtime/host", "kind": "dev" })).is_empty());
        assert!(breaches_of(json!({ "name": "bourn-kernels", "path": "runtime/kernels", "kind": null })).is_empty());
        assert!(breaches_of(json!({ "name": "libm", "kind": null })).is_empty());
    }

    #[test]
    fn rejects_a_crate_without_a_line_in_the_table() {
        let mut breaches = Vec::new();
        check_package(&json!({ "name": "bourn-extra", "dependencies": [], "targets": [] }), &mut breaches).unwrap();
        assert_eq!(breaches.len(), 1);
    }
}
