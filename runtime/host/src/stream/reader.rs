//! The reader: threads that fill the area as the schedule says, and the decoder's side that waits for them.
//!
//! Two threads, each with a queue of the kernel's (`uring`) or one read at a time: while one holds its chunk against the page
//! sums, the other's reads are under way. So the device never waits for a checksum. An error is tried again a few times; what stays wrong goes to whoever asked for the bytes.

#![allow(unsafe_code)]

use super::Head;
use super::area::Area;
use super::schedule::{Asked, Item, Job, Schedule};
use super::source::{ReadAt, SECTOR, Throttle};
use bourn_core::Error;
use bourn_format::PAGE;
use std::io;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// Why bytes could not be had.
pub(crate) type Fault = Error;

/// Threads that read: one waits for the device while the other checks what came.
const READERS: usize = 2;
/// How often a read that failed is tried again.
const RETRIES: u32 = 3;
/// How often a page that does not match its sum is read again: the bus may have erred, not the flash.
const REREADS: u32 = 2;
/// How often the decoder looks at its stop flag while it waits.
const LOOK: Duration = Duration::from_millis(50);
/// How long dropping waits for a reader; one that the device holds on to is left behind with its memory.
const FAREWELL: Duration = Duration::from_millis(500);

/// What has been read so far, and what went wrong on the way.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct StreamStats {
    /// Bytes read.
    pub read_bytes: u64,
    /// Reads that failed and were tried again.
    pub retries: u64,
    /// Chunks that did not match their sums and were read again.
    pub rereads: u64,
    /// How often the decoder asked for something else than what was read ahead.
    pub misses: u64,
    /// Seconds the readers spent on checksums, all together.
    pub check_seconds: f64,
    /// Seconds the readers spent on reading.
    pub read_seconds: f64,
    /// Seconds the decoder waited.
    pub wait_seconds: f64,
}

#[derive(Debug, Default)]
pub(crate) struct Counters {
    read_bytes: AtomicU64,
    retries: AtomicU64,
    rereads: AtomicU64,
    check_ns: AtomicU64,
    read_ns: AtomicU64,
    wait_ns: AtomicU64,
}

/// Adds what has passed since `start`.
fn add_time(to: &AtomicU64, start: Instant) {
    to.fetch_add(start.elapsed().as_nanos() as u64, Ordering::Relaxed);
}

#[derive(Debug)]
struct State {
    schedule: Schedule,
    /// When bytes came last.
    progress: Instant,
    closed: bool,
    readers: usize,
}

/// How to read.
#[derive(Clone, Debug)]
pub struct ReadOptions {
    /// Bytes per second, at most: models a slower device.
    pub throttle: Option<u64>,
    /// How long the decoder waits for a read before it gives up.
    pub patience: Duration,
    /// Ends waiting when set.
    pub cancel: Option<Arc<AtomicBool>>,
    /// Use io_uring where the kernel has it.
    pub uring: bool,
}

impl Default for ReadOptions {
    /// No throttle, ten seconds.
    fn default() -> Self {
        Self { throttle: None, patience: Duration::from_secs(10), cancel: None, uring: true }
    }
}

/// What readers and decoder share.
pub(crate) struct Shared {
    pub area: Area,
    pub head: Arc<Head>,
    source: Arc<dyn ReadAt>,
    throttle: Option<Throttle>,
    patience: Duration,
    cancel: Option<Arc<AtomicBool>>,
    state: Mutex<State>,
    /// There may be something to read.
    work: Condvar,
    /// Something has come, or a reader has gone.
    came: Condvar,
    pub counters: Counters,
}

impl Shared {
    pub fn new(area: Area, ring: Range<usize>, head: Arc<Head>, source: Arc<dyn ReadAt>, options: &ReadOptions) -> Arc<Self> {
        Arc::new(Self {
            area,
            head,
            source,
            throttle: options.throttle.map(Throttle::new),
            patience: options.patience,
            cancel: options.cancel.clone(),
            state: Mutex::new(State { schedule: Schedule::new(ring), progress: Instant::now(), closed: false, readers: 0 }),
            work: Condvar::new(),
            came: Condvar::new(),
            counters: Counters::default(),
        })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether reads go past the page cache.
    pub fn is_direct(&self) -> bool {
        self.source.is_direct()
    }

    pub fn stats(&self) -> StreamStats {
        let c = &self.counters;
        let seconds = |ns: &AtomicU64| ns.load(Ordering::Relaxed) as f64 / 1e9;
        StreamStats {
            read_bytes: c.read_bytes.load(Ordering::Relaxed),
            retries: c.retries.load(Ordering::Relaxed),
            rereads: c.rereads.load(Ordering::Relaxed),
            misses: self.lock().schedule.misses,
            check_seconds: seconds(&c.check_ns),
            read_seconds: seconds(&c.read_ns),
            wait_seconds: seconds(&c.wait_ns),
        }
    }

    // The decoder's side.

    /// Begins another order.
    pub fn set_order(&self, order: Vec<Item>, cyclic: bool) {
        self.lock().schedule.set_order(order, cyclic);
        self.work.notify_all();
    }

    /// See [`Schedule::turn`].
    pub fn turn(&self, at: usize, to: usize) {
        self.lock().schedule.turn(at, to);
    }

    /// Lets go of what [`Self::wait`] gave.
    pub fn release(&self) {
        self.lock().schedule.release();
        self.work.notify_all();
    }

    /// Waits until item `index` of the order is there and checked; it stays until [`Self::release`].
    pub fn wait(&self, index: usize, item: (u64, u64)) -> Result<Range<usize>, Error> {
        self.wait_until(item, |schedule| schedule.ask(index))
    }

    /// Waits until `bytes` at `offset` are at `place`.
    pub fn tile(&self, offset: u64, bytes: usize, place: usize) -> Result<Range<usize>, Error> {
        let mut begun = false;
        let answer = self.wait_until((offset, bytes as u64), |schedule| {
            if !begun {
                if !schedule.tile_is_free() {
                    return Asked::Coming;
                }
                schedule.begin_tile(offset, bytes, place);
                begun = true;
            }
            schedule.ask_tile()
        });
        if answer.is_err() && begun {
            self.lock().schedule.give_up_tile();
        }
        answer
    }

    /// Asks until the answer is there, patience ends or the flag is set.
    fn wait_until(
        &self,
        (offset, bytes): (u64, u64),
        mut ask: impl FnMut(&mut Schedule) -> Asked,
    ) -> Result<Range<usize>, Error> {
        let mut state = self.lock();
        let mut start = None;
        let answer = loop {
            match ask(&mut state.schedule) {
                Asked::There(range) => break Ok(range),
                Asked::Failed(fault) => break Err(fault),
                Asked::Coming => {}
            }
            let start = *start.get_or_insert_with(Instant::now);
            if self.cancel.as_ref().is_some_and(|c| c.load(Ordering::Relaxed)) {
                break Err(Error::Cancelled);
            }
            if start.max(state.progress).elapsed() > self.patience {
                let (offset, bytes) = state.schedule.outstanding().unwrap_or((offset, bytes));
                break Err(Error::Stalled { offset, bytes, seconds: self.patience.as_secs() });
            }
            self.work.notify_all();
            state = self.came.wait_timeout(state, LOOK.min(self.patience)).unwrap_or_else(PoisonError::into_inner).0;
        };
        if let Some(start) = start {
            add_time(&self.counters.wait_ns, start);
        }
        answer
    }

    /// Ends the readers, as far as the device lets them.
    pub fn close(&self) {
        let mut state = self.lock();
        state.closed = true;
        state.schedule.stop();
        self.work.notify_all();
        let end = Instant::now() + FAREWELL;
        while state.readers > 0 && Instant::now() < end {
            state = self.came.wait_timeout(state, LOOK).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    // The readers' side.

    /// The next read, waited for if `wait` says so; `None` when closed.
    pub fn next_job(&self, wait: bool) -> Option<Job> {
        let mut state = self.lock();
        loop {
            if state.closed {
                return None;
            }
            if let Some(job) = state.schedule.next_job() {
                return Some(job);
            }
            if !wait {
                return None;
            }
            state = self.work.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Whether readers are to end.
    pub fn is_closed(&self) -> bool {
        self.lock().closed
    }

    /// A read has ended.
    pub fn finish(&self, job: &Job, result: Result<(), Fault>) {
        let mut state = self.lock();
        state.schedule.finish(job, result);
        state.progress = Instant::now();
        drop(state);
        self.came.notify_all();
    }

    /// A read of so many bytes begins: when it may end.
    pub fn begin(&self, bytes: usize) -> Option<Instant> {
        self.throttle.as_ref().map(|t| t.begin(bytes))
    }

    /// A read ends, not before `until`.
    pub fn end(&self, job: &Job, until: Option<Instant>) {
        if let Some(until) = until {
            thread::sleep(until.saturating_duration_since(Instant::now()));
        }
        self.counters.read_bytes.fetch_add(job.bytes as u64, Ordering::Relaxed);
    }

    /// A read is done again: because it failed or came short, or because its sums did not match.
    pub fn count_again(&self, failed: bool) {
        let counter = if failed { &self.counters.retries } else { &self.counters.rereads };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    /// Reads one chunk and holds it against its sums, again where that may help.
    pub fn fetch_now(&self, job: &Job) -> Result<(), Fault> {
        // SAFETY: the schedule gives a range out once, and neither reuses it nor shows it to the decoder before `finish`.
        let bytes = unsafe { self.area.slice_mut(job.range()) };
        let mut rereads = 0;
        loop {
            let start = Instant::now();
            let read = self.fill(job.offset, bytes);
            add_time(&self.counters.read_ns, start);
            match read.and_then(|()| self.check(job.offset, bytes)) {
                Err(Error::Format(bourn_format::Error::Checksum { .. })) if rereads < REREADS => {
                    rereads += 1;
                    self.count_again(false);
                }
                other => break other,
            }
        }
    }

    /// Holds the bytes of a read that has come against their sums.
    pub fn check_job(&self, job: &Job) -> Result<(), Fault> {
        // SAFETY: as in `fetch_now`; whoever wrote the range has ended.
        let bytes = unsafe { self.area.slice(job.range()) };
        self.check(job.offset, bytes)
    }

    /// Fills `buf` from `offset`: short reads go on, failed ones are tried again.
    fn fill(&self, offset: u64, buf: &mut [u8]) -> Result<(), Fault> {
        let (mut done, mut failed) = (0, 0);
        while done < buf.len() {
            let code = match self.source.read_at(offset + done as u64, &mut buf[done..]) {
                Ok(n) if done + n >= buf.len() => break,
                Ok(n) => {
                    // Direct reads go on at whole sectors.
                    let next = if self.source.is_direct() { (done + n) / SECTOR * SECTOR } else { done + n };
                    if next > done {
                        done = next;
                        continue;
                    }
                    // The end: of a file that has been cut short, or of one that tells lies about its length.
                    let need = offset + buf.len() as u64;
                    let have = self.source.len().unwrap_or(offset + done as u64);
                    if have < need {
                        return Err(Error::Format(bourn_format::Error::Truncated { need, have }));
                    }
                    0
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) => e.raw_os_error().unwrap_or(0),
            };
            if failed == RETRIES {
                return Err(Error::Read { offset: offset + done as u64, bytes: (buf.len() - done) as u64, code });
            }
            failed += 1;
            self.count_again(true);
            thread::sleep(Duration::from_millis(5 << failed));
        }
        Ok(())
    }

    /// Holds whole pages that lie at `offset` against their sums.
    fn check(&self, offset: u64, bytes: &[u8]) -> Result<(), Fault> {
        let start = Instant::now();
        let first = (offset - self.head.image().superblock().payload_offset) as usize / PAGE;
        let result = bytes.chunks(PAGE).enumerate().try_for_each(|(i, page)| self.head.image().check_page(first + i, page));
        add_time(&self.counters.check_ns, start);
        result.map_err(Error::Format)
    }

    /// Life of a reader.
    fn serve(&self) {
        while let Some(job) = self.next_job(true) {
            let until = self.begin(job.bytes);
            let result = self.fetch_now(&job);
            self.end(&job, until);
            self.finish(&job, result);
        }
    }

    /// Starts the readers: with queues of the kernel's where there are some and the file is read past the page cache, else with
    /// one read at a time each. Returns which.
    pub fn start(self: &Arc<Self>, uring: bool) -> io::Result<&'static str> {
        #[cfg(target_os = "linux")]
        if uring && self.source.file().is_some() {
            let queues: Vec<_> = (0..READERS).map_while(|_| super::uring::Queue::new()).collect();
            let n = queues.len();
            for (i, queue) in queues.into_iter().enumerate() {
                let shared = Arc::clone(self);
                self.spawn(i, move || match shared.source.file() {
                    Some(file) => queue.serve(&shared, file),
                    None => shared.serve(),
                })?;
            }
            if n > 0 {
                return Ok("io_uring");
            }
        }
        let _ = uring;
        for i in 0..READERS {
            let shared = Arc::clone(self);
            self.spawn(i, move || shared.serve())?;
        }
        Ok("threads")
    }

    fn spawn(self: &Arc<Self>, i: usize, serve: impl FnOnce() + Send + 'static) -> io::Result<()> {
        let shared = Arc::clone(self);
        self.lock().readers += 1;
        let started = thread::Builder::new().name(format!("bourn-read-{i}")).stack_size(256 << 10).spawn(move || {
            let _left = Leave(&shared);
            serve();
        });
        started.map(|_| ()).inspect_err(|_| self.lock().readers -= 1)
    }
}

/// Counts a reader out, however it ends.
struct Leave<'a>(&'a Shared);

impl Drop for Leave<'_> {
    fn drop(&mut self) {
        self.0.lock().readers -= 1;
        self.0.came.notify_all();
    }
}
