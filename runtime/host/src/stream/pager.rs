//! The weight stream under a RAM budget: pinned segments from memory, the others through the ring.

#![allow(unsafe_code)]

use super::Head;
use super::area::Area;
use super::plan::{N_TILES, RamPlan, cycle};
use super::reader::{ReadOptions, Shared, StreamStats};
use super::schedule::Item;
use super::source::ReadAt;
use crate::Error;
use bourn_core::{Error as CoreError, WeightStream};
use bourn_format::PAGE;
use std::fmt;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Bytes after which the device's speed counts as measured.
const MEASURED_BYTES: u64 = 24 << 20;
/// Time after which it does too.
const MEASURED_TIME: Duration = Duration::from_millis(400);

/// Where the bytes of a segment are.
#[derive(Clone, Copy, Debug)]
enum Place {
    /// In memory.
    Pinned(usize),
    /// Item of the streamed order.
    Streamed(usize),
    /// Only read by tiles.
    Tiles,
}

/// What is known of a tile place: the file range that it holds.
type Held = Option<(u64, usize)>;

/// Weights of one image under a budget.
pub struct Pager {
    shared: Arc<Shared>,
    plan: RamPlan,
    places: Vec<Place>,
    /// For each segment the first streamed item that is not before it in the cycle.
    next_streamed: Vec<usize>,
    tiles: Mutex<([Held; N_TILES], usize)>,
    lent: AtomicBool,
    device: Option<String>,
    direct: bool,
    reader: &'static str,
    bandwidth: f64,
}

impl fmt::Debug for Pager {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pager").field("plan", &self.plan).field("bandwidth", &self.bandwidth).finish_non_exhaustive()
    }
}

impl Pager {
    /// Takes the memory, reads what is pinned, measures the device on the way, and begins to read ahead.
    pub(crate) fn new(
        head: Arc<Head>,
        source: Arc<dyn ReadAt>,
        device: Option<String>,
        plan: RamPlan,
        options: &ReadOptions,
        lock: bool,
    ) -> Result<Self, Error> {
        let image = head.image();
        let tiles = plan.tile_bytes as usize * N_TILES;
        let ring = tiles..tiles + plan.ring_bytes as usize;
        let area = Area::new(ring.end + plan.pinned_bytes as usize)
            .map_err(|source| Error::Memory { need: plan.total_bytes(), source })?;
        if lock {
            area.lock().map_err(|source| Error::Lock {
                bytes: (ring.end as u64) + plan.pinned_bytes,
                limit: lock_limit(),
                source,
            })?;
        }
        let mut places = vec![Place::Tiles; image.n_segments()];
        let mut items = Vec::with_capacity(plan.pinned.len());
        let mut at = ring.end;
        for &i in &plan.pinned {
            let s = image.segment(i);
            places[i] = Place::Pinned(at);
            items.push(Item { offset: s.offset, bytes: s.bytes as usize, place: Some(at) });
            at += s.bytes as usize;
        }
        let streamed: Vec<Item> = plan
            .streamed
            .iter()
            .map(|&i| image.segment(i))
            .map(|s| Item { offset: s.offset, bytes: s.bytes as usize, place: None })
            .collect();
        for (item, &i) in plan.streamed.iter().enumerate() {
            places[i] = Place::Streamed(item);
        }
        let next_streamed = next_streamed(image.n_segments(), &cycle(image, plan.whole_head), &places);
        let shared = Shared::new(area, ring, Arc::clone(&head), source, options);
        // From here on dropping ends the readers.
        let mut this = Self {
            shared,
            plan,
            places,
            next_streamed,
            tiles: Mutex::new(([None; N_TILES], 0)),
            lent: AtomicBool::new(false),
            device,
            direct: false,
            reader: "",
            bandwidth: 0.0,
        };
        this.reader =
            this.shared.start(options.uring).map_err(|source| Error::Memory { need: this.plan.total_bytes(), source })?;
        let start = Instant::now();
        this.shared.set_order(items.clone(), false);
        this.wait_all(&items, &mut |_| true)?;
        if this.shared.stats().read_bytes < MEASURED_BYTES && !streamed.is_empty() {
            this.shared.set_order(streamed.clone(), true);
            let enough = |stats: &StreamStats| stats.read_bytes < MEASURED_BYTES && start.elapsed() < MEASURED_TIME;
            this.wait_all(&streamed, &mut |shared| enough(&shared.stats()))?;
        }
        this.bandwidth = this.shared.stats().read_bytes as f64 / start.elapsed().as_secs_f64().max(1e-9);
        this.direct = this.shared.is_direct();
        this.shared.set_order(streamed, true);
        Ok(this)
    }

    /// Waits for the items one after another as long as `more` says.
    fn wait_all(&self, items: &[Item], more: &mut dyn FnMut(&Shared) -> bool) -> Result<(), Error> {
        for (i, item) in items.iter().enumerate() {
            self.shared.wait(i, (item.offset, item.bytes as u64)).map_err(Error::Core)?;
            self.shared.release();
            if !more(&self.shared) {
                break;
            }
        }
        Ok(())
    }

    /// What is pinned and what is streamed.
    pub fn plan(&self) -> &RamPlan {
        &self.plan
    }

    /// Name of the block device, where the system tells.
    pub fn device(&self) -> Option<&str> {
        self.device.as_deref()
    }

    /// Whether reads go past the page cache; else what they leave there is dropped at once.
    pub fn is_direct(&self) -> bool {
        self.direct
    }

    /// What reads: `io_uring` or `threads`.
    pub fn reader(&self) -> &'static str {
        self.reader
    }

    /// Bytes per second that the device delivered while the pinned segments were read.
    pub fn bandwidth(&self) -> f64 {
        self.bandwidth
    }

    /// What was read so far.
    pub fn stats(&self) -> StreamStats {
        self.shared.stats()
    }

    /// The stream. There is one at a time: another one that is asked for meanwhile answers [`CoreError::Busy`].
    pub(crate) fn stream(&self) -> PagedStream<'_> {
        let mine = !self.lent.swap(true, Ordering::Acquire);
        PagedStream { pager: mine.then_some(self), held: false }
    }
}

impl Drop for Pager {
    fn drop(&mut self) {
        self.shared.close();
    }
}

/// For each segment the streamed item that comes next from it on in the cycle; the first again after the last.
fn next_streamed(n_segments: usize, cycle: &[usize], places: &[Place]) -> Vec<usize> {
    let mut next = vec![0; n_segments];
    let mut found = 0;
    for &i in cycle.iter().rev() {
        if let Place::Streamed(item) = places[i] {
            found = item;
        }
        next[i] = found;
    }
    next
}

/// What RLIMIT_MEMLOCK allows.
fn lock_limit() -> u64 {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the pointer is to a live struct of the type that the call fills.
    let answer = unsafe { libc::getrlimit(libc::RLIMIT_MEMLOCK, &mut limit) };
    if answer == 0 { limit.rlim_cur } else { 0 }
}

/// The stream of a [`Pager`].
#[derive(Debug)]
pub struct PagedStream<'a> {
    pager: Option<&'a Pager>,
    /// An item was given and not released.
    held: bool,
}

impl PagedStream<'_> {
    /// A stream over nothing: every call answers [`CoreError::Busy`].
    pub(crate) const fn none() -> Self {
        Self { pager: None, held: false }
    }

    fn let_go(&mut self) {
        if let Some(pager) = self.pager
            && std::mem::take(&mut self.held)
        {
            pager.shared.release();
        }
    }

    /// Bytes that were there and checked when the range was made.
    ///
    /// `range` is one that the schedule gave out and that this stream has not released, or one of pinned bytes.
    fn lend(&self, range: Range<usize>) -> &[u8] {
        let Some(pager) = self.pager else { return &[] };
        // SAFETY: the range was read whole before it was given out. Pinned bytes are not written again. A range of the ring is
        // not given to a reader before this stream releases it, and a tile's not before the next tile is asked for; both take
        // `&mut self`, so not while the slice lives. There is no other stream (`lent`).
        unsafe { pager.shared.area.slice(range) }
    }
}

impl Drop for PagedStream<'_> {
    fn drop(&mut self) {
        self.let_go();
        if let Some(pager) = self.pager {
            pager.lent.store(false, Ordering::Release);
        }
    }
}

impl WeightStream for PagedStream<'_> {
    fn segment(&mut self, index: usize) -> Result<&[u8], CoreError> {
        self.let_go();
        let pager = self.pager.ok_or(CoreError::Busy)?;
        let s = pager.shared.head.image().segment(index);
        let range = match pager.places.get(index) {
            Some(&Place::Pinned(at)) => at..at + s.bytes as usize,
            Some(&Place::Streamed(item)) => {
                let range = pager.shared.wait(item, (s.offset, s.bytes))?;
                self.held = true;
                range
            }
            _ => return Err(CoreError::Read { offset: s.offset, bytes: s.bytes, code: 0 }),
        };
        Ok(self.lend(range))
    }

    fn read(&mut self, offset: u64, bytes: usize) -> Result<&[u8], CoreError> {
        self.let_go();
        let pager = self.pager.ok_or(CoreError::Busy)?;
        let image = pager.shared.head.image();
        let invalid = CoreError::Read { offset, bytes: bytes as u64, code: 0 };
        let (payload, file_bytes) = (image.superblock().payload_offset, image.superblock().file_bytes);
        let end = offset.checked_add(bytes as u64).filter(|&e| offset >= payload && e <= file_bytes).ok_or(invalid)?;
        // It may be in memory already.
        for &i in &pager.plan.pinned {
            let s = image.segment(i);
            if let Place::Pinned(at) = pager.places[i]
                && offset >= s.offset
                && end <= s.offset + s.bytes
            {
                let start = at + (offset - s.offset) as usize;
                return Ok(self.lend(start..start + bytes));
            }
        }
        let page = PAGE as u64;
        let first = offset / page * page;
        let whole = (end.div_ceil(page) * page - first) as usize;
        let tile_bytes = pager.plan.tile_bytes as usize;
        if whole > tile_bytes {
            return Err(invalid);
        }
        let mut tiles = pager.tiles.lock().unwrap_or_else(PoisonError::into_inner);
        let (held, next) = &mut *tiles;
        let known = held.iter().position(|&h| h.is_some_and(|(at, len)| at <= first && first + whole as u64 <= at + len as u64));
        let (slot, at) = match known {
            Some(slot) => (slot, held[slot].map_or(first, |(at, _)| at)),
            None => {
                let slot = *next;
                *next = (slot + 1) % N_TILES;
                held[slot] = None;
                pager.shared.tile(first, whole, slot * tile_bytes)?;
                held[slot] = Some((first, whole));
                (slot, first)
            }
        };
        let start = slot * tile_bytes + (offset - at) as usize;
        Ok(self.lend(start..start + bytes))
    }

    fn turn(&mut self, after: usize, to: usize) {
        if let Some(pager) = self.pager {
            let next = |i: usize| pager.next_streamed.get(i).copied().unwrap_or(0);
            // The first streamed item after `after`: what follows it in the cycle, or the first one again.
            let following = if after + 1 < pager.places.len() { next(after + 1) } else { 0 };
            pager.shared.turn(following, next(to));
        }
    }
}
