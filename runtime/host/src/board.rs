//! The boards that are known: `boards/<name>/board.toml`, built in. One source for detection, prediction and the board tests.

pub mod health;
pub mod predict;

use crate::machine::Machine;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::sync::LazyLock;

/// The built-in texts.
const TEXTS: [&str; 7] = [
    include_str!("../../../boards/rpi3/board.toml"),
    include_str!("../../../boards/rpi4/board.toml"),
    include_str!("../../../boards/rpi5/board.toml"),
    include_str!("../../../boards/jetson-nano/board.toml"),
    include_str!("../../../boards/jetson-orin-nano/board.toml"),
    include_str!("../../../boards/rk3588/board.toml"),
    include_str!("../../../boards/qemu-virt/board.toml"),
];

static BOARDS: LazyLock<Vec<Board>> = LazyLock::new(|| {
    // Parsed in a test; a text that does not parse is a board less, never a panic.
    TEXTS.iter().filter_map(|text| toml::from_str(text).ok()).collect()
});

/// A board.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Board {
    /// The name of its folder.
    pub name: String,
    /// What people call it.
    pub title: String,
    /// What to know before expecting anything of it.
    pub limits: Vec<String>,
    /// How to get a program there and run it.
    pub copy: Vec<String>,
    /// Models of the board that differ in clock or memory.
    #[serde(rename = "variant")]
    pub variants: Vec<Variant>,
    /// Kinds of cores, those first that decode.
    pub cores: Vec<CoreKind>,
    /// Where images may lie.
    #[serde(default)]
    pub storage: Vec<Storage>,
    /// How many threads are best.
    pub threads: BestThreads,
    /// Speeds below which a board test fails: by name of a catalogue model, keys of `bourn bench --json` and the least they may be.
    #[serde(default)]
    pub floors: BTreeMap<String, BTreeMap<String, f64>>,
}

/// One model of a board.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Variant {
    /// What people call it.
    pub title: String,
    /// How `/proc/device-tree/model` begins.
    pub models: Vec<String>,
    /// Entries of `/proc/device-tree/compatible`.
    pub compatible: Vec<String>,
    /// Clock of all cores, where the kinds of cores do not say.
    #[serde(default)]
    pub mhz: u64,
    /// Sizes of memory it is sold with.
    pub memory_mib: Vec<u64>,
}

/// Cores of one kind.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CoreKind {
    /// As Arm names it: `Cortex-A76`.
    pub kind: String,
    /// How many.
    pub count: usize,
    /// Clock; 0: the variant's.
    #[serde(default)]
    pub mhz: u64,
    /// What it has beyond Armv8.0.
    pub features: Vec<String>,
    /// Level-1 data cache of a core.
    pub l1d_kib: u64,
    /// Level-2 cache.
    pub l2_kib: u64,
    /// Cores that share it.
    pub l2_shared_by: usize,
    /// Level-3 cache of all cores, 0 if there is none.
    #[serde(default)]
    pub l3_kib: u64,
    /// What 1, 2, … threads read from memory, in 10⁹ bytes per second; more threads than entries: the last.
    pub read_gb_s: Vec<f64>,
}

/// A place for images.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Storage {
    /// `microSD`.
    pub kind: String,
    /// Read in order, in 10⁶ bytes per second.
    pub mb_s: f64,
}

/// Threads for the two phases.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BestThreads {
    /// For one token at a time.
    pub decode: usize,
    /// For blocks of tokens.
    pub prefill: usize,
}

/// How a machine was recognised.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum By {
    /// The device tree names the model.
    Model,
    /// The device tree names something compatible.
    Compatible,
    /// There is no device tree, but the cores are those of one board only.
    Cores,
}

/// The board that a machine is.
#[derive(Clone, Copy, Debug)]
pub struct Found {
    /// The board.
    pub board: &'static Board,
    /// Its model.
    pub variant: &'static Variant,
    /// Why.
    pub by: By,
}

/// All boards that are known.
pub fn all() -> &'static [Board] {
    &BOARDS
}

/// The board of a folder's name.
pub fn by_name(name: &str) -> Option<&'static Board> {
    all().iter().find(|board| board.name == name)
}

/// The board, and the model of it, that calls itself so in its device tree.
pub fn by_model(model: &str) -> Option<(&'static Board, &'static Variant)> {
    let fits = |variant: &Variant| variant.models.iter().filter(|start| model.starts_with(*start)).map(String::len).max();
    let fitting = variants().filter_map(|(board, variant)| Some((fits(variant)?, board, variant)));
    fitting.max_by_key(|found| found.0).map(|(_, board, variant)| (board, variant))
}

fn variants() -> impl Iterator<Item = (&'static Board, &'static Variant)> {
    all().iter().flat_map(|board| board.variants.iter().map(move |variant| (board, variant)))
}

/// The board that a machine is, if it is known: the longest model that fits, else what it is compatible with, else, where there is no
/// device tree at all, the only board with such cores.
pub fn find(machine: &Machine) -> Option<Found> {
    if let Some((board, variant)) = by_model(&machine.board) {
        return Some(Found { board, variant, by: By::Model });
    }
    // The first entries say the most.
    for entry in &machine.compatible {
        if let Some((board, variant)) = variants().find(|(_, variant)| variant.compatible.contains(entry)) {
            return Some(Found { board, variant, by: By::Compatible });
        }
    }
    if !machine.compatible.is_empty() || machine.cores.is_empty() {
        return None;
    }
    let same = |board: &&Board| {
        let of = |kind: &CoreKind| machine.cores.iter().any(|c| c.name == kind.kind && c.count == kind.count);
        board.cores.len() == machine.cores.len() && board.cores.iter().all(of) && board.name != "qemu-virt"
    };
    let board = all().iter().find(same)?;
    // The slowest model is promised no more than it can do.
    let variant = board.variants.iter().min_by_key(|variant| variant.mhz)?;
    Some(Found { board, variant, by: By::Cores })
}

impl CoreKind {
    /// Clock on a model of the board, in Hz.
    pub fn hz(&self, variant: &Variant) -> f64 {
        1e6 * if self.mhz > 0 { self.mhz } else { variant.mhz } as f64
    }

    /// What `threads` read from memory, in bytes per second; 0 if it is not known.
    pub fn read_bytes_s(&self, threads: usize) -> f64 {
        let at = threads.clamp(1, self.read_gb_s.len().max(1)) - 1;
        self.read_gb_s.get(at).map_or(0.0, |gb_s| gb_s * 1e9)
    }

    /// The tier of kernels that it runs.
    pub fn tier(&self) -> &'static str {
        let has = |feature: &str| self.features.iter().any(|f| f == feature);
        match (has("i8mm"), has("dotprod")) {
            (true, _) => "i8mm",
            (_, true) => "dotprod",
            _ => "neon",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::Cores;

    fn machine(model: &str, compatible: &[&str], cores: &[(&str, usize)]) -> Machine {
        let cores = cores.iter().map(|&(name, count)| Cores { name: name.to_owned(), count, usable: count, max_khz: 0 });
        Machine {
            board: model.to_owned(),
            compatible: compatible.iter().map(|&c| c.to_owned()).collect(),
            cores: cores.collect(),
            ..Machine::default()
        }
    }

    fn found(machine: &Machine) -> Option<(&'static str, &'static str, By)> {
        find(machine).map(|found| (found.board.name.as_str(), found.variant.title.as_str(), found.by))
    }

    #[test]
    fn every_board_reads_and_is_whole() {
        for text in TEXTS {
            let board: Board = toml::from_str(text).unwrap();
            assert!(!board.variants.is_empty() && !board.cores.is_empty() && !board.copy.is_empty(), "{}", board.name);
            let cores: usize = board.cores.iter().map(|c| c.count).sum();
            assert!(board.threads.decode <= board.cores[0].count && board.threads.prefill <= cores, "{}", board.name);
            for variant in &board.variants {
                assert!(!variant.models.is_empty() || !variant.compatible.is_empty(), "{}", variant.title);
                let clocked = board.name == "qemu-virt" || board.cores.iter().all(|c| c.hz(variant) > 0.5e9);
                assert!(clocked, "{}: no clock", variant.title);
            }
        }
        assert_eq!(all().len(), TEXTS.len());
    }

    #[test]
    fn knows_boards_by_the_longest_model() {
        for (model, title) in [
            ("Raspberry Pi 3 Model B Plus Rev 1.3", "Raspberry Pi 3 Model B+"),
            ("Raspberry Pi 3 Model B Rev 1.2", "Raspberry Pi 3 Model B"),
            ("Raspberry Pi Zero 2 W Rev 1.0", "Raspberry Pi Zero 2 W"),
            ("Raspberry Pi 4 Model B Rev 1.5", "Raspberry Pi 4"),
            ("Raspberry Pi Compute Module 5 Rev 1.0", "Raspberry Pi 5"),
            ("NVIDIA Jetson Nano Developer Kit", "NVIDIA Jetson Nano"),
            ("NVIDIA Jetson Orin Nano Engineering Reference Developer Kit Super", "NVIDIA Jetson Orin Nano"),
        ] {
            assert_eq!(found(&machine(model, &[], &[])).map(|f| (f.1, f.2)), Some((title, By::Model)), "{model}");
        }
    }

    #[test]
    fn knows_a_chip_whose_boards_have_other_names() {
        let rock = machine("Radxa ROCK 5B", &["radxa,rock-5b", "rockchip,rk3588"], &[]);
        assert_eq!(found(&rock), Some(("rk3588", "Rockchip RK3588", By::Compatible)));
        assert_eq!(found(&machine("Some Board", &["vendor,board"], &[("Cortex-A72", 4)])), None);
    }

    #[test]
    fn knows_cores_where_there_is_no_device_tree() {
        assert_eq!(found(&machine("", &[], &[("Cortex-A76", 4)])), Some(("rpi5", "Raspberry Pi 5", By::Cores)));
        assert_eq!(found(&machine("", &[], &[("Cortex-A53", 4)])).map(|f| f.1), Some("Raspberry Pi Zero 2 W"));
        assert_eq!(found(&machine("", &[], &[("Cortex-A76", 3)])), None);
        assert_eq!(found(&machine("", &[], &[("AMD EPYC", 2)])), None);
        assert_eq!(found(&machine("", &[], &[])), None);
    }

    #[test]
    fn a_board_reads_as_fast_as_its_last_figure_says() {
        let cores = &by_name("rpi5").unwrap().cores[0];
        assert_eq!([0, 1, 2, 4, 9].map(|n| cores.read_bytes_s(n)), [13.8e9, 13.8e9, 12.7e9, 10.7e9, 10.7e9]);
        assert_eq!(by_name("qemu-virt").unwrap().cores[0].read_bytes_s(1), 0.0);
        assert_eq!((cores.tier(), by_name("rpi4").unwrap().cores[0].tier()), ("dotprod", "neon"));
    }
}
