//! The application on this machine: its board, its memory, its cores.

use core::fmt;

use bourn_app::{Board, Exit, Health, Memory, Parts};
use bourn_core::Candidate;
use bourn_drivers::serial::{End, Line, Port};
use bourn_flash::Ahead;
use bourn_kernels::Kernels;
use bourn_protocol::message::{Build, LogKind};
use embedded_sdmmc::{Block, BlockDevice};

use crate::ahead::{CHUNK, CHUNKS, Shared};
use crate::platform::{self, Boot};
use crate::{log, time};

/// Blocks of one command to the card.
const BLOCKS: usize = 256;
/// Of the memory at most this part for candidates of the sampler.
const CANDIDATES_SHARE: usize = 64;
/// And at most this part for blocks that are read ahead.
const AHEAD_SHARE: usize = 64;
/// No vocabulary is larger.
const CANDIDATES: usize = 1 << 19;
/// Bits a second of a board's line: what `bourn device` takes for granted, or what the build was told by `BOURN_BAUD`.
pub const BAUD: u32 = match option_env!("BOURN_BAUD") {
    Some(word) => number(word),
    None => 115_200,
};
/// Bytes of a line's ring.
pub const LINE_BYTES: usize = 16384;
/// Chunks of an update that fit the ring with what stands around them.
const WINDOW: u8 = 8;

/// A line as boards have it.
pub type BoardLine<P> = Line<P, LINE_BYTES>;

/// Clock, health and log of this machine.
struct Machine;

impl Board for Machine {
    fn now_us(&self) -> u64 {
        time::micros()
    }

    fn idle(&mut self) {
        platform::idle();
        if platform::board().line().waiting() == 0 {
            // An interrupt ends this, and so does the counter after a few milliseconds.
            aarch64_cpu::asm::wfe();
        }
    }

    fn health(&mut self) -> Health {
        platform::board().health()
    }

    fn log_kind(&self) -> LogKind {
        LogKind::Defmt
    }

    fn log(&mut self, line: fmt::Arguments<'_>) {
        defmt::info!("{}", defmt::Display2Format(&line));
    }

    fn take_log(&mut self, bytes: &mut [u8]) -> usize {
        log::drain(bytes)
    }
}

/// `n` values at the beginning of `memory`, and what is left of it.
fn carve<T: Copy>(memory: &'static mut [u8], n: usize, value: T) -> (&'static mut [T], &'static mut [u8]) {
    let skip = memory.as_ptr().align_offset(align_of::<T>()).min(memory.len());
    let (_, memory) = memory.split_at_mut(skip);
    let n = n.min(memory.len() / size_of::<T>().max(1));
    let (taken, rest) = memory.split_at_mut(n * size_of::<T>());
    let first: *mut T = taken.as_mut_ptr().cast();
    for i in 0..n {
        // SAFETY: within `taken` (i < n), aligned after the skip.
        let at = unsafe { first.add(i) };
        // SAFETY: as above; what is overwritten are bytes.
        unsafe { at.write(value) };
    }
    // SAFETY: `n` values were written there, in memory that was borrowed for ever and is lent on once.
    (unsafe { core::slice::from_raw_parts_mut(first, n) }, rest)
}

/// A value at the beginning of `memory`, for ever, and what is left of it; nothing if there is no room.
fn place<T>(memory: &'static mut [u8], value: T) -> (Option<&'static T>, &'static mut [u8]) {
    let skip = memory.as_ptr().align_offset(align_of::<T>()).min(memory.len());
    let (_, memory) = memory.split_at_mut(skip);
    if memory.len() < size_of::<T>() {
        return (None, memory);
    }
    let (taken, rest) = memory.split_at_mut(size_of::<T>());
    let at: *mut T = taken.as_mut_ptr().cast();
    // SAFETY: as large as the value and aligned for it.
    unsafe { at.write(value) };
    // SAFETY: written just now, in memory that was borrowed for ever and is lent on once.
    (Some(unsafe { &*at }), rest)
}

/// Serves the line for ever.
pub fn run<P: Port, D: BlockDevice + Send + 'static>(
    boot: Boot,
    name: &'static str,
    line: &'static BoardLine<P>,
    card: Option<D>,
) -> ! {
    let Boot { memory, crew, features, start_ticks, fixed, loaded_bytes, static_bytes } = boot;
    let (blocks, memory) = carve(memory, BLOCKS * Block::LEN, 0_u8);
    let candidates = (memory.len() / CANDIDATES_SHARE / size_of::<Candidate>()).min(CANDIDATES);
    let (candidates, memory) = carve(memory, candidates, Candidate::default());
    let ring = (memory.len() / AHEAD_SHARE / Block::LEN / CHUNK).min(CHUNKS) * CHUNK;
    let (ring, memory) = carve(memory, ring * Block::LEN, 0_u8);
    let (shared, arena) = match card {
        Some(card) => place(memory, Shared::new(card, as_blocks(ring), crew)),
        None => (None, memory),
    };
    if let Some(shared) = shared {
        // SAFETY: this function runs once, and nothing else sets it.
        unsafe { crew.set_errand(shared) };
    }
    let card = shared.and_then(Shared::card);
    let mut tiers: [&'static Kernels; 4] = [&bourn_kernels::scalar::TABLE; 4];
    let mut n_tiers = 0;
    // SAFETY: what all cores that came have, and no other core works.
    for (place, tier) in tiers.iter_mut().zip(unsafe { features.tiers() }) {
        *place = tier;
        n_tiers += 1;
    }
    let end = End::new(line, |_| platform::idle());
    let memory = Memory { arena, blocks: as_blocks(blocks), candidates };
    let build = Build::of(fixed);
    let ready = time::micros_of(time::ticks().wrapping_sub(start_ticks));
    defmt::info!(
        "{=str} ready {=u64} us after reset: isa {=str}, firmware {=usize} bytes, static memory {=usize} bytes",
        name,
        ready,
        tiers[0].isa,
        loaded_bytes,
        static_bytes
    );
    let parts = Parts {
        name,
        firmware: env!("CARGO_PKG_VERSION"),
        build,
        board: Machine,
        serial: end,
        card: card.as_ref(),
        ahead: card.as_ref().map(|card| card as &dyn Ahead),
        tiers: &tiers[..n_tiers],
        decode: crew,
        prefill: crew,
        memory,
        window: WINDOW,
    };
    let (Exit::Reboot { .. }, ..) = bourn_app::run(parts);
    // The answer has left the line's buffer by then.
    time::wait_micros(20_000);
    platform::board().reset()
}

/// A decimal number, when the firmware is built.
const fn number(word: &str) -> u32 {
    let (bytes, mut i, mut n) = (word.as_bytes(), 0, 0);
    while i < bytes.len() {
        assert!(bytes[i].is_ascii_digit(), "BOURN_BAUD is not a number");
        n = n * 10 + (bytes[i] - b'0') as u32;
        i += 1;
    }
    assert!(n >= 300, "BOURN_BAUD: need at least 300");
    n
}

/// The same bytes as blocks.
fn as_blocks(bytes: &'static mut [u8]) -> &'static mut [Block] {
    let n = bytes.len() / Block::LEN;
    // SAFETY: a block is an array of 512 bytes, any value, aligned as bytes are.
    unsafe { core::slice::from_raw_parts_mut(bytes.as_mut_ptr().cast(), n) }
}
