//! Every door under a small mutating loop, for machines without libFuzzer: the same inputs on every run.

use std::path::Path;
use std::time::{Duration, Instant};

use bourn_fuzz::{DOORS, Door};

/// Mutations of each seed, unless time runs out before.
const ROUNDS: usize = 20_000;
/// Time for one door.
const TIME: Duration = Duration::from_secs(4);

#[test]
fn no_door_panics() {
    std::thread::scope(|scope| {
        for door in DOORS {
            scope.spawn(|| shake(door));
        }
    });
}

/// Seeds as they are, then mutations of them in turn.
fn shake(door: &Door) {
    let seeds = seeds(door);
    for seed in &seeds {
        (door.enter)(seed);
    }
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let start = Instant::now();
    for round in 0..ROUNDS {
        if start.elapsed() > TIME {
            break;
        }
        let mut bytes = seeds[round % seeds.len()].clone();
        for _ in 0..=random.below(4) {
            mutate(&mut bytes, &mut random, &seeds);
        }
        (door.enter)(&bytes);
    }
}

/// The door's own corpus and the fixtures that suit it; never empty.
fn seeds(door: &Door) -> Vec<Vec<u8>> {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = Vec::new();
    list(&here.join("corpus").join(door.name), &[""], &mut files);
    list(&here.join("../fixtures"), door.seeds, &mut files);
    files.sort();
    let mut seeds: Vec<Vec<u8>> = files.iter().map(|path| std::fs::read(path).expect("a seed can be read")).collect();
    seeds.push(Vec::new());
    seeds
}

fn list(folder: &Path, endings: &[&str], files: &mut Vec<std::path::PathBuf>) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            list(&path, endings, files);
        } else if endings.iter().any(|ending| path.to_string_lossy().ends_with(ending)) {
            files.push(path);
        }
    }
}

fn mutate(bytes: &mut Vec<u8>, random: &mut Random, seeds: &[Vec<u8>]) {
    let at = random.below(bytes.len().max(1));
    let edges = [0, 1, 2, 0x7f, 0x80, 0xff, 0xffff, 0x7fff_ffff, 0x8000_0000, 0xffff_ffff, u64::MAX, 1 << 63];
    let edge = edges[random.below(edges.len())].to_le_bytes();
    match random.below(7) {
        0 => bytes.truncate(at),
        1 => bytes.splice(at.min(bytes.len())..at.min(bytes.len()), edge).for_each(drop),
        2 => {
            let other = &seeds[random.below(seeds.len())];
            let from = random.below(other.len().max(1)).min(other.len());
            bytes.truncate(at);
            bytes.extend_from_slice(&other[from..]);
        }
        3 => {
            let end = (at + random.below(16)).min(bytes.len());
            bytes.drain(at.min(end)..end);
        }
        4 => {
            let width = [1, 2, 4, 8][random.below(4)];
            for (byte, new) in bytes.iter_mut().skip(at).zip(&edge[..width]) {
                *byte = *new;
            }
        }
        5 => {
            if let Some(byte) = bytes.get_mut(at) {
                *byte = random.below(256) as u8;
            }
        }
        _ => {
            if let Some(byte) = bytes.get_mut(at) {
                *byte ^= 1 << random.below(8);
            }
        }
    }
}

/// xorshift64.
struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        ((self.0 >> 33) as usize) % n
    }
}
