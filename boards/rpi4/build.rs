//! Where the firmware lies, for the linker.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    if std::env::var("CARGO_CFG_TARGET_OS").as_deref() == Ok("none") {
        // Said to the loader too, in config.txt.
        println!("cargo:rustc-link-arg-bins=--defsym=BASE=0x80000");
        println!("cargo:rustc-link-arg-bins=-Tbourn.ld");
        println!("cargo:rustc-link-arg-bins=-Tdefmt.x");
    }
}
