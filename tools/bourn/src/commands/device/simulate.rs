//! A board on this machine: the firmware's own program, a card that is a file, a socket or pseudoterminal for a line.

use crate::args::device::Simulate;
use crate::output::{bytes, line, note};
use crate::signal;
use anyhow::{Context, Result, anyhow, bail};
use bourn_app::{Board, Exit, Memory, Parts, slots};
use bourn_core::Candidate;
use bourn_host::{Pool, machine};
use bourn_kernels::{Kernels, available};
use bourn_protocol::message::Build;
use bourn_protocol::port::wait_readable;
use embedded_io::{ErrorKind, ErrorType, Read, ReadReady, Write};
use embedded_sdmmc::{Block, BlockCount, BlockDevice, BlockIdx};
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use std::cell::RefCell;
use std::fs::{File, OpenOptions};
use std::io;
use std::net::TcpListener;
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::rc::Rc;
use std::time::{Duration, Instant};

const MIB: u64 = 1 << 20;
/// Blocks moved at once.
const BLOCKS: usize = 128;
/// Most tokens of a vocabulary.
const VOCAB: usize = 1 << 19;
/// How long a board that has nothing to do waits at a time.
const IDLE: Duration = Duration::from_millis(50);

/// A card that is a file.
#[derive(Debug)]
struct Card {
    file: File,
    n_blocks: u32,
}

impl Card {
    fn open(file: File, path: &str) -> Result<Self> {
        let bytes = file.metadata().with_context(|| path.to_owned())?.len();
        let n_blocks = u32::try_from(bytes / 512).unwrap_or(u32::MAX);
        Ok(Self { file, n_blocks })
    }
}

impl BlockDevice for Card {
    type Error = io::Error;

    fn read(&self, blocks: &mut [Block], first: BlockIdx) -> io::Result<()> {
        let mut bytes = vec![0; blocks.len() * 512];
        self.file.read_exact_at(&mut bytes, first.into_bytes())?;
        for (block, from) in blocks.iter_mut().zip(bytes.chunks_exact(512)) {
            block.contents.copy_from_slice(from);
        }
        Ok(())
    }

    fn write(&self, blocks: &[Block], first: BlockIdx) -> io::Result<()> {
        if u64::from(first.0) + blocks.len() as u64 > u64::from(self.n_blocks) {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "beyond the end of the card"));
        }
        let bytes: Vec<u8> = blocks.iter().flat_map(|b| b.contents).collect();
        self.file.write_all_at(&bytes, first.into_bytes())
    }

    fn num_blocks(&self) -> io::Result<BlockCount> {
        Ok(BlockCount(self.n_blocks))
    }
}

/// Opens the card, or makes one with two slots and the image in the first.
fn card(a: &Simulate) -> Result<Card> {
    if let Some(path) = a.card.as_ref().filter(|path| path.exists()) {
        let file = OpenOptions::new().read(true).write(true).open(path);
        return Card::open(file.with_context(|| path.display().to_string())?, &path.display().to_string());
    }
    let Some(image) = &a.image else {
        let path = a.card.clone().unwrap_or_default();
        bail!("{}: no such card; to make one: --image IMAGE", path.display());
    };
    let shown = image.display().to_string();
    let mut source = File::open(image).with_context(|| shown.clone())?;
    let need = source.metadata().with_context(|| shown.clone())?.len();
    let slot = a.slot.unwrap_or(need + need / 4).max(need).div_ceil(MIB) * MIB;
    let n_blocks =
        u32::try_from((2 * slot + 3 * MIB) / 512).map_err(|_| anyhow!("{shown}: too large for a card: {need} bytes"))?;
    let (file, path) = new_file(a.card.as_deref())?;
    file.set_len(u64::from(n_blocks) * 512).with_context(|| path.clone())?;
    let card = Card::open(file, &path)?;
    let area = slots::Area::on_new_card(&card, n_blocks).map_err(|e| anyhow!("{path}: {e}"))?;
    let mut to = &card.file;
    io::Seek::seek(&mut to, io::SeekFrom::Start(area.place(0).first.into_bytes())).with_context(|| path.clone())?;
    io::copy(&mut source, &mut to).with_context(|| path.clone())?;
    Ok(card)
}

/// A file that is kept, or one that goes with the process.
fn new_file(path: Option<&Path>) -> Result<(File, String)> {
    let keep = path.map(Path::to_owned);
    let temporary = || std::env::temp_dir().join(format!("bourn-card-{}", std::process::id()));
    let path = keep.clone().unwrap_or_else(temporary);
    let shown = path.display().to_string();
    let file = OpenOptions::new().read(true).write(true).create_new(true).open(&path).with_context(|| shown.clone())?;
    if keep.is_none() {
        std::fs::remove_file(&path).with_context(|| shown.clone())?;
    }
    Ok((file, shown))
}

/// Who may connect.
#[derive(Debug)]
enum Door {
    Unix(UnixListener, PathBuf),
    Tcp(TcpListener),
    /// Our end, and the other kept open, so that hosts may come and go.
    Pty {
        _theirs: File,
    },
}

/// The board's end of the line.
#[derive(Debug)]
struct Wire {
    door: Door,
    host: Option<OwnedFd>,
    /// Hosts that have gone.
    gone: u32,
}

impl Drop for Wire {
    fn drop(&mut self) {
        if let Door::Unix(_, path) = &self.door {
            let _ = std::fs::remove_file(path);
        }
    }
}

impl Wire {
    /// Opens the door; the name of the line for hosts.
    fn open(at: &str) -> Result<(Self, String)> {
        let (door, host, name) = if let Some(path) = at.strip_prefix("unix:") {
            let listener = UnixListener::bind(path).with_context(|| at.to_owned())?;
            listener.set_nonblocking(true)?;
            (Door::Unix(listener, path.into()), None, at.to_owned())
        } else if let Some(address) = at.strip_prefix("tcp:") {
            let listener = TcpListener::bind(address).with_context(|| at.to_owned())?;
            listener.set_nonblocking(true)?;
            let name = format!("tcp:{}", listener.local_addr()?);
            (Door::Tcp(listener), None, name)
        } else if at == "pty" {
            let ours = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).context("pty")?;
            grantpt(&ours)?;
            unlockpt(&ours)?;
            let name = ptsname(&ours, Vec::new())?.into_string()?;
            let theirs = File::options().read(true).write(true).open(&name).with_context(|| name.clone())?;
            let mut tty = rustix::termios::tcgetattr(&theirs)?;
            tty.make_raw();
            rustix::termios::tcsetattr(&theirs, rustix::termios::OptionalActions::Now, &tty)?;
            (Door::Pty { _theirs: theirs }, Some(nonblocking(ours)?), name)
        } else {
            bail!("--listen: need unix:PATH, tcp:HOST:PORT or pty, found {at}");
        };
        Ok((Self { door, host, gone: 0 }, name))
    }

    /// Lets the next host in.
    fn accept(&mut self) {
        let next = match &self.door {
            Door::Unix(listener, _) => listener.accept().map(|(stream, _)| OwnedFd::from(stream)),
            Door::Tcp(listener) => listener.accept().map(|(stream, _)| {
                let _ = stream.set_nodelay(true);
                OwnedFd::from(stream)
            }),
            Door::Pty { .. } => return,
        };
        // Nobody yet, or gone again.
        self.host = next.ok().and_then(|fd| nonblocking(fd).ok());
    }

    fn hang_up(&mut self) {
        self.host = None;
        self.gone += 1;
    }

    /// Until something comes, or a while.
    fn wait(&mut self) {
        if self.host.is_none() {
            self.accept();
        }
        let waited = match (&self.host, &self.door) {
            (Some(host), _) => wait_readable(host, IDLE),
            (None, Door::Unix(listener, _)) => wait_readable(listener, IDLE),
            (None, Door::Tcp(listener)) => wait_readable(listener, IDLE),
            (None, Door::Pty { _theirs }) => wait_readable(_theirs, IDLE),
        };
        if waited.is_err() {
            std::thread::sleep(IDLE);
        }
    }
}

fn nonblocking(fd: OwnedFd) -> io::Result<OwnedFd> {
    fcntl_setfl(&fd, fcntl_getfl(&fd)? | OFlags::NONBLOCK)?;
    Ok(fd)
}

/// The line as the firmware sees it.
struct Serial(Rc<RefCell<Wire>>);

impl ErrorType for Serial {
    type Error = ErrorKind;
}

impl ReadReady for Serial {
    fn read_ready(&mut self) -> Result<bool, ErrorKind> {
        let mut wire = self.0.borrow_mut();
        if wire.host.is_none() {
            wire.accept();
        }
        let ready = wire.host.as_ref().map(|host| wait_readable(&host.as_fd(), Duration::ZERO));
        ready.unwrap_or(Ok(false)).map_err(|_| ErrorKind::Other)
    }
}

impl Read for Serial {
    fn read(&mut self, to: &mut [u8]) -> Result<usize, ErrorKind> {
        let mut wire = self.0.borrow_mut();
        let Some(host) = &wire.host else { return Ok(0) };
        match rustix::io::read(host, to) {
            Ok(n) if n > 0 => Ok(n),
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => Ok(0),
            _ => {
                wire.hang_up();
                Ok(0)
            }
        }
    }
}

impl Write for Serial {
    fn write(&mut self, from: &[u8]) -> Result<usize, ErrorKind> {
        let mut wire = self.0.borrow_mut();
        let Some(host) = &wire.host else { return Err(ErrorKind::NotConnected) };
        loop {
            match rustix::io::write(host, from) {
                Ok(n) if n > 0 => return Ok(n),
                Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => {
                    if signal::stopped() {
                        return Err(ErrorKind::Interrupted);
                    }
                    std::thread::sleep(Duration::from_millis(1));
                }
                _ => {
                    wire.hang_up();
                    return Err(ErrorKind::BrokenPipe);
                }
            }
        }
    }

    fn flush(&mut self) -> Result<(), ErrorKind> {
        Ok(())
    }
}

/// The board: this machine's clock and log.
struct Sim {
    wire: Rc<RefCell<Wire>>,
    start: Instant,
    log: Vec<u8>,
    once: bool,
}

impl Board for Sim {
    fn now_us(&self) -> u64 {
        self.start.elapsed().as_micros() as u64
    }

    fn idle(&mut self) {
        self.wire.borrow_mut().wait();
    }

    fn wants_reboot(&mut self) -> bool {
        signal::stopped() || (self.once && self.wire.borrow().gone > 0)
    }

    fn log(&mut self, line: std::fmt::Arguments<'_>) {
        self.log.extend_from_slice(format!("{line}\n").as_bytes());
    }

    fn take_log(&mut self, to: &mut [u8]) -> usize {
        let n = to.len().min(self.log.len());
        to[..n].copy_from_slice(&self.log[..n]);
        self.log.drain(..n);
        n
    }
}

/// Serves until Ctrl-C; a board that is started anew is one that begins again.
pub fn simulate(a: &Simulate, quiet: bool) -> Result<ExitCode> {
    let mut tiers: Vec<&'static Kernels> = available().collect();
    if let Some(isa) = &a.isa {
        tiers.retain(|k| k.isa == isa);
        if tiers.is_empty() {
            let have: Vec<&str> = available().map(|k| k.isa).collect();
            bail!("--isa {isa}: this machine has {}", have.join(", "));
        }
    }
    let card = card(a)?;
    let ram = usize::try_from(a.ram).context("--ram")?;
    let room = Vec::<u8>::new().try_reserve_exact(ram);
    room.map_err(|_| anyhow!("--ram: need {}, the system has not that much", bytes(a.ram)))?;
    // Pages that are not touched cost nothing.
    let mut arena = vec![0; ram];
    let pool = Pool::new(a.threads.map_or_else(machine::usable_cores, usize::from));
    let rows = pool.limited(a.threads.map_or_else(machine::usable_cores, usize::from));
    let (mut blocks, mut candidates) = (vec![Block::new(); BLOCKS], vec![Candidate::default(); VOCAB]);
    let (wire, name) = Wire::open(&a.listen)?;
    let wire = Rc::new(RefCell::new(wire));
    // For scripts: the line to connect to.
    line(&name)?;
    note(quiet, &format!("a simulated board: bourn device {name}; Ctrl-C ends it"));
    loop {
        let board = Sim { wire: Rc::clone(&wire), start: Instant::now(), log: Vec::new(), once: a.once };
        let parts = Parts {
            name: "simulated",
            firmware: env!("CARGO_PKG_VERSION"),
            build: Build::default(),
            board,
            serial: Serial(Rc::clone(&wire)),
            card: Some(Shared(&card)),
            ahead: None,
            tiers: &tiers,
            decode: &rows,
            prefill: &rows,
            memory: Memory { arena: &mut arena, blocks: &mut blocks, candidates: &mut candidates },
            window: 8,
        };
        let (exit, mut board, _) = bourn_app::run(parts);
        if board.wants_reboot() {
            return Ok(ExitCode::SUCCESS);
        }
        match exit {
            Exit::Reboot { loader: false } => note(quiet, "the board starts anew"),
            Exit::Reboot { loader: true } => {
                note(quiet, "the host asked for the loader: a simulated board has none, and ends");
                return Ok(ExitCode::SUCCESS);
            }
        }
    }
}

/// A borrowed card.
struct Shared<'c>(&'c Card);

impl BlockDevice for Shared<'_> {
    type Error = io::Error;

    fn read(&self, blocks: &mut [Block], first: BlockIdx) -> io::Result<()> {
        self.0.read(blocks, first)
    }

    fn write(&self, blocks: &[Block], first: BlockIdx) -> io::Result<()> {
        self.0.write(blocks, first)
    }

    fn num_blocks(&self) -> io::Result<BlockCount> {
        self.0.num_blocks()
    }
}
