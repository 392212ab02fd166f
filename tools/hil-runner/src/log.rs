//! defmt frames → lines, with the table of format strings in the firmware's ELF file.
//!
//! Format strings are read by defmt's own parser. The crate defmt-decoder is not used: it turns on serde_json's `arbitrary_precision` for
//! every program that it is built with, and asks for as much memory as a broken frame says that its list is long. Hints that are not known here (`:cbor`, `:iso8601s`, bit flags by
//! name) show plain numbers.
//! Source: the defmt book, design; defmt's linker script.

mod value;

use std::collections::BTreeMap;
use std::fmt;

use object::{Object as _, ObjectSection as _, ObjectSymbol as _};
use serde::Deserialize;

/// Versions of defmt's wire format that are read here.
const VERSIONS: [&str; 2] = ["3", "4"];
/// The encoding that firmware here uses.
const ENCODING: &str = "rzcobs";
/// A frame that has not ended after so many bytes is none.
const MOST_BYTES: usize = 1 << 16;

/// Why a file tells nothing about a log.
#[derive(Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Error {
    /// It is no ELF file.
    NotElf {
        /// What it seems to be.
        found: &'static str,
    },
    /// It is a damaged one.
    Damaged(String),
    /// It has no table of format strings.
    NoTable {
        /// Sections that it has.
        sections: usize,
    },
    /// Its table is of another version.
    Version {
        /// Which.
        found: String,
    },
    /// Its frames are packed otherwise.
    Encoding {
        /// How.
        found: String,
    },
    /// A symbol of the table cannot be read.
    Symbol(String),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotElf { found } => write!(f, "need the firmware's ELF file, found {found}"),
            Self::Damaged(why) => write!(f, "the ELF file is damaged: {why}"),
            Self::NoTable { sections } => {
                write!(f, "no defmt table: need a section .defmt (firmware as linked, not stripped), found {sections} others")
            }
            Self::Version { found } => {
                write!(f, "defmt table of another version: need {}, found {found}", VERSIONS.join(" or "))
            }
            Self::Encoding { found } => write!(f, "defmt frames are packed otherwise: need {ENCODING}, found {found}"),
            Self::Symbol(name) => write!(f, "a symbol of the defmt table cannot be read: {name}"),
        }
    }
}

impl std::error::Error for Error {}

/// How grave a line is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// `trace!`
    Trace,
    /// `debug!`
    Debug,
    /// `info!`, and `println!`, which has none.
    Info,
    /// `warn!`
    Warn,
    /// `error!`: faults and panics.
    Error,
}

impl Level {
    fn of(tag: &str) -> Option<Self> {
        Some(match tag {
            "defmt_trace" => Self::Trace,
            "defmt_debug" => Self::Debug,
            "defmt_info" | "defmt_println" => Self::Info,
            "defmt_warn" => Self::Warn,
            "defmt_error" => Self::Error,
            _ => return None,
        })
    }
}

/// One thing that the firmware said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// How grave.
    pub level: Level,
    /// When, as the firmware shows it; empty if it does not.
    pub time: String,
    /// What.
    pub text: String,
    /// The crate that said it.
    pub package: String,
}

impl fmt::Display for Line {
    /// `0.006700 INFO  text`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let level = match self.level {
            Level::Trace => "TRACE",
            Level::Debug => "DEBUG",
            Level::Info => "INFO ",
            Level::Warn => "WARN ",
            Level::Error => "ERROR",
        };
        let space = if self.time.is_empty() { "" } else { " " };
        write!(f, "{}{space}{level} {}", self.time, self.text)
    }
}

/// What a symbol of the table is called. Source: defmt-macros, which writes these names.
#[derive(Deserialize)]
struct Name {
    package: String,
    tag: String,
    data: String,
}

/// Format strings by their numbers.
#[derive(Debug)]
struct Table {
    entries: BTreeMap<u16, Entry>,
    timestamp: Option<String>,
}

#[derive(Debug)]
struct Entry {
    level: Option<Level>,
    package: String,
    format: String,
}

impl Table {
    fn of(elf: &[u8]) -> Result<Self, Error> {
        if !crate::elf::is_elf(elf) {
            let found = match crate::elf::is_flat(elf) {
                true => "a flat image (the ELF file lies beside it, without the ending .img)",
                false => "something else",
            };
            return Err(Error::NotElf { found });
        }
        let file = object::File::parse(elf).map_err(|e| Error::Damaged(e.to_string()))?;
        let Some(section) = file.sections().find(|s| s.name() == Ok(".defmt")).map(|s| s.index()) else {
            return Err(Error::NoTable { sections: file.sections().count() });
        };
        // Some linkers keep the quotes of their script.
        let stated = |what: &str| {
            let names = file.symbols().filter_map(|symbol| symbol.name().ok());
            let found = names.filter_map(|name| name.trim_matches('"').strip_prefix(what)).next();
            found.unwrap_or("none stated").to_owned()
        };
        let found = stated("_defmt_version_ = ");
        if !VERSIONS.contains(&found.as_str()) {
            return Err(Error::Version { found });
        }
        let found = stated("_defmt_encoding_ = ");
        if found != ENCODING {
            return Err(Error::Encoding { found });
        }
        let mut table = Self { entries: BTreeMap::new(), timestamp: None };
        for symbol in file.symbols().filter(|symbol| symbol.section_index() == Some(section)) {
            let Ok(name) = symbol.name() else { continue };
            if !name.starts_with('{') {
                // Marks between levels, version and encoding, what an assembler leaves.
                continue;
            }
            let Name { package, tag, data } = serde_json::from_str(name).map_err(|_| Error::Symbol(name.to_owned()))?;
            if tag == "defmt_timestamp" {
                table.timestamp = Some(data);
            } else if let Ok(index) = u16::try_from(symbol.address()) {
                table.entries.insert(index, Entry { level: Level::of(&tag), package, format: data });
            }
        }
        Ok(table)
    }

    /// A frame, unpacked: number of its format string, time, arguments.
    fn line(&self, frame: &[u8]) -> Option<Line> {
        let mut reader = value::Reader::new(self, frame);
        let entry = self.entries.get(&reader.u16()?)?;
        let level = entry.level?;
        let time = match &self.timestamp {
            Some(format) => reader.text(format)?,
            None => String::new(),
        };
        Some(Line { level, time, text: reader.text(&entry.format)?, package: entry.package.clone() })
    }
}

/// What came of some bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Said {
    /// A line.
    Line(Line),
    /// A frame of so many bytes that is none of this firmware: cut off, or of another build.
    Unknown(usize),
}

impl fmt::Display for Said {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Line(line) => write!(f, "{line}"),
            Self::Unknown(bytes) => write!(f, "({bytes} bytes that are no frame of this firmware)"),
        }
    }
}

/// Bytes of a log → what was said.
#[derive(Debug)]
pub struct Log {
    table: Table,
    /// A frame whose end has not come.
    begun: Vec<u8>,
    /// A frame without end is being skipped.
    lost: bool,
}

impl Log {
    /// A log of the firmware in this ELF file.
    ///
    /// # Errors
    /// [`Error`].
    pub fn new(elf: &[u8]) -> Result<Self, Error> {
        Ok(Self { table: Table::of(elf)?, begun: Vec::new(), lost: false })
    }

    /// Format strings in the table.
    pub fn formats(&self) -> usize {
        self.table.entries.len()
    }

    /// Takes the next bytes; what is whole by them is given to `said`.
    pub fn push(&mut self, bytes: &[u8], said: &mut dyn FnMut(Said)) {
        for &byte in bytes {
            if byte != 0 {
                self.lost |= self.begun.len() == MOST_BYTES;
                if !self.lost {
                    self.begun.push(byte);
                }
                continue;
            }
            let frame = std::mem::take(&mut self.begun);
            let lost = std::mem::take(&mut self.lost);
            if frame.is_empty() {
                continue;
            }
            let line = if lost { None } else { unpacked(&frame).and_then(|frame| self.table.line(&frame)) };
            said(line.map_or(Said::Unknown(frame.len()), Said::Line));
        }
    }
}

/// Undoes rzCOBS, which is read from its end: a code with a bit for each of seven bytes that is zero, or 0x80 and a run without
/// zeros (of 7 more than its other bits) after which one follows, or 0xff and a run of 134.
fn unpacked(frame: &[u8]) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(frame.len());
    let mut rest = frame.iter().rev().copied();
    while let Some(code) = rest.next() {
        match code {
            0..0x80 => {
                for i in (0..7).rev() {
                    bytes.push(if code >> i & 1 == 0 { rest.next()? } else { 0 });
                }
            }
            _ => {
                let run = if code == 0xff { 134 } else { usize::from(code & 0x7f) + 7 };
                if code != 0xff {
                    bytes.push(0);
                }
                for _ in 0..run {
                    bytes.push(rest.next()?);
                }
            }
        }
    }
    bytes.reverse();
    Some(bytes)
}
