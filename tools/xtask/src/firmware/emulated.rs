//! A board in QEMU, and the host's end of its line.

use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use bourn_hil_runner::qemu::{Machine, serial};
use bourn_protocol::client::{Kept, Patience};
use bourn_protocol::message::{Answer, Done, Form, Generate, Load, Request};
use bourn_protocol::{Client, Transport};

use crate::emulate;

/// Until QEMU listens.
const START: Duration = Duration::from_secs(20);

/// A line over TCP.
#[derive(Debug)]
struct Tcp {
    stream: TcpStream,
    start: Instant,
}

impl Transport for Tcp {
    type Error = std::io::Error;

    fn write(&mut self, bytes: &[u8]) -> Result<(), Self::Error> {
        self.stream.write_all(bytes)
    }

    fn read(&mut self, bytes: &mut [u8], limit_us: u64) -> Result<usize, Self::Error> {
        self.stream.set_read_timeout(Some(Duration::from_micros(limit_us.max(1))))?;
        match self.stream.read(bytes) {
            Ok(0) => Err(ErrorKind::UnexpectedEof.into()),
            Ok(n) => Ok(n),
            Err(e) if [ErrorKind::WouldBlock, ErrorKind::TimedOut, ErrorKind::Interrupted].contains(&e.kind()) => Ok(0),
            Err(e) => Err(e),
        }
    }

    fn now_us(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_micros()).unwrap_or(u64::MAX)
    }
}

/// A board that runs, until dropped.
#[derive(Debug)]
pub(super) struct Emulated {
    qemu: Child,
    client: Client<Tcp>,
    kernel: PathBuf,
}

impl Drop for Emulated {
    fn drop(&mut self) {
        let _ = self.qemu.kill();
        let _ = self.qemu.wait();
        let _ = std::fs::remove_file(&self.kernel);
    }
}

/// What a board wrote.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Written {
    /// Ids of the tokens.
    pub(super) ids: Vec<u32>,
    /// One number for every bit of the logits.
    pub(super) sum: u64,
}

impl Emulated {
    /// Starts a machine with a card and waits for its first word. `extra` are further words for QEMU, `log` takes what it says.
    pub(super) fn start(machine: &Machine, card: &Path, extra: &[String], log: Option<&Path>) -> Result<Self> {
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let machine = Machine { serial: serial(&format!("tcp:{port}"), true)?, ..machine.clone() };
        let (mut command, kernel) = emulate::command(&machine, card)?;
        if let Some(log) = log {
            command.stderr(File::create(log)?);
        }
        let qemu = command.args(extra).stdin(Stdio::null()).stdout(Stdio::null()).spawn().context("cannot start QEMU")?;
        let start = Instant::now();
        let stream = loop {
            match TcpStream::connect(("127.0.0.1", port)) {
                Ok(stream) => break stream,
                Err(_) if start.elapsed() < START => std::thread::sleep(Duration::from_millis(20)),
                Err(error) => return Err(error).context("QEMU does not listen"),
            }
        };
        stream.set_nodelay(true)?;
        // A machine that computes on a busy host may be silent for long.
        let patience = Patience { answer_us: 2_000_000, tries: 30 };
        let mut board = Self { qemu, client: Client::new(Tcp { stream, start }, patience), kernel };
        let mut name = String::new();
        board.client.hello(u32::from(port), &mut |hello| hello.board.clone_into(&mut name)).map_err(|e| anyhow!("{e:?}"))?;
        if name != machine.board {
            bail!("need board {}, found {name}", machine.board);
        }
        Ok(board)
    }

    /// Opens the model anew.
    ///
    /// # Errors
    /// What the board says, as it says it.
    pub(super) fn load(&mut self, load: Load) -> Result<(), String> {
        let mut on = |_, _| std::ops::ControlFlow::Continue(());
        self.client.load(load, &mut on).map_err(|error| format!("{error:?}"))
    }

    /// Waits until a model is open.
    pub(super) fn wait_for_model(&mut self) -> Result<()> {
        let start = Instant::now();
        loop {
            let found = self.client.ask("info", &Request::Info, &mut |answer| match answer {
                Answer::Info(info) => Some((info.model.is_some(), info.cores, info.isa.to_owned(), info.trouble.to_owned())),
                _ => None,
            });
            let (open, cores, isa, trouble) = found.map_err(|e| anyhow!("{e:?}"))?;
            if open {
                eprintln!("  {cores} cores, isa {isa}, open after {:.1} s", start.elapsed().as_secs_f64());
                return Ok(());
            }
            if !trouble.is_empty() {
                bail!("the board has no model: {trouble}");
            }
            if start.elapsed() > Duration::from_secs(120) {
                bail!("need an open model within 120 s, found none");
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// Microseconds from reset until the board served its line, as its log says.
    ///
    /// # Errors
    /// If the log does not say.
    pub(super) fn ready_us(&mut self, board: &str) -> Result<u64> {
        let mut log = Vec::new();
        self.client.take_log(&mut |bytes| log.extend_from_slice(bytes));
        let frames = log.split(|byte| *byte == 0).map(unpacked);
        frames.filter_map(|frame| ready_in(&frame, board)).next().context("the log does not say when the board was ready")
    }

    /// Greedy text after a prompt of ids.
    ///
    /// # Errors
    /// What the board says.
    pub(super) fn write(&mut self, ids: &[u32], n: u32) -> Result<(Written, Done), String> {
        let prompt: Vec<u8> = ids.iter().flat_map(|id| id.to_le_bytes()).collect();
        let mut kept = Kept::<4096, 65536>::default();
        let generate = Generate {
            prompt_bytes: 0,
            prompt_crc: 0,
            form: Form::Ids,
            max_tokens: n,
            temperature: 0.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            repetition_penalty: 1.0,
            seed: 0,
            ignore_eos: true,
            sum: true,
        };
        let done = self.client.generate(&prompt, &generate, &mut kept, &mut || false).map_err(|e| format!("{e:?}"))?;
        let sum = self.client.ask("sum", &Request::Sum, &mut |answer| match answer {
            Answer::Sum { sum, .. } => Some(*sum),
            _ => None,
        });
        let sum = sum.map_err(|e| format!("{e:?}"))?;
        Ok((Written { ids: kept.ids.to_vec(), sum }, done))
    }
}

/// A defmt frame, unpacked (rzCOBS, which is read from its end).
fn unpacked(frame: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = frame.iter().rev();
    while let Some(&code) = rest.next() {
        match code {
            0..0x80 => {
                for i in 0..7 {
                    let byte = if code >> (6 - i) & 1 == 0 { rest.next() } else { Some(&0) };
                    bytes.extend(byte);
                }
            }
            0x80..0xff => {
                bytes.push(0);
                bytes.extend(rest.by_ref().take(usize::from(code & 0x7f) + 7));
            }
            0xff => bytes.extend(rest.by_ref().take(134)),
        }
    }
    bytes.reverse();
    bytes
}

/// The number after the board's name in the frame that says it is ready: the only one with a name, its length before it.
fn ready_in(frame: &[u8], board: &str) -> Option<u64> {
    let name = [&u32::to_le_bytes(u32::try_from(board.len()).ok()?)[..], board.as_bytes()].concat();
    let at = frame.windows(name.len()).position(|part| part == name)? + name.len();
    Some(u64::from_le_bytes(*frame.get(at..)?.first_chunk()?))
}

#[cfg(test)]
mod tests {
    use super::{ready_in, unpacked};

    #[test]
    fn finds_the_number_in_a_frame_of_the_log() {
        // One full run of seven, two zeros among them: bits 1 and 3 of the code, read from the end.
        assert_eq!(unpacked(&[1, 2, 3, 4, 5, 0b001_0100]), [1, 2, 0, 3, 0, 4, 5]);
        let mut frame = vec![9, 0, 4, 0, 0, 0];
        frame.extend(b"rpi3");
        frame.extend(1234_u64.to_le_bytes());
        assert_eq!(ready_in(&frame, "rpi3"), Some(1234));
        assert_eq!(ready_in(&frame, "rpi4"), None);
    }
}
