//! Images to stream, plans that stream them, and devices that fail.

#![allow(dead_code, reason = "each test file uses some of it")]

use bourn_format::{Image, SegmentKind};
use bourn_host::stream::{ImageFile, RamPlan, ReadAt, StreamKind};
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Condvar, Mutex};
use std::time::Duration;

/// A fixture of the current format.
pub fn fixture(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures").join(name)
}

/// Its head alone.
pub fn paged(name: &str) -> ImageFile {
    ImageFile::open(&fixture(name), StreamKind::Paged).unwrap()
}

/// All of its bytes.
pub fn bytes(name: &str) -> Vec<u8> {
    std::fs::read(fixture(name)).unwrap()
}

/// The segments that are read for every token.
pub fn cycle(image: &Image<'_>) -> Vec<usize> {
    (0..image.n_segments()).filter(|&i| image.segment(i).kind != SegmentKind::Embed).collect()
}

/// A plan that pins `pinned` of the cycle and streams the rest through a ring of two of the largest segments.
pub fn plan(image: &Image<'_>, pinned: &[usize]) -> RamPlan {
    let bytes = |i: &usize| image.segment(*i).bytes;
    let all = cycle(image);
    let streamed: Vec<usize> = all.iter().copied().filter(|i| !pinned.contains(i)).collect();
    RamPlan {
        budget: 0,
        context: 64,
        prefill_block: 16,
        logit_rows: 1,
        program_bytes: 0,
        head_bytes: 0,
        workspace_bytes: 0,
        whole_head: false,
        row_bytes: 0,
        sampler_bytes: 0,
        tile_bytes: 64 << 10,
        ring_bytes: 2 * all.iter().map(bytes).max().unwrap(),
        pinned: pinned.to_vec(),
        pinned_bytes: pinned.iter().map(bytes).sum(),
        streamed_bytes: streamed.iter().map(bytes).sum(),
        streamed,
    }
}

/// What a device does wrong. Nothing at first.
#[derive(Default)]
pub struct Faults {
    /// Reads that fail before the next that works.
    pub errors: AtomicU64,
    /// Bytes that a read gives at most; 0: all.
    pub at_most: AtomicU64,
    /// The file ends here; 0: where it ends.
    pub end: AtomicU64,
    /// Each read takes so many microseconds.
    pub slow_us: AtomicU64,
    /// This bit, counted from the start of the file, is the other one; 0: none.
    pub flipped: AtomicU64,
    /// Reads of the flipped bit that still give it wrong.
    pub flips_left: AtomicU64,
    /// Reads begun.
    pub reads: AtomicU64,
    hanging: Mutex<bool>,
    goes_on: Condvar,
}

/// An image in memory, read with faults.
pub struct Faulty {
    pub bytes: Vec<u8>,
    pub faults: Faults,
}

impl Faulty {
    pub fn new(bytes: Vec<u8>) -> Self {
        Self { bytes, faults: Faults::default() }
    }

    /// From now on no read comes back, or all do again.
    pub fn hang(&self, hanging: bool) {
        *self.faults.hanging.lock().unwrap() = hanging;
        self.faults.goes_on.notify_all();
    }
}

/// Takes one from a counter that has some left.
fn take(counter: &AtomicU64) -> bool {
    counter.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1)).is_ok()
}

impl ReadAt for Faulty {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        let f = &self.faults;
        f.reads.fetch_add(1, Ordering::SeqCst);
        drop(f.goes_on.wait_while(f.hanging.lock().unwrap(), |hanging| *hanging).unwrap());
        std::thread::sleep(Duration::from_micros(f.slow_us.load(Ordering::SeqCst)));
        if take(&f.errors) {
            return Err(io::Error::from_raw_os_error(5));
        }
        let end = (self.len()? as usize).max(offset as usize);
        let n = match f.at_most.load(Ordering::SeqCst) as usize {
            0 => buf.len(),
            most => most.min(buf.len()),
        };
        let n = n.min(end - offset as usize);
        buf[..n].copy_from_slice(&self.bytes[offset as usize..offset as usize + n]);
        let flipped = f.flipped.load(Ordering::SeqCst);
        if flipped != 0 && (offset..offset + n as u64).contains(&(flipped / 8)) && take(&f.flips_left) {
            buf[(flipped / 8 - offset) as usize] ^= 1 << (flipped % 8);
        }
        Ok(n)
    }

    fn len(&self) -> io::Result<u64> {
        Ok(match self.faults.end.load(Ordering::SeqCst) {
            0 => self.bytes.len() as u64,
            end => end,
        })
    }
}

/// SplitMix64.
pub fn random(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (*state ^ (*state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
