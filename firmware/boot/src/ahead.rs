//! A card read ahead of who asks: while the others compute, one core fetches the blocks that come next.
//!
//! ```text
//! first core   next(blocks) ─ compute ─ take what has come ─ next ─ compute …
//! another      watch ─ fetch a chunk ─ fetch a chunk ─ the ring is full: share rows, until there is room again
//! ```
//!
//! Whatever a board's card hangs on, it can be read so: the drivers move bytes by hand, and a core that waits for a card is one that a model larger
//! than memory does not miss. Who finds nothing in the ring fetches for itself, so with one core, or with others that sleep, it is an ordinary card.

use bourn_flash::Ahead;
use core::cell::{Cell, UnsafeCell};
use core::fmt;
use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use embedded_sdmmc::{Block, BlockCount, BlockDevice, BlockIdx};

use crate::crew::{Crew, Errand, machine};

/// Blocks that are fetched by one command.
pub const CHUNK: usize = 128;
/// Chunks of a ring that is neither small nor in the way of a model: 1 MiB.
pub const CHUNKS: usize = 16;

/// A card and the ring that other cores fill from it.
///
/// Chunk `i` of what was asked for last lies in place `i % places` of the ring. Whoever holds `busy` may use the device, and write the place
/// of chunk `fetched` if `fetched − taken` places are not all; who has the [`Card`] reads the places of chunks from `taken` up to `fetched`.
pub struct Shared<D> {
    device: UnsafeCell<D>,
    ring: Ring,
    crew: &'static Crew,
    busy: AtomicBool,
    /// The blocks asked for. Written by the holder of `busy`.
    first: AtomicU32,
    end: AtomicU32,
    /// Chunks of them that have come. Written by the holder of `busy`.
    fetched: AtomicU32,
    /// Chunks of them that are not read any more. Written by who has the card.
    taken: AtomicU32,
    /// There is a [`Card`].
    lent: AtomicBool,
}

/// The ring's blocks, by pointer: two cores use different places at the same time.
struct Ring {
    first: *mut Block,
    places: u32,
}

// SAFETY: a pointer to memory that was lent for ever; who uses which part when is `Shared`'s rule.
unsafe impl Send for Ring {}
// SAFETY: the device is used by the holder of `busy` only, on whatever core; places of the ring by the rule above: a place is written while its
// chunk counts as not fetched, and read from the acquiring load that sees it fetched until the releasing store that calls it taken.
unsafe impl<D: Send> Sync for Shared<D> {}

impl<D> fmt::Debug for Shared<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").field("fetched", &self.fetched).field("taken", &self.taken).finish_non_exhaustive()
    }
}

/// The right to use the device, until dropped.
struct Held<'s>(&'s AtomicBool);

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
        machine::signal();
    }
}

impl<D: BlockDevice> Shared<D> {
    /// A card with a ring of whole chunks.
    pub fn new(device: D, ring: &'static mut [Block], crew: &'static Crew) -> Self {
        let places = (ring.len() / CHUNK) as u32;
        Self {
            device: UnsafeCell::new(device),
            ring: Ring { first: ring.as_mut_ptr(), places },
            crew,
            busy: AtomicBool::new(false),
            first: AtomicU32::new(0),
            end: AtomicU32::new(0),
            fetched: AtomicU32::new(0),
            taken: AtomicU32::new(0),
            lent: AtomicBool::new(false),
        }
    }

    /// The card, for one user; nothing the second time.
    pub fn card(&self) -> Option<Card<'_, D>> {
        (!self.lent.swap(true, Ordering::AcqRel)).then(|| Card {
            shared: self,
            front: Cell::new(0),
            late: Cell::new(u32::MAX),
            ready: Cell::new(0),
        })
    }

    fn hold(&self) -> Option<Held<'_>> {
        (!self.busy.swap(true, Ordering::Acquire)).then(|| Held(&self.busy))
    }

    fn wait(&self) -> Held<'_> {
        loop {
            match self.hold() {
                Some(held) => return held,
                None => machine::pause(),
            }
        }
    }

    /// The place of a chunk.
    fn place(&self, chunk: u32) -> *mut Block {
        self.ring.first.wrapping_add((chunk % self.ring.places) as usize * CHUNK)
    }

    /// Fetches the next chunk; false if none is wanted, the ring is full, or another core is at it.
    fn fetch(&self) -> bool {
        let Some(_held) = self.hold() else { return false };
        let chunk = self.fetched.load(Ordering::Relaxed);
        let first = self.first.load(Ordering::Relaxed) + chunk * CHUNK as u32;
        let end = self.end.load(Ordering::Relaxed);
        if first >= end || chunk - self.taken.load(Ordering::Acquire) >= self.ring.places {
            return false;
        }
        let n = (end - first).min(CHUNK as u32) as usize;
        // SAFETY: this core holds `busy`, and the chunk is not fetched and its place's last one taken: nobody reads there. Within the ring.
        let blocks = unsafe { core::slice::from_raw_parts_mut(self.place(chunk), n) };
        // SAFETY: this core holds `busy`.
        let device = unsafe { &*self.device.get() };
        match device.read(blocks, BlockIdx(first)) {
            Ok(()) => self.fetched.store(chunk + 1, Ordering::Release),
            // Who asks for these blocks asks the card itself, and hears why.
            Err(_) => self.end.store(first, Ordering::Release),
        }
        true
    }
}

impl<D: BlockDevice + Send> Errand for Shared<D> {
    fn run(&self) {
        while self.fetch() {}
    }
}

/// The card, as one core uses it.
pub struct Card<'s, D> {
    shared: &'s Shared<D>,
    /// The block of those asked for that was not read yet.
    front: Cell<u32>,
    /// The last chunk that was waited for.
    late: Cell<u32>,
    ready: Cell<u64>,
}

impl<D> fmt::Debug for Card<'_, D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Card").field("front", &self.front).field("ready", &self.ready).finish_non_exhaustive()
    }
}

impl<D: BlockDevice> Card<'_, D> {
    /// Reads from the ring as much of `blocks` as was asked for and is next there; how many blocks.
    fn take(&self, blocks: &mut [Block], first: u32) -> usize {
        let shared = self.shared;
        let mut n = 0;
        loop {
            let front = self.front.get();
            if n == blocks.len() || first + n as u32 != front || front >= shared.end.load(Ordering::Acquire) {
                return n;
            }
            let from = front.wrapping_sub(shared.first.load(Ordering::Relaxed));
            let (chunk, skip) = (from / CHUNK as u32, from as usize % CHUNK);
            while shared.fetched.load(Ordering::Acquire) <= chunk {
                if front >= shared.end.load(Ordering::Acquire) {
                    return n;
                }
                self.late.set(chunk);
                if !shared.fetch() {
                    machine::pause();
                }
            }
            let left = (shared.end.load(Ordering::Acquire) - front) as usize;
            let run = (CHUNK - skip).min(left).min(blocks.len() - n);
            // SAFETY: a fetched chunk that is not taken, seen by an acquiring load; within it.
            let come = unsafe { core::slice::from_raw_parts(shared.place(chunk).wrapping_add(skip), run) };
            for (to, come) in blocks[n..].iter_mut().zip(come) {
                to.contents = come.contents;
            }
            if self.late.get() != chunk {
                self.ready.set(self.ready.get() + (run * Block::LEN) as u64);
            }
            n += run;
            self.front.set(front + run as u32);
            if skip + run == CHUNK {
                shared.taken.store(chunk + 1, Ordering::Release);
                shared.crew.call();
            }
        }
    }
}

impl<D: BlockDevice> Ahead for Card<'_, D> {
    fn next(&self, first: BlockIdx, n_blocks: u32) {
        let shared = self.shared;
        let end = first.0.saturating_add(n_blocks);
        if shared.ring.places == 0 || (self.front.get() == first.0 && shared.end.load(Ordering::Acquire) == end) {
            return;
        }
        let held = shared.wait();
        self.front.set(first.0);
        self.late.set(u32::MAX);
        shared.first.store(first.0, Ordering::Relaxed);
        shared.end.store(end, Ordering::Relaxed);
        shared.fetched.store(0, Ordering::Relaxed);
        shared.taken.store(0, Ordering::Relaxed);
        drop(held);
        if n_blocks > 0 {
            shared.crew.call();
        }
    }

    fn ready_bytes(&self) -> u64 {
        self.ready.get()
    }
}

impl<D: BlockDevice> BlockDevice for &Card<'_, D> {
    type Error = D::Error;

    fn read(&self, blocks: &mut [Block], first: BlockIdx) -> Result<(), D::Error> {
        machine::alive();
        let n = self.take(blocks, first.0);
        if n == blocks.len() {
            return Ok(());
        }
        let _held = self.shared.wait();
        // SAFETY: this core holds `busy`.
        let device = unsafe { &*self.shared.device.get() };
        device.read(&mut blocks[n..], BlockIdx(first.0 + n as u32))
    }

    fn write(&self, blocks: &[Block], first: BlockIdx) -> Result<(), D::Error> {
        machine::alive();
        // What was fetched may be what is written over.
        self.next(BlockIdx(0), 0);
        let _held = self.shared.wait();
        // SAFETY: this core holds `busy`.
        let device = unsafe { &*self.shared.device.get() };
        device.write(blocks, first)
    }

    fn num_blocks(&self) -> Result<BlockCount, D::Error> {
        let _held = self.shared.wait();
        // SAFETY: this core holds `busy`.
        let device = unsafe { &*self.shared.device.get() };
        device.num_blocks()
    }
}
