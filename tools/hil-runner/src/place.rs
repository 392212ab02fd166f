//! Where the board is, in the words of `BOURN_BOARD`.

use anyhow::{Result, bail};

use crate::qemu::Machine;

/// What `BOURN_BOARD` may be here.
pub const NEED: &str = "qemu-virt[:CPU], qemu-rpi3[:mini-uart], qemu-rpi4, serial:PATH, tcp:HOST:PORT or unix:PATH";

/// Where a board without an operating system is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// In QEMU, with the line wherever that is started.
    Emulated(Machine),
    /// At the other end of a line: `serial:PATH`, `tcp:HOST:PORT`, `unix:PATH`.
    Line(String),
}

impl Place {
    /// Reads `BOURN_BOARD`.
    ///
    /// # Errors
    /// If it names nothing that runs firmware: what does, and what `ssh:` is for.
    pub fn parse(text: &str) -> Result<Self> {
        if text.starts_with("ssh:") || text == "emulated" || text.starts_with("emulated:") {
            bail!(
                "BOURN_BOARD={text} is a board with Linux, which runs no firmware: `cargo test -p bourn-hil --test board` tests it; \
                 for firmware need {NEED}"
            );
        }
        if ["serial:", "tcp:", "unix:"].iter().any(|kind| text.len() > kind.len() && text.starts_with(kind)) {
            return Ok(Self::Line(text.to_owned()));
        }
        let (name, more) = text.split_once(':').unwrap_or((text, ""));
        let mut machine = match name {
            // QEMU's own machine is a board of ours by its full name; the others emulate boards that exist.
            "qemu-virt" => Machine::of(name),
            "qemu-rpi3" | "qemu-rpi4" => Machine::of(&name["qemu-".len()..]),
            _ => bail!("BOURN_BOARD: need {NEED}, found {text:?}"),
        };
        match (machine.board.as_str(), more) {
            (_, "") => {}
            ("qemu-virt", cpu) => machine.cpu = cpu.to_owned(),
            ("rpi3", "mini-uart") => machine.mini_uart = true,
            _ => bail!("BOURN_BOARD: need {NEED}, found {text:?}"),
        }
        Ok(Self::Emulated(machine))
    }

    /// The emulator that a firmware of this file name is for: `bourn-rpi3` is for `qemu-rpi3`.
    ///
    /// # Errors
    /// If the name says nothing, or there is no emulator for the board.
    pub fn by_name(file: &str) -> Result<Self> {
        match board_of(file) {
            Some(board @ ("rpi3" | "rpi4")) => Ok(Self::Emulated(Machine::of(board))),
            Some(board @ "qemu-virt") => Ok(Self::Emulated(Machine::of(board))),
            Some(board) => bail!("no emulator for board {board}: need BOURN_BOARD=serial:PATH, a board on a serial port"),
            None => bail!("need BOURN_BOARD ({NEED}): the name {file} does not tell the board"),
        }
    }
}

/// The board that firmware of this file name is for, if it says: `bourn-rpi3`, `bourn-rpi3.img`.
pub fn board_of(file: &str) -> Option<&str> {
    file.strip_prefix("bourn-").map(|name| name.strip_suffix(".img").unwrap_or(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn boards_are_found_by_their_words() {
        let emulated = |text| match Place::parse(text).unwrap() {
            Place::Emulated(m) => (m.board, m.cpu, m.mini_uart),
            Place::Line(line) => panic!("{line}"),
        };
        assert_eq!(emulated("qemu-virt"), ("qemu-virt".into(), "cortex-a53".into(), false));
        assert_eq!(emulated("qemu-virt:cortex-a76").1, "cortex-a76");
        assert_eq!(emulated("qemu-rpi3:mini-uart"), ("rpi3".into(), "cortex-a53".into(), true));
        for line in ["serial:/dev/ttyUSB0", "tcp:10.0.0.1:5555", "unix:/run/line"] {
            assert_eq!(Place::parse(line).unwrap(), Place::Line(line.to_owned()));
        }
        for wrong in ["", "qemu-rpi5", "qemu-rpi3:cortex-a53", "serial:", "rpi3", "qemu-"] {
            let text = Place::parse(wrong).unwrap_err().to_string();
            assert!(text.contains("need qemu-virt[:CPU]"), "{text}");
        }
        for linux in ["ssh:pi@raspberrypi", "emulated", "emulated:cortex-a53"] {
            let text = Place::parse(linux).unwrap_err().to_string();
            assert!(text.contains("cargo test -p bourn-hil --test board"), "{text}");
        }
    }

    #[test]
    fn a_firmware_says_its_board_by_its_name() {
        let board = |file| match Place::by_name(file) {
            Ok(Place::Emulated(m)) => m.board,
            other => format!("{other:?}"),
        };
        assert_eq!((board("bourn-rpi3"), board("bourn-qemu-virt.img")), ("rpi3".into(), "qemu-virt".into()));
        assert!(Place::by_name("bourn-rpi5").unwrap_err().to_string().contains("serial:PATH"));
        assert!(Place::by_name("kernel8.img").unwrap_err().to_string().contains("BOURN_BOARD"));
    }
}
