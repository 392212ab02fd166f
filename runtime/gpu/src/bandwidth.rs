//! How fast a device reads its memory.

use crate::compile::{Pipelines, begin, buffer};
use crate::kernels::head::{READ_GROUPS, UNITS, read_all};
use crate::{Device, Error};
use std::time::Instant;

/// Bytes read in a round.
const BYTES: u64 = 64 << 20;
/// Rounds; the best counts.
const ROUNDS: usize = 5;

impl Device {
    /// Bytes per second that a kernel reads from the device's memory, submission and waiting included.
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
        let mut best = f64::INFINITY;
        for _ in 0..ROUNDS {
            let start = Instant::now();
            let mut encoder = self.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
            {
                let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
                pass.set_pipeline(&pipeline.pipeline);
                pass.set_bind_group(0, &group, &[]);
                pass.dispatch_workgroups(READ_GROUPS, 1, 1);
            }
            self.queue.submit([encoder.finish()]);
            self.wait()?;
            best = best.min(start.elapsed().as_secs_f64());
        }
        Ok(bytes as f64 / best)
    }
}
