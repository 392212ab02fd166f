//! What this machine is: cores, caches, memory, and how fast memory and storage are read.

use crate::pool::Pool;
use bourn_kernels::rows::Rows;
use memmap2::MmapMut;
use std::fs;
use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

/// One level of cache of the first core.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cache {
    /// 1, 2, 3.
    pub level: u32,
    /// `Data`, `Instruction`, `Unified`.
    pub kind: String,
    /// Size.
    pub bytes: u64,
    /// Cores that share it.
    pub shared_by: usize,
}

/// Cores of one kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cores {
    /// `Cortex-A76`, or the processor's own name.
    pub name: String,
    /// How many.
    pub count: usize,
    /// How many of them this process may run on.
    pub usable: usize,
    /// Highest clock, 0 if unknown.
    pub max_khz: u64,
}

/// The machine as the operating system describes it. What it does not tell is empty or 0.
#[derive(Clone, Debug, Default)]
pub struct Machine {
    /// Board or product name.
    pub board: String,
    /// What the device tree says it is compatible with, the most special first.
    pub compatible: Vec<String>,
    /// Kinds of cores, in the system's order.
    pub cores: Vec<Cores>,
    /// Cores that this process may use.
    pub usable: usize,
    /// Caches of the first core.
    pub caches: Vec<Cache>,
    /// Memory, and what a control group leaves of it if that is less.
    pub memory_bytes: u64,
    /// Memory that can be had without swapping.
    pub available_bytes: u64,
}

impl Machine {
    /// Asks the operating system.
    pub fn detect() -> Self {
        Self::detect_in(Path::new("/"))
    }

    /// The same of the `/proc` and `/sys` that lie under `root`: those of another machine, or a test's.
    pub fn detect_in(root: &Path) -> Self {
        let product = [root.join("proc/device-tree/model"), root.join("sys/class/dmi/id/product_name")];
        let product = product.iter().map(|path| read(path).trim_matches(['\0', '\n', ' ']).to_owned());
        let compatible = read(&root.join("proc/device-tree/compatible"));
        let cores = kinds_of_cores(root, &allowed_cores(&read(&root.join("proc/self/status"))));
        let meminfo = read(&root.join("proc/meminfo"));
        let total = kib_field(&meminfo, "MemTotal:");
        let limit = number(&root.join("sys/fs/cgroup/memory.max")).unwrap_or(u64::MAX);
        Self {
            board: product.into_iter().find(|name| !name.is_empty()).unwrap_or_default(),
            compatible: compatible.split('\0').map(str::trim).filter(|c| !c.is_empty()).map(str::to_owned).collect(),
            // A quota of a control group counts too, but only of the group this process is in.
            usable: if root == Path::new("/") { usable_cores() } else { cores.iter().map(|c| c.usable).sum::<usize>().max(1) },
            cores,
            caches: caches(root),
            memory_bytes: total.min(limit),
            available_bytes: kib_field(&meminfo, "MemAvailable:").min(limit),
        }
    }

    /// Bytes of the largest cache, 0 if unknown.
    pub fn last_level_cache(&self) -> u64 {
        self.caches.iter().map(|c| c.bytes).max().unwrap_or(0)
    }

    /// Read bandwidth of memory in bytes per second for 1 to `most` threads: a buffer larger than the caches, the best of a few passes.
    pub fn read_bandwidth(&self, most: usize, budget: Duration) -> Vec<f64> {
        let want = (4 * self.last_level_cache()).clamp(64 << 20, 512 << 20);
        let bytes = want.min(self.available_bytes / 4).max(1 << 20) as usize;
        let Ok(mut map) = MmapMut::map_anon(bytes) else { return Vec::new() };
        #[cfg(target_os = "linux")]
        let _ = map.advise(memmap2::Advice::HugePage);
        map.fill(1);
        (1..=most.max(1))
            .map(|threads| {
                let pool = Pool::new(threads);
                let begin = Instant::now();
                let mut best = 0f64;
                while best == 0.0 || begin.elapsed() < budget {
                    let start = Instant::now();
                    let pieces: Vec<&[u8]> = map.chunks(1 << 20).collect();
                    pool.each(pieces.len(), &|i| {
                        std::hint::black_box(sum(pieces[i]));
                    });
                    best = best.max(bytes as f64 / start.elapsed().as_secs_f64());
                }
                best
            })
            .collect()
    }
}

/// Σ of the words of `bytes`, read in order, enough sums at once to keep the memory busy.
fn sum(bytes: &[u8]) -> u64 {
    let mut sums = [0u64; 16];
    for line in bytes.as_chunks::<128>().0 {
        for (sum, word) in sums.iter_mut().zip(line.as_chunks::<8>().0) {
            *sum = sum.wrapping_add(u64::from_ne_bytes(*word));
        }
    }
    sums.iter().fold(0, |a, b| a.wrapping_add(*b))
}

/// Bytes per second at which `path` is read past the page cache, from at most `budget_bytes` of it.
///
/// # Errors
/// When it cannot be read so; file systems in memory cannot.
#[cfg(target_os = "linux")]
pub fn storage_read(path: &Path, budget_bytes: u64) -> io::Result<f64> {
    use std::io::Read;
    use std::os::unix::fs::OpenOptionsExt;
    const PIECE: usize = 4 << 20;
    let mut file = fs::OpenOptions::new().read(true).custom_flags(libc::O_DIRECT).open(path)?;
    // A map begins on a page, which O_DIRECT asks for.
    let mut buffer = MmapMut::map_anon(PIECE)?;
    let (start, mut total) = (Instant::now(), 0u64);
    while total < budget_bytes {
        let n = file.read(&mut buffer)?;
        total += n as u64;
        if n < PIECE {
            break;
        }
    }
    if total == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(total as f64 / start.elapsed().as_secs_f64())
}

/// Cores that this process may use: affinity and control-group quota counted.
pub fn usable_cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Largest resident size of this process so far, 0 if the system does not tell.
pub fn peak_rss_bytes() -> u64 {
    kib_field(&read(Path::new("/proc/self/status")), "VmHWM:")
}

/// Resident size of this process now, 0 if the system does not tell.
pub fn rss_bytes() -> u64 {
    kib_field(&read(Path::new("/proc/self/status")), "VmRSS:")
}

/// Starts [`peak_rss_bytes`] again from the present size; whether the system did.
pub fn reset_peak_rss() -> bool {
    fs::write("/proc/self/clear_refs", "5").is_ok()
}

/// The text of a file; empty if there is none.
pub(crate) fn read(path: &Path) -> String {
    fs::read(path).map(|b| String::from_utf8_lossy(&b).into_owned()).unwrap_or_default()
}

/// The number that a file holds, if it holds one.
pub(crate) fn number(path: &Path) -> Option<u64> {
    read(path).trim().parse().ok()
}

/// The device that a file lies on, as the system names it (`mmcblk0p2`), and whether it turns.
///
/// # Errors
/// When there is no such file or it lies on no device.
#[cfg(target_os = "linux")]
pub fn device_of(path: &Path) -> io::Result<(String, bool)> {
    use std::os::linux::fs::MetadataExt;
    let device = fs::metadata(path)?.st_dev();
    let block = Path::new("/sys/dev/block").join(format!("{}:{}", libc::major(device), libc::minor(device)));
    let name = fs::read_link(&block)?.file_name().unwrap_or_default().to_string_lossy().into_owned();
    // A partition's queue is its disk's.
    let turns = [block.join("queue/rotational"), block.join("../queue/rotational")].iter().find_map(|path| number(path));
    Ok((name, turns == Some(1)))
}

/// The number of KiB after `key` at the start of a line, in bytes.
fn kib_field(text: &str, key: &str) -> u64 {
    let kib = text.lines().find_map(|l| l.strip_prefix(key)?.split_whitespace().next()?.parse::<u64>().ok());
    kib.unwrap_or(0).saturating_mul(1024)
}

/// Arm's part numbers (implementer 0x41); Source: the cores' technical reference manuals, MIDR_EL1.
const ARM_PARTS: [(u32, &str); 18] = [
    (0xd03, "Cortex-A53"),
    (0xd04, "Cortex-A35"),
    (0xd05, "Cortex-A55"),
    (0xd07, "Cortex-A57"),
    (0xd08, "Cortex-A72"),
    (0xd09, "Cortex-A73"),
    (0xd0a, "Cortex-A75"),
    (0xd0b, "Cortex-A76"),
    (0xd0c, "Neoverse-N1"),
    (0xd0d, "Cortex-A77"),
    (0xd0e, "Cortex-A76AE"),
    (0xd40, "Neoverse-V1"),
    (0xd41, "Cortex-A78"),
    (0xd42, "Cortex-A78AE"),
    (0xd44, "Cortex-X1"),
    (0xd46, "Cortex-A510"),
    (0xd49, "Neoverse-N2"),
    (0xd4f, "Neoverse-V2"),
];

/// The numbers of the cores that `/proc/self/status` allows; all, if it does not say.
fn allowed_cores(status: &str) -> Option<Vec<usize>> {
    let list = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"))?;
    let range = |part: &str| {
        let (a, b) = part.split_once('-').unwrap_or((part, part));
        Some(a.trim().parse::<usize>().ok()?..=b.trim().parse::<usize>().ok()?.min(1 << 16))
    };
    Some(list.split(',').filter_map(range).flatten().collect())
}

fn kinds_of_cores(root: &Path, allowed: &Option<Vec<usize>>) -> Vec<Cores> {
    let field = |block: &str, key: &str| {
        block.lines().find_map(|l| {
            let (k, v) = l.split_once(':')?;
            (k.trim() == key).then(|| v.trim().to_owned())
        })
    };
    let mut kinds: Vec<Cores> = Vec::new();
    for block in read(&root.join("proc/cpuinfo")).split("\n\n") {
        let Some(processor) = field(block, "processor") else { continue };
        let part = field(block, "CPU part").and_then(|p| u32::from_str_radix(p.trim_start_matches("0x"), 16).ok());
        let name = match (part, field(block, "model name")) {
            (Some(part), _) => match ARM_PARTS.iter().find(|(p, _)| *p == part) {
                Some((_, name)) => (*name).to_owned(),
                None => format!("Arm part {part:#x}"),
            },
            (None, Some(name)) => name,
            (None, None) => "unknown".to_owned(),
        };
        let clock = root.join(format!("sys/devices/system/cpu/cpu{processor}/cpufreq/cpuinfo_max_freq"));
        let max_khz = number(&clock).unwrap_or(0);
        let allowed = allowed.as_ref().is_none_or(|list| processor.parse().is_ok_and(|n| list.contains(&n)));
        match kinds.iter_mut().find(|k| k.name == name && k.max_khz == max_khz) {
            Some(kind) => (kind.count, kind.usable) = (kind.count + 1, kind.usable + usize::from(allowed)),
            None => kinds.push(Cores { name, count: 1, usable: usize::from(allowed), max_khz }),
        }
    }
    kinds
}

fn caches(root: &Path) -> Vec<Cache> {
    let base = root.join("sys/devices/system/cpu/cpu0/cache");
    let of = |i: usize| {
        let get = |what: &str| read(&base.join(format!("index{i}/{what}"))).trim().to_owned();
        let size = get("size");
        let digits = size.trim_end_matches(['K', 'M']);
        let unit = if size.ends_with('M') { 1 << 20 } else { 1 << 10 };
        Some(Cache {
            level: get("level").parse().ok()?,
            kind: get("type"),
            bytes: digits.parse::<u64>().ok()?.saturating_mul(unit),
            shared_by: cpu_list_len(&get("shared_cpu_list")),
        })
    };
    (0..8).map_while(of).collect()
}

/// Cores in a list such as `0-3,8`.
fn cpu_list_len(list: &str) -> usize {
    let one = |part: &str| {
        let (a, b) = part.split_once('-').unwrap_or((part, part));
        let (a, b) = (a.parse::<usize>().ok()?, b.parse::<usize>().ok()?);
        b.checked_sub(a).map(|n| n + 1)
    };
    list.split(',').filter_map(one).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_cores_of_a_list() {
        assert_eq!(cpu_list_len("0-3,8"), 5);
        assert_eq!(cpu_list_len(""), 0);
        assert_eq!(cpu_list_len("3-1,x"), 0);
    }

    #[test]
    fn knows_this_machine() {
        let m = Machine::detect();
        assert!(m.usable >= 1);
        assert!(m.memory_bytes >= m.available_bytes);
        // In this order: other tests of the process may grow it between the two.
        let now = rss_bytes();
        assert!(peak_rss_bytes() >= now);
        assert!(m.read_bandwidth(1, Duration::from_millis(1))[0] > 1e8);
    }
}
