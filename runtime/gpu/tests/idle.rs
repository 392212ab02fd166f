//! An open session that has nothing to do costs nothing: a test of its own program, so that nothing else runs beside it.

#![cfg(target_os = "linux")]

use bourn_gpu::{Adapter, Choice, Device, DeviceOptions, GpuModel, GpuOptions, GpuSession};
use bourn_host::{ImageFile, StreamKind};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// How long nothing is asked.
const IDLE: Duration = Duration::from_secs(3);
/// Of one core.
const MOST: f64 = 0.01;
/// What the system counts CPU time in, per second (`USER_HZ`).
const TICKS: f64 = 100.0;

/// CPU time of all threads, in ticks.
fn ticks() -> u64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    // The name may have spaces in it; after it the words have fixed places.
    let words: Vec<&str> = stat.rsplit_once(") ").unwrap().1.split(' ').collect();
    words[11].parse::<u64>().unwrap() + words[12].parse::<u64>().unwrap()
}

#[test]
fn an_idle_session_takes_less_than_a_hundredth_of_a_core() {
    let name = std::env::var("BOURN_GPU").unwrap_or_else(|_| "llvmpipe".to_owned());
    let device = Device::open(Adapter::choose(&Choice::Named(name)).unwrap(), &DeviceOptions::default()).unwrap();
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/v1-q4.bourn");
    let file = ImageFile::open(&fixture, StreamKind::Mapped).unwrap();
    let (image, mut stream) = (file.image(), file.stream());
    let model = Arc::new(GpuModel::new(device, image, &mut stream).unwrap());
    let mut session = GpuSession::new(model, image, &GpuOptions { context: 64, ..GpuOptions::default() }).unwrap();
    let mut token = 1;
    for _ in 0..16 {
        session.prefill(image, &mut stream, &[token]).unwrap();
        token = session.best(image).unwrap();
    }
    let before = ticks();
    std::thread::sleep(IDLE);
    let taken = (ticks() - before) as f64 / TICKS / IDLE.as_secs_f64();
    println!("{:.2} % of a core", 100.0 * taken);
    assert!(taken < MOST, "{:.2} % of a core while idle", 100.0 * taken);
    // It was not asleep for good.
    session.prefill(image, &mut stream, &[token]).unwrap();
}
