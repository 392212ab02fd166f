//! What the reader refuses, and that it cannot fail after it has accepted.

mod made;

use bourn_checkpoint::Checkpoint;
use bourn_format::image::section;
use bourn_format::superblock::{BYTES, SECTION_BYTES};
use bourn_format::{Error, Image, PAGE, Role, VERSION, checksum};
use bourn_pack::{Options, Weights, pack, unpack_row};
use made::{Stored, Weights as Random, place};

fn image() -> Vec<u8> {
    let (dir, out) = place();
    made::folder(dir.path(), false, "F32", |_| {});
    pack(&Checkpoint::open(dir.path()).unwrap(), &out, &Options::default(), &mut |_| {}).unwrap();
    std::fs::read(out).unwrap()
}

fn head_bytes(file: &[u8]) -> usize {
    Image::new_checked(file).unwrap().superblock().head_bytes as usize
}

/// Makes the checksums right again.
fn seal(file: &mut [u8]) {
    let head = u64::from_le_bytes(file[24..32].try_into().unwrap()) as usize;
    if let Some(body) = file.get(BYTES..head) {
        let sum = checksum(body).to_le_bytes();
        file[48..56].copy_from_slice(&sum);
    }
    let sum = checksum(&file[..BYTES - 8]).to_le_bytes();
    file[BYTES - 8..BYTES].copy_from_slice(&sum);
}

#[test]
fn rejects_truncated() {
    let file = image();
    let head = head_bytes(&file);
    for length in (0..head).filter(|n| *n < 600 || n % 97 == 0 || head - n < 100) {
        let error = Image::new_checked(&file[..length]).unwrap_err();
        assert!(matches!(error, Error::Truncated { have, .. } if have == length as u64), "{length}: {error}");
    }
    assert!(Image::new_checked(&file[..head]).is_ok());
}

#[test]
fn rejects_newer_version() {
    let mut file = image();
    let found = VERSION + 1;
    file[8] = found as u8;
    let refused = Err(Error::NewerVersion { found, newest: VERSION });
    assert_eq!(Image::new_checked(&file).map(|_| ()), refused);
    seal(&mut file);
    assert_eq!(Image::new_checked(&file).map(|_| ()), refused);
    file[8] = 0;
    seal(&mut file);
    assert!(matches!(Image::new_checked(&file), Err(Error::Invalid { what: "version", .. })));
}

#[test]
fn rejects_other_files() {
    let mut file = image();
    file[..8].copy_from_slice(b"GGUF\x03\0\0\0");
    assert_eq!(Image::new_checked(&file).map(|_| ()), Err(Error::NotAnImage));
    assert_eq!(Image::new_checked(&[0; 4096]).map(|_| ()), Err(Error::NotAnImage));
}

#[test]
fn rejects_corrupt_head() {
    let mut file = image();
    let head = head_bytes(&file);
    for at in 0..head {
        let bit = 1 << (at % 8);
        file[at] ^= bit;
        assert!(Image::new_checked(&file).is_err(), "byte {at}");
        file[at] ^= bit;
    }
    assert!(Image::new_checked(&file).is_ok());
}

#[test]
fn rejects_a_half_written_file() {
    // Interrupted before the superblock: zeros where it would be.
    let mut file = image();
    file[..BYTES].fill(0);
    assert_eq!(Image::new_checked(&file).map(|_| ()), Err(Error::NotAnImage));
}

#[test]
fn rejects_corrupt_pages() {
    let file = image();
    let image = Image::new_checked(&file).unwrap();
    let start = image.superblock().payload_offset as usize;
    for (page, bytes) in file[start..].chunks(PAGE).enumerate() {
        image.check_page(page, bytes).unwrap();
        let mut bytes = bytes.to_vec();
        bytes[page * 31 % PAGE] ^= 4;
        assert!(
            matches!(image.check_page(page, &bytes), Err(Error::Checksum { what: "page", index, .. }) if index == page as u64)
        );
    }
    assert_eq!(image.n_pages(), (file.len() - start) / PAGE);
}

#[test]
fn rejects_missing_sections() {
    let file = image();
    for kind in [
        section::SHAPE,
        section::LAYERS,
        section::ROPE,
        section::TENSORS,
        section::SEGMENTS,
        section::PAGE_SUMS,
        section::GENERATION,
    ] {
        let mut file = file.clone();
        let n = file[40] as usize;
        let entry = (0..n).map(|i| BYTES + i * SECTION_BYTES).find(|at| u32::from(file[*at]) == kind).unwrap();
        file[entry] = 200;
        seal(&mut file);
        assert!(matches!(Image::new_checked(&file), Err(Error::Missing { .. })), "section {kind}");
    }
}

/// Calls every accessor with every index, and some beyond.
fn touch(file: &[u8]) -> bool {
    let Ok(image) = Image::new_checked(file) else { return false };
    let mut seen = image.bytes_per_token() ^ image.parameters();
    for i in 0..image.n_tensors() + 2 {
        let t = image.tensor(i);
        seen ^= t.name.len() as u64 ^ t.table[3] as u64;
        let segment = image.segment(t.segment);
        let start = usize::try_from(segment.offset).unwrap_or(0);
        let bytes = file.get(start..start.saturating_add(segment.bytes as usize)).unwrap_or(&[]);
        let bytes = t.within(&segment, bytes);
        for row in [0, t.rows / 2, t.rows.wrapping_sub(1), t.rows] {
            seen ^= unpack_row(&t, bytes, row).map_or(0, |row| row.len() as u64);
        }
    }
    for i in 0..image.n_layers() + 2 {
        let layer = image.layer(i);
        if i < image.n_layers() {
            for role in [Role::Wq, Role::Bo, Role::Down] {
                seen ^= layer.get(role).map_or(0, |t| t.rows as u64);
            }
        }
        seen ^= image.segment(layer.attention).bytes ^ image.segment(layer.feed_forward).bytes;
    }
    for role in [Role::Embed, Role::Head] {
        seen ^= image.parts(role).map(|t| t.bytes).sum::<u64>();
    }
    for rope in image.ropes() {
        seen ^= (0..rope.n_pairs() + 2).map(|i| u64::from(rope.inv_freq(i).to_bits())).sum::<u64>();
    }
    for page in 0..image.n_pages() + 2 {
        seen ^= u64::from(image.check_page(page, &[0; 64]).is_ok());
    }
    seen ^= image.generation().eos().map(u64::from).sum::<u64>();
    seen ^= (image.license().len() + image.provenance().len() + image.chat_template().map_or(0, str::len)) as u64;
    seen ^= image.final_norm().bytes;
    std::hint::black_box(seen);
    true
}

#[test]
fn mutated_heads_with_right_checksums_never_panic() {
    let (dir, out) = place();
    let source = dir.path().join("made.gguf");
    made::gguf(&source, Stored::Q4_1);
    let options = Options { weights: Weights::Q4, ..Options::default() };
    pack(&Checkpoint::open(&source).unwrap(), &out, &options, &mut |_| {}).unwrap();
    for file in [image(), std::fs::read(&out).unwrap()] {
        let head = head_bytes(&file);
        assert!(touch(&file));
        let mut random = Random::new(11);
        let mut accepted = 0;
        for round in 0..30_000 {
            let mut bytes = file.clone();
            for _ in 0..1 + round % 3 {
                let r = random.bits();
                // Mostly the superblock, the directory and the first sections, where the structure is.
                let span = [64, 600, 2500, head][(r >> 8) as usize % 4].min(head);
                let at = 16 + (r >> 16) as usize % (span - 16);
                match r % 4 {
                    0 => bytes[at] ^= 1 << (r >> 60 & 7),
                    1 => bytes[at] = [0, 1, 0x7f, 0x80, 0xff][(r >> 58) as usize % 5],
                    2 => bytes[at..(at + 4).min(head)].fill(if r >> 63 == 1 { 0xff } else { 0 }),
                    _ => {
                        let value = (r >> 40) as u32 & 0xffff;
                        bytes[at / 4 * 4..][..4].copy_from_slice(&value.to_le_bytes());
                    }
                }
            }
            seal(&mut bytes);
            accepted += u32::from(touch(&bytes));
        }
        // Names, norms' constants, licence and the like may change and make another valid image.
        assert!(accepted > 100 && accepted < 25_000, "{accepted}");
    }
}
