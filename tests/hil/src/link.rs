//! A shell on the board: over ssh, or here for an emulated one.

use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, Command, Stdio};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

/// Exit status by which `ssh` tells that it failed itself.
const SSH_FAILED: i32 = 255;
/// Seconds until a host that does not answer is given up, and silent ones are asked whether they are there.
const CONNECT_S: u32 = 10;
const ALIVE_S: u32 = 5;
const ALIVE_TRIES: u32 = 3;

/// How a command ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Done {
    /// Exit status; none when a signal ended it.
    pub code: Option<i32>,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl Done {
    /// Standard output of a command that must succeed.
    ///
    /// # Errors
    /// With its last lines on standard error, if it did not.
    pub fn success(self, what: &str) -> Result<String> {
        let mut last: Vec<&str> = self.stderr.trim().lines().rev().take(6).collect();
        last.reverse();
        let code = self.code.map_or("ended by a signal".to_owned(), |code| format!("exit status {code}"));
        ensure!(self.code == Some(0), "{what}: {code}: {}", last.join(" | "));
        Ok(self.stdout)
    }
}

/// Where commands are run.
#[derive(Debug)]
pub enum Link {
    /// The system's ssh client; all commands share one connection.
    Ssh {
        /// `user@host`.
        host: String,
        /// TCP port.
        port: u16,
        /// More words for `ssh`.
        options: Vec<String>,
        /// Socket of the shared connection; gone with this folder.
        control: std::path::PathBuf,
    },
    /// This machine.
    Local,
}

impl Link {
    /// A link as `BOURN_BOARD` spells it: `ssh:user@host[:port]` or `ssh:user@[v6 address]:port`.
    ///
    /// # Errors
    /// If it is spelled otherwise.
    pub fn ssh(spec: &str, options: &str, control: &std::path::Path) -> Result<Self> {
        let need = || format!("BOURN_BOARD: need ssh:user@host[:port], found ssh:{spec}");
        let (host, port) = match spec.rsplit_once(':') {
            Some((host, port)) if !port.contains(']') => (host, port.parse().ok().filter(|p| *p > 0).with_context(need)?),
            _ => (spec, 22),
        };
        let host = host.replace(['[', ']'], "");
        ensure!(!host.is_empty() && !host.starts_with('-') && !host.contains(char::is_whitespace), need());
        let options = options.split_whitespace().map(str::to_owned).collect();
        Ok(Self::Ssh { host, port, options, control: control.join("ssh") })
    }

    fn command(&self, script: &str) -> Command {
        match self {
            Self::Local => {
                let mut shell = Command::new("sh");
                shell.args(["-c", script]);
                shell
            }
            Self::Ssh { host, port, options, control } => {
                let mut ssh = Command::new("ssh");
                // What comes first wins: the caller's options before ours.
                ssh.args(options).args(["-p", &port.to_string(), "-o", "BatchMode=yes"]);
                for option in [
                    format!("ConnectTimeout={CONNECT_S}"),
                    format!("ServerAliveInterval={ALIVE_S}"),
                    format!("ServerAliveCountMax={ALIVE_TRIES}"),
                    "ControlMaster=auto".to_owned(),
                    "ControlPersist=30".to_owned(),
                    format!("ControlPath={}", control.display()),
                    "LogLevel=ERROR".to_owned(),
                ] {
                    ssh.args(["-o", &option]);
                }
                ssh.args([host, "--", script]);
                ssh
            }
        }
    }

    /// Runs a shell script with `input` on its standard input.
    ///
    /// # Errors
    /// If the board cannot be reached or is lost, or after `limit`. A script that fails is no error: see [`Done`].
    pub fn run(&self, script: &str, input: &[u8], limit: Duration) -> Result<Done> {
        let mut command = self.command(script);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().with_context(|| format!("cannot start {}", command.get_program().to_string_lossy()))?;
        let (stdout, stderr) = (drain(child.stdout.take()), drain(child.stderr.take()));
        let fed = feed(&mut child, input.to_vec());
        let status = wait(&mut child, limit)?;
        let Some(status) = status else {
            let _ = child.kill();
            let _ = child.wait();
            bail!("no answer within {} s: {}", limit.as_secs_f32(), first_words(script));
        };
        // The other end may close its input early; what it says about that is in its exit status.
        drop(fed);
        let done = Done { code: status.code(), stdout: joined(stdout), stderr: joined(stderr) };
        if matches!(self, Self::Ssh { .. }) && done.code == Some(SSH_FAILED) {
            let reason = done.stderr.trim().replace('\n', " | ");
            bail!("{self}: {}", if reason.is_empty() { "connection lost" } else { &reason });
        }
        Ok(done)
    }

    /// Starts a script that says one line and then waits for the end of its input; returns it and the line. The end of its input
    /// also comes when this process dies or the connection is lost.
    ///
    /// # Errors
    /// If the line does not come within `limit`, with what came on standard error.
    pub fn start(&self, script: &str, limit: Duration) -> Result<(Child, String)> {
        let mut command = self.command(script);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().with_context(|| format!("cannot start {}", command.get_program().to_string_lossy()))?;
        let stderr = drain(child.stderr.take());
        let (send, receive) = std::sync::mpsc::channel();
        if let Some(stdout) = child.stdout.take() {
            std::thread::spawn(move || {
                let mut line = String::new();
                let read = BufReader::new(stdout).read_line(&mut line);
                // Nobody waits any more after the limit.
                let _ = send.send(read.map(|_| line.trim().to_owned()));
            });
        }
        match receive.recv_timeout(limit) {
            Ok(Ok(line)) if !line.is_empty() => Ok((child, line)),
            _ => {
                let _ = child.kill();
                let _ = child.wait();
                bail!("{self}: no answer to {}: {}", first_words(script), joined(stderr).trim())
            }
        }
    }

    /// Ends the shared connection.
    pub fn close(&self) {
        if let Self::Ssh { host, port, options, control } = self {
            let mut ssh = Command::new("ssh");
            ssh.args(options).args(["-p", &port.to_string(), "-o", &format!("ControlPath={}", control.display())]);
            ssh.args(["-O", "exit", host]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
            let _ = ssh.status();
        }
    }
}

impl std::fmt::Display for Link {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Ssh { host, port, .. } => write!(f, "ssh {host} port {port}"),
            Self::Local => f.write_str("this machine"),
        }
    }
}

/// A word of a shell script, whatever is in it.
pub fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

fn first_words(script: &str) -> String {
    let line = script.lines().next().unwrap_or_default();
    let cut: String = line.chars().take(120).collect();
    if cut.len() < line.len() { cut + "…" } else { cut }
}

fn drain(pipe: Option<impl Read + Send + 'static>) -> JoinHandle<Vec<u8>> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut pipe) = pipe {
            // What came before the pipe broke is what there is.
            let _ = pipe.read_to_end(&mut bytes);
        }
        bytes
    })
}

fn joined(thread: JoinHandle<Vec<u8>>) -> String {
    String::from_utf8_lossy(&thread.join().unwrap_or_default()).into_owned()
}

fn feed(child: &mut Child, input: Vec<u8>) -> JoinHandle<()> {
    let pipe = child.stdin.take();
    std::thread::spawn(move || {
        if let Some(mut pipe) = pipe {
            let _ = pipe.write_all(&input);
        }
    })
}

fn wait(child: &mut Child, limit: Duration) -> Result<Option<std::process::ExitStatus>> {
    let start = Instant::now();
    let mut pause = Duration::from_millis(1);
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if start.elapsed() >= limit {
            return Ok(None);
        }
        std::thread::sleep(pause);
        pause = (2 * pause).min(Duration::from_millis(50));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOON: Duration = Duration::from_secs(20);

    fn spelled(spec: &str) -> Option<(String, u16)> {
        match Link::ssh(spec, "", std::path::Path::new("/tmp")) {
            Ok(Link::Ssh { host, port, .. }) => Some((host, port)),
            _ => None,
        }
    }

    #[test]
    fn a_board_is_spelled_as_for_ssh() {
        assert_eq!(spelled("pi@zero"), Some(("pi@zero".to_owned(), 22)));
        assert_eq!(spelled("pi@zero:2222"), Some(("pi@zero".to_owned(), 2222)));
        assert_eq!(spelled("pi@[fe80::1]:2222"), Some(("pi@fe80::1".to_owned(), 2222)));
        assert_eq!(spelled("pi@[fe80::1]"), Some(("pi@fe80::1".to_owned(), 22)));
        for wrong in ["", ":22", "pi@zero:ssh", "pi@zero:0", "pi@zero:70000", "-oProxyCommand=x", "a b"] {
            assert_eq!(spelled(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_script_gets_its_input_and_gives_its_status() {
        let input = vec![b'x'; 1 << 20];
        let done = Link::Local.run("wc -c; echo no >&2; exit 3", &input, SOON).unwrap();
        assert_eq!((done.code, done.stdout.trim(), done.stderr.as_str()), (Some(3), "1048576", "no\n"));
        assert_eq!(done.success("count").unwrap_err().to_string(), "count: exit status 3: no");
        assert_eq!(Link::Local.run("exit 0", &input, SOON).unwrap().code, Some(0));
    }

    #[test]
    fn words_reach_the_shell_as_they_are() {
        let odd = "it's $HOME; `x` \"y\"";
        let done = Link::Local.run(&format!("printf %s {}", quoted(odd)), &[], SOON).unwrap();
        assert_eq!(done.stdout, odd);
    }

    #[test]
    fn a_script_that_was_started_ends_with_its_input() {
        let (mut child, line) = Link::Local.start("echo here; cat; exit 5", SOON).unwrap();
        assert_eq!(line, "here");
        drop(child.stdin.take());
        assert_eq!(child.wait().unwrap().code(), Some(5));
        let error = Link::Local.start("echo no room >&2; exit 1", SOON).unwrap_err();
        assert!(error.to_string().ends_with("no room"), "{error}");
    }

    #[test]
    fn gives_up_on_a_script_that_does_not_end() {
        let start = Instant::now();
        let error = Link::Local.run("exec sleep 60", &[], Duration::from_millis(50)).unwrap_err();
        assert!(error.to_string().starts_with("no answer within 0.05 s: exec sleep 60"), "{error}");
        assert!(start.elapsed() < SOON);
    }
}
