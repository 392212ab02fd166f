//! A board's firmware in QEMU: `cargo xtask emulate BOARD CARD`. How QEMU is told: `bourn_hil_runner::qemu`.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use bourn_hil_runner::card;
use bourn_hil_runner::qemu::{self, Machine, serial};

use crate::cross::apt_install;
use crate::process::{root, run, target_dir};

/// QEMU for whole machines, installed where that is possible.
///
/// # Errors
/// What to type where it is not.
pub(crate) fn qemu() -> Result<PathBuf> {
    match qemu::find() {
        Err(_) if apt_install(&[qemu::PACKAGE])? => qemu::find(),
        found => found,
    }
}

/// `cargo xtask emulate`.
///
/// # Errors
/// If the words are wrong or the emulator fails.
pub(crate) fn emulate(args: &[&str]) -> Result<()> {
    let [board, card, args @ ..] = args else { bail!("emulate needs a board and a card image") };
    let mut machine = Machine { resets: true, ..Machine::of(board) };
    let mut args = args.iter();
    while let Some(&arg) = args.next() {
        let mut value = || args.next().map(|value| (*value).to_owned()).with_context(|| format!("{arg} needs a value"));
        match arg {
            "--cpu" => machine.cpu = value()?,
            "--cores" => machine.cores = value()?.parse().context("--cores needs a number")?,
            "--memory" => machine.memory_mib = value()?.parse().context("--memory needs a number of MiB")?,
            "--mini-uart" => machine.mini_uart = true,
            "--serial" => machine.serial = serial(&value()?, false)?,
            _ => bail!("emulate has no option {arg}"),
        }
    }
    let card = std::path::absolute(card)?;
    let kernel = target_dir().join(format!("emulate-{}.img", std::process::id()));
    std::fs::create_dir_all(target_dir())?;
    std::fs::write(&kernel, card::read(&card, "kernel8.img")?)?;
    let ran = run(machine.command(&qemu()?, &kernel, &card)?.current_dir(root()));
    std::fs::remove_file(kernel)?;
    ran
}
