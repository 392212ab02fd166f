//! Greedy text of an image on the GPU beside the CPU's: `cargo run -p bourn-gpu --example greedy -- IMAGE ADAPTER N`.
use bourn_core::{Engine, HeadMode, KvDtype, Options};
use bourn_gpu::{Adapter, Choice, Device, DeviceOptions, GpuModel, GpuOptions, GpuSession};
use bourn_host::{ImageFile, OwnedSession, Pool, StreamKind};
use std::sync::Arc;
use std::time::Instant;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().collect();
    let file = ImageFile::open(args[1].as_ref(), StreamKind::Mapped)?;
    let image = file.image();
    let n: usize = args[3].parse()?;
    let device = Device::open(Adapter::choose(&Choice::Named(args[2].clone()))?, &DeviceOptions::default())?;
    let mut stream = file.stream();
    let kv = if image.layer(0).get(bourn_format::Role::Down).is_some_and(|t| t.dtype.is_quantized()) { KvDtype::F16 } else { KvDtype::F32 };
    let context = 512.min(image.shape().max_context as usize);
    let start = Instant::now();
    let model = Arc::new(GpuModel::new(device, image, &mut stream)?);
    println!("upload {:?}", start.elapsed());
    let start = Instant::now();
    let mut gpu = GpuSession::new(Arc::clone(&model), image, &GpuOptions { context, kv, ..GpuOptions::default() })?;
    println!("session {:?} {} dispatches", start.elapsed(), gpu.stats().dispatches);
    let prompt: Vec<u32> = (0..21u32).map(|i| (i * 7919 + 11) % image.shape().vocab).collect();
    let kernels = bourn_kernels::best();
    let pool = Pool::new(2);
    let rows = pool.limited(2);
    let options = Options { context, prefill_block: 64, kv, retain: 0, logit_rows: 16 };
    let mut cpu = OwnedSession::new(image, &options)?;
    cpu.set_head_mode(HeadMode::Exact);
    let mut stream2 = file.stream();
    let mut engine = Engine { image, stream: &mut stream2, kernels, decode: &rows, prefill: &rows };
    let want = cpu.prefill(&mut engine, &prompt)?.to_vec();
    let start = Instant::now();
    gpu.prefill(image, &mut stream, &prompt)?;
    let mut id = gpu.best(image)?;
    println!("prefill {:?}", start.elapsed());
    let got = gpu.logits(image, 0)?.to_vec();
    let range = want.iter().copied().fold(f32::MIN, f32::max) - want.iter().copied().fold(f32::MAX, f32::min);
    let diff = want.iter().zip(&got).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    println!("logits differ by {diff} of {range}: {:?} {:?}", &want[..4], &got[..4]);
    let mut cpu_id = (kernels.argmax)(&want) as u32;
    let (mut a, mut b) = (vec![], vec![]);
    let start = Instant::now();
    for _ in 0..n {
        b.push(id);
        gpu.prefill(image, &mut stream, &[id])?;
        id = gpu.best(image)?;
    }
    println!("gpu {:?} a token, host {:?}", start.elapsed() / n as u32, gpu.stats().host / gpu.stats().tokens.max(1) as u32);
    for _ in 0..n {
        a.push(cpu_id);
        let logits = cpu.prefill(&mut engine, &[cpu_id])?;
        cpu_id = (kernels.argmax)(logits) as u32;
    }
    let same = a.iter().zip(&b).take_while(|(a, b)| a == b).count();
    println!("{same} of {n} tokens the same: {}", if same == n { "all" } else { "NOT ALL" });
    println!("{b:?}");
    Ok(())
}
