//! Choosing on the device beside choosing on the host, among rows made up to be hard. Needs an adapter, as `tests/agree.rs` does.

use super::{MAX_BEST, Selection};
use crate::compile::Pipelines;
use crate::kernels::screen::CHOSEN_WORDS;
use crate::program::{Program, Recorder};
use crate::{Adapter, Choice, Choices, Device, DeviceOptions, Weights};
use bourn_host::{ImageFile, StreamKind};
use std::path::Path;

/// Rows of several spans, the last one short.
const N: usize = 3 * 2048 + 77;

struct Bench {
    device: Device,
    pipelines: Pipelines,
    weights: Weights,
    select: Selection,
    back: wgpu::Buffer,
}

impl Bench {
    fn new() -> Self {
        let name = std::env::var("BOURN_GPU").unwrap_or_else(|_| "llvmpipe".to_owned());
        let adapter = Adapter::choose(&Choice::Named(name)).unwrap();
        let device = Device::open(adapter, &DeviceOptions { least: true, ..DeviceOptions::default() }).unwrap();
        let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/v2-screen.bourn");
        let file = ImageFile::open(&fixture, StreamKind::Mapped).unwrap();
        let weights = Weights::upload(&device, file.image(), &mut file.stream()).unwrap();
        let storage = wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_DST | wgpu::BufferUsages::COPY_SRC;
        let mut words = |what: &str, n: usize| device.buffer(what, 4 * n as u64, storage);
        let select = Selection::new(N as u32, N, 4096, &mut words).unwrap();
        let back = wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST;
        let back = device.buffer("answers", 4 * (4 + 4096), back).unwrap();
        Self { device, pipelines: Pipelines::default(), weights, select, back }
    }

    fn program(&mut self, record: impl FnOnce(&Selection, &mut Recorder<'_>) -> Result<(), crate::Error>) -> Program {
        let mut recorder = Recorder::new(&self.device, &mut self.pipelines, &self.weights, Choices::default());
        record(&self.select, &mut recorder).unwrap();
        recorder.program().unwrap()
    }

    /// What `from` holds after `program` has looked at `row`.
    fn run(&self, program: &Program, row: &[f32], wanted: usize, from: &wgpu::Buffer) -> Vec<u32> {
        self.device.queue.write_buffer(&self.select.row, 0, bytemuck::cast_slice(row));
        self.device.queue.write_buffer(&self.select.wanted, 0, bytemuck::bytes_of(&(wanted as u32)));
        let mut encoder = self.device.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        program.encode(&mut encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default()), 1);
        let bytes = from.size().min(self.back.size());
        encoder.copy_buffer_to_buffer(from, 0, &self.back, 0, bytes);
        self.device.queue.submit([encoder.finish()]);
        self.device.read(&self.back, bytes, |bytes| bytemuck::cast_slice(bytes).to_vec()).unwrap()
    }
}

/// Rows in which much is equal, negative, not finite or in order.
fn rows() -> Vec<(&'static str, Vec<f32>)> {
    let mut state = 7u32;
    let mut noise = move || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 24) as f32
    };
    let mut made = |f: &mut dyn FnMut(usize, f32) -> f32| (0..N).map(|i| f(i, noise())).collect::<Vec<f32>>();
    vec![
        ("noise", made(&mut |_, r| r * 30.0 - 20.0)),
        ("few values", made(&mut |_, r| (r * 9.0).floor() - 12.0)),
        ("all equal", made(&mut |_, _| -3.25)),
        ("rising", made(&mut |i, _| i as f32 * 0.01)),
        ("falling", made(&mut |i, _| -(i as f32))),
        ("around zero", made(&mut |i, r| [0.0, -0.0, r * 1e-39, -r][i % 4])),
        ("some infinite", made(&mut |i, r| if i % 5 == 0 { f32::NEG_INFINITY } else { r })),
        ("a cluster", made(&mut |i, r| if i % 3 == 0 { 5.0 + r * 1e-5 } else { -r })),
    ]
}

#[test]
fn the_few_largest_are_found() {
    let mut bench = Bench::new();
    let program = bench.program(|select, recorder| select.few(recorder));
    for (name, row) in rows() {
        let mut all: Vec<usize> = (0..N).collect();
        all.sort_by(|&a, &b| row[b].total_cmp(&row[a]).then(a.cmp(&b)));
        for n in [1, 2, 64, 65, 300, MAX_BEST] {
            let words = bench.run(&program, &row, n, &bench.select.chosen);
            assert_eq!(words[0] as usize, n, "{name}");
            let (pairs, _) = words[CHOSEN_WORDS as usize..][..2 * n].as_chunks::<2>();
            let mut found: Vec<usize> = pairs.iter().map(|pair| pair[1] as usize).collect();
            assert!(pairs.iter().all(|pair| pair[0] == row[pair[1] as usize].to_bits()), "{name}");
            found.sort_unstable();
            let mut want = all[..n].to_vec();
            want.sort_unstable();
            assert_eq!(found, want, "{name}: {n} largest");
        }
    }
}

#[test]
fn what_is_no_number_comes_first() {
    let mut bench = Bench::new();
    let program = bench.program(|select, recorder| select.few(recorder));
    let (_, mut row) = rows().swap_remove(0);
    for (i, nan) in [(N - 1, f32::NAN), (5, -f32::NAN)] {
        row[i] = nan;
        let words = bench.run(&program, &row, 8, &bench.select.chosen);
        let found = words[CHOSEN_WORDS as usize..][..16].as_chunks::<2>().0;
        assert!(found.iter().any(|pair| pair[1] as usize == i), "{found:?}");
    }
}

#[test]
fn the_largest_is_found() {
    let mut bench = Bench::new();
    let program = bench.program(|select, recorder| select.one(recorder));
    for (name, row) in rows() {
        let words = bench.run(&program, &row, 0, &bench.select.best);
        assert_eq!(words[1] as usize, (bourn_kernels::best().argmax)(&row), "{name}");
    }
}

/// The rule of FORMAT.md §5, word for word.
fn candidates(scores: &[f32], most: usize, margin: f32) -> (f32, Vec<u32>) {
    let count = |least: f32| scores.iter().filter(|&&s| s >= least).count();
    let best = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let (mut low, mut high) = (best - margin, best);
    let mut threshold = low;
    if count(low) > most {
        for _ in 0..24 {
            let middle = 0.5 * (low + high);
            if !(low < middle && middle < high) {
                break;
            }
            let n = count(middle);
            if n > most {
                low = middle;
                continue;
            }
            high = middle;
            if n >= most - most / 16 {
                break;
            }
        }
        threshold = high;
    }
    (threshold, (0..scores.len() as u32).filter(|&r| scores[r as usize] >= threshold).take(most).collect())
}

#[test]
fn candidates_are_those_of_the_rule() {
    let mut bench = Bench::new();
    for (most, margin) in [(1, 0.5), (100, 4.0), (640, 25.0), (4096, 8.0)] {
        let program = bench.program(|select, recorder| select.candidates(recorder, most, margin));
        for (name, row) in rows() {
            let words = bench.run(&program, &row, 0, &bench.select.chosen);
            let (threshold, want) = candidates(&row, most as usize, margin);
            let found = &words[CHOSEN_WORDS as usize..][..words[0] as usize];
            assert_eq!(found, want, "{name}: {most} within {margin}");
            assert_eq!(f32::from_bits(words[1]), threshold, "{name}: {most} within {margin}");
        }
    }
}
