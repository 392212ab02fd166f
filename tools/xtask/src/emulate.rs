//! A board's firmware in QEMU: `cargo xtask emulate BOARD CARD`.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result, bail};

use crate::cross::apt_install;
use crate::firmware::card;
use crate::process::{command, find, output, run, target_dir};

const QEMU: &str = "qemu-system-aarch64";
/// Its package on Debian.
pub(crate) const QEMU_PACKAGE: &str = "qemu-system-arm";

/// What to emulate.
#[derive(Clone, Debug)]
pub(crate) struct Machine {
    /// The board's name.
    pub(crate) board: String,
    /// The CPU of qemu-virt.
    pub(crate) cpu: String,
    /// Cores of qemu-virt.
    pub(crate) cores: u32,
    /// Memory of qemu-virt, in MiB.
    pub(crate) memory_mib: u32,
    /// Where the line goes: QEMU's own words for it.
    pub(crate) serial: String,
    /// The line is the mini-UART.
    pub(crate) mini_uart: bool,
}

impl Machine {
    /// A board with the line on this terminal.
    pub(crate) fn of(board: &str) -> Self {
        Self {
            board: board.to_owned(),
            cpu: "cortex-a53".to_owned(),
            cores: 4,
            memory_mib: 1024,
            serial: "stdio".to_owned(),
            mini_uart: false,
        }
    }

    /// Why QEMU here cannot be this board, if it cannot.
    ///
    /// # Errors
    /// If there is no emulator.
    pub(crate) fn lacking(&self) -> Result<Option<String>> {
        if self.board != "rpi4" {
            return Ok(None);
        }
        let machines = output(command(qemu()?).args(["-machine", "help"]))?;
        let has = machines.lines().any(|line| line.starts_with("raspi4b "));
        Ok((!has)
            .then(|| "need QEMU 9.0 or later, which has raspi4b; on Debian 12: qemu-system-arm of bookworm-backports".to_owned()))
    }

    /// QEMU with a card in it, started from the kernel that is on the card; and a copy of that kernel, to be removed afterwards.
    ///
    /// # Errors
    /// If there is no emulator for the board, or no kernel on the card.
    pub(crate) fn command(&self, card: &Path) -> Result<(Command, PathBuf)> {
        if let Some(reason) = self.lacking()? {
            bail!("{}: {reason}", self.board);
        }
        let qemu = qemu()?;
        // Several may run at a time.
        static STARTED: AtomicU32 = AtomicU32::new(0);
        let n = STARTED.fetch_add(1, Ordering::Relaxed);
        let kernel = target_dir().join(format!("emulate-{}-{n}.img", std::process::id()));
        std::fs::create_dir_all(target_dir())?;
        std::fs::write(&kernel, card::read(card, "kernel8.img")?)?;
        let mut command = command(qemu);
        command.args(["-display", "none", "-monitor", "none", "-no-reboot", "-kernel"]).arg(&kernel);
        let drive = |interface: &str| format!("if={interface},id=card,format=raw,file={}", card.display());
        match self.board.as_str() {
            "qemu-virt" => {
                command.args(["-M", "virt", "-nic", "none", "-cpu", &self.cpu]);
                command.args(["-smp", &self.cores.to_string(), "-m", &format!("{}M", self.memory_mib)]);
                command.args(["-drive", &drive("none"), "-device", "virtio-blk-device,drive=card"]);
            }
            "rpi3" => {
                command.args(["-M", "raspi3b", "-drive", &drive("sd")]);
            }
            "rpi4" => {
                command.args(["-M", "raspi4b", "-nic", "none", "-drive", &drive("sd")]);
            }
            board => bail!("no emulator for board {board}; boards: qemu-virt, rpi3, rpi4"),
        }
        if self.mini_uart {
            command.args(["-serial", "null"]);
        }
        command.args(["-serial", &self.serial]);
        Ok((command, kernel))
    }
}

/// QEMU for whole machines, installed where that is possible.
///
/// # Errors
/// What to type where it is not.
pub(crate) fn qemu() -> Result<PathBuf> {
    if let Some(found) = find(QEMU) {
        return Ok(found);
    }
    if apt_install(&[QEMU_PACKAGE])?
        && let Some(found) = find(QEMU)
    {
        return Ok(found);
    }
    bail!("no emulator of whole ARM machines; to get one on Debian or Ubuntu: `sudo apt-get install -y {QEMU_PACKAGE}`")
}

/// `cargo xtask emulate`.
///
/// # Errors
/// If the words are wrong or the emulator fails.
pub(crate) fn emulate(args: &[&str]) -> Result<()> {
    let [board, card, args @ ..] = args else { bail!("emulate needs a board and a card image") };
    let mut machine = Machine::of(board);
    let mut args = args.iter();
    while let Some(&arg) = args.next() {
        let mut value = || args.next().map(|value| (*value).to_owned()).with_context(|| format!("{arg} needs a value"));
        match arg {
            "--cpu" => machine.cpu = value()?,
            "--cores" => machine.cores = value()?.parse().context("--cores needs a number")?,
            "--memory" => machine.memory_mib = value()?.parse().context("--memory needs a number of MiB")?,
            "--mini-uart" => machine.mini_uart = true,
            "--serial" => machine.serial = serial(&value()?)?,
            _ => bail!("emulate has no option {arg}"),
        }
    }
    let here = std::env::current_dir()?;
    let (mut command, kernel) = machine.command(&here.join(card))?;
    let ran = run(&mut command);
    std::fs::remove_file(kernel)?;
    ran
}

/// QEMU's words for where the line goes: `stdio`, `pty`, `tcp:PORT`, or the path of a socket.
fn serial(word: &str) -> Result<String> {
    Ok(match word.split_once(':') {
        None if ["stdio", "pty"].contains(&word) => word.to_owned(),
        Some(("tcp", port)) => {
            let port: u16 = port.parse().context("--serial tcp: needs a port")?;
            format!("tcp:127.0.0.1:{port},server=on,wait=off")
        }
        _ => {
            let path = std::path::absolute(word)?;
            format!("unix:{},server=on,wait=off", path.display())
        }
    })
}

#[cfg(test)]
mod tests {
    use super::serial;

    #[test]
    fn the_line_goes_where_it_is_told() {
        assert_eq!(serial("pty").unwrap(), "pty");
        assert_eq!(serial("tcp:5555").unwrap(), "tcp:127.0.0.1:5555,server=on,wait=off");
        assert_eq!(serial("/run/x").unwrap(), "unix:/run/x,server=on,wait=off");
        assert!(serial("tcp:x").is_err());
    }
}
