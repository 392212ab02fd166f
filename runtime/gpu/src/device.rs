//! An open device: its queue, its limits, and what went wrong on it.

use crate::fma::Fma;
use crate::wait::block_on;
use crate::{Adapter, Error};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Longest wait for an answer: a device that takes longer is taken for lost. A software adapter on a busy machine takes its time.
const PATIENCE: Duration = Duration::from_secs(300);

/// How to open a device.
#[derive(Clone, Copy, Debug, Default)]
pub struct DeviceOptions {
    /// Ask for no more than WebGPU guarantees (256 invocations, 16 KiB of workgroup memory, 8 storage buffers, bindings of
    /// 128 MiB, no optional feature), which is less than V3DV has.
    pub least: bool,
    /// Bind at most so many bytes at once, whatever the adapter allows.
    pub binding_bytes: Option<u64>,
}

/// An open device.
#[derive(Debug)]
pub struct Device {
    adapter: Adapter,
    pub(crate) device: wgpu::Device,
    pub(crate) queue: wgpu::Queue,
    binding_bytes: u64,
    fma: Fma,
    failed: Arc<Mutex<Option<Error>>>,
}

/// What the kernels need: WebGPU's defaults where they matter, nothing where they do not.
fn least(adapter: &wgpu::Limits) -> wgpu::Limits {
    let defaults = wgpu::Limits::defaults();
    wgpu::Limits {
        max_buffer_size: defaults.max_buffer_size,
        max_storage_buffer_binding_size: defaults.max_storage_buffer_binding_size,
        max_storage_buffers_per_shader_stage: defaults.max_storage_buffers_per_shader_stage,
        max_compute_workgroup_storage_size: defaults.max_compute_workgroup_storage_size,
        max_compute_invocations_per_workgroup: defaults.max_compute_invocations_per_workgroup,
        max_compute_workgroup_size_x: defaults.max_compute_workgroup_size_x,
        max_compute_workgroup_size_y: defaults.max_compute_workgroup_size_y,
        max_compute_workgroup_size_z: defaults.max_compute_workgroup_size_z,
        max_compute_workgroups_per_dimension: defaults.max_compute_workgroups_per_dimension,
        min_storage_buffer_offset_alignment: defaults.min_storage_buffer_offset_alignment,
        ..wgpu::Limits::downlevel_defaults()
    }
    .using_resolution(adapter.clone())
}

/// Fails unless `have` is enough for `need`, in what the kernels use.
fn check(need: &wgpu::Limits, have: &wgpu::Limits) -> Result<(), Error> {
    for (what, need, found) in [
        ("maxStorageBuffersPerShaderStage", need.max_storage_buffers_per_shader_stage, have.max_storage_buffers_per_shader_stage),
        (
            "maxComputeInvocationsPerWorkgroup",
            need.max_compute_invocations_per_workgroup,
            have.max_compute_invocations_per_workgroup,
        ),
        ("maxComputeWorkgroupSizeX", need.max_compute_workgroup_size_x, have.max_compute_workgroup_size_x),
        ("maxComputeWorkgroupStorageSize", need.max_compute_workgroup_storage_size, have.max_compute_workgroup_storage_size),
        (
            "maxComputeWorkgroupsPerDimension",
            need.max_compute_workgroups_per_dimension,
            have.max_compute_workgroups_per_dimension,
        ),
    ] {
        if found < need {
            return Err(Error::Limit { what, need: u64::from(need), found: u64::from(found) });
        }
    }
    Ok(())
}

impl Device {
    /// Opens the adapter.
    ///
    /// # Errors
    /// [`Error::Limit`] when it offers less than WebGPU guarantees, [`Error::Driver`] when it refuses.
    pub fn open(adapter: Adapter, options: &DeviceOptions) -> Result<Self, Error> {
        let mut limits = least(&adapter.limits);
        check(&limits, &adapter.limits)?;
        if !options.least {
            // Of everything but memory the least is enough.
            limits.max_buffer_size = adapter.limits.max_buffer_size;
            limits.max_storage_buffer_binding_size = adapter.limits.max_storage_buffer_binding_size;
        }
        let bound = limits.max_storage_buffer_binding_size.min(limits.max_buffer_size);
        let binding_bytes = options.binding_bytes.map_or(bound, |n| n.min(bound)) / 256 * 256;
        let optional = wgpu::Features::SHADER_F64 | wgpu::Features::TIMESTAMP_QUERY;
        let wanted = if options.least { wgpu::Features::empty() } else { optional };
        let descriptor = wgpu::DeviceDescriptor {
            label: Some("bourn"),
            required_features: adapter.inner.features() & wanted,
            required_limits: limits,
            memory_hints: wgpu::MemoryHints::MemoryUsage,
            ..wgpu::DeviceDescriptor::default()
        };
        let (device, queue) = block_on(adapter.inner.request_device(&descriptor))
            .map_err(|e| Error::Driver { doing: format!("open {}", adapter.name), why: e.to_string() })?;
        let failed = Arc::new(Mutex::new(None));
        let slot = Arc::clone(&failed);
        device.on_uncaptured_error(Arc::new(move |e: wgpu::Error| {
            let error = match e {
                wgpu::Error::OutOfMemory { .. } => Error::OutOfMemory { what: "a buffer".to_owned(), need: 0 },
                other => Error::Driver { doing: "compute".to_owned(), why: other.to_string() },
            };
            keep(&slot, error);
        }));
        let slot = Arc::clone(&failed);
        device.set_device_lost_callback(move |reason, why| {
            if reason != wgpu::DeviceLostReason::Destroyed {
                keep(&slot, Error::DeviceLost { why });
            }
        });
        let mut this = Self { adapter, device, queue, binding_bytes, failed, fma: Fma::Once };
        this.fma = Fma::of(&this)?;
        Ok(this)
    }

    /// What was opened.
    pub fn adapter(&self) -> &Adapter {
        &self.adapter
    }

    /// How fused multiply-adds are rounded.
    pub fn fma(&self) -> Fma {
        self.fma
    }

    /// Bytes that can be bound at once; a multiple of 256.
    pub fn binding_bytes(&self) -> u64 {
        self.binding_bytes
    }

    /// The first thing that went wrong, if something did.
    ///
    /// # Errors
    /// What went wrong.
    pub(crate) fn check(&self) -> Result<(), Error> {
        match &*self.failed.lock().unwrap_or_else(PoisonError::into_inner) {
            Some(e) => Err(e.clone()),
            None => Ok(()),
        }
    }

    /// A buffer of `bytes` bytes for `what`.
    ///
    /// # Errors
    /// [`Error::BindingTooLarge`], [`Error::OutOfMemory`].
    pub(crate) fn buffer(&self, what: &str, bytes: u64, usage: wgpu::BufferUsages) -> Result<wgpu::Buffer, Error> {
        let size = bytes.max(16).next_multiple_of(16);
        if size > self.binding_bytes {
            return Err(Error::BindingTooLarge { what: what.to_owned(), need: size, found: self.binding_bytes });
        }
        let scope = self.device.push_error_scope(wgpu::ErrorFilter::OutOfMemory);
        let buffer =
            self.device.create_buffer(&wgpu::BufferDescriptor { label: Some(what), size, usage, mapped_at_creation: false });
        match block_on(scope.pop()) {
            Some(_) => Err(Error::OutOfMemory { what: what.to_owned(), need: size }),
            None => self.check().map(|()| buffer),
        }
    }

    /// Waits for the last submission.
    ///
    /// # Errors
    /// [`Error::Stalled`], [`Error::DeviceLost`], or what went wrong before.
    pub(crate) fn wait(&self) -> Result<(), Error> {
        let waited = self.device.poll(wgpu::PollType::Wait { submission_index: None, timeout: Some(PATIENCE) });
        self.check()?;
        match waited {
            Ok(_) => Ok(()),
            Err(wgpu::PollError::Timeout) => Err(Error::Stalled { seconds: PATIENCE.as_secs() }),
            Err(e) => Err(Error::Driver { doing: "wait".to_owned(), why: e.to_string() }),
        }
    }

    /// Shows `f` the bytes of `buffer`, which `MAP_READ` is allowed on, once the work submitted is done.
    ///
    /// # Errors
    /// As [`Self::wait`].
    pub(crate) fn read<T>(&self, buffer: &wgpu::Buffer, bytes: u64, f: impl FnOnce(&[u8]) -> T) -> Result<T, Error> {
        let slice = buffer.slice(..bytes);
        let outcome = Arc::new(Mutex::new(None));
        let slot = Arc::clone(&outcome);
        slice.map_async(wgpu::MapMode::Read, move |r| *slot.lock().unwrap_or_else(PoisonError::into_inner) = Some(r));
        self.wait()?;
        let outcome = outcome.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(Ok(())) = outcome {
            let value = slice.get_mapped_range().map(|view| f(&view));
            buffer.unmap();
            return value.map_err(|e| Error::Driver { doing: "read".to_owned(), why: e.to_string() });
        }
        Err(Error::DeviceLost { why: "its memory could not be read".to_owned() })
    }
}

/// Keeps the first error.
fn keep(slot: &Mutex<Option<Error>>, error: Error) {
    slot.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Choice;
    use crate::compile::{Shader, pipeline};

    #[test]
    fn what_exceeds_the_least_limits_is_refused() {
        let name = std::env::var("BOURN_GPU").unwrap_or_else(|_| "llvmpipe".to_owned());
        let adapter = Adapter::choose(&Choice::Named(name)).unwrap();
        let device = Device::open(adapter, &DeviceOptions { least: true, ..DeviceOptions::default() }).unwrap();
        let limits = device.device.limits();
        assert_eq!(limits.max_compute_invocations_per_workgroup, 256);
        assert_eq!(limits.max_compute_workgroup_storage_size, 16 << 10);
        assert_eq!(limits.max_storage_buffers_per_shader_stage, 8);
        assert_eq!(limits.max_compute_workgroups_per_dimension, 65_535);
        assert_eq!((limits.max_storage_buffer_binding_size, device.binding_bytes()), (128 << 20, 128 << 20));
        assert_eq!(device.device.features() & (wgpu::Features::SHADER_F16 | wgpu::Features::SUBGROUP), wgpu::Features::empty());
        let built = |units: u32, buffers: u32| {
            let bindings: String =
                (0..buffers).map(|i| format!("@group(0) @binding({i}) var<storage, read_write> b{i}: array<u32>;\n")).collect();
            let uses: String = (0..buffers).map(|i| format!("b{i}[0] = 1u;\n")).collect();
            let text = format!("{bindings}@compute @workgroup_size({units}) fn main() {{\n{uses}}}\n");
            let shader = Shader { text, entry: "main".to_owned(), writes: vec![true; buffers as usize] };
            pipeline(&device, "limits", &shader).is_ok()
        };
        assert!(built(256, 8));
        for (units, buffers) in [(257, 8), (256, 9)] {
            assert!(!built(units, buffers), "{units} units, {buffers} buffers");
        }
        let storage = wgpu::BufferUsages::STORAGE;
        let refused = device.buffer("too much", (128 << 20) + 1, storage).unwrap_err();
        assert!(matches!(refused, Error::BindingTooLarge { .. }), "{refused}");
    }
}
