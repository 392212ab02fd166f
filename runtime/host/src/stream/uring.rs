//! Reads through io_uring: several under way at once from one thread, which checks what came while the device goes on.
//!
//! Only the plain case lives here. A read that fails, comes short or does not match its sums is done again by the reader's own
//! careful way ([`Shared::fetch_now`]).

#![allow(unsafe_code)]

use super::reader::Shared;
use super::schedule::Job;
use io_uring::{IoUring, Probe, opcode, types};
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::thread;
use std::time::Instant;

/// Reads of a thread under way at once.
const DEPTH: usize = 4;

/// A queue of this kernel's.
pub(crate) struct Queue(IoUring);

impl Queue {
    /// A queue, where the kernel has them, allows them, and reads by them.
    pub fn new() -> Option<Self> {
        let ring = IoUring::new(DEPTH as u32).ok()?;
        let mut probe = Probe::new();
        ring.submitter().register_probe(&mut probe).ok()?;
        probe.is_supported(opcode::Read::CODE).then_some(Self(ring))
    }

    /// Life of the reader: reads `file` as the schedule of `shared` says, until that is closed.
    pub fn serve(mut self, shared: &Shared, file: &File) {
        let mut under_way: [Option<(Job, Option<Instant>)>; DEPTH] = [None; DEPTH];
        loop {
            let busy = under_way.iter().flatten().count();
            for (slot, place) in under_way.iter_mut().enumerate().filter(|(_, place)| place.is_none()) {
                // Waits only where there is nothing else to wait for.
                let wait = busy == 0 && slot == 0;
                let Some(job) = shared.next_job(wait) else { break };
                let until = shared.begin(job.bytes);
                match self.push(shared, file, slot, &job) {
                    Ok(()) => *place = Some((job, until)),
                    Err(_) => shared.finish(&job, shared.fetch_now(&job)),
                }
            }
            if under_way.iter().all(Option::is_none) {
                if shared.is_closed() {
                    return;
                }
                continue;
            }
            match self.0.submit_and_wait(1) {
                Err(e) if e.kind() != io::ErrorKind::Interrupted => thread::yield_now(),
                _ => {}
            }
            while let Some(done) = self.0.completion().next() {
                let place = under_way.get_mut(done.user_data() as usize).and_then(Option::take);
                let Some((job, until)) = place else { continue };
                let result = match usize::try_from(done.result()) {
                    Ok(n) if n == job.bytes && shared.check_job(&job).is_ok() => Ok(()),
                    other => {
                        shared.count_again(other.is_err());
                        shared.fetch_now(&job)
                    }
                };
                shared.end(&job, until);
                shared.finish(&job, result);
            }
        }
    }

    /// Asks for one read.
    fn push(&mut self, shared: &Shared, file: &File, slot: usize, job: &Job) -> io::Result<()> {
        let buffer = shared.area.pointer(job.range()).ok_or(io::ErrorKind::InvalidInput)?;
        let entry = opcode::Read::new(types::Fd(file.as_raw_fd()), buffer, job.bytes as u32).offset(job.offset);
        let entry = entry.build().user_data(slot as u64);
        // SAFETY: the descriptor is open as long as `file` is borrowed and the buffer is memory of the area, which `shared`
        // owns: `serve` borrows both until every read that it asked for has come back. The schedule gives the range out once,
        // and neither reuses it nor shows it to the decoder before `finish`.
        let pushed = unsafe { self.0.submission().push(&entry) };
        pushed.map_err(|_| io::ErrorKind::WouldBlock.into())
    }
}
