//! A device that fails never stops a run without a word, and never gives a wrong byte.

mod support;

use bourn_core::{Error, WeightStream};
use bourn_host::ImageFile;
use bourn_host::stream::{Pager, ReadOptions};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use support::{Faulty, bytes, cycle, paged, plan, random};

const IMAGE: &str = "v1-quantized.bourn";
const PATIENCE: Duration = Duration::from_millis(300);

/// An image that streams from a device with faults, nothing pinned.
struct Bench {
    file: ImageFile,
    device: Arc<Faulty>,
    order: Vec<usize>,
}

impl Bench {
    fn new() -> Self {
        let (file, device) = (paged(IMAGE), Arc::new(Faulty::new(bytes(IMAGE))));
        let options = ReadOptions { patience: PATIENCE, ..ReadOptions::default() };
        file.page_from(device.clone(), &plan(file.image(), &[]), &options).unwrap();
        let order = cycle(file.image());
        Self { file, device, order }
    }

    fn pager(&self) -> &Pager {
        self.file.pager().unwrap()
    }

    /// The whole cycle: the first error, or all bytes as they are in the file.
    fn pass(&self) -> Result<(), Error> {
        let mut stream = self.file.stream();
        for &i in &self.order {
            let s = self.file.image().segment(i);
            let got = stream.segment(i)?;
            assert!(got == &self.device.bytes[s.offset as usize..(s.offset + s.bytes) as usize], "wrong bytes in segment {i}");
        }
        Ok(())
    }

    /// Passes until one fails: what was read ahead before the fault may still serve the first.
    fn fails(&self) -> Error {
        (0..5).find_map(|_| self.pass().err()).expect("a fault that nobody saw")
    }
}

#[test]
fn short_reads_go_on() {
    let bench = Bench::new();
    for at_most in [1 << 20, 16384, 5000, 4096, 700] {
        bench.device.faults.at_most.store(at_most, Ordering::SeqCst);
        for _ in 0..3 {
            bench.pass().unwrap();
        }
    }
    assert_eq!(bench.pager().stats().retries, 0);
}

#[test]
fn a_transient_error_is_tried_again_and_counted() {
    let bench = Bench::new();
    bench.pass().unwrap();
    bench.device.faults.errors.store(2, Ordering::SeqCst);
    for _ in 0..3 {
        bench.pass().unwrap();
    }
    assert_eq!(bench.pager().stats().retries, 2);
}

#[test]
fn a_lasting_error_ends_in_time_and_names_the_place_and_a_card_put_back_goes_on() {
    let bench = Bench::new();
    bench.device.faults.errors.store(u64::MAX, Ordering::SeqCst);
    let start = Instant::now();
    let error = bench.fails();
    assert!(start.elapsed() < Duration::from_secs(3));
    let Error::Read { offset, bytes, code: 5 } = error else { panic!("{error}") };
    assert!(bytes > 0 && offset >= bench.file.image().superblock().payload_offset);
    assert!(error.to_string().contains(&format!("offset {offset} (system error 5)")), "{error}");
    bench.device.faults.errors.store(0, Ordering::SeqCst);
    for _ in 0..3 {
        bench.pass().unwrap();
    }
}

#[test]
fn a_file_cut_short_is_told_of() {
    let bench = Bench::new();
    let have = bench.device.bytes.len() as u64 - 20_000;
    bench.device.faults.end.store(have, Ordering::SeqCst);
    let error = bench.fails();
    let Error::Format(bourn_format::Error::Truncated { need, have: found }) = error else { panic!("{error}") };
    assert!(found == have && need > have, "{error}");
}

#[test]
fn a_slow_device_is_waited_for() {
    let bench = Bench::new();
    bench.device.faults.slow_us.store(20_000, Ordering::SeqCst);
    for _ in 0..3 {
        bench.pass().unwrap();
    }
    assert!(bench.pager().stats().wait_seconds > 0.05);
}

#[test]
fn a_device_that_never_answers_is_given_up() {
    let bench = Bench::new();
    bench.device.hang(true);
    let start = Instant::now();
    let error = bench.fails();
    assert!(start.elapsed() < 10 * PATIENCE, "{:?}", start.elapsed());
    assert!(matches!(error, Error::Stalled { bytes: 1.., .. }), "{error}");
    // So is a tile.
    let payload = bench.file.image().superblock().payload_offset;
    assert!(matches!(bench.file.stream().read(payload, 64), Err(Error::Stalled { .. })));
    // It comes back: so does the stream.
    bench.device.hang(false);
    for _ in 0..3 {
        bench.pass().unwrap();
    }
    // Dropping does not wait for it for ever.
    bench.device.hang(true);
    let _ = bench.pass();
    let device = Arc::clone(&bench.device);
    let start = Instant::now();
    drop(bench);
    assert!(start.elapsed() < Duration::from_secs(3), "{:?}", start.elapsed());
    device.hang(false);
}

#[test]
fn a_flip_on_the_way_is_read_again_and_counted() {
    let bench = Bench::new();
    let s = bench.file.image().segment(bench.order[0]);
    bench.device.faults.flips_left.store(2, Ordering::SeqCst);
    bench.device.faults.flipped.store(8 * s.offset + 12345, Ordering::SeqCst);
    for _ in 0..4 {
        bench.pass().unwrap();
    }
    assert_eq!(bench.pager().stats().rereads, 2);
}

#[test]
fn each_of_ten_thousand_flipped_bits_is_found_before_a_segment_is_given() {
    let bench = Bench::new();
    let image = bench.file.image();
    let payload = image.superblock().payload_offset;
    bench.device.faults.flips_left.store(u64::MAX, Ordering::SeqCst);
    let mut stream = bench.file.stream();
    let mut state = 1;
    for n in 0..10_000 {
        let i = bench.order[random(&mut state) as usize % bench.order.len()];
        let s = image.segment(i);
        let bit = 8 * s.offset + random(&mut state) % (8 * s.bytes);
        bench.device.faults.flipped.store(bit, Ordering::SeqCst);
        // What was read ahead before the flip may be given once: the true bytes. The second asking reads anew.
        if let Ok(got) = stream.segment(i) {
            assert!(got == &bench.device.bytes[s.offset as usize..(s.offset + s.bytes) as usize], "flip {n}: wrong bytes");
            let error = stream.segment(i).map(<[u8]>::len).expect_err("a flip that nobody saw");
            let page = (bit / 8 - payload) / bourn_format::PAGE as u64;
            assert!(
                matches!(error, Error::Format(bourn_format::Error::Checksum { what: "page", index, .. }) if index == page),
                "flip {n}: {error}"
            );
        }
        // A tile that holds the bit is refused as well; one that was read before is true.
        if n % 50 == 0 {
            let at = (bit / 8).saturating_sub(7).max(s.offset);
            match stream.read(at, 8) {
                Ok(got) => assert_eq!(got, &bench.device.bytes[at as usize..at as usize + 8]),
                Err(e) => assert!(matches!(e, Error::Format(_)), "{e}"),
            }
        }
    }
}
