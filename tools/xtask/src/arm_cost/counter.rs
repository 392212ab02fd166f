//! The counter: QEMU's user mode with our plugin, compiled here with a header that comes from QEMU's source package.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::cross::apt_install;
use crate::process::{cache_dir, command, find, output, root, run, target_dir};

/// The emulator that takes plugins: the dynamic build, Debian's static one cannot.
const EMULATOR: &str = "qemu-aarch64";
const PACKAGES: &[&str] = &["qemu-user", "gcc", "libc6-dev"];
const HEADER: &str = "qemu-plugin.h";

/// An emulator that counts.
pub(crate) struct Counter {
    emulator: PathBuf,
    plugin: PathBuf,
}

impl Counter {
    /// Finds or installs the emulator, and compiles the plugin.
    ///
    /// # Errors
    /// Where something is missing that cannot be had without asking: what to type.
    pub(crate) fn ready() -> Result<Self> {
        if find(EMULATOR).is_none() || find("gcc").is_none() {
            apt_install(PACKAGES)?;
        }
        let emulator = find(EMULATOR).with_context(|| {
            format!(
                "no {EMULATOR} that takes plugins; to get one on Debian or Ubuntu: `sudo apt-get install -y {}`",
                PACKAGES.join(" ")
            )
        })?;
        let header = header()?;
        let folder = target_dir().join("arm-cost");
        std::fs::create_dir_all(&folder)?;
        let plugin = folder.join("libicount.so");
        let mut compile = command("gcc");
        compile.args(["-shared", "-fPIC", "-O2", "-Wall", "-Wextra", "-I"]).arg(header);
        run(compile.arg(root().join("tools/xtask/tools/icount.c")).arg("-o").arg(&plugin))?;
        Ok(Self { emulator, plugin })
    }

    /// The program on an emulated core, not counted.
    pub(crate) fn emulate(&self, cpu: &str, program: &Path) -> Command {
        let mut emulate = command(&self.emulator);
        emulate.args(["-cpu", cpu]).arg(program);
        emulate
    }

    /// Instructions that the program executes on the core, from its start to its end.
    pub(crate) fn count(&self, cpu: &str, program: &Path, args: &[String], profile: Option<&Path>) -> Result<u64> {
        let mut plugin = self.plugin.display().to_string();
        if let Some(profile) = profile {
            plugin += &format!(",profile={}", profile.display());
        }
        let mut emulate = command(&self.emulator);
        emulate.args(["-cpu", cpu, "-plugin", &plugin]).arg(program).args(args);
        let ran = emulate.stdout(Stdio::null()).output().with_context(|| format!("cannot start {}", self.emulator.display()))?;
        let printed = String::from_utf8_lossy(&ran.stderr);
        let counted = printed.lines().find_map(|line| line.strip_prefix("instructions ")?.parse().ok());
        match counted {
            Some(counted) if ran.status.success() => Ok(counted),
            _ => bail!("{} on {cpu}: {}: {}", program.display(), ran.status, printed.trim()),
        }
    }
}

/// The folder of the plugin header: the system's, else the cache's, else out of the source package of the installed emulator.
pub(crate) fn header() -> Result<PathBuf> {
    let system = PathBuf::from("/usr/include");
    if system.join(HEADER).exists() {
        return Ok(system);
    }
    let by_hand = "put QEMU's include/qemu/qemu-plugin.h into /usr/include, or on Debian 12: `apt-get source qemu` (with a deb-src entry) has it";
    let asked = output(command("dpkg-query").args(["-W", "-f", "${source:Package} ${source:Version}", "qemu-user"]));
    let asked = asked.with_context(|| format!("no source package to take {HEADER} from; {by_hand}"))?;
    let (package, version) = asked.trim().split_once(' ').with_context(|| format!("dpkg-query: {asked}"))?;
    let folder = cache_dir()?.join("qemu-plugin").join(version.replace(':', "_"));
    if !folder.join(HEADER).exists() {
        std::fs::create_dir_all(&folder)?;
        download(&folder, package, version).with_context(|| format!("{HEADER} of {package} {version}; {by_hand}"))?;
    }
    Ok(folder)
}

/// Takes the header out of Debian's source package. apt gets source entries and lists of its own, so the system's stay as they are
/// and nobody need be root.
fn download(folder: &Path, package: &str, version: &str) -> Result<()> {
    let work = folder.join("apt");
    for part in ["parts", "lists/partial", "cache/archives/partial"] {
        std::fs::create_dir_all(work.join(part))?;
    }
    let system = std::fs::read_dir("/etc/apt/sources.list.d").into_iter().flatten().flatten().map(|entry| entry.path());
    for path in system.chain([PathBuf::from("/etc/apt/sources.list")]) {
        let (Some(name), Ok(text)) = (path.file_name(), std::fs::read_to_string(&path)) else { continue };
        std::fs::write(work.join("parts").join(name), as_source_entries(&text))?;
    }
    let apt = |args: &[&str]| {
        let mut apt = command("apt-get");
        apt.current_dir(folder).args(["-q", "-o", "Dir::Etc::SourceList=/dev/null", "-o", "APT::Sandbox::User=root"]);
        for (key, part) in [("Dir::Etc::SourceParts", "parts"), ("Dir::State::Lists", "lists"), ("Dir::Cache", "cache")] {
            apt.arg("-o").arg(format!("{key}={}", work.join(part).display()));
        }
        apt.args(args);
        run(&mut apt)
    };
    apt(&["update"])?;
    apt(&["source", "--download-only", "--only-source", &format!("{package}={version}")])?;
    let archive = std::fs::read_dir(folder)?.flatten().map(|entry| entry.path());
    let archive = archive.into_iter().find(|path| path.to_string_lossy().contains(".orig.tar"));
    let archive = archive.context("the source package has no archive")?;
    let mut tar = command("tar");
    tar.arg("xf").arg(&archive).arg("-C").arg(folder).args(["--wildcards", "--strip-components=3"]);
    run(tar.arg(format!("*/include/qemu/{HEADER}")))?;
    for entry in std::fs::read_dir(folder)?.flatten() {
        let path = entry.path();
        if path.is_dir() {
            std::fs::remove_dir_all(path)?;
        } else if entry.file_name() != HEADER {
            std::fs::remove_file(path)?;
        }
    }
    Ok(())
}

/// Entries for binary packages turned into entries for sources, in both of apt's formats.
fn as_source_entries(text: &str) -> String {
    let line = |line: &str| match (line.strip_prefix("Types:"), line.strip_prefix("deb ")) {
        (Some(_), _) => "Types: deb-src\n".to_owned(),
        (_, Some(rest)) => format!("deb-src {rest}\n"),
        _ => format!("{line}\n"),
    };
    text.lines().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::as_source_entries;

    #[test]
    fn turns_entries_of_both_formats_into_source_entries() {
        assert_eq!(as_source_entries("deb URI bookworm main\n# deb x"), "deb-src URI bookworm main\n# deb x\n");
        assert_eq!(as_source_entries("Types: deb\nSuites: bookworm\n"), "Types: deb-src\nSuites: bookworm\n");
    }
}
