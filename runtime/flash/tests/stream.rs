//! Streams from flash and cards against the same image in memory.

mod mock;

use std::path::Path;

use bourn_core::{Engine, KvDtype, Options, Session, WeightStream, workspace_bytes};
use bourn_flash::{BlockSource, Error, FlashStream, NorSource, Source, SpiNor, head, install, stream};
use bourn_format::{Image, PAGE, Role};
use bourn_kernels::rows::OneCore;
use embedded_sdmmc::{Block, BlockIdx};
use embedded_storage::nor_flash::ReadNorFlash;
use mock::{Bus, Card, CardError, Chip, Delay, SECTOR};
use proptest::prelude::*;

const IMAGES: [&str; 3] = ["v1-q4.bourn", "v1-f16.bourn", "v1-quantized.bourn"];
/// Where the image begins: not at the device's own beginning.
const BASE: u32 = 3 * SECTOR as u32;

fn file(name: &str) -> Vec<u8> {
    std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures").join(name)).unwrap()
}

/// A chip with the image in it, and room behind.
fn chip_with(bytes: &[u8]) -> Chip {
    let mut chip = Chip::new((BASE as usize + bytes.len()).next_power_of_two().max(1 << 16));
    chip.memory[BASE as usize..][..bytes.len()].copy_from_slice(bytes);
    chip
}

fn nor(bus: &Bus) -> NorSource<SpiNor<Bus, Delay>> {
    NorSource::new(SpiNor::new(bus.clone(), Delay::default()).unwrap(), BASE).unwrap()
}

/// A card with `before` blocks of something else, then the image.
fn card_with(before: usize, bytes: &[u8]) -> Card {
    let mut all = vec![0xa5; before * Block::LEN];
    all.extend_from_slice(bytes);
    Card::new(all)
}

/// The image in memory.
struct Resident<'a>(&'a [u8], Image<'a>);

impl WeightStream for Resident<'_> {
    fn segment(&mut self, index: usize) -> Result<&[u8], bourn_core::Error> {
        let segment = self.1.segment(index);
        Ok(&self.0[segment.offset as usize..][..segment.bytes as usize])
    }

    fn read(&mut self, offset: u64, bytes: usize) -> Result<&[u8], bourn_core::Error> {
        Ok(&self.0[offset as usize..][..bytes])
    }
}

fn logits(image: &Image<'_>, stream: &mut dyn WeightStream) -> Result<Vec<u32>, bourn_core::Error> {
    let options = Options { context: 32, prefill_block: 4, kv: KvDtype::F16, logit_rows: 1, retain: 0 };
    let mut workspace = vec![0; workspace_bytes(image, &options).unwrap()];
    let mut session = Session::new(image, &options, &mut workspace)?;
    let mut engine = Engine { image, stream, kernels: bourn_kernels::best(), decode: &OneCore, prefill: &OneCore };
    let mut bits = Vec::new();
    session
        .logits_of_all(&mut engine, &[5, 72, 139, 206, 2, 69, 136], &mut |_, row| bits.extend(row.iter().map(|x| x.to_bits())))?;
    Ok(bits)
}

/// Runs `check` with the image and a stream from NOR, then with one from a card.
fn on_both(bytes: &[u8], mut check: impl FnMut(&Image<'_>, &mut dyn WeightStream)) {
    let bus = Bus::new(chip_with(bytes));
    let mut memory = vec![0; 1 << 20];
    let mut source = nor(&bus);
    let image = Image::new_checked(head::read(&mut source, &mut memory).unwrap()).unwrap();
    let mut buffer = vec![0; stream::buffer_bytes(&image)];
    let mut stream = FlashStream::new(&image, source, &mut buffer).unwrap();
    check(&image, &mut stream);
    assert!(bus.0.borrow().broken_rules.is_empty());

    let card = card_with(7, bytes);
    let mut bounce = vec![Block::new(); 8];
    let mut memory = vec![0; 1 << 20];
    let mut source = BlockSource::new(&card, BlockIdx(7), &mut bounce).unwrap();
    let image = Image::new_checked(head::read(&mut source, &mut memory).unwrap()).unwrap();
    let mut buffer = vec![0; stream::buffer_bytes(&image)];
    let mut stream = FlashStream::new(&image, source, &mut buffer).unwrap();
    check(&image, &mut stream);
}

#[test]
fn logits_are_the_resident_images() {
    for name in IMAGES {
        let bytes = file(name);
        let image = Image::new_checked(&bytes).unwrap();
        let expected = logits(&image, &mut Resident(&bytes, image));
        on_both(&bytes, |image, stream| assert_eq!(logits(image, stream), expected, "{name}"));
    }
}

#[test]
fn a_token_reads_each_weight_once_in_few_transactions() {
    let bytes = file("v1-q4.bourn");
    let bus = Bus::new(chip_with(&bytes));
    let mut memory = vec![0; 1 << 20];
    let mut source = nor(&bus);
    let image = Image::new_checked(head::read(&mut source, &mut memory).unwrap()).unwrap();
    let mut buffer = vec![0; stream::buffer_bytes(&image)];
    let mut stream = FlashStream::new(&image, source, &mut buffer).unwrap();
    let before = bus.0.borrow().counts;
    for i in 0..image.n_segments() {
        stream.segment(i).unwrap();
    }
    let after = bus.0.borrow().counts;
    let weights: u64 = (0..image.n_segments()).map(|i| image.segment(i).bytes).sum();
    assert_eq!(after.reads - before.reads, image.n_segments() as u64);
    assert_eq!(after.bytes_in - before.bytes_in, weights);
    assert_eq!(stream.stats().bytes, weights);
}

#[test]
fn rejects_a_corrupt_page_by_its_number() {
    let bytes = file("v1-q4.bourn");
    let payload = Image::new_checked(&bytes).unwrap().superblock().payload_offset as usize;
    for page in [0, 2] {
        let mut bad = bytes.clone();
        bad[payload + page * PAGE + 77] ^= 4;
        on_both(&bad, |image, stream| {
            let error = logits(image, stream).unwrap_err().to_string();
            assert!(error.starts_with(&format!("page {page} is corrupt: checksum")), "{error}");
        });
    }
}

#[test]
fn a_read_that_fails_or_lies_once_is_repeated_and_counted() {
    let bytes = file("v1-q4.bourn");
    let image = Image::new_checked(&bytes).unwrap();
    let expected = logits(&image, &mut Resident(&bytes, image)).unwrap();
    let segment = image.segment(0);
    let bus = Bus::new(chip_with(&bytes));
    let mut buffer = vec![0; stream::buffer_bytes(&image)];
    let mut stream = FlashStream::new(&image, nor(&bus), &mut buffer).unwrap();
    {
        let mut chip = bus.0.borrow_mut();
        chip.noise = (BASE as usize + segment.offset as usize + 5, 1);
        chip.fail_read = Some(chip.counts.reads + 2);
    }
    assert_eq!(logits(&image, &mut stream).unwrap(), expected);
    assert_eq!((stream.stats().reread_pages, stream.stats().retried_reads), (1, 1));
    assert!(stream.take_error().is_some());

    // A card that is gone: an error after a few tries, and it says where.
    let card = card_with(0, &bytes);
    let mut bounce = [Block::new()];
    let source = BlockSource::new(&card, BlockIdx(0), &mut bounce).unwrap();
    let mut stream = FlashStream::new(&image, source, &mut buffer).unwrap();
    *card.failures.borrow_mut() = u32::MAX;
    assert_eq!(stream.segment(0), Err(bourn_core::Error::Read { offset: segment.offset, bytes: segment.bytes, code: 0 }));
    assert_eq!(stream.take_error(), Some(CardError("the card did not answer")));
    assert_eq!(card.reads.borrow().0, 3);
}

#[test]
fn rejects_a_device_that_ends_before_the_image() {
    let bytes = file("v1-q4.bourn");
    let need = bytes.len() as u64;
    let card = card_with(2, &bytes[..bytes.len() - Block::LEN]);
    let mut bounce = [Block::new(), Block::new()];
    let mut source = BlockSource::new(&card, BlockIdx(2), &mut bounce).unwrap();
    let short = Error::Short { need, have: need - Block::LEN as u64 };
    assert_eq!(head::read(&mut source, &mut vec![0; 1 << 20]), Err(short));
    let image = Image::new_checked(&bytes).unwrap();
    let mut buffer = vec![0; stream::buffer_bytes(&image)];
    assert_eq!(FlashStream::new(&image, source, &mut buffer).err(), Some(short));
    assert!(matches!(BlockSource::new(&card, BlockIdx(99_999), &mut bounce).err(), Some(Error::Short { .. })));
    assert!(matches!(BlockSource::new(&card, BlockIdx(0), &mut []).err(), Some(Error::Buffer { .. })));
}

#[test]
fn rejects_too_little_memory_and_says_how_much_is_enough() {
    let bytes = file("v1-q4.bourn");
    let bus = Bus::new(chip_with(&bytes));
    let mut source = nor(&bus);
    let Err(Error::Buffer { need, have: 100 }) = head::read(&mut source, &mut [0; 100]) else { panic!("took too little memory") };
    let mut memory = vec![0; need as usize];
    let image = Image::new_checked(head::read(&mut source, &mut memory).unwrap()).unwrap();
    let need = stream::buffer_bytes(&image);
    let error = FlashStream::new(&image, source, &mut vec![0; need - 1]).err().unwrap();
    assert_eq!(error, Error::Buffer { need: need as u64, have: need as u64 - 1 });
}

#[test]
fn an_empty_chip_holds_no_image() {
    let bus = Bus::new(Chip::new(1 << 16));
    assert_eq!(head::superblock(&mut nor(&bus)), Err(Error::Format(bourn_format::Error::NotAnImage)));
}

fn install_on(bus: &Bus, bytes: &[u8]) -> Result<(), Error> {
    let mut flash = SpiNor::new(bus.clone(), Delay::default()).unwrap();
    let mut from = |offset: u64, to: &mut [u8]| {
        let part = bytes.get(offset as usize..offset as usize + to.len()).ok_or(())?;
        to.copy_from_slice(part);
        Ok::<(), ()>(())
    };
    install::install(&mut flash, BASE, &mut from, &mut vec![0; 1 << 20])
}

#[test]
fn an_image_cut_off_anywhere_while_it_is_written_is_none() {
    let bytes = file("v1-quantized.bourn");
    // What was there before: another image, whole.
    let old = chip_with(&file("v1-q4.bourn"));
    let bus = Bus::new(old.clone());
    install_on(&bus, &bytes).unwrap();
    let counts = bus.0.borrow().counts;
    assert!(bus.0.borrow().broken_rules.is_empty());
    assert_eq!(bus.0.borrow().memory[BASE as usize..][..bytes.len()], bytes[..]);
    assert_eq!(bus.0.borrow().memory[..BASE as usize], old.memory[..BASE as usize]);
    for power in 0..counts.programs + counts.erases {
        let bus = Bus::new(Chip { power: Some(power), ..old.clone() });
        assert!(matches!(install_on(&bus, &bytes), Err(Error::Device { .. })), "cut after {power}");
        let again = bus.0.borrow().on_again();
        let bus = Bus::new(again);
        let found = head::superblock(&mut nor(&bus));
        assert!(found.is_err(), "cut after {power}: {found:?}");
        if power % 37 == 0 {
            install_on(&bus, &bytes).unwrap();
            assert!(head::superblock(&mut nor(&bus)).is_ok());
        }
    }
}

#[test]
fn rejects_what_is_no_image_before_anything_is_erased() {
    let bytes = file("v1-quantized.bourn");
    let bus = Bus::new(Chip::new(1 << 20));
    let mut bad = bytes.clone();
    bad[300] ^= 1;
    assert!(matches!(install_on(&bus, &bad), Err(Error::Format(_))));
    assert!(matches!(install_on(&bus, b"not an image"), Err(Error::Device { .. })));
    assert!(matches!(install_on(&Bus::new(Chip::new(1 << 16)), &bytes), Err(Error::Short { .. })));
    assert_eq!(bus.0.borrow().counts.erases, 0);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Whatever is asked for in whatever order, both devices give the file's bytes.
    #[test]
    fn every_read_is_the_files(
        which in 0..IMAGES.len(),
        n_bounce in 1..40usize,
        asks in prop::collection::vec((any::<bool>(), any::<prop::sample::Index>()), 1..20),
    ) {
        let bytes = file(IMAGES[which]);
        let image = Image::new_checked(&bytes).unwrap();
        let tiles: Vec<(u64, usize)> = image
            .parts(Role::Embed)
            .flat_map(|part| {
                let tile = bourn_format::layout::tile_bytes(part.dtype, part.cols);
                (0..part.bytes as usize / tile).map(move |i| (part.offset + (i * tile) as u64, tile))
            })
            .collect();
        let card = card_with(3, &bytes);
        let mut bounce = vec![Block::new(); n_bounce];
        let bus = Bus::new(chip_with(&bytes));
        let (mut one, mut two) = (vec![0; stream::buffer_bytes(&image)], vec![0; stream::buffer_bytes(&image) + 13]);
        let mut from_nor = FlashStream::new(&image, nor(&bus), &mut one).unwrap();
        let source = BlockSource::new(&card, BlockIdx(3), &mut bounce).unwrap();
        let mut from_card = FlashStream::new(&image, source, &mut two).unwrap();
        for (tile, index) in asks {
            if tile && !tiles.is_empty() {
                let (offset, n) = tiles[index.index(tiles.len())];
                let expected = &bytes[offset as usize..][..n];
                prop_assert_eq!(from_nor.read(offset, n).unwrap(), expected);
                prop_assert_eq!(from_card.read(offset, n).unwrap(), expected);
            } else {
                let index = index.index(image.n_segments());
                let segment = image.segment(index);
                let expected = &bytes[segment.offset as usize..][..segment.bytes as usize];
                prop_assert_eq!(from_nor.segment(index).unwrap(), expected);
                prop_assert_eq!(from_card.segment(index).unwrap(), expected);
            }
        }
    }

    /// Any page and any bit: no weight of a corrupt page is ever given out.
    #[test]
    fn every_flipped_bit_is_found(at in any::<prop::sample::Index>(), bit in 0..8u8) {
        let bytes = file("v1-quantized.bourn");
        let image = Image::new_checked(&bytes).unwrap();
        let payload = image.superblock().payload_offset as usize;
        let at = payload + at.index(bytes.len() - payload);
        let mut bad = bytes.clone();
        bad[at] ^= 1 << bit;
        let bus = Bus::new(chip_with(&bad));
        let mut buffer = vec![0; stream::buffer_bytes(&image)];
        let mut stream = FlashStream::new(&image, nor(&bus), &mut buffer).unwrap();
        for i in 0..image.n_segments() {
            let segment = image.segment(i);
            let holds = (segment.offset..segment.offset + segment.bytes).contains(&(at as u64));
            prop_assert_eq!(stream.segment(i).is_err(), holds);
        }
    }
}

#[test]
fn a_source_says_what_is_left_behind_its_beginning() {
    let bus = Bus::new(Chip::new(1 << 16));
    let source = nor(&bus);
    assert_eq!(source.capacity(), (1 << 16) - u64::from(BASE));
    assert_eq!(source.into_inner().capacity(), 1 << 16);
    let flash = SpiNor::new(bus, Delay::default()).unwrap();
    assert_eq!(NorSource::new(flash, 1 << 16).err(), Some(Error::Short { need: 1 << 16, have: 1 << 16 }));
}

/// What a stream says it will read next is what it reads next: in the order of the image, from the first again, and as a turn says.
#[test]
fn the_device_is_told_which_segment_comes_next() {
    struct Told<'t>(&'t std::cell::RefCell<Vec<(u32, u32)>>);

    impl bourn_flash::Ahead for Told<'_> {
        fn next(&self, first: BlockIdx, n_blocks: u32) {
            self.0.borrow_mut().push((first.0, n_blocks));
        }

        fn ready_bytes(&self) -> u64 {
            0
        }
    }

    let bytes = file(IMAGES[0]);
    let card = card_with(7, &bytes);
    let mut bounce = vec![Block::new(); 8];
    let told = std::cell::RefCell::new(Vec::new());
    let told_to = Told(&told);
    let mut memory = vec![0; 1 << 20];
    let source = BlockSource::new(&card, BlockIdx(7), &mut bounce).unwrap();
    let mut source = source.reading_ahead(Some(&told_to));
    let image = Image::new_checked(head::read(&mut source, &mut memory).unwrap()).unwrap();
    let mut buffer = vec![0; stream::buffer_bytes(&image)];
    let mut stream = FlashStream::new(&image, source, &mut buffer).unwrap();
    let place = |index: usize| {
        let segment = image.segment(index);
        (7 + (segment.offset / Block::LEN as u64) as u32, segment.bytes.div_ceil(Block::LEN as u64) as u32)
    };
    let last = image.n_segments() - 1;
    assert!(last >= 3);
    stream.turn(1, 0);
    for (index, next) in [(0, 1), (1, 0), (0, 1), (1, 2), (2, 3), (last, 0)] {
        stream.segment(index).unwrap();
        assert_eq!(told.borrow().last(), Some(&place(next)), "after segment {index}");
    }
    stream.read(image.segment(1).offset + 300, 100).unwrap();
    assert_eq!(told.borrow().len(), 6, "a tile says nothing of what comes");
}
