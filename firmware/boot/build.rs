//! Puts the linker script where the linkers of board crates find it.

use std::path::PathBuf;

fn main() {
    let script = "link.ld";
    println!("cargo:rerun-if-changed={script}");
    let out = PathBuf::from(std::env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    std::fs::copy(script, out.join("bourn.ld")).expect("the linker script can be copied");
    println!("cargo:rustc-link-search={}", out.display());
}
