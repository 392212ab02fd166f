//! A board: a temporary folder on it, what is copied there and run.

use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use crate::link::{Done, Link, quoted};

/// Seconds for the shell's own small work.
const SHORT: Duration = Duration::from_secs(30);
/// Bytes per second below which a copy is given up, and seconds allowed besides.
const SLOWEST_COPY: u64 = 50_000;

/// A board with a folder of ours on it, which goes when this is dropped.
#[derive(Debug)]
pub struct Board {
    link: Link,
    runner: Vec<String>,
    /// The folder on the board.
    folder: String,
    /// A shell there that removes the folder when its input ends, however that comes about.
    keeper: std::process::Child,
    /// Seconds that a program may take.
    limit: Duration,
    model: String,
    copied: Mutex<Vec<String>>,
    /// Holds the control socket.
    _here: Option<Scratch>,
}

/// How the environment describes the board.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Spec {
    /// `BOURN_BOARD`.
    pub board: String,
    /// `BOURN_SSH_OPTS`.
    pub ssh_options: String,
    /// `BOURN_REMOTE_RUNNER`.
    pub runner: String,
    /// `BOURN_BOARD_DIR`.
    pub folder: String,
    /// `BOURN_BOARD_LIMIT`.
    pub limit: String,
}

impl Spec {
    /// Reads the environment; none where no board is named.
    pub fn from_env() -> Option<Self> {
        let get = |name| std::env::var(name).unwrap_or_default();
        let spec = Self {
            board: get("BOURN_BOARD"),
            ssh_options: get("BOURN_SSH_OPTS"),
            runner: get("BOURN_REMOTE_RUNNER"),
            folder: get("BOURN_BOARD_DIR"),
            limit: get("BOURN_BOARD_LIMIT"),
        };
        (!spec.board.is_empty()).then_some(spec)
    }

    /// Whether programs run under an emulator, whose speed says nothing.
    pub fn is_emulated(&self) -> bool {
        self.board.starts_with("emulated") || self.runner.contains("qemu")
    }
}

impl Board {
    /// Connects, asks what the board is, and makes a folder there.
    ///
    /// # Errors
    /// If it cannot be reached, is no 64-bit ARM Linux (without a runner), or has no place for a folder.
    pub fn connect(spec: &Spec) -> Result<Self> {
        let mut runner: Vec<String> = spec.runner.split_whitespace().map(str::to_owned).collect();
        let (link, here) = if let Some(ssh) = spec.board.strip_prefix("ssh:") {
            let here = Scratch::new()?;
            (Link::ssh(ssh, &spec.ssh_options, &here.0)?, Some(here))
        } else if let Some(cpu) = spec.board.strip_prefix("emulated") {
            if runner.is_empty() {
                let cpu = cpu.strip_prefix(':').unwrap_or("cortex-a53");
                runner = ["qemu-aarch64-static", "-cpu", cpu].map(str::to_owned).into();
            }
            (Link::Local, None)
        } else {
            bail!("BOURN_BOARD: need ssh:user@host[:port] or emulated[:cpu], found {}", spec.board);
        };
        let limit = match spec.limit.as_str() {
            "" => 600,
            text => text.parse().with_context(|| format!("BOURN_BOARD_LIMIT: need seconds, found {text}"))?,
        };
        let about = "uname -s; uname -m; tr -d '\\0' </proc/device-tree/model 2>/dev/null || echo";
        let about = link.run(about, &[], SHORT)?.success("uname")?;
        let about: Vec<&str> = about.lines().collect();
        let (system, machine) = (about.first().copied().unwrap_or_default(), about.get(1).copied().unwrap_or_default());
        ensure!(
            !runner.is_empty() || (system, machine) == ("Linux", "aarch64"),
            "{link}: need Linux aarch64 (or BOURN_REMOTE_RUNNER), found {system} {machine}"
        );
        let parent = if spec.folder.is_empty() { "\"${TMPDIR:-/tmp}\"".to_owned() } else { quoted(&spec.folder) };
        let make = format!(
            "umask 077 && cd {parent} && d=$(mktemp -d \"$PWD/bourn-hil.XXXXXX\") || exit 1\n\
             echo \"$d\"; cat >/dev/null; cd / && rm -rf -- \"$d\""
        );
        let (keeper, folder) = link.start(&make, SHORT).context("need a folder on the board (BOURN_BOARD_DIR)")?;
        ensure!(folder.contains("bourn-hil."), "need the name of a folder from mktemp, found {folder:?}");
        let model = about.get(2).copied().unwrap_or_default().to_owned();
        let limit = Duration::from_secs(limit);
        Ok(Self { link, runner, folder, keeper, limit, model, copied: Mutex::default(), _here: here })
    }

    /// What the board calls itself, if it does: `Raspberry Pi 5 Model B Rev 1.0`.
    pub fn model(&self) -> &str {
        &self.model
    }

    /// The folder on the board.
    pub fn folder(&self) -> &str {
        &self.folder
    }

    /// The way there.
    pub fn link(&self) -> &Link {
        &self.link
    }

    /// Copies a file of this machine into the folder under `name`; once is enough.
    ///
    /// # Errors
    /// If it cannot be read here or written there: no room, no permission.
    pub fn copy(&self, from: &Path, name: &str) -> Result<String> {
        let path = format!("{}/{name}", self.folder);
        let mut copied = self.copied.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if copied.iter().any(|have| have == name) {
            return Ok(path);
        }
        let bytes = std::fs::read(from).with_context(|| from.display().to_string())?;
        self.room_for(bytes.len() as u64)?;
        self.write(&bytes, &path)?;
        copied.push(name.to_owned());
        Ok(path)
    }

    /// Writes bytes to a path on the board, executable, and sees that all have arrived.
    ///
    /// # Errors
    /// If they have not; the reason is the board's own.
    pub fn write(&self, bytes: &[u8], path: &str) -> Result<()> {
        let limit = SHORT + Duration::from_secs(bytes.len() as u64 / SLOWEST_COPY);
        let to = quoted(path);
        let done = self.link.run(&format!("cat >{to} && chmod 700 {to} && wc -c <{to}"), bytes, limit)?;
        let have = done.success(&format!("write {path} on the board ({} bytes)", bytes.len()))?;
        ensure!(
            have.trim() == bytes.len().to_string(),
            "write {path} on the board: need {} bytes, found {}",
            bytes.len(),
            have.trim()
        );
        Ok(())
    }

    fn room_for(&self, need: u64) -> Result<()> {
        let Ok(text) = self.link.run(&format!("df -Pk {}", quoted(&self.folder)), &[], SHORT)?.success("df") else {
            return Ok(());
        };
        // Source: POSIX df -P: the fourth column of the second line is what is free.
        let free = text.lines().nth(1).and_then(|line| line.split_whitespace().nth(3)?.parse::<u64>().ok());
        match free {
            Some(kib) if kib.saturating_mul(1024) < need => {
                bail!("{}: need {need} bytes on the board, have {} (elsewhere: BOURN_BOARD_DIR)", self.folder, kib * 1024)
            }
            _ => Ok(()),
        }
    }

    /// Runs a copied program with `args` in the folder, `env` set for it.
    ///
    /// # Errors
    /// If the board is lost, the program cannot be started, or after the time limit.
    pub fn run(&self, name: &str, args: &[&str], env: &[(&str, &str)]) -> Result<Done> {
        let mut script = format!("cd {} &&", quoted(&self.folder));
        for (key, value) in env {
            script += &format!(" {key}={}", quoted(value));
        }
        // The board's own watch, so that nothing goes on computing there after we gave up.
        let seconds = self.limit.as_secs();
        script += &format!(" $(command -v timeout >/dev/null && echo timeout {seconds})");
        for word in &self.runner {
            script += &format!(" {}", quoted(word));
        }
        script += &format!(" ./{name}");
        for arg in args {
            script += &format!(" {}", quoted(arg));
        }
        let done = self.link.run(&script, &[], self.limit + SHORT)?;
        match done.code {
            Some(124) => bail!("{name}: not done after {seconds} s (BOURN_BOARD_LIMIT)"),
            Some(126) => bail!(
                "{name}: cannot be run in {} (mounted noexec? elsewhere: BOURN_BOARD_DIR): {}",
                self.folder,
                done.stderr.trim()
            ),
            Some(132) => bail!("{name} {}: illegal instruction", args.join(" ")),
            _ => Ok(done),
        }
    }
}

impl Drop for Board {
    fn drop(&mut self) {
        drop(self.keeper.stdin.take());
        let _ = self.keeper.wait();
        // It has done so already, unless the connection was lost in between.
        let removed =
            self.link.run(&format!("rm -rf -- {}", quoted(&self.folder)), &[], SHORT).and_then(|done| done.success("rm"));
        if let Err(error) = removed {
            eprintln!("{} is left on the board: {error:#}", self.folder);
        }
        self.link.close();
    }
}

/// A folder here, short enough a name for a socket in it.
#[derive(Debug)]
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Result<Self> {
        use std::os::unix::fs::DirBuilderExt;
        let nanos = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.subsec_nanos();
        let path = std::env::temp_dir().join(format!("bhil-{}-{nanos}", std::process::id()));
        std::fs::DirBuilder::new().mode(0o700).create(&path).with_context(|| path.display().to_string())?;
        Ok(Self(path))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
