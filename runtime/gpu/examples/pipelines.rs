//! Makes a pipeline of every kernel in a folder on some adapter: what its driver's compiler says of them, and how long it takes.
//!
//!     BOURN_SHADERS=DIR bourn bench IMAGE --prompt 16 --generate 2 --device gpu:llvmpipe      # kernels of a model, as WGSL
//!     cargo run -p bourn-gpu --example pipelines -- DIR [ADAPTER]
//!
//! Nothing is dispatched, so a driver without its hardware will do: Mesa's on its `drm-shim`s, which answer for the kernel. With
//! `V3D_DEBUG=shaderdb` or `NAK_DEBUG=print` the driver tells instructions, registers and spills behind each name.

use std::error::Error;
use std::path::PathBuf;
use std::time::Instant;
use std::{env, fs};

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = env::args().skip(1);
    let folder = PathBuf::from(args.next().ok_or("usage: pipelines DIR [ADAPTER]")?);
    let wanted = args.next().unwrap_or_default().to_lowercase();
    let mut descriptor = wgpu::InstanceDescriptor::new_without_display_handle();
    descriptor.backends = wgpu::Backends::VULKAN;
    let instance = wgpu::Instance::new(descriptor);
    let adapters = ready(instance.enumerate_adapters(wgpu::Backends::VULKAN))?;
    let names: Vec<String> = adapters.iter().map(|a| a.get_info().name).collect();
    let adapter = adapters.iter().find(|a| a.get_info().name.to_lowercase().contains(&wanted));
    let adapter = adapter.ok_or_else(|| format!("no adapter named {wanted}: found {}", names.join(", ")))?;
    let descriptor = wgpu::DeviceDescriptor { required_limits: adapter.limits(), ..wgpu::DeviceDescriptor::default() };
    let (device, _queue) = ready(adapter.request_device(&descriptor))??;
    let mut files: Vec<PathBuf> = fs::read_dir(&folder)?.map(|entry| entry.map(|e| e.path())).collect::<Result<_, _>>()?;
    files.retain(|file| file.extension().is_some_and(|e| e == "wgsl"));
    files.sort();
    for file in &files {
        let name = file.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        eprintln!("{name}");
        let text = fs::read_to_string(file)?;
        let start = Instant::now();
        let module = device.create_shader_module(wgpu::ShaderModuleDescriptor {
            label: Some(&name),
            source: wgpu::ShaderSource::Wgsl(text.into()),
        });
        let _ = device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
            label: Some(&name),
            layout: None,
            module: &module,
            entry_point: None,
            compilation_options: wgpu::PipelineCompilationOptions {
                zero_initialize_workgroup_memory: false,
                ..wgpu::PipelineCompilationOptions::default()
            },
            cache: None,
        });
        println!("{:>8.1} ms  {name}", start.elapsed().as_secs_f64() * 1e3);
    }
    println!("{} kernels on {}", files.len(), adapter.get_info().name);
    // A device without hardware cannot be waited for: its destructors would.
    std::process::exit(0)
}

/// What a future of wgpu's is ready with at once, as on native backends.
fn ready<F: Future>(future: F) -> Result<F::Output, &'static str> {
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    match std::pin::pin!(future).poll(&mut context) {
        std::task::Poll::Ready(value) => Ok(value),
        std::task::Poll::Pending => Err("the driver did not answer at once"),
    }
}
