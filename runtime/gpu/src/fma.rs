//! Whether the device's fused multiply-add is fused: WGSL lets it round twice.

use crate::compile::{Shader, pipeline};
use crate::{Device, Error};

/// How `fma` is rounded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fma {
    /// Once, as on the CPU: quantized types then have its bits.
    Once,
    /// Twice by the device; kernels make one of doubles.
    Doubles,
    /// Twice.
    Twice,
}

/// `(1 + 2⁻¹²)² − (1 + 2⁻¹¹)`: 2⁻²⁴ rounded once, 0 rounded twice.
const PROBE: &str = "
@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read_write> y: array<f32>;
@compute @workgroup_size(1) fn probe() { y[0] = fma(x[0], x[0], x[1]); }
";

/// Functions that take `fma`'s place: a product of two f32 is exact in f64, and so nearly always is its sum with a third that the last
/// rounding is the only one.
const DOUBLES: &str = "
fn fma_of_doubles(a: f32, b: f32, c: f32) -> f32 { return f32(f64(a) * f64(b) + f64(c)); }
fn fma_of_doubles_4(a: vec4<f32>, b: vec4<f32>, c: vec4<f32>) -> vec4<f32> {
    return vec4<f32>(vec4<f64>(a) * vec4<f64>(b) + vec4<f64>(c));
}
";

impl Fma {
    /// Asks the device.
    pub(crate) fn of(device: &Device) -> Result<Self, Error> {
        let shader = Shader { text: PROBE.to_owned(), entry: "probe".to_owned(), writes: vec![false, true] };
        let pipeline = pipeline(device, "fma", &shader)?;
        let storage = wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_DST | wgpu::BufferUsages::COPY_SRC;
        let [x, y] = [device.buffer("numbers", 16, storage)?, device.buffer("numbers", 16, storage)?];
        let back = device.buffer("answers", 16, wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST)?;
        let numbers = [1.0f32 + (0.5f32).powi(12), -1.0 - (0.5f32).powi(11)];
        device.queue.write_buffer(&x, 0, bytemuck::cast_slice(&numbers));
        let group = device.device.create_bind_group(&wgpu::BindGroupDescriptor {
            label: None,
            layout: &pipeline.layout,
            entries: &[
                wgpu::BindGroupEntry { binding: 0, resource: x.as_entire_binding() },
                wgpu::BindGroupEntry { binding: 1, resource: y.as_entire_binding() },
            ],
        });
        let mut encoder = device.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        {
            let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
            pass.set_pipeline(&pipeline.pipeline);
            pass.set_bind_group(0, &group, &[]);
            pass.dispatch_workgroups(1, 1, 1);
        }
        encoder.copy_buffer_to_buffer(&y, 0, &back, 0, 16);
        device.queue.submit([encoder.finish()]);
        let once = device.read(&back, 4, |bytes| bytes.iter().any(|&byte| byte != 0))?;
        let doubles = device.device.features().contains(wgpu::Features::SHADER_F64);
        Ok(match (once, doubles) {
            (true, _) => Self::Once,
            (false, true) => Self::Doubles,
            (false, false) => Self::Twice,
        })
    }

    /// Gives a shader the `fma` that there is here. In kernels of many tokens all are of vectors of 4, in others none is; one that was
    /// of another type than it is taken for would not compile.
    pub(crate) fn apply(self, shader: &mut Shader) {
        if self != Self::Doubles || !shader.text.contains("fma(") {
            return;
        }
        let name = if shader.entry.starts_with("matmul") { "fma_of_doubles_4(" } else { "fma_of_doubles(" };
        shader.text = shader.text.replace("fma(", name) + DOUBLES;
    }
}
