//! `cargo xtask prove-firmware`: what firmware promises, held against it in QEMU.
//!
//! Every board and CPU writes the desktop's tokens with the desktop's logits, to the bit, from the golden images or from any
//! image named; a card that is damaged is reported and never makes a wrong token. With `--count`: instructions from token to token, with one core and with four.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use bourn_hil_runner::card;
use bourn_hil_runner::qemu::Machine;
use bourn_protocol::message::{From, Load, Weights};

use super::emulated::{Emulated, Written};
use super::{Firmware, board, build, count};
use crate::emulate::qemu;
use crate::process::{cargo, output, root, target_dir};

/// Boards and CPUs.
const MACHINES: &[(&str, &str)] =
    &[("rpi3", ""), ("rpi4", ""), ("qemu-virt", "cortex-a53"), ("qemu-virt", "cortex-a72"), ("qemu-virt", "cortex-a76")];
const GOLDEN: &[&str] = &["tests/fixtures/v1-q4.bourn", "tests/fixtures/v2-screen.bourn"];
const DAMAGES: usize = 200;
/// From reset to ready, beyond what the board's loader takes.
const READY_US: u64 = 300_000;
/// A prompt in ids that every model has.
pub(super) const PROMPT: &[u32] = &[5, 72, 139, 206, 2, 69, 136, 203, 270, 66, 133, 200, 267, 63, 130, 197, 264, 60, 127, 194];

/// `cargo xtask prove-firmware [--model FILE]... [--tokens N] [--count]`.
///
/// # Errors
/// If something cannot be built or started, or a promise does not hold.
pub(crate) fn prove(args: &[&str]) -> Result<()> {
    let here = std::env::current_dir()?;
    let (mut models, mut tokens, mut counted) = (Vec::new(), 16, false);
    let mut args = args.iter();
    while let Some(&arg) = args.next() {
        match arg {
            "--model" => models.push(here.join(args.next().context("--model needs an image")?)),
            "--tokens" => tokens = args.next().and_then(|n| n.parse().ok()).context("--tokens needs a number")?,
            "--count" => counted = true,
            _ => bail!("prove-firmware has no option {arg}"),
        }
    }
    if let Err(missing) = qemu() {
        return crate::cross::skip("firmware in QEMU", &missing);
    }
    let golden: Vec<PathBuf> = GOLDEN.iter().map(|path| root().join(path)).collect();
    let images = if models.is_empty() { &golden } else { &models };
    if counted {
        // The golden models are so small that handing out a piece costs more than doing it.
        let image = models.first().context("--count needs --model FILE, a model of a size that is used")?;
        return count::cores(&Card::new("qemu-virt", Some(image))?, tokens.max(24));
    }
    for image in images {
        let want = desktop(image, tokens)?;
        for (name, cpu) in MACHINES {
            let machine = machine(name, cpu);
            if let Some(reason) = machine.lacking(&qemu()?)? {
                eprintln!("-- {name}: skipped 1: {reason}");
                continue;
            }
            let card = Card::new(name, Some(image))?;
            eprintln!("-- {name} {cpu}: {}", image.display());
            let mut running = card.start(&machine)?;
            running.wait_for_model()?;
            let (found, done) = running.write(PROMPT, tokens)?;
            ensure!(found == want, "{name} {cpu}: need the desktop's {want:?}, found {found:?}");
            let decode = f64::from(tokens - 1) / ((done.total_us - done.first_token_us).max(1) as f64 / 1e6);
            eprintln!("  {} tokens, checksum {:016x}, {decode:.2} tokens/s here", found.ids.len(), found.sum);
        }
    }
    if models.is_empty() {
        ready(&golden[0])?;
        damages(&golden[0])?;
    }
    Ok(())
}

/// From reset to ready, in time of the guest: every instruction counts 2 ns, so a busy host changes nothing.
fn ready(image: &Path) -> Result<()> {
    for name in ["rpi3", "rpi4", "qemu-virt"] {
        if machine(name, "").lacking(&qemu()?)?.is_some() {
            continue;
        }
        let card = Card::new(name, Some(image))?;
        let clock = ["-icount", "shift=1,sleep=off"].map(str::to_owned).to_vec();
        let us = card.start(&Machine { extra: clock, ..machine(name, "") })?.ready_us()?;
        ensure!(us < READY_US, "{name}: need ready within {READY_US} us, found {us}");
        eprintln!("{name}: ready {us} us after reset");
    }
    Ok(())
}

/// A machine of a board.
pub(super) fn machine(name: &str, cpu: &str) -> Machine {
    let machine = Machine::of(name);
    if cpu.is_empty() { machine } else { Machine { cpu: cpu.to_owned(), ..machine } }
}

/// A card in the target folder with firmware on it, until dropped.
pub(super) struct Card {
    path: PathBuf,
    pub(super) firmware: Firmware,
}

impl Card {
    fn new(name: &str, image: Option<&Path>) -> Result<Self> {
        let board = board(name)?;
        let firmware = build(board, false)?;
        let kernel = std::fs::read(&firmware.kernel)?;
        let path = target_dir().join(format!("card-{name}-{}.img", std::process::id()));
        println!("{}", card::write(&path, &card::Contents { kernel: &kernel, config: board.config, image, loader: None })?);
        Ok(Self { path, firmware })
    }

    /// Starts a machine with this card in it.
    pub(super) fn start(&self, machine: &Machine) -> Result<Emulated> {
        Emulated::start(machine, &self.firmware, &self.path)
    }
}

impl Drop for Card {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

/// What this machine writes.
fn desktop(image: &Path, tokens: u32) -> Result<Written> {
    let ids: Vec<String> = PROMPT.iter().map(u32::to_string).collect();
    let mut run = cargo(&["run", "--quiet", "--locked", "--package", "bourn-oracle", "--example", "greedy_sum", "--"]);
    let printed = output(run.arg(image).args([tokens.to_string(), ids.join(",")]))?;
    let (sum, ids) = printed.trim().split_once(' ').context("greedy_sum printed nothing")?;
    let ids = ids.split(',').map(str::parse).collect::<Result<_, _>>()?;
    Ok(Written { ids, sum: u64::from_str_radix(sum, 16)? })
}

/// SplitMix64.
struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ z >> 31) % n.max(1)
    }
}

/// Damages a card under a running board, at random, and has the model opened and used each time.
fn damages(image: &Path) -> Result<()> {
    let want = desktop(image, 8)?;
    let card = Card::new("rpi3", Some(image))?;
    let file = File::options().read(true).write(true).open(&card.path)?;
    let places = places(&file, image)?;
    let mut running = card.start(&machine("rpi3", ""))?;
    running.wait_for_model()?;
    let (mut reported, mut harmless) = (0, 0);
    let mut random = Random(6);
    for i in 0..DAMAGES {
        let (start, bytes) = places[i % places.len()];
        let (at, kept) = damage(&file, &mut random, start, bytes)?;
        let weights = if i % 3 == 0 { Weights::Paged } else { Weights::Resident };
        let opened = running.load(Load { from: From::File, weights, context: 0 });
        match opened.and_then(|()| running.write(PROMPT, 8)) {
            Ok((found, _)) => {
                ensure!(found == want, "damage {i} at {at:#x}: a wrong token: need {want:?}, found {found:?}");
                harmless += 1;
            }
            Err(_) => reported += 1,
        }
        file.write_all_at(&kept, at)?;
    }
    running.load(Load::default())?;
    let (found, _) = running.write(PROMPT, 8)?;
    ensure!(found == want, "the card is whole again: need {want:?}, found {found:?}");
    eprintln!("{DAMAGES} damages of the card: {reported} reported, {harmless} touched nothing that is read, no wrong token");
    Ok(())
}

/// Where damage hurts: boot record, the file system's first sectors, its first table, its root, the model (three times in seven).
fn places(file: &File, image: &Path) -> Result<[(u64, u64); 7]> {
    let mut record = [0; 512];
    file.read_exact_at(&mut record, 0)?;
    let word = |bytes: &[u8], at: usize| u64::from(u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]));
    let start = word(&record, 454) * 512;
    let mut boot = [0; 512];
    file.read_exact_at(&mut boot, start)?;
    let reserved = u64::from(u16::from_le_bytes([boot[14], boot[15]])) * 512;
    let table = word(&boot, 36) * 512;
    let data = start + reserved + table * u64::from(boot[16]);
    let model = std::fs::read(image)?;
    let first = model.get(..512).context("the image is short")?;
    let mut at = data;
    let mut block = [0; 512];
    loop {
        file.read_exact_at(&mut block, at)?;
        if block[..] == *first {
            break;
        }
        at += 512;
    }
    let model = (at, model.len() as u64);
    Ok([(440, 72), (start, 1024), (start + reserved, 2048), (data, 512), model, model, model])
}

/// Spoils a bit, a byte, a run or a whole block within a place; returns where, and what was there.
fn damage(file: &File, random: &mut Random, start: u64, bytes: u64) -> Result<(u64, Vec<u8>)> {
    let kind = random.below(4);
    let n = [1, 1, 16, 512][kind as usize].min(bytes);
    let at = start + random.below(bytes - n + 1);
    let mut kept = vec![0; usize::try_from(n)?];
    file.read_exact_at(&mut kept, at)?;
    let mut spoilt = kept.clone();
    for byte in &mut spoilt {
        *byte = match kind {
            0 => *byte ^ 1 << random.below(8),
            3 => [0, 0xff][random.below(2) as usize],
            _ => random.below(256) as u8,
        };
    }
    file.write_all_at(&spoilt, at)?;
    Ok((at, kept))
}
