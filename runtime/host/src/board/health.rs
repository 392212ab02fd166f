//! Whether the machine runs as fast as it could: throttling, under-voltage, heat, clocks.

use crate::machine::{number, read};
use std::fs;
use std::path::Path;

/// What the system tells about it. What it does not tell is empty or `None`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Health {
    /// The Raspberry Pi firmware's flags: bits 0–3 now, 16–19 since boot (under-voltage, clock capped, throttled, soft limit of heat).
    pub throttled: Option<u32>,
    /// The Raspberry Pi's voltage monitor raises an alarm.
    pub under_voltage: bool,
    /// Name and °C of every thermal zone.
    pub temperatures: Vec<(String, f64)>,
    /// The first core of every clock domain: its number, clock now, clock that is allowed, highest clock, in kHz.
    pub clocks: Vec<Clock>,
}

/// The clock of a core and of those that share it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Clock {
    /// The cores, as the system lists them.
    pub cpus: String,
    /// Now.
    pub now_khz: u64,
    /// What the governor may choose.
    pub allowed_khz: u64,
    /// What the cores can do.
    pub max_khz: u64,
    /// Who chooses it.
    pub governor: String,
}

/// Of [`Health::throttled`]: bit, and what it says.
const FLAGS: [(u32, &str); 4] =
    [(0, "under-voltage"), (1, "the clock is capped"), (2, "throttled"), (3, "the soft limit of temperature is reached")];
/// Above this a Raspberry Pi begins to throttle.
const HOT: f64 = 80.0;

impl Health {
    /// Reads what there is under `root`, which is `/` but in tests.
    pub fn read(root: &Path) -> Self {
        let firmware = read(&root.join("sys/devices/platform/soc/soc:firmware/get_throttled"));
        Self {
            throttled: u32::from_str_radix(firmware.trim().trim_start_matches("0x"), 16).ok().or_else(|| vcgencmd(root)),
            under_voltage: under_voltage(&root.join("sys/class/hwmon")),
            temperatures: temperatures(&root.join("sys/class/thermal")),
            clocks: clocks(&root.join("sys/devices/system/cpu/cpufreq")),
        }
    }

    /// What slows the machine down or will, a sentence each; nothing if all is well.
    pub fn warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        let flags = self.throttled.unwrap_or(0);
        for (bit, what) in FLAGS {
            if flags >> bit & 1 == 1 {
                warnings.push(format!("{what} now"));
            } else if flags >> (bit + 16) & 1 == 1 {
                warnings.push(format!("{what} at some time since boot"));
            }
        }
        if self.under_voltage && flags & 1 == 0 {
            warnings.push("under-voltage: the supply or its cable is too weak".to_owned());
        }
        for (zone, degrees) in &self.temperatures {
            if *degrees >= HOT {
                warnings.push(format!("{zone} is at {degrees:.0} °C: the clock will drop"));
            }
        }
        for clock in &self.clocks {
            if clock.allowed_khz < clock.max_khz {
                let mhz = |khz: u64| khz / 1000;
                warnings.push(format!(
                    "cores {}: limited to {} of {} MHz",
                    clock.cpus,
                    mhz(clock.allowed_khz),
                    mhz(clock.max_khz)
                ));
            }
            if clock.governor == "powersave" {
                warnings.push(format!("cores {}: the governor powersave keeps the lowest clock", clock.cpus));
            }
        }
        warnings
    }
}

/// Asks the firmware by its own program where the kernel does not pass it on.
fn vcgencmd(root: &Path) -> Option<u32> {
    if root != Path::new("/") || !root.join("dev/vcio").exists() {
        return None;
    }
    let printed = std::process::Command::new("vcgencmd").arg("get_throttled").output().ok()?.stdout;
    let printed = String::from_utf8_lossy(&printed).into_owned();
    u32::from_str_radix(printed.trim().strip_prefix("throttled=0x")?, 16).ok()
}

fn under_voltage(hwmon: &Path) -> bool {
    let alarm = |dir: &Path| read(&dir.join("name")).trim() == "rpi_volt" && number(&dir.join("in0_lcrit_alarm")) == Some(1);
    entries(hwmon).iter().any(|dir| alarm(dir))
}

fn temperatures(thermal: &Path) -> Vec<(String, f64)> {
    let zone = |dir: &std::path::PathBuf| {
        let is_zone = dir.file_name()?.to_str()?.starts_with("thermal_zone");
        // In thousandths of a degree; negative in a cold place.
        let degrees = read(&dir.join("temp")).trim().parse::<i64>().ok().filter(|_| is_zone)? as f64 / 1000.0;
        Some((read(&dir.join("type")).trim().to_owned(), degrees))
    };
    entries(thermal).iter().filter_map(zone).collect()
}

fn clocks(cpufreq: &Path) -> Vec<Clock> {
    let of = |dir: &std::path::PathBuf| {
        let max_khz = number(&dir.join("cpuinfo_max_freq"))?;
        Some(Clock {
            cpus: read(&dir.join("affected_cpus")).trim().to_owned(),
            now_khz: number(&dir.join("scaling_cur_freq")).unwrap_or(0),
            allowed_khz: number(&dir.join("scaling_max_freq")).unwrap_or(max_khz),
            max_khz,
            governor: read(&dir.join("scaling_governor")).trim().to_owned(),
        })
    };
    entries(cpufreq).iter().filter_map(of).collect()
}

/// What a folder holds, by name; nothing if there is none.
fn entries(dir: &Path) -> Vec<std::path::PathBuf> {
    let mut entries: Vec<_> = fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
    entries.sort();
    entries
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_healthy_machine_has_no_warnings() {
        assert_eq!(Health::default().warnings(), Vec::<String>::new());
        assert_eq!(Health::read(Path::new("/nowhere")), Health::default());
    }

    #[test]
    fn tells_now_from_since_boot() {
        let warnings = |flags| Health { throttled: Some(flags), ..Health::default() }.warnings();
        assert_eq!(warnings(0x50005), ["under-voltage now", "throttled now"]);
        assert_eq!(warnings(0x50000), ["under-voltage at some time since boot", "throttled at some time since boot"]);
        assert_eq!(warnings(0), Vec::<String>::new());
    }
}
