//! Firmware for boards without an operating system: built, judged, laid on a card.
//!
//! [`build`] (a board's crate → ELF → flat image) → [`inspect`] (size, static memory, no allocator) → [`card`] (of
//! bourn-hil-runner: partitions, FAT32, slots) → [`emulated`] (a board in QEMU and its line) → [`mod@prove`] (what it promises) and [`count`] (instructions of each core).

mod count;
mod emulated;
pub(crate) mod inspect;
mod prove;

pub(crate) use prove::prove;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use bourn_hil_runner::card;

use crate::cross;
use crate::process::{cargo, find, output, run, target_dir};

/// The target of all boards.
const TARGET: &str = "aarch64-unknown-none";

/// A board that firmware is built for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Board {
    /// Its folder's name.
    pub(crate) name: &'static str,
    package: &'static str,
    program: &'static str,
    /// What its loader is told, in `config.txt`.
    config: &'static str,
    /// It has a mini-UART to choose.
    mini_uart: bool,
}

/// What the loader of a Raspberry Pi is told. It finds the firmware by its name.
const PI_CONFIG: &str = "arm_64bit=1\nkernel=kernel8.img\nkernel_address=0x80000\nenable_uart=1\nuart_2ndstage=0\ngpu_mem=16\ndisable_splash=1\nboot_delay=0\n";

pub(crate) const BOARDS: &[Board] = &[
    Board { name: "qemu-virt", package: "bourn-board-qemu-virt", program: "bourn-qemu-virt", config: "", mini_uart: false },
    Board { name: "rpi3", package: "bourn-board-rpi3", program: "bourn-rpi3", config: PI_CONFIG, mini_uart: true },
    Board { name: "rpi4", package: "bourn-board-rpi4", program: "bourn-rpi4", config: PI_CONFIG, mini_uart: false },
    Board { name: "rpi5", package: "bourn-board-rpi5", program: "bourn-rpi5", config: PI_CONFIG, mini_uart: false },
];

/// The board of that name.
///
/// # Errors
/// If there is none: which there are.
pub(crate) fn board(name: &str) -> Result<Board> {
    let names: Vec<&str> = BOARDS.iter().map(|board| board.name).collect();
    let found = BOARDS.iter().find(|board| board.name == name).copied();
    found.with_context(|| format!("no firmware for board {name}; boards: {}", names.join(", ")))
}

/// A board's firmware.
#[derive(Clone, Debug)]
pub(crate) struct Firmware {
    /// What the loader loads.
    pub(crate) kernel: PathBuf,
    /// What it was made of: names, and the table of the log.
    elf: PathBuf,
}

/// Options of `cargo xtask firmware`.
#[derive(Debug, Default)]
struct Options<'a> {
    board: Option<&'a str>,
    image: Option<PathBuf>,
    card: Option<PathBuf>,
    loader: Option<PathBuf>,
    mini_uart: bool,
    /// What the tests are told, where they are wanted.
    test: Option<&'a [&'a str]>,
}

/// `cargo xtask firmware`: builds, judges, with `--card` lays out a card, and with `--test` tests it.
///
/// # Errors
/// If the board is unknown, the firmware cannot be built or breaks a promise, or the card cannot be written.
pub(crate) fn firmware(args: &[&str]) -> Result<()> {
    let mut options = Options::default();
    let here = std::env::current_dir()?;
    let (args, wanted) = match args.iter().position(|arg| *arg == "--test") {
        Some(at) => (&args[..at], Some(&args[at + 1..])),
        None => (args, None),
    };
    options.test = wanted;
    let mut args = args.iter();
    while let Some(&arg) = args.next() {
        let mut value = || args.next().copied().with_context(|| format!("{arg} needs a value"));
        match arg {
            "--board" => options.board = Some(value()?),
            "--image" => options.image = Some(here.join(value()?)),
            "--card" => options.card = Some(here.join(value()?)),
            "--loader" => options.loader = Some(here.join(value()?)),
            "--mini-uart" => options.mini_uart = true,
            _ => bail!("firmware has no option {arg}"),
        }
    }
    let Some(name) = options.board else {
        if options.test.is_some() {
            bail!("--test needs --board BOARD");
        }
        for board in BOARDS {
            build(*board, false)?;
        }
        return Ok(());
    };
    let board = board(name)?;
    let firmware = build(board, options.mini_uart)?;
    match (&options.card, options.image) {
        (Some(path), image) => {
            let kernel = std::fs::read(&firmware.kernel)?;
            let contents = card::Contents {
                kernel: &kernel,
                config: board.config,
                image: image.as_deref(),
                loader: options.loader.as_deref(),
            };
            println!("{}", card::write(path, &contents)?);
        }
        (None, Some(_)) => bail!("--image needs --card: where to write the card to"),
        (None, None) => {}
    }
    match options.test {
        Some(args) => test(&firmware, options.card.as_deref(), args),
        None => Ok(()),
    }
}

/// Runs the tests of firmware where `BOURN_BOARD` says, else in QEMU, with the card that was laid out.
fn test(firmware: &Firmware, card: Option<&Path>, args: &[&str]) -> Result<()> {
    let mut runner = cargo(&["run", "--quiet", "--locked", "--package", "bourn-hil-runner", "--"]);
    if let Some(card) = card {
        runner.env("BOURN_CARD", card);
    }
    run(runner.arg(&firmware.elf).args(args))
}

/// Builds a board's firmware and holds it to its promises.
///
/// # Errors
/// If there is no compiler or linker, if it does not build, or breaks a promise.
pub(crate) fn build(board: Board, mini_uart: bool) -> Result<Firmware> {
    if mini_uart && !board.mini_uart {
        bail!("{} has no mini-UART", board.name);
    }
    let mut build = cross::bare_cargo()?;
    let dir = target_dir().join("cross");
    build.args(["--locked", "--profile", "firmware", "--target", TARGET, "--package", board.package, "--target-dir"]).arg(&dir);
    if mini_uart {
        build.args(["--features", "mini-uart"]);
    }
    // Unaligned loads are fine once the MMU is on, which it is before any of this runs.
    let mut flags = vec!["-C", "target-feature=-strict-align"];
    let linker = linker()?;
    if linker.ends_with("aarch64-linux-gnu-ld") {
        flags.extend(["-C", "linker-flavor=ld"]);
    } else {
        // Kernels that are the same on two tiers are there once.
        flags.extend(["-C", "link-arg=--icf=all"]);
    }
    build.env("CARGO_TARGET_AARCH64_UNKNOWN_NONE_LINKER", linker);
    build.env("CARGO_TARGET_AARCH64_UNKNOWN_NONE_RUSTFLAGS", flags.join(" "));
    build.env("DEFMT_LOG", std::env::var_os("DEFMT_LOG").unwrap_or_else(|| "info".into()));
    run(&mut build)?;
    let elf = dir.join(TARGET).join("firmware").join(board.program);
    let kernel = elf.with_extension("img");
    let bytes = std::fs::read(&elf).with_context(|| elf.display().to_string())?;
    let facts = inspect::Facts::of(&bytes).with_context(|| elf.display().to_string())?;
    std::fs::write(&kernel, &facts.flat)?;
    println!("{}: {facts}", board.name);
    facts.check()?;
    println!("{}: {} and {}", board.name, kernel.display(), elf.display());
    Ok(Firmware { kernel, elf })
}

/// A linker for bare ARM: LLVM's of the system or of rustup's toolchain, else GNU's.
fn linker() -> Result<PathBuf> {
    if let Some(found) = find("ld.lld") {
        return Ok(found);
    }
    let sysroot = output(crate::process::command("rustc").args(["--print", "sysroot"])).unwrap_or_default();
    let of_rustup = Path::new(sysroot.trim()).join("lib/rustlib/x86_64-unknown-linux-gnu/bin/rust-lld");
    if of_rustup.is_file() {
        return Ok(of_rustup);
    }
    find("aarch64-linux-gnu-ld")
        .context("no linker for aarch64-unknown-none; to get one on Debian or Ubuntu: `sudo apt-get install -y lld`")
}
