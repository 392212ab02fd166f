//! CubeCL's kernels → WGSL → pipelines.
//!
//! CubeCL's runtime is not used: its device thread never sleeps once it has been used, and a daemon would pay for that. Its
//! compiler needs no runtime: a kernel with its compile-time arguments is a definition, and that is WGSL text.

use crate::wait::block_on;
use crate::{Device, Error, dot};
use cubecl_common::profile::TimingMethod;
use cubecl_core::prelude::{
    AddressType, BufferCompilationArg, CubeDim, CubeKernel, DeviceProperties, ExecutionMode, KernelSettings, TargetProperties,
};
use cubecl_core::{Compiler, WgpuCompilationOptions};
use cubecl_ir::{DeviceIdentity, HardwareProperties, MemoryDeviceProperties, features::Features};
use cubecl_wgpu::WgslCompiler;
use std::collections::HashMap;
use std::fmt::Write;
use std::sync::Arc;

/// Memory of a workgroup that WebGPU guarantees, in bytes: no kernel takes more, whatever the adapter has.
const WORKGROUP_BYTES: usize = 16 << 10;

/// A kernel as text.
#[derive(Clone, Debug)]
pub struct Shader {
    /// WGSL.
    pub text: String,
    /// The function that is called.
    pub entry: String,
    /// For each buffer whether it is written.
    pub writes: Vec<bool>,
}

/// A kernel that can be dispatched.
#[derive(Debug)]
pub struct Pipeline {
    pub(crate) pipeline: wgpu::ComputePipeline,
    pub(crate) layout: wgpu::BindGroupLayout,
    pub(crate) n_buffers: usize,
}

/// What every kernel's constructor takes first.
pub(crate) fn begin(units: u32) -> (KernelSettings, Arc<DeviceProperties>, Arc<TargetProperties>) {
    let settings = KernelSettings::new(CubeDim::new_1d(units).into(), ExecutionMode::Unchecked, AddressType::U32);
    let hardware = HardwareProperties {
        load_width: 128,
        vector_register_count: None,
        plane_size_min: 1,
        plane_size_max: 1,
        max_bindings: 8,
        max_shared_memory_size: WORKGROUP_BYTES,
        max_cube_count: (65_535, 65_535, 65_535),
        max_units_per_cube: 256,
        max_cube_dim: (256, 256, 64),
        num_streaming_multiprocessors: None,
        num_cpu_cores: None,
        last_level_cache_size: None,
        num_tensor_cores: None,
        min_tensor_cores_dim: None,
        max_vector_size: 4,
        cube_mma_reserved_shared_memory: 0,
    };
    let properties = DeviceProperties::new(
        Features::default(),
        MemoryDeviceProperties::new(128 << 20, 256),
        hardware,
        TimingMethod::System,
        DeviceIdentity::default(),
    );
    (settings, Arc::new(properties), Arc::new(TargetProperties::default()))
}

/// A buffer among a kernel's arguments.
pub(crate) const fn buffer() -> BufferCompilationArg {
    BufferCompilationArg { inplace: None }
}

/// Compiles a kernel with `n_buffers` buffers to WGSL.
///
/// # Errors
/// [`Error::Driver`]: CubeCL's compiler does not take it. [`Error::Limit`]: it takes more memory of a workgroup than WebGPU guarantees.
pub fn shader(kernel: &dyn CubeKernel, n_buffers: usize) -> Result<Shader, Error> {
    let definition = kernel.define();
    let entry = definition.settings.kernel_name.clone();
    let refused = |why: String| Error::Driver { doing: format!("compile {entry}"), why };
    let compiled = WgslCompiler.compile(definition, &WgpuCompilationOptions::default()).map_err(|e| refused(format!("{e:?}")))?;
    // wgpu does not look at this limit.
    let (need, found) = (compiled.shared_memory_size as u64, WORKGROUP_BYTES as u64);
    if need > found {
        return Err(Error::Limit { what: "maxComputeWorkgroupStorageSize", need, found });
    }
    let io = WgslCompiler::buffer_io(&compiled).unwrap_or_default();
    let writes: Vec<bool> = (0..n_buffers).map(|i| io.get(i).is_none_or(|io| io.is_writable())).collect();
    // CubeCL lets buffers share memory, so all are written to by its text; here those that are only read are bound so, and the
    // lengths of buffers, which no kernel asks for, are no buffer of their own.
    let uses_lengths = compiled.to_string().matches("info_var").count() > 1;
    let mut text = String::new();
    for line in compiled.to_string().lines() {
        if !uses_lengths && (line.starts_with("struct info_st") || line.contains("var<storage, read> info_var")) {
            continue;
        }
        let binding = writes.iter().enumerate().filter(|(_, writes)| !**writes).map(|(i, _)| i);
        let read = binding.into_iter().find(|i| line.starts_with(&format!("@group(0) @binding({i}) ")));
        let line =
            if read.is_some() { line.replacen("var<storage, read_write>", "var<storage, read>", 1) } else { line.to_owned() };
        let _ = writeln!(text, "{line}");
    }
    if uses_lengths {
        return Err(refused("it asks for the length of a buffer".to_owned()));
    }
    Ok(Shader { text, entry, writes })
}

/// Pipelines of a device, each made once.
#[derive(Debug, Default)]
pub struct Pipelines {
    made: HashMap<String, Arc<Pipeline>>,
}

impl Pipelines {
    /// The pipeline of `kernel`, which `key` and its compile-time arguments name.
    ///
    /// # Errors
    /// [`Error::Driver`].
    pub fn get(
        &mut self,
        device: &Device,
        key: &str,
        n_buffers: usize,
        kernel: impl FnOnce() -> Box<dyn CubeKernel>,
    ) -> Result<Arc<Pipeline>, Error> {
        if let Some(made) = self.made.get(key) {
            return Ok(Arc::clone(made));
        }
        let mut shader = shader(&*kernel(), n_buffers)?;
        dot::apply(&mut shader);
        if let Some(folder) = std::env::var_os("BOURN_SHADERS") {
            // For compilers of drivers that are not here (docs/gpu.md): what cannot be written is no reason not to go on.
            let name: String = key.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).take(160).collect();
            let name = format!("{name}-{:08x}", bourn_format::checksum(key.as_bytes()) as u32);
            let _ = std::fs::write(std::path::Path::new(&folder).join(format!("{name}.wgsl")), &shader.text);
        }
        device.fma().apply(&mut shader);
        let made = Arc::new(pipeline(device, key, &shader)?);
        self.made.insert(key.to_owned(), Arc::clone(&made));
        Ok(made)
    }
}

pub(crate) fn pipeline(device: &Device, key: &str, shader: &Shader) -> Result<Pipeline, Error> {
    let scope = device.device.push_error_scope(wgpu::ErrorFilter::Validation);
    let module = device.device.create_shader_module(wgpu::ShaderModuleDescriptor {
        label: Some(key),
        source: wgpu::ShaderSource::Wgsl(shader.text.as_str().into()),
    });
    let entries: Vec<_> = (0u32..)
        .zip(&shader.writes)
        .map(|(binding, writes)| wgpu::BindGroupLayoutEntry {
            binding,
            visibility: wgpu::ShaderStages::COMPUTE,
            ty: wgpu::BindingType::Buffer {
                ty: wgpu::BufferBindingType::Storage { read_only: !writes },
                has_dynamic_offset: false,
                min_binding_size: None,
            },
            count: None,
        })
        .collect();
    let layout = device.device.create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor { label: Some(key), entries: &entries });
    let pipeline_layout = device.device.create_pipeline_layout(&wgpu::PipelineLayoutDescriptor {
        label: Some(key),
        bind_group_layouts: &[Some(&layout)],
        immediate_size: 0,
    });
    let pipeline = device.device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
        label: Some(key),
        layout: Some(&pipeline_layout),
        module: &module,
        entry_point: Some(&shader.entry),
        compilation_options: wgpu::PipelineCompilationOptions {
            zero_initialize_workgroup_memory: false,
            ..wgpu::PipelineCompilationOptions::default()
        },
        cache: None,
    });
    match block_on(scope.pop()) {
        Some(e) => Err(Error::Driver { doing: format!("build {key}"), why: e.to_string() }),
        None => device.check().map(|()| Pipeline { pipeline, layout, n_buffers: shader.writes.len() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::screen;

    #[test]
    fn refuses_more_workgroup_memory_than_is_guaranteed() {
        let tables = |n: u32| {
            let (s, p, t) = begin(screen::UNITS);
            let [a, b, c, d, e] = [0; 5].map(|_| buffer());
            shader(&screen::tables::Tables::new(s, p, t, a, b, c, d, e, n, 0), 5)
        };
        // Two floats a unit, two a sub-quantizer, and one.
        assert!(tables(1791).is_ok());
        let error = tables(1792).unwrap_err();
        assert!(matches!(error, Error::Limit { need: 16_388, found: 16_384, .. }), "{error}");
    }
}
