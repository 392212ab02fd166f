//! How long each kernel of a token takes, by the device's own clock.

use super::{GpuSession, Left};
use crate::Error;
use crate::program::Step;
use bourn_core::WeightStream;
use bourn_format::Image;
use std::time::Duration;

/// Two timestamps a dispatch: WebGPU's most in a set is 4 096.
const STEPS_OF_SET: usize = 2048;

/// What all dispatches of one kernel took in a token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KernelTime {
    /// The kernel, and of a product its type and shape: `matvec_q4 3072x1024` has 3 072 rows of 1 024 columns.
    pub kernel: String,
    /// Dispatches in a token.
    pub dispatches: usize,
    /// What they took together, each waited for before the next began.
    pub time: Duration,
    /// Bytes of weights that they read.
    pub bytes: u64,
}

impl KernelTime {
    /// Bytes per second.
    pub fn bandwidth(&self) -> f64 {
        if self.time.is_zero() { 0.0 } else { self.bytes as f64 / self.time.as_secs_f64() }
    }
}

impl GpuSession {
    /// Reads `token` as [`Self::prefill`] does, but with every dispatch in a pass of its own, between two timestamps: what each kernel
    /// takes, the longest first. The whole takes longer than without.
    ///
    /// # Errors
    /// [`Error::Unsupported`] on a device without timestamps; as [`Self::prefill`]'s.
    pub fn profile(&mut self, image: &Image<'_>, stream: &mut dyn WeightStream, token: u32) -> Result<Vec<KernelTime>, Error> {
        let device = self.model.device();
        if !device.device.features().contains(wgpu::Features::TIMESTAMP_QUERY) {
            return Err(Error::Unsupported { what: "timestamps", instead: "bourn bench without --profile" });
        }
        self.check(image, &[token])?;
        self.inputs(image, stream, &[token])?;
        let steps: Vec<&Step> = self.token.steps().iter().chain(self.head.steps()).collect();
        let device = self.model.device();
        let bytes = 16 * steps.len() as u64;
        let usage = wgpu::BufferUsages::QUERY_RESOLVE | wgpu::BufferUsages::COPY_SRC;
        let resolved = device.buffer("timestamps", bytes, usage)?;
        let usage = wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST;
        let back = device.buffer("timestamps", bytes, usage)?;
        let mut encoder = self.encoder();
        for (set, steps) in steps.chunks(STEPS_OF_SET).enumerate() {
            let count = 2 * steps.len() as u32;
            let queries = device.device.create_query_set(&wgpu::QuerySetDescriptor {
                label: Some("timestamps"),
                ty: wgpu::QueryType::Timestamp,
                count,
            });
            for (first, step) in (0..).step_by(2).zip(steps) {
                let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor {
                    label: None,
                    timestamp_writes: Some(wgpu::ComputePassTimestampWrites {
                        query_set: &queries,
                        beginning_of_pass_write_index: Some(first),
                        end_of_pass_write_index: Some(first + 1),
                    }),
                });
                step.encode(&mut pass, 1);
            }
            encoder.resolve_query_set(&queries, 0..count, &resolved, (16 * STEPS_OF_SET * set) as u64);
        }
        encoder.copy_buffer_to_buffer(&resolved, 0, &back, 0, bytes);
        encoder.copy_buffer_to_buffer(&self.buffers.select.best, 0, &self.buffers.back, 0, 16);
        self.submit(encoder)?;
        let period = f64::from(device.queue.get_timestamp_period());
        let mut kernels: Vec<KernelTime> = Vec::new();
        device.read(&back, bytes, |bytes| {
            for (step, stamps) in steps.iter().zip(bytes.as_chunks::<16>().0) {
                let [begin, end] = [0, 8].map(|at| u64::from_le_bytes(std::array::from_fn(|i| stamps[at + i])));
                let time = Duration::from_nanos((end.saturating_sub(begin) as f64 * period) as u64);
                add(&mut kernels, KernelTime { kernel: step.name.clone(), dispatches: 1, time, bytes: step.bytes });
            }
        })?;
        self.position += 1;
        self.left = Left::One;
        let before = self.candidates.0;
        self.best(image)?;
        let exact = (self.candidates.0 - before) * self.row_bytes;
        if let Some(kernel) = kernels.iter_mut().find(|k| k.kernel == "exact") {
            kernel.bytes += exact;
        }
        kernels.sort_by_key(|k| std::cmp::Reverse(k.time));
        Ok(kernels)
    }
}

/// Adds to the kernel of this name.
fn add(kernels: &mut Vec<KernelTime>, one: KernelTime) {
    match kernels.iter_mut().find(|k| k.kernel == one.kernel) {
        Some(k) => {
            k.dispatches += one.dispatches;
            k.time += one.time;
            k.bytes += one.bytes;
        }
        None => kernels.push(one),
    }
}
