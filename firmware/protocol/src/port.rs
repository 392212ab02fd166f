//! Lines of an operating system: a serial port, a TCP or Unix socket (an emulator's, a simulated board's).

use crate::client::{Client, Transport};
use crate::message::{Answer, Done, Form, Generate, Request};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::termios::{self, ControlModes, OptionalActions, QueueSelector};
use std::fmt;
use std::io::{self, ErrorKind};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::string::{String, ToString};
use std::time::{Duration, Instant};

/// Where a board is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Line {
    /// `/dev/ttyUSB0`, a pseudoterminal.
    Serial(PathBuf),
    /// `tcp:HOST:PORT`
    Tcp(String),
    /// `unix:PATH`
    Unix(PathBuf),
}

impl std::str::FromStr for Line {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(path) = text.strip_prefix("unix:").filter(|p| !p.is_empty()) {
            Ok(Self::Unix(path.into()))
        } else if let Some(address) = text.strip_prefix("tcp:").filter(|a| a.contains(':')) {
            Ok(Self::Tcp(address.into()))
        } else if text.is_empty() || text.starts_with("tcp:") || text.starts_with("unix:") {
            Err("need a serial port (/dev/ttyUSB0), tcp:HOST:PORT or unix:PATH".into())
        } else {
            Ok(Self::Serial(text.strip_prefix("serial:").unwrap_or(text).into()))
        }
    }
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Serial(path) => write!(f, "{}", path.display()),
            Self::Tcp(address) => write!(f, "tcp:{address}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// An open line.
#[derive(Debug)]
pub struct Port {
    fd: OwnedFd,
    start: Instant,
}

impl Port {
    /// Opens a line; `baud` is for serial ports.
    ///
    /// # Errors
    /// The system's own: nobody there, no permission, a speed that the port cannot do.
    pub fn open(line: &Line, baud: u32) -> io::Result<Self> {
        let fd = match line {
            Line::Serial(path) => serial(path, baud)?,
            Line::Tcp(address) => {
                let stream = TcpStream::connect(address.as_str())?;
                stream.set_nodelay(true)?;
                stream.into()
            }
            Line::Unix(path) => UnixStream::connect(path)?.into(),
        };
        Ok(Self { fd, start: Instant::now() })
    }
}

/// A port of raw bytes, eight data bits, no parity, one stop bit, no flow control; what lies in it from before is dropped.
fn serial(path: &std::path::Path, baud: u32) -> io::Result<OwnedFd> {
    let fd = rustix::fs::open(path, OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC, Mode::empty())?;
    if !termios::isatty(&fd) {
        return Err(io::Error::new(ErrorKind::InvalidInput, "need a serial port, found a file"));
    }
    let mut tty = termios::tcgetattr(&fd)?;
    tty.make_raw();
    tty.control_modes |= ControlModes::CLOCAL | ControlModes::CREAD;
    tty.control_modes &= !(ControlModes::CRTSCTS | ControlModes::CSTOPB | ControlModes::PARENB);
    tty.set_speed(baud)?;
    termios::tcsetattr(&fd, OptionalActions::Now, &tty)?;
    termios::tcflush(&fd, QueueSelector::IOFlush)?;
    Ok(fd)
}

/// Whether bytes (or an end) are there before `limit`; a signal ends the waiting.
///
/// # Errors
/// The system's own.
pub fn wait_readable(fd: &impl AsFd, limit: Duration) -> io::Result<bool> {
    let limit = Timespec { tv_sec: limit.as_secs().min(1 << 20) as i64, tv_nsec: i64::from(limit.subsec_nanos()) };
    match poll(&mut [PollFd::new(fd, PollFlags::IN)], Some(&limit)) {
        Ok(n) => Ok(n > 0),
        // A signal: Ctrl-C is the caller's to notice.
        Err(Errno::INTR) => Ok(false),
        Err(e) => Err(e.into()),
    }
}

impl Transport for Port {
    type Error = LineError;

    fn write(&mut self, mut bytes: &[u8]) -> Result<(), LineError> {
        while !bytes.is_empty() {
            match rustix::io::write(&self.fd, bytes) {
                Ok(0) => return Err(LineError("nothing can be written".to_string())),
                Ok(n) => bytes = &bytes[n..],
                Err(Errno::INTR | Errno::AGAIN) => {}
                Err(e) => return Err(LineError(io::Error::from(e).to_string())),
            }
        }
        Ok(())
    }

    fn read(&mut self, bytes: &mut [u8], limit_us: u64) -> Result<usize, LineError> {
        let failed = |e: io::Error| LineError(e.to_string());
        if !wait_readable(&self.fd, Duration::from_micros(limit_us)).map_err(failed)? {
            return Ok(0);
        }
        match rustix::io::read(&self.fd, bytes) {
            Ok(0) => Err(LineError("the other end has closed it".to_string())),
            Ok(n) => Ok(n),
            Err(Errno::INTR | Errno::AGAIN) => Ok(0),
            Err(e) => Err(failed(e.into())),
        }
    }

    fn now_us(&self) -> u64 {
        self.start.elapsed().as_micros() as u64
    }
}

/// Why a line failed, in the system's words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LineError(String);

impl fmt::Display for LineError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for LineError {}

/// An answer on the heap, of any length.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Written {
    /// Ids.
    pub ids: std::vec::Vec<u32>,
    /// Text.
    pub text: std::vec::Vec<u8>,
}

impl crate::client::Answered for Written {
    fn piece(&mut self, id: Option<u32>, text: &[u8]) {
        self.ids.extend(id);
        self.text.extend_from_slice(text);
    }

    fn crc(&self) -> u32 {
        crate::message::answer_crc(self.ids.iter().copied(), &self.text)
    }
}

/// Ids as a prompt.
pub fn prompt_of(ids: &[u32]) -> std::vec::Vec<u8> {
    ids.iter().flat_map(|id| id.to_le_bytes()).collect()
}

/// `n` tokens after a prompt of ids, by [`Generate::greedy`]; how it went, and the checksum of their logits.
///
/// # Errors
/// As [`Client::generate`].
pub fn greedy<T: Transport>(client: &mut Client<T>, ids: &[u32], n: u32) -> Result<(Written, Done, u64), crate::Error<T::Error>> {
    let mut written = Written::default();
    let done = client.generate(&prompt_of(ids), &Generate::greedy(Form::Ids, n), &mut written, &mut || false)?;
    let sum = client.ask("sum", &Request::Sum, &mut |answer| match answer {
        Answer::Sum { sum, .. } => Some(*sum),
        _ => None,
    })?;
    Ok((written, done, sum))
}
