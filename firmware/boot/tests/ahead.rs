//! A card that is read ahead, with threads for cores.

use bourn_boot::ahead::{CHUNK, Shared};
use bourn_boot::{CORES, Crew};
use bourn_flash::Ahead;
use bourn_kernels::rows::Rows;
use embedded_sdmmc::{Block, BlockCount, BlockDevice, BlockIdx};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

const BLOCKS: u32 = 5000;

/// A card in memory that sees who uses it.
#[derive(Clone)]
struct Played(Arc<State>);

struct State {
    contents: Mutex<Vec<u32>>,
    /// Reading this block fails.
    bad: AtomicU32,
    in_use: AtomicBool,
    reads: AtomicUsize,
}

#[derive(Debug, PartialEq)]
struct Failed(u32);

impl std::fmt::Display for Failed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "block {} is bad", self.0)
    }
}

impl std::error::Error for Failed {}

impl Played {
    fn new() -> Self {
        Self(Arc::new(State {
            contents: Mutex::new((0..BLOCKS).collect()),
            bad: AtomicU32::new(u32::MAX),
            in_use: AtomicBool::new(false),
            reads: AtomicUsize::new(0),
        }))
    }

    fn alone<R>(&self, body: impl FnOnce(&mut Vec<u32>) -> R) -> R {
        assert!(!self.0.in_use.swap(true, Ordering::SeqCst), "two cores use the card");
        let done = body(&mut self.0.contents.lock().unwrap());
        self.0.in_use.store(false, Ordering::SeqCst);
        done
    }
}

fn block(value: u32) -> Block {
    let mut block = Block::new();
    block.contents.as_chunks_mut().0.fill(value.to_le_bytes());
    block
}

impl BlockDevice for Played {
    type Error = Failed;

    fn read(&self, blocks: &mut [Block], first: BlockIdx) -> Result<(), Failed> {
        self.0.reads.fetch_add(1, Ordering::Relaxed);
        let bad = self.0.bad.load(Ordering::Relaxed);
        if (first.0..first.0 + blocks.len() as u32).contains(&bad) {
            return Err(Failed(bad));
        }
        self.alone(|contents| {
            for (to, value) in blocks.iter_mut().zip(&contents[first.0 as usize..]) {
                *to = block(*value);
            }
        });
        Ok(())
    }

    fn write(&self, blocks: &[Block], first: BlockIdx) -> Result<(), Failed> {
        self.alone(|contents| {
            for (block, value) in blocks.iter().zip(&mut contents[first.0 as usize..]) {
                *value = u32::from_le_bytes(*block.contents.first_chunk().unwrap());
            }
        });
        Ok(())
    }

    fn num_blocks(&self) -> Result<BlockCount, Failed> {
        Ok(BlockCount(BLOCKS))
    }
}

/// A card behind a ring of so many chunks, and a crew: all of it, or the first core alone.
fn with_card(chunks: usize, alone: bool, body: impl FnOnce(&bourn_boot::ahead::Card<'_, Played>, &Played, &Crew)) {
    let crew: &Crew = Box::leak(Box::new(Crew::new()));
    let played = Played::new();
    let shared = Box::leak(Box::new(Shared::new(played.clone(), vec![Block::new(); chunks * CHUNK].leak(), crew)));
    // SAFETY: once.
    unsafe { crew.set_errand(shared) };
    let card = shared.card().unwrap();
    assert!(shared.card().is_none(), "there is one card");
    std::thread::scope(|scope| {
        for core in 1..if alone { 1 } else { CORES } {
            scope.spawn(move || crew.serve(core));
        }
        while !alone && crew.workers() < CORES {
            std::thread::yield_now();
        }
        body(&card, &played, crew);
        crew.stop();
    });
}

/// SplitMix64.
struct Random(u64);

impl Random {
    fn below(&mut self, n: u32) -> u32 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ z >> 31) % u64::from(n.max(1))) as u32
    }
}

fn reads_right(card: &bourn_boot::ahead::Card<'_, Played>, first: u32, n: u32) {
    let mut blocks = vec![Block::new(); n as usize];
    (&card).read(&mut blocks, BlockIdx(first)).unwrap();
    for (found, want) in blocks.iter().zip(first..) {
        assert!(found.contents == block(want).contents, "block {want} of {n} from {first}");
    }
}

#[test]
fn what_was_fetched_ahead_is_what_lies_there() {
    for (chunks, alone) in [(1, false), (2, false), (16, false), (3, true), (0, false)] {
        with_card(chunks, alone, |card, _, crew| {
            let mut random = Random(chunks as u64);
            for _ in 0..60 {
                let first = random.below(BLOCKS);
                let n = random.below((BLOCKS - first).min(1500));
                card.next(BlockIdx(first), n);
                let (mut at, end) = (first, first + n);
                while at < end {
                    // Rows are shared meanwhile, and a block elsewhere is read.
                    let sum = AtomicUsize::new(0);
                    crew.each(64, &|i| {
                        sum.fetch_add(i, Ordering::Relaxed);
                    });
                    assert_eq!(sum.into_inner(), 64 * 63 / 2);
                    if random.below(4) == 0 {
                        reads_right(card, random.below(BLOCKS - 3), 3);
                    }
                    let run = 1 + random.below((end - at).min(400));
                    reads_right(card, at, run.min(end - at));
                    at += run.min(end - at);
                    if random.below(20) == 0 {
                        break;
                    }
                }
                // And on beyond what was said.
                reads_right(card, at.min(BLOCKS - 5), 5);
            }
            assert!(!alone || card.ready_bytes() == 0, "nobody else could have fetched it");
        });
    }
}

#[test]
fn another_core_fetches_while_the_first_computes() {
    with_card(16, false, |card, played, _| {
        card.next(BlockIdx(100), 16 * CHUNK as u32);
        while played.0.reads.load(Ordering::SeqCst) < 16 || played.0.in_use.load(Ordering::SeqCst) {
            std::thread::yield_now();
        }
        // The last chunk counts a moment after the card is free.
        std::thread::sleep(std::time::Duration::from_millis(20));
        reads_right(card, 100, 16 * CHUNK as u32);
        assert_eq!(card.ready_bytes(), 16 * (CHUNK * Block::LEN) as u64);
        assert_eq!(played.0.reads.load(Ordering::SeqCst), 16, "nothing is read twice");
    });
}

#[test]
fn a_block_that_cannot_be_read_fails_for_who_asks_for_it() {
    for alone in [false, true] {
        with_card(4, alone, |card, played, _| {
            let bad = 3 * CHUNK as u32 + 7;
            played.0.bad.store(bad, Ordering::SeqCst);
            card.next(BlockIdx(0), 8 * CHUNK as u32);
            reads_right(card, 0, bad - 1);
            let mut blocks = vec![Block::new(); 5];
            assert_eq!((&card).read(&mut blocks, BlockIdx(bad - 1)), Err(Failed(bad)));
            played.0.bad.store(u32::MAX, Ordering::SeqCst);
            reads_right(card, bad - 1, 5 * CHUNK as u32);
        });
    }
}

#[test]
fn what_is_written_is_what_is_read_though_it_had_been_fetched() {
    with_card(4, false, |card, played, _| {
        card.next(BlockIdx(0), 2 * CHUNK as u32);
        while played.0.reads.load(Ordering::SeqCst) < 2 {
            std::thread::yield_now();
        }
        (&card).write(&[block(77), block(78)], BlockIdx(5)).unwrap();
        let mut blocks = vec![Block::new(); 9];
        (&card).read(&mut blocks, BlockIdx(0)).unwrap();
        let want: Vec<Block> = [0, 1, 2, 3, 4, 77, 78, 7, 8].map(block).into();
        assert!(blocks.iter().zip(&want).all(|(found, want)| found.contents == want.contents));
        assert_eq!((&card).num_blocks().unwrap().0, BLOCKS);
    });
}
