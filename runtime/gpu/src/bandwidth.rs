//! How fast a device reads its memory.

use crate::compile::{Pipelines, begin, buffer};
use crate::kernels::head::{READ_GROUPS, UNITS, read_all};
use crate::{Device, Error};
use std::time::{Duration, Instant};

/// Memory that is read: more than any cache holds.
const BYTES: u64 = 256 << 20;
/// What a submission takes at least, so that beginning it and waiting for it count for little.
const LONG: Duration = Duration::from_millis(20);
/// Dispatches of a submission at most.
const MOST: u32 = 1 << 12;
/// Submissions; the best counts.
const ROUNDS: usize = 5;

impl Device {
    /// Bytes per second that a kernel reads from the device's memory: the most that a kernel can hope for.
    ///
    /// # Errors
    /// [`Error`].
    pub fn read_bandwidth(&self) -> Result<f64, Error> {
        let share = u64::from(READ_GROUPS * UNITS * 16);
        let bytes = BYTES.min(self.binding_bytes()) / share * share;
        let storage = wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_DST;
        let from = self.buffer("memory to read", bytes, storage)?;
        let to = self.buffer("sums", u64::from(4 * READ_GROUPS * UNITS), storage)?;
        let each = (bytes / share) as u32;
        let (s, p, t) = begin(UNITS);
        let pipeline = Pipelines::default()
            .get(self, "read_all", 2, || Box::new(read_all::ReadAll::new(s, p, t, buffer(), buffer(), each)))?;
        let group = self.device.create_bind_group(&wgpu::BindGroupDescriptor {
            label: None,
            layout: &pipeline.layout,
            entries: &[
                wgpu::BindGroupEntry { binding: 0, resource: from.as_entire_binding() },
                wgpu::BindGroupEntry { binding: 1, resource: to.as_entire_binding() },
            ],
        });
        let took = |dispatches: u32| -> Result<Duration, Error> {
            let start = Instant::now();
            let mut encoder = self.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
            {
                let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
                pass.set_pipeline(&pipeline.pipeline);
                pass.set_bind_group(0, &group, &[]);
                for _ in 0..dispatches {
                    pass.dispatch_workgroups(READ_GROUPS, 1, 1);
                }
            }
            self.queue.submit([encoder.finish()]);
            self.wait()?;
            Ok(start.elapsed())
        };
        // The first one also writes zeros where nothing was written yet.
        took(1)?;
        let mut dispatches = 1;
        while dispatches < MOST && took(dispatches)? < LONG {
            dispatches *= 2;
        }
        let mut best = Duration::MAX;
        for _ in 0..ROUNDS {
            best = best.min(took(dispatches)?);
        }
        Ok(f64::from(dispatches) * bytes as f64 / best.as_secs_f64())
    }
}
