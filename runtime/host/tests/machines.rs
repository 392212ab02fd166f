//! Machines that are not here: the `/proc` and `/sys` of boards, written down.

use bourn_host::Machine;
use bourn_host::board::health::Health;
use bourn_host::board::{self, By};
use std::fmt::Write;
use std::fs;
use std::path::Path;
use tempfile::TempDir;

fn write(root: &Path, files: &[(&str, &str)]) {
    for (file, text) in files {
        let path = root.join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
}

/// `/proc` of a machine with cores of these parts and clocks.
fn machine(model: &str, compatible: &str, cores: &[(u32, u64)]) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    let mut cpuinfo = String::new();
    for (i, (part, khz)) in cores.iter().enumerate() {
        let _ = write!(cpuinfo, "processor\t: {i}\nCPU implementer\t: 0x41\nCPU part\t: {part:#x}\n\n");
        let clock = format!("sys/devices/system/cpu/cpu{i}/cpufreq/cpuinfo_max_freq");
        write(dir.path(), &[(&clock, &format!("{khz}\n"))]);
    }
    write(
        dir.path(),
        &[
            ("proc/cpuinfo", &cpuinfo),
            ("proc/device-tree/model", model),
            ("proc/device-tree/compatible", compatible),
            ("proc/meminfo", "MemTotal:        447488 kB\nMemAvailable:    300000 kB\n"),
            ("sys/devices/system/cpu/cpu0/cache/index0/level", "1\n"),
            ("sys/devices/system/cpu/cpu0/cache/index0/type", "Data\n"),
            ("sys/devices/system/cpu/cpu0/cache/index0/size", "32K\n"),
            ("sys/devices/system/cpu/cpu0/cache/index0/shared_cpu_list", "0\n"),
        ],
    );
    dir
}

#[test]
fn a_pi_4_that_throttles() {
    let dir = machine("Raspberry Pi 4 Model B Rev 1.5\0", "raspberrypi,4-model-b\0brcm,bcm2711\0", &[(0xd08, 1_800_000); 4]);
    write(
        dir.path(),
        &[
            ("sys/devices/platform/soc/soc:firmware/get_throttled", "50005\n"),
            ("sys/class/hwmon/hwmon0/name", "cpu_thermal\n"),
            ("sys/class/hwmon/hwmon1/name", "rpi_volt\n"),
            ("sys/class/hwmon/hwmon1/in0_lcrit_alarm", "1\n"),
            ("sys/class/thermal/thermal_zone0/type", "cpu-thermal\n"),
            ("sys/class/thermal/thermal_zone0/temp", "83250\n"),
            ("sys/class/thermal/cooling_device0/type", "fan\n"),
            ("sys/devices/system/cpu/cpufreq/policy0/affected_cpus", "0 1 2 3\n"),
            ("sys/devices/system/cpu/cpufreq/policy0/cpuinfo_max_freq", "1800000\n"),
            ("sys/devices/system/cpu/cpufreq/policy0/scaling_max_freq", "600000\n"),
            ("sys/devices/system/cpu/cpufreq/policy0/scaling_cur_freq", "600000\n"),
            ("sys/devices/system/cpu/cpufreq/policy0/scaling_governor", "ondemand\n"),
        ],
    );
    let m = Machine::detect_in(dir.path());
    let found = board::find(&m).unwrap();
    assert_eq!((found.board.name.as_str(), found.by), ("rpi4", By::Model));
    assert_eq!((m.cores[0].name.as_str(), m.cores[0].count, m.usable), ("Cortex-A72", 4, 4));
    assert_eq!((m.memory_bytes, m.caches[0].bytes), (447_488 * 1024, 32 << 10));
    let health = Health::read(dir.path());
    assert_eq!(health.temperatures, [("cpu-thermal".to_owned(), 83.25)]);
    assert_eq!(
        health.warnings(),
        [
            "under-voltage now",
            "throttled now",
            "cpu-thermal is at 83 °C: the clock will drop",
            "cores 0 1 2 3: limited to 600 of 1800 MHz",
        ]
    );
}

#[test]
fn a_zero_2_w_whose_supply_is_weak() {
    let dir = machine("Raspberry Pi Zero 2 W Rev 1.0\0", "raspberrypi,model-zero-2-w\0brcm,bcm2837\0", &[(0xd03, 1_000_000); 4]);
    write(dir.path(), &[("sys/class/hwmon/hwmon0/name", "rpi_volt\n"), ("sys/class/hwmon/hwmon0/in0_lcrit_alarm", "1\n")]);
    let found = board::find(&Machine::detect_in(dir.path())).unwrap();
    assert_eq!((found.board.name.as_str(), found.variant.title.as_str()), ("rpi3", "Raspberry Pi Zero 2 W"));
    assert_eq!(Health::read(dir.path()).warnings(), ["under-voltage: the supply or its cable is too weak"]);
}

#[test]
fn an_rk3588_of_which_some_cores_may_be_used() {
    let mut cores = [(0xd05, 1_800_000); 8];
    cores[4..6].fill((0xd0b, 2_256_000));
    cores[6..].fill((0xd0b, 2_352_000));
    let dir = machine("Orange Pi 5\0", "rockchip,rk3588s-orangepi-5\0rockchip,rk3588\0", &cores);
    write(dir.path(), &[("proc/self/status", "Name:\tbourn\nCpus_allowed_list:\t2-4,6-7\n")]);
    let m = Machine::detect_in(dir.path());
    assert_eq!(board::find(&m).map(|f| (f.board.name.as_str(), f.by)), Some(("rk3588", By::Compatible)));
    let kinds: Vec<_> = m.cores.iter().map(|c| (c.name.as_str(), c.count, c.usable, c.max_khz)).collect();
    assert_eq!(kinds, [("Cortex-A55", 4, 2, 1_800_000), ("Cortex-A76", 2, 1, 2_256_000), ("Cortex-A76", 2, 2, 2_352_000)]);
    assert_eq!(m.usable, 5);
}

#[test]
fn a_jetson_in_a_low_power_mode() {
    let dir = machine(
        "NVIDIA Jetson Nano Developer Kit\0",
        "nvidia,p3450-0000\0nvidia,jetson-nano\0nvidia,tegra210\0",
        &[(0xd07, 1_479_000); 4],
    );
    let policy = "sys/devices/system/cpu/cpufreq/policy0";
    for (file, text) in [("cpuinfo_max_freq", "1479000"), ("scaling_max_freq", "918000"), ("affected_cpus", "0 1 2 3")] {
        write(dir.path(), &[(&format!("{policy}/{file}"), text)]);
    }
    assert_eq!(board::find(&Machine::detect_in(dir.path())).map(|f| f.board.name.as_str()), Some("jetson-nano"));
    assert_eq!(Health::read(dir.path()).warnings(), ["cores 0 1 2 3: limited to 918 of 1479 MHz"]);
}

#[test]
fn nothing_is_known_of_an_empty_machine() {
    let dir = tempfile::tempdir().unwrap();
    write(
        dir.path(),
        &[("proc/cpuinfo", "processor : x\n\n\nprocessor"), ("proc/self/status", "Cpus_allowed_list:\t9-,-,3-1,x")],
    );
    let m = Machine::detect_in(dir.path());
    assert!(board::find(&m).is_none());
    assert_eq!((m.usable, m.memory_bytes), (1, 0));
}
