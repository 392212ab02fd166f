//! A control group: at most so much memory, no swap, and at most so many bytes per second from a device.
//!
//! Version 1 and 2 of control groups; the figures are the kernel's own count, page cache included.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

/// A group that processes are started in; removed when dropped.
pub struct Cage {
    v2: bool,
    /// Where memory is counted; under version 2 everything.
    memory: PathBuf,
    io: PathBuf,
}

impl Cage {
    /// A group with a cap on memory and on the bytes read per second from `device` (`254:0`).
    pub fn new(cap: Option<u64>, rate: Option<u64>, device: &str) -> Result<Self> {
        let mounts = fs::read_to_string("/proc/mounts")?;
        let v1 = |controller: &str| {
            mounts.lines().find_map(|line| {
                let [_, at, "cgroup", options, ..] = line.split(' ').collect::<Vec<_>>()[..] else { return None };
                options.split(',').any(|o| o == controller).then(|| PathBuf::from(at))
            })
        };
        let name = format!("bourn-ram-{}", std::process::id());
        let set = |folder: &Path, file: &str, value: &str| {
            fs::write(folder.join(file), value).with_context(|| format!("{}: {value}", folder.join(file).display()))
        };
        let make = |root: &Path| -> Result<PathBuf> {
            let folder = root.join(&name);
            fs::create_dir_all(&folder).with_context(|| format!("{}: need root to make it", folder.display()))?;
            Ok(folder)
        };
        let rate = rate.map(|r| r.to_string());
        if let (Some(memory), Some(io)) = (v1("memory"), v1("blkio")) {
            let cage = Self { v2: false, memory: make(&memory)?, io: make(&io)? };
            set(&cage.memory, "memory.swappiness", "0")?;
            set(&cage.memory, "memory.limit_in_bytes", &cap.map_or("-1".to_owned(), |c| c.to_string()))?;
            set(&cage.io, "blkio.throttle.read_bps_device", &format!("{device} {}", rate.as_deref().unwrap_or("0")))?;
            return Ok(cage);
        }
        let v2 = mounts.lines().find_map(|line| {
            let [_, at, "cgroup2", ..] = line.split(' ').collect::<Vec<_>>()[..] else { return None };
            Some(PathBuf::from(at))
        });
        let Some(root) = v2 else { bail!("need control groups for memory and block devices, found neither version") };
        set(&root, "cgroup.subtree_control", "+memory +io")?;
        let folder = make(&root)?;
        set(&folder, "memory.swap.max", "0")?;
        set(&folder, "memory.max", &cap.map_or("max".to_owned(), |c| c.to_string()))?;
        set(&folder, "io.max", &format!("{device} rbps={}", rate.as_deref().unwrap_or("max")))?;
        Ok(Self { v2: true, io: folder.clone(), memory: folder })
    }

    /// A command that runs inside, for at most so many seconds.
    pub fn command(&self, program: &Path, seconds: u64) -> Command {
        let mut command = Command::new("timeout");
        let enter = if self.v2 {
            format!("echo $$ > {}/cgroup.procs", self.memory.display())
        } else {
            format!("echo $$ > {0}/tasks && echo $$ > {1}/tasks", self.memory.display(), self.io.display())
        };
        command.arg(seconds.to_string()).args(["sh", "-c", &format!("{enter} && exec \"$@\""), "sh"]).arg(program);
        command
    }

    /// Most memory at any time.
    pub fn peak(&self) -> Result<u64> {
        let file = if self.v2 { "memory.peak" } else { "memory.max_usage_in_bytes" };
        let text = fs::read_to_string(self.memory.join(file)).with_context(|| file.to_owned())?;
        Ok(text.trim().parse()?)
    }

    /// Processes that were killed for memory.
    pub fn killed(&self) -> u64 {
        let file = if self.v2 { "memory.events" } else { "memory.oom_control" };
        let text = fs::read_to_string(self.memory.join(file)).unwrap_or_default();
        text.lines().find_map(|l| l.strip_prefix("oom_kill ")?.trim().parse().ok()).unwrap_or(0)
    }
}

impl Drop for Cage {
    fn drop(&mut self) {
        // A process that has just ended may still be on its way out.
        for folder in [&self.io, &self.memory] {
            for _ in 0..20 {
                if fs::remove_dir(folder).is_ok() || !folder.exists() {
                    break;
                }
                std::thread::sleep(std::time::Duration::from_millis(50));
            }
        }
    }
}

/// Number of the whole disk that holds `file`, such as `254:0`.
pub fn disk_of(file: &Path) -> Result<String> {
    let dev = fs::metadata(file).with_context(|| file.display().to_string())?.dev();
    let (major, minor) = ((dev >> 8) & 0xfff, (dev & 0xff) | ((dev >> 12) & 0xf_ff00));
    let link = PathBuf::from(format!("/sys/dev/block/{major}:{minor}"));
    let node = fs::canonicalize(&link).with_context(|| format!("{}: need a file on a block device", file.display()))?;
    let disk = if node.join("partition").exists() { node.parent().context("a partition of no disk")? } else { &node };
    Ok(fs::read_to_string(disk.join("dev"))?.trim().to_owned())
}
