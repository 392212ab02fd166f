//! The log of a firmware whose table is made here: every kind of value, and what is said of tables that cannot be read.

mod support;

use bourn_hil_runner::log::{Error, Level, Log, Said};
use support::{elf, packed};

/// The lines of frames, each its number in [`support::ENTRIES`] and its bytes.
fn lines(frames: &[(u16, &[u8])]) -> Vec<String> {
    let mut log = Log::new(&elf("4", "rzcobs")).unwrap();
    let mut lines = Vec::new();
    for (index, bytes) in frames {
        // The time is 6 700 us.
        let frame = [&index.to_le_bytes()[..], &6700_u64.to_le_bytes(), bytes].concat();
        // In two parts: frames are cut anywhere on their way.
        let frame = packed(&frame);
        let (a, b) = frame.split_at(frame.len() / 2);
        log.push(a, &mut |said| panic!("{said}"));
        log.push(b, &mut |said| lines.push(said.to_string()));
    }
    lines
}

#[test]
fn every_kind_of_value_is_shown() {
    let text = |s: &str| [&(s.len() as u32).to_le_bytes()[..], s.as_bytes()].concat();
    let numbers = [&[200][..], &(-5_i16).to_le_bytes(), &0xbeef_u64.to_le_bytes(), &7_u32.to_le_bytes()].concat();
    let shown = [&1.5_f32.to_le_bytes()[..], &[1], &text("a\"b"), &3_u32.to_le_bytes(), &[1, 2, 0xff]].concat();
    let nested = [&21_u16.to_le_bytes()[..], b"card gone\xff", &22_u16.to_le_bytes(), &[1, 9]].concat();
    let slice = [&2_u32.to_le_bytes()[..], &23_u16.to_le_bytes(), &[4, 5]].concat();
    let found = lines(&[(2, &numbers), (3, &shown), (4, &nested), (5, &slice), (6, &[0b1011_0110])]);
    assert_eq!(
        found,
        [
            "0.006700 INFO  u8 200, i16 -5, x 0xbeef, 7",
            r#"0.006700 WARN  1.5 true a"b "a\"b" [01, 02, ff]"#,
            "0.006700 ERROR panic: card gone, state Busy(9)",
            "0.006700 INFO  all [<4>, <5>]",
            "0.006700 INFO  low 6, high 11",
        ]
    );
}

#[test]
fn what_is_no_frame_is_counted_and_the_next_is_read() {
    let mut log = Log::new(&elf("4", "rzcobs")).unwrap();
    let whole = packed(&[&7_u16.to_le_bytes()[..], &1_u64.to_le_bytes()].concat());
    let mut said = Vec::new();
    let mut noise = vec![vec![1, 2, 3, 0], vec![0xff; 70_000], vec![0], packed(&[99, 0]), packed(&[2, 0, 1])];
    // A list that says it is endless, of values that take no bytes.
    noise.push(packed(&[&5_u16.to_le_bytes()[..], &[0; 8], &u32::MAX.to_le_bytes(), &24_u16.to_le_bytes()].concat()));
    // A format that contains itself.
    noise.push(packed(&[&4_u16.to_le_bytes()[..], &[0; 8], &25_u16.to_le_bytes().repeat(400)].concat()));
    for bytes in noise {
        log.push(&bytes, &mut |s| said.push(s));
    }
    assert!(said.len() == 6 && said.iter().all(|s| matches!(s, Said::Unknown(_))), "{said:?}");
    log.push(&whole, &mut |s| said.push(s));
    let Some(Said::Line(line)) = said.last() else { panic!("{said:?}") };
    assert_eq!((line.level, line.text.as_str(), line.package.as_str()), (Level::Info, "plain {braces}", "test"));
    assert_eq!(log.formats(), support::ENTRIES.len());
}

#[test]
fn random_bytes_never_panic() {
    let mut log = Log::new(&elf("4", "rzcobs")).unwrap();
    let mut state = 1_u64;
    let mut frames = 0;
    for _ in 0..200_000 {
        // An xorshift; small numbers are frequent, so that frames begin like real ones.
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        let byte = if state & 3 == 0 { (state >> 8) as u8 & 31 } else { (state >> 8) as u8 };
        log.push(&[byte], &mut |_| frames += 1);
    }
    assert!(frames > 1000, "{frames}");
}

#[test]
fn tables_that_cannot_be_read_are_told() {
    let text = |bytes: &[u8]| Log::new(bytes).unwrap_err().to_string();
    assert_eq!(text(&elf("5", "rzcobs")), "defmt table of another version: need 3 or 4, found 5");
    assert_eq!(text(&elf("4", "raw")), "defmt frames are packed otherwise: need rzcobs, found raw");
    assert!(matches!(Log::new(&elf("", "")), Err(Error::NoTable { .. })));
    assert!(text(&elf("", "")).contains("need a section .defmt"), "{}", text(&elf("", "")));
    assert!(text(b"#!/bin/sh").contains("need the firmware's ELF file, found something else"));
    let mut flat = vec![0; 64];
    flat[56..60].copy_from_slice(b"ARM\x64");
    assert!(text(&flat).contains("found a flat image"), "{}", text(&flat));
    assert!(matches!(Log::new(&elf("4", "rzcobs")[..100]), Err(Error::Damaged(_))));
    assert_eq!(bourn_hil_runner::elf::flat(&elf("4", "rzcobs")).unwrap().len(), 64);
    assert!(bourn_hil_runner::elf::flat(&elf("", "")).unwrap_err().to_string().contains("without segments"));
    // Cut anywhere, an error or a shorter table; never a panic.
    let whole = elf("4", "rzcobs");
    for n in (0..whole.len()).step_by(7) {
        let _ = Log::new(&whole[..n]);
    }
}
