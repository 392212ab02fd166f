//! What is read when and where to: the plan of the reader, as a state machine without threads or I/O.
//!
//! Memory is one area. Segments go into a ring of it, each in one piece, in the order in which the decoder will ask for
//! them; pinned segments and tiles have places of their own. Each segment is read in chunks, which readers fetch with
//! [`Schedule::next_job`] and hand back with [`Schedule::finish`]. A slot is free again when the decoder has let go of it.

use super::reader::Fault;
use bourn_format::PAGE;
use std::collections::VecDeque;
use std::ops::Range;

/// Bytes that one read asks for.
pub(crate) const CHUNK: usize = 512 << 10;

/// A run of whole pages of the file that goes into memory as one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Item {
    /// Where in the file.
    pub offset: u64,
    /// How long; a multiple of the page.
    pub bytes: usize,
    /// Place in the area; `None`: in the ring.
    pub place: Option<usize>,
}

/// One read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Job {
    /// The slot it belongs to.
    slot: u64,
    /// Where in the file.
    pub offset: u64,
    /// Where in the area.
    pub start: usize,
    /// How many bytes.
    pub bytes: usize,
}

impl Job {
    /// Where it puts its bytes.
    pub fn range(&self) -> Range<usize> {
        self.start..self.start + self.bytes
    }
}

/// An item on its way, there, or in use.
#[derive(Debug)]
struct Slot {
    id: u64,
    /// Index in the order; `None` for a tile.
    index: Option<usize>,
    item: Item,
    start: usize,
    issued: usize,
    done: usize,
    in_flight: usize,
    /// Nobody waits for it any more: free once nothing is in flight.
    released: bool,
    fault: Option<Fault>,
}

impl Slot {
    fn is_free(&self) -> bool {
        self.released && self.in_flight == 0
    }

    fn next_job(&mut self) -> Option<Job> {
        if self.released || self.fault.is_some() || self.issued == self.item.bytes {
            return None;
        }
        let bytes = CHUNK.min(self.item.bytes - self.issued);
        let job = Job { slot: self.id, offset: self.item.offset + self.issued as u64, start: self.start + self.issued, bytes };
        self.issued += bytes;
        self.in_flight += 1;
        Some(job)
    }
}

/// Where an item stands that the decoder asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Asked {
    /// At this place of the area, until it is released.
    There(Range<usize>),
    /// Not yet.
    Coming,
    /// It cannot be had.
    Failed(Fault),
}

/// The state.
#[derive(Debug)]
pub(crate) struct Schedule {
    order: Vec<Item>,
    /// Index of the item that is begun next; none is begun when it is the length of the order.
    next: usize,
    /// Once: instead of beginning the first, begin the second.
    turns: VecDeque<(usize, usize)>,
    /// The order begins again after its end.
    cyclic: bool,
    /// The ring within the area.
    ring: Range<usize>,
    /// Slots in the order in which they were begun.
    slots: VecDeque<Slot>,
    /// A tile: it goes before everything else.
    tile: Option<Slot>,
    last_id: u64,
    /// How often the decoder asked for something else than what was read ahead.
    pub misses: u64,
}

impl Schedule {
    pub fn new(ring: Range<usize>) -> Self {
        Self {
            order: Vec::new(),
            next: 0,
            turns: VecDeque::with_capacity(8),
            cyclic: false,
            ring,
            slots: VecDeque::with_capacity(64),
            tile: None,
            last_id: 0,
            misses: 0,
        }
    }

    /// Begins another order; what was read of the old one is given up.
    pub fn set_order(&mut self, order: Vec<Item>, cyclic: bool) {
        self.drop_all();
        self.order = order;
        self.cyclic = cyclic;
        self.next = 0;
    }

    /// Stops beginning anything.
    pub fn stop(&mut self) {
        self.drop_all();
        self.next = self.order.len();
    }

    fn drop_all(&mut self) {
        for slot in &mut self.slots {
            slot.released = true;
        }
        self.turns.clear();
        self.collect();
    }

    fn collect(&mut self) {
        while self.slots.front().is_some_and(Slot::is_free) {
            self.slots.pop_front();
        }
    }

    /// After the item before `at`, `to` will be asked for once, and not `at`.
    pub fn turn(&mut self, at: usize, to: usize) {
        if at != to && self.turns.len() < self.turns.capacity() {
            self.turns.push_back((at, to));
        }
    }

    /// Where `bytes` in one piece can be begun in the ring.
    fn room(&self, bytes: usize) -> Option<usize> {
        let in_ring = |s: &&Slot| s.item.place.is_none() && s.index.is_some();
        let Some(oldest) = self.slots.iter().find(in_ring) else {
            return (bytes <= self.ring.len()).then_some(self.ring.start);
        };
        let newest = self.slots.iter().rev().find(in_ring).unwrap_or(oldest);
        let (head, tail) = (oldest.start, newest.start + newest.item.bytes);
        if tail > head {
            if self.ring.end - tail >= bytes {
                return Some(tail);
            }
            return (head - self.ring.start >= bytes).then_some(self.ring.start);
        }
        (head - tail >= bytes).then_some(tail)
    }

    /// The next read that there is room for; none if all is under way or the ring is full.
    pub fn next_job(&mut self) -> Option<Job> {
        if let Some(job) = self.tile.as_mut().and_then(Slot::next_job) {
            return Some(job);
        }
        if let Some(job) = self.slots.iter_mut().find_map(Slot::next_job) {
            return Some(job);
        }
        let item = *self.order.get(self.next)?;
        let start = match item.place {
            Some(place) => place,
            None => self.room(item.bytes)?,
        };
        self.last_id += 1;
        let mut slot = Slot {
            id: self.last_id,
            index: Some(self.next),
            item,
            start,
            issued: 0,
            done: 0,
            in_flight: 0,
            released: false,
            fault: None,
        };
        let job = slot.next_job();
        self.slots.push_back(slot);
        self.next += 1;
        if self.cyclic && self.next == self.order.len() {
            self.next = 0;
        }
        if let Some(&(at, to)) = self.turns.front()
            && at == self.next
        {
            self.turns.pop_front();
            self.next = to;
        }
        job
    }

    /// A read has ended.
    pub fn finish(&mut self, job: &Job, result: Result<(), Fault>) {
        let of_tile = self.tile.as_mut().filter(|s| s.id == job.slot);
        let Some(slot) = of_tile.or_else(|| self.slots.iter_mut().find(|s| s.id == job.slot)) else { return };
        slot.in_flight -= 1;
        match result {
            Ok(()) => slot.done += job.bytes,
            Err(fault) => slot.fault = Some(fault),
        }
        self.collect();
    }

    /// Asks for item `index` of the order. The first asking for another than the next one turns the reader to it.
    pub fn ask(&mut self, index: usize) -> Asked {
        let first = self.slots.iter().find(|s| !s.released);
        match first {
            Some(slot) if slot.index == Some(index) => {
                if let Some(fault) = &slot.fault {
                    let fault = *fault;
                    // Asked for again, it is read again.
                    self.drop_all();
                    self.next = index;
                    return Asked::Failed(fault);
                }
                if slot.done == slot.item.bytes { Asked::There(slot.start..slot.start + slot.item.bytes) } else { Asked::Coming }
            }
            None if self.next == index => Asked::Coming,
            _ => {
                self.misses += 1;
                self.drop_all();
                self.next = index;
                Asked::Coming
            }
        }
    }

    /// The decoder lets go of the item that it was given last.
    pub fn release(&mut self) {
        if let Some(slot) = self.slots.iter_mut().find(|s| !s.released) {
            slot.released = true;
        }
        self.collect();
    }

    /// Whether a tile can be asked for: none is on its way.
    pub fn tile_is_free(&self) -> bool {
        self.tile.as_ref().is_none_or(Slot::is_free)
    }

    /// Asks for a tile, which goes to `place`.
    pub fn begin_tile(&mut self, offset: u64, bytes: usize, place: usize) {
        self.last_id += 1;
        let item = Item { offset, bytes, place: Some(place) };
        let id = self.last_id;
        let slot = Slot { id, index: None, item, start: place, issued: 0, done: 0, in_flight: 0, released: false, fault: None };
        self.tile = Some(slot);
    }

    /// Where the tile stands.
    pub fn ask_tile(&mut self) -> Asked {
        let Some(slot) = self.tile.as_mut() else { return Asked::Coming };
        match &slot.fault {
            Some(fault) => {
                let fault = *fault;
                slot.released = true;
                Asked::Failed(fault)
            }
            None if slot.done == slot.item.bytes => {
                slot.released = true;
                Asked::There(slot.start..slot.start + slot.item.bytes)
            }
            None => Asked::Coming,
        }
    }

    /// The decoder no longer waits for the tile.
    pub fn give_up_tile(&mut self) {
        if let Some(slot) = self.tile.as_mut() {
            slot.released = true;
        }
    }

    /// The oldest bytes that were asked for and have not come: offset and count.
    pub fn outstanding(&self) -> Option<(u64, u64)> {
        let waiting = self.tile.iter().chain(&self.slots).find(|s| s.in_flight > 0);
        waiting.map(|s| (s.item.offset + s.done as u64 / PAGE as u64 * PAGE as u64, (s.issued - s.done) as u64))
    }
}
