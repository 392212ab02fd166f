//! A board that answers: started or found, given the firmware, its log kept.

use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use bourn_protocol::client::Patience;
use bourn_protocol::message::{Build, Load, LogKind, Request};
use bourn_protocol::port::{Line, Port};
use bourn_protocol::{Client, Error};
use libtest_mimic::{Failed, Trial};

use crate::log::{Log, Said};
use crate::place::{Place, board_of};
use crate::qemu::{self, Machine};
use crate::{card, check, elf};

/// Until an emulator has its line open, and until a board has answered for the first time.
const START: Duration = Duration::from_secs(60);
/// For what a board says of a failure.
const LAST_WORDS_US: u64 = 200_000;

/// Firmware that is to be tested.
#[derive(Debug)]
pub struct Firmware {
    /// Its file.
    pub path: PathBuf,
    /// What a loader loads.
    pub flat: Vec<u8>,
    /// Its log, or why that cannot be read.
    pub log: Result<Log, crate::log::Error>,
}

impl Firmware {
    /// Reads an ELF file or a kernel8.img.
    ///
    /// # Errors
    /// If it cannot be read or is neither.
    pub fn read(path: &Path) -> Result<Self> {
        let bytes = std::fs::read(path).with_context(|| path.display().to_string())?;
        let flat = elf::flat(&bytes).with_context(|| path.display().to_string())?;
        Ok(Self { path: path.to_owned(), flat, log: Log::new(&bytes) })
    }

    /// Where it is tested: `board` is the value of `BOURN_BOARD`, without one the emulator that its name tells.
    ///
    /// # Errors
    /// If neither tells, or the emulator is of another board.
    pub fn place(&self, board: Option<&str>) -> Result<Place> {
        let file = self.path.file_name().unwrap_or_default().to_string_lossy();
        let Some(board) = board.filter(|board| !board.is_empty()) else { return Place::by_name(&file) };
        let place = Place::parse(board)?;
        if let (Place::Emulated(machine), Some(own)) = (&place, board_of(&file)) {
            ensure!(machine.board == own, "BOURN_BOARD={board}: need firmware of {}, found that of {own}", machine.board);
        }
        Ok(place)
    }
}

/// A board in QEMU, until dropped.
#[derive(Debug)]
pub struct Emulator {
    child: Child,
    line: Line,
    /// Holds the kernel, the line's socket, and the card if it was made.
    folder: tempfile::TempDir,
}

impl Drop for Emulator {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Emulator {
    /// Starts a machine with this kernel, and waits until its line is open; it begins when somebody listens. Without a card one is made with
    /// `image` on it.
    ///
    /// # Errors
    /// If there is no emulator, it does not start, or no card can be made.
    pub fn start(machine: &Machine, kernel: &[u8], card: Option<&Path>, image: &Path) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let at = |name: &str| folder.path().join(name);
        std::fs::write(at("kernel8.img"), kernel)?;
        let card = match card {
            Some(card) => std::path::absolute(card)?,
            None => {
                card::write(&at("card.img"), &card::Contents { kernel, config: "", image: Some(image), loader: None })?;
                at("card.img")
            }
        };
        let socket = at("line");
        let machine = Machine { serial: qemu::serial(&socket.display().to_string(), true)?, ..machine.clone() };
        let mut command = machine.command(&qemu::find()?, &at("kernel8.img"), &card)?;
        let said = std::fs::File::create(folder.path().join("said"))?;
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(said).spawn().context("cannot start QEMU")?;
        let mut emulator = Self { child, line: Line::Unix(socket.clone()), folder };
        let start = Instant::now();
        while !socket.exists() {
            let ended = emulator.child.try_wait()?;
            if ended.is_some() || start.elapsed() >= START {
                bail!("the emulator did not start: {}", emulator.said().trim());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(emulator)
    }

    /// What QEMU has said: its plugins' words too.
    pub fn said(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("said")).unwrap_or_default()
    }

    /// The way to it.
    pub fn line(&self) -> &Line {
        &self.line
    }
}

/// A board that has said hello.
#[derive(Debug)]
pub struct Bench {
    /// The line.
    pub client: Client<Port>,
    /// What it calls itself, and its firmware's version.
    pub name: String,
    build: Build,
    /// What reads its log.
    pub log: Option<Log>,
    text: bool,
    /// Whether what it says is shown at once.
    pub loud: bool,
    heard: Vec<String>,
    lines: usize,
    /// Frames that were not understood but for the first, which may have begun before we listened.
    strange: usize,
    /// Where it is, if it is emulated.
    pub emulator: Option<Emulator>,
}

impl Bench {
    /// Opens a line (`emulator` is kept running meanwhile) and waits for the board; `log` reads what it says.
    ///
    /// # Errors
    /// If nobody answers, or in another version of the protocol.
    pub fn open(line: &Line, baud: u32, emulator: Option<Emulator>, log: Option<Log>) -> Result<Self> {
        let patience = Patience { answer_us: 1_000_000, tries: START.as_secs() as u32 };
        let client = Client::new(Port::open(line, baud).with_context(|| line.to_string())?, patience);
        let mut bench = Self {
            client,
            name: String::new(),
            build: Build::default(),
            log,
            text: false,
            loud: false,
            heard: Vec::new(),
            lines: 0,
            strange: 0,
            emulator,
        };
        bench.hello().with_context(|| line.to_string())?;
        Ok(bench)
    }

    fn hello(&mut self) -> Result<()> {
        let Self { client, name, build, text, .. } = self;
        let greeted = client.hello(std::process::id(), &mut |hello| {
            *name = format!("{}, firmware {}", hello.board, hello.firmware);
            (*build, *text) = (hello.build, hello.log == LogKind::Text);
        });
        greeted.map_err(|error| match error {
            Error::Version { .. } => anyhow!("{error}; {}", by_hand(None)),
            error => anyhow!("{error}"),
        })
    }

    /// Sees to it that the board runs this firmware: if it does not, and `boot` is the folder that it boots from, the firmware is put there
    /// and the board started anew. False if it does not tell what it runs.
    ///
    /// # Errors
    /// If it runs another and there is no way to give it this one: what to do.
    pub fn load(&mut self, firmware: &Firmware, boot: Option<&Path>) -> Result<bool> {
        let of = Build::of(firmware.flat.get(..self.build.bytes as usize).unwrap_or(&firmware.flat));
        match (self.build.is_of(&firmware.flat), boot) {
            (None, _) => return Ok(false),
            (Some(true), _) => return Ok(true),
            (Some(false), None) => {
                let path = firmware.path.display();
                bail!(
                    "the board runs other firmware: need {of} ({path}), found {}; {}",
                    self.build,
                    by_hand(Some(&firmware.path))
                )
            }
            (Some(false), Some(folder)) => {
                let (new, old) = (folder.join("kernel8.new"), folder.join("kernel8.img"));
                std::fs::write(&new, &firmware.flat).with_context(|| new.display().to_string())?;
                std::fs::rename(&new, &old).with_context(|| old.display().to_string())?;
            }
        }
        let accepted = self.client.ask("reboot", &Request::Reboot { loader: true }, &mut |answer| {
            matches!(answer, bourn_protocol::message::Answer::Accepted).then_some(())
        });
        accepted.map_err(|error| anyhow!("{error}"))?;
        let start = Instant::now();
        while start.elapsed() < START {
            // The old firmware may still answer, and a loader says nothing that we understand.
            self.hello().context("started anew, then")?;
            if self.build.is_of(&firmware.flat) == Some(true) {
                return Ok(true);
            }
            std::thread::sleep(Duration::from_millis(200));
        }
        bail!("started anew, and it runs other firmware still: need {of}, found {}; does it boot from that folder?", self.build)
    }

    /// What the board has said since the last call.
    pub fn listen(&mut self) -> Vec<String> {
        let Self { client, log, text, loud, heard, lines, strange, .. } = self;
        let mut bytes = Vec::new();
        client.take_log(&mut |part| bytes.extend_from_slice(part));
        let mut hear = |line: String| {
            if *loud {
                eprintln!("board: {line}");
            }
            heard.push(line);
        };
        if *text {
            String::from_utf8_lossy(&bytes).lines().for_each(|line| hear(line.to_owned()));
        } else if let Some(log) = log {
            log.push(&bytes, &mut |said| {
                match &said {
                    Said::Line(_) => *lines += 1,
                    Said::Unknown(_) if *lines > 0 => *strange += 1,
                    Said::Unknown(_) => return,
                }
                hear(said.to_string());
            });
        }
        std::mem::take(heard)
    }

    /// Whether its log can be read here.
    pub fn has_log(&self) -> bool {
        !self.text && self.log.is_some()
    }

    /// The board tells that it opens its model, and every frame is one of this firmware.
    fn log_is_read(&mut self) -> Result<()> {
        let load = self.client.load(Load::default(), &mut |_, _| std::ops::ControlFlow::Continue(()));
        load.map_err(|error| anyhow!("{error}"))?;
        // The log goes out between requests.
        self.client.listen(200_000).map_err(|error| anyhow!("{error}"))?;
        let heard = self.listen();
        ensure!(self.lines > 0, "need lines of the log, found none");
        ensure!(self.strange == 0, "need frames of this firmware, found {} others", self.strange);
        self.heard = heard;
        Ok(())
    }
}

/// How to bring firmware onto a board that takes none over its line.
fn by_hand(path: Option<&Path>) -> String {
    let file =
        path.map_or("the new kernel8.img".to_owned(), |path| format!("{} as kernel8.img", path.with_extension("img").display()));
    format!(
        "no loader answers on this line, so put {file} where the board boots from (its card's FAT partition, a TFTP folder) and reset \
         it; with BOURN_BOOT_DIR=FOLDER that is done from here"
    )
}

/// A board that tests share.
pub type Shared = Arc<Mutex<Bench>>;

/// A test on a board; when it fails, what the board said meanwhile is part of the message.
pub fn trial(bench: &Shared, name: String, check: impl FnOnce(&mut Bench) -> Result<()> + Send + 'static) -> Trial {
    let bench = Arc::clone(bench);
    Trial::test(name, move || {
        let mut bench = bench.lock().unwrap_or_else(PoisonError::into_inner);
        bench.listen();
        let checked = check(&mut bench);
        if checked.is_err() {
            // What it has to say of that is on its way; a line that failed has been told.
            let _ = bench.client.listen(LAST_WORDS_US);
        }
        let heard = bench.listen();
        checked.map_err(|error| {
            let said: String = heard.iter().map(|line| format!("\n  board: {line}")).collect();
            Failed::from(format!("{error:#}{said}"))
        })
    })
}

/// Every test of the board's own, and those that need no model of this machine.
///
/// # Errors
/// If the board does not tell its tests.
pub fn trials(bench: &Shared) -> Result<Vec<Trial>> {
    let (names, has_log) = {
        let mut bench = bench.lock().unwrap_or_else(PoisonError::into_inner);
        (check::names(&mut bench.client)?, bench.has_log())
    };
    let mut trials = Vec::new();
    for (index, name) in (0..).zip(names) {
        trials.push(trial(bench, format!("self_test::{name}"), move |b| check::self_test(&mut b.client, index)));
    }
    trials.push(trial(bench, "paged::is_resident_to_the_bit".to_owned(), |b| check::paged_is_resident(&mut b.client)));
    let noise = "faults::broken_frames_are_asked_for_again".to_owned();
    trials.push(trial(bench, noise, |b| check::noise_is_survived(&mut b.client)));
    if has_log {
        trials.push(trial(bench, "log::every_frame_is_of_this_firmware".to_owned(), Bench::log_is_read));
    }
    Ok(trials)
}

/// The line of a place, if it is one.
///
/// # Errors
/// If it cannot be read.
pub fn line(text: &str) -> Result<Line> {
    text.parse().map_err(|error| anyhow!("BOURN_BOARD: {error}"))
}
