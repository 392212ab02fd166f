//! A board in QEMU: the one place that knows how QEMU is told.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

/// QEMU for whole machines.
pub const PROGRAM: &str = "qemu-system-aarch64";
/// Its package on Debian.
pub const PACKAGE: &str = "qemu-system-arm";

/// What to emulate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Machine {
    /// The board's name: a folder of `boards/`.
    pub board: String,
    /// The CPU of qemu-virt.
    pub cpu: String,
    /// Cores of qemu-virt.
    pub cores: u32,
    /// Memory of qemu-virt, in MiB.
    pub memory_mib: u32,
    /// Where the line goes: QEMU's own words for it ([`serial`]).
    pub serial: String,
    /// The line is the mini-UART.
    pub mini_uart: bool,
    /// A reset starts it anew; else it ends the emulator, so that a board that faults does not begin again and again.
    pub resets: bool,
    /// Further words for QEMU.
    pub extra: Vec<String>,
}

impl Machine {
    /// A board with the line on this terminal.
    pub fn of(board: &str) -> Self {
        Self {
            board: board.to_owned(),
            cpu: "cortex-a53".to_owned(),
            cores: 4,
            memory_mib: 1024,
            serial: "stdio".to_owned(),
            mini_uart: false,
            resets: false,
            extra: Vec::new(),
        }
    }

    /// Why this QEMU cannot be this board, if it cannot.
    ///
    /// # Errors
    /// If it cannot be asked.
    pub fn lacking(&self, qemu: &Path) -> Result<Option<String>> {
        if self.board != "rpi4" {
            return Ok(None);
        }
        let shown = || qemu.display().to_string();
        let machines = Command::new(qemu).args(["-machine", "help"]).output().with_context(shown)?;
        let has = String::from_utf8_lossy(&machines.stdout).lines().any(|line| line.starts_with("raspi4b "));
        Ok((!has)
            .then(|| "need QEMU 9.0 or later, which has raspi4b; on Debian 12: qemu-system-arm of bookworm-backports".to_owned()))
    }

    /// QEMU as this board, started from a flat image, with a card in it.
    ///
    /// # Errors
    /// If this QEMU has no such board, or none has.
    pub fn command(&self, qemu: &Path, kernel: &Path, card: &Path) -> Result<Command> {
        if let Some(reason) = self.lacking(qemu)? {
            bail!("{}: {reason}", self.board);
        }
        let mut command = Command::new(qemu);
        command.args(["-display", "none", "-monitor", "none", "-kernel"]).arg(kernel);
        if !self.resets {
            command.arg("-no-reboot");
        }
        // A comma ends a word of QEMU's unless it is doubled.
        let file = card.display().to_string().replace(',', ",,");
        let drive = |interface: &str| format!("if={interface},id=card,format=raw,file={file}");
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
        command.args(["-serial", &self.serial]).args(&self.extra);
        Ok(command)
    }
}

/// QEMU on the search path.
///
/// # Errors
/// What to type where there is none.
pub fn find() -> Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).map(|folder| folder.join(PROGRAM)).find(|path| path.is_file());
    found.with_context(|| {
        format!("no emulator of whole ARM machines; to get one on Debian or Ubuntu: `sudo apt-get install -y {PACKAGE}`")
    })
}

/// QEMU's words for where the line goes: `stdio`, `pty`, `tcp:PORT`, or the path of a socket. With `wait` the machine begins when
/// somebody listens there, so that its first words are not lost.
///
/// # Errors
/// If the port is none, or the path cannot be made whole.
pub fn serial(word: &str, wait: bool) -> Result<String> {
    let wait = if wait { "on" } else { "off" };
    Ok(match word.split_once(':') {
        None if ["stdio", "pty"].contains(&word) => word.to_owned(),
        Some(("tcp", port)) => {
            let port: u16 = port.parse().context("--serial tcp: needs a port")?;
            format!("tcp:127.0.0.1:{port},server=on,wait={wait}")
        }
        _ => {
            let path = std::path::absolute(word)?.display().to_string().replace(',', ",,");
            format!("unix:{path},server=on,wait={wait}")
        }
    })
}

#[cfg(test)]
mod tests {
    use super::{Machine, serial};
    use std::path::Path;

    #[test]
    fn the_line_goes_where_it_is_told() {
        assert_eq!(serial("pty", false).unwrap(), "pty");
        assert_eq!(serial("tcp:5555", true).unwrap(), "tcp:127.0.0.1:5555,server=on,wait=on");
        assert_eq!(serial("/run/x", false).unwrap(), "unix:/run/x,server=on,wait=off");
        assert!(serial("tcp:x", false).is_err());
    }

    #[test]
    fn a_machine_is_told_its_kernel_card_and_line() {
        let words = |machine: &Machine| {
            let command = machine.command(Path::new("q"), Path::new("k.img"), Path::new("a,b.img")).unwrap();
            command.get_args().map(|word| word.to_string_lossy().into_owned()).collect::<Vec<_>>().join(" ")
        };
        let virt = words(&Machine { cpu: "cortex-a76".to_owned(), cores: 2, ..Machine::of("qemu-virt") });
        for part in ["-kernel k.img", "-M virt", "-cpu cortex-a76", "-smp 2", "file=a,,b.img", "-serial stdio"] {
            assert!(virt.contains(part), "{virt}");
        }
        let mini = words(&Machine { mini_uart: true, ..Machine::of("rpi3") });
        assert!(mini.contains("-M raspi3b") && mini.ends_with("-serial null -serial stdio"), "{mini}");
        assert!(mini.contains("-no-reboot") && !words(&Machine { resets: true, ..Machine::of("rpi3") }).contains("-no-reboot"));
        let none = Machine::of("rpi5").command(Path::new("q"), Path::new("k"), Path::new("c")).unwrap_err().to_string();
        assert!(none.contains("no emulator for board rpi5"), "{none}");
    }
}
