//! `cargo xtask hil`: the board tests, proven against an ssh server of this machine whose far side emulates a Cortex-A53.
//!
//! The server has throw-away keys in a temporary folder, listens on a free port of 127.0.0.1 and lets in only the user who
//! started it. Real boards need none of this: `BOURN_BOARD=ssh:user@host cargo test -p bourn-hil`.

use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::cross::{CPUS, Toolchain, apt_install, emulated_tests, emulator, skip};
use crate::process::{cargo, command, find, output, run, target_dir};
use crate::{checks, dist, emulate};

/// Time until a server that was started answers.
const START: Duration = Duration::from_secs(10);

/// `cargo xtask hil [--programs]`.
///
/// # Errors
/// If a program cannot be built, the server does not start, or a test fails.
pub fn hil(args: &[&str]) -> Result<()> {
    match args {
        [] => proven(),
        ["--programs"] => {
            println!("{}", programs()?.display());
            Ok(())
        }
        _ => bail!("need no argument or --programs, found {}", args.join(" ")),
    }
}

/// A folder with what runs on a board: the tests of the kernels, the checksum of all ISAs, and `bourn`.
fn programs() -> Result<PathBuf> {
    let toolchain = Toolchain::for_linux()?;
    let folder = target_dir().join("hil");
    std::fs::create_dir_all(&folder)?;
    // Asked for as `arm` asks for them, so that they are built once.
    for (selection, test) in emulated_tests().iter().zip(["conformance", "bits"]) {
        let mut cargo = toolchain.plain("test");
        cargo.args(selection).args(["--no-run", "--message-format", "json-render-diagnostics"]);
        let messages = output(&mut cargo)?;
        let program = messages.lines().find_map(|line| {
            let message: serde_json::Value = serde_json::from_str(line).ok()?;
            (message["target"]["name"] == test).then(|| message["executable"].as_str().map(PathBuf::from))?
        });
        let program = program.with_context(|| format!("cargo built no test {test}"))?;
        dist::strip(&program, &folder.join(test))?;
    }
    dist::program(&folder.join("bourn"))?;
    Ok(folder)
}

/// The boards without an operating system that QEMU emulates, one by one, as a user would test one on the bench.
///
/// # Errors
/// If firmware cannot be built or a test fails.
pub fn emulated() -> Result<()> {
    if let Err(missing) = emulate::qemu() {
        return skip("boards without an operating system", &missing);
    }
    for board in ["qemu-rpi3", "qemu-virt:cortex-a72"] {
        run(cargo(&checks::workspace_test("device")).env("BOURN_BOARD", board))?;
    }
    Ok(())
}

fn proven() -> Result<()> {
    let found = emulator().and_then(|emulator| Ok((emulator, Sshd::find()?)));
    let (emulator, sshd) = match found {
        Ok(found) => found,
        Err(missing) => return skip("board tests over ssh", &missing),
    };
    let folder = programs()?;
    let server = Server::start(&sshd)?;
    let mut test = cargo(&checks::workspace_test("board"));
    test.env("BOURN_BOARD", format!("ssh:{}@127.0.0.1:{}", server.user, server.port));
    test.env("BOURN_SSH_OPTS", server.options()).env("BOURN_PROGRAMS", folder);
    test.env("BOURN_REMOTE_RUNNER", format!("{} -cpu {}", emulator.display(), CPUS[0].0));
    run(&mut test)
}

/// The server's program, which wants to be called by its whole path.
struct Sshd(PathBuf);

impl Sshd {
    fn find() -> Result<Self> {
        let installed = || {
            let sbin = ["/usr/sbin/sshd", "/usr/local/sbin/sshd"].map(PathBuf::from).into_iter().find(|path| path.is_file());
            let keygen = find("ssh-keygen").and(find("ssh"));
            find("sshd").or(sbin).filter(|_| keygen.is_some())
        };
        if let Some(found) = installed() {
            return Ok(Self(found));
        }
        if apt_install(&["openssh-server", "openssh-client"])?
            && let Some(found) = installed()
        {
            return Ok(Self(found));
        }
        bail!("no ssh server; to get one on Debian or Ubuntu: `sudo apt-get install -y openssh-server openssh-client`")
    }
}

/// A running server; ended, and its folder removed, when dropped.
struct Server {
    child: Child,
    folder: PathBuf,
    port: u16,
    user: String,
}

impl Server {
    fn start(sshd: &Sshd) -> Result<Self> {
        let user = output(command("id").arg("-un"))?.trim().to_owned();
        let folder = std::env::temp_dir().join(format!("bourn-sshd-{}", std::process::id()));
        make_private(&folder)?;
        let at = |name: &str| folder.join(name);
        for key in ["host", "user"] {
            run(command("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-C", key, "-f"]).arg(at(key)))?;
        }
        std::fs::copy(at("user.pub"), at("authorized"))?;
        // Free now; nobody else takes it in the moment until the server does, or the server says so.
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let host = std::fs::read_to_string(at("host.pub"))?;
        std::fs::write(at("known"), format!("[127.0.0.1]:{port} {host}"))?;
        std::fs::write(
            at("config"),
            format!(
                "Port {port}\nListenAddress 127.0.0.1\nHostKey {0}/host\nAuthorizedKeysFile {0}/authorized\nPidFile none\n\
                 AllowUsers {user}\nPermitRootLogin prohibit-password\nPasswordAuthentication no\n\
                 KbdInteractiveAuthentication no\nUsePAM no\nStrictModes no\nMaxStartups 20\nMaxSessions 20\n",
                folder.display()
            ),
        )?;
        // A server of root separates privileges into this folder, which Debian makes only when its own service starts.
        if user == "root" {
            std::fs::create_dir_all("/run/sshd").context("/run/sshd")?;
        }
        let log = std::fs::File::create(at("log"))?;
        let mut command = Command::new(&sshd.0);
        command.args(["-D", "-e", "-f"]).arg(at("config")).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        let child = command.spawn().with_context(|| sshd.0.display().to_string())?;
        let mut server = Self { child, folder, port, user };
        server.wait()?;
        Ok(server)
    }

    /// Until it answers.
    fn wait(&mut self) -> Result<()> {
        let start = Instant::now();
        while TcpStream::connect(("127.0.0.1", self.port)).is_err() {
            let ended = self.child.try_wait()?;
            let log = || std::fs::read_to_string(self.folder.join("log")).unwrap_or_default();
            ensure!(ended.is_none() && start.elapsed() < START, "sshd did not start: {}", log().trim());
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// What the client needs to be let in, and to know whom it talks to.
    fn options(&self) -> String {
        let folder = self.folder.display();
        format!(
            "-F none -i {folder}/user -o IdentitiesOnly=yes -o UserKnownHostsFile={folder}/known -o StrictHostKeyChecking=yes"
        )
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

/// A new folder that nobody else can read: keys lie in it.
fn make_private(folder: &Path) -> Result<()> {
    let mut builder = std::fs::DirBuilder::new();
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(folder).with_context(|| folder.display().to_string())
}
