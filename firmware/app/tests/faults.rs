//! Broken frames, power cuts, damaged cards: the service recovers or says what is wrong, and never writes a wrong token.

#![allow(clippy::result_large_err, reason = "that of the protocol, which has no heap")]

mod support;

use bourn_app::{Trouble, card::Contents, slots};
use bourn_protocol::client::Stage;
use bourn_protocol::message::{From, Load, Why};
use bourn_protocol::port::greedy;
use bourn_protocol::{Client, Error};
use std::ops::ControlFlow;
use support::{Card, HostEnd, HostError, Noise, Random, SLOTS, Setup, fixture, partitioned, slotted, with_board};

const IDS: [u32; 8] = [5, 72, 139, 206, 2, 69, 136, 203];
const GO_ON: fn(u64, u64) -> ControlFlow<()> = |_, _| ControlFlow::Continue(());

fn bytes(name: &str) -> Vec<u8> {
    std::fs::read(fixture(name)).unwrap()
}

/// Sends an image and opens it.
fn flash(client: &mut Client<HostEnd>, image: &[u8]) -> Result<u8, HostError> {
    let mut read = |offset: u64, to: &mut [u8]| -> Result<(), ()> {
        to.copy_from_slice(&image[offset as usize..][..to.len()]);
        Ok(())
    };
    let sum = slots::id_of(image);
    let slot = client.flash(image.len() as u64, sum, &mut read, &mut |_: Stage, _, _| ControlFlow::Continue(()))?.unwrap();
    client.load(Load::default(), &mut GO_ON.clone())?;
    Ok(slot)
}

/// More than a thousand frames are broken, one in four on its way in either direction; every generation and every update is right.
#[test]
fn a_thousand_broken_frames_never_wedge_either_side() {
    let (old, new) = (bytes("v1-q4.bourn"), bytes("v1-f16.bourn"));
    let setup = Setup { window: 4, ..Setup::default() };
    let clean = |image: &[u8]| {
        with_board(Some(slotted(image)), &setup, |client, _| {
            client.hello(1, &mut |_| {}).unwrap();
            greedy(client, &IDS, 24).unwrap()
        })
        .0
    };
    let want = [clean(&old), clean(&new)];
    let (broken, _) = with_board(Some(slotted(&old)), &setup, |client, line| {
        line.set_noise(Noise { random: Random(0x1234_5678_9abc_def1), one_in: 4, broken: 0, most: u32::MAX });
        client.hello(2, &mut |_| {}).unwrap();
        let mut slot = 0;
        for round in 0..200 {
            if line.broken() >= 1000 && round >= 4 {
                break;
            }
            // Another prompt in between, so that nothing is known already.
            greedy(client, &IDS[..3], 2).unwrap();
            let image = round % 2;
            let (written, done, sum) = greedy(client, &IDS, 24).unwrap();
            assert_eq!((&written, done.tokens, sum), (&want[image].0, 24, want[image].2), "round {round}");
            slot = 1 - slot;
            assert_eq!(flash(client, if image == 0 { &new } else { &old }).unwrap(), slot);
        }
        line.broken()
    });
    assert!(broken >= 1000, "{broken} frames were broken");
}

/// What a board with this card starts with, as the board finds it.
fn boots(card: &Card, images: &[&[u8]]) -> usize {
    let contents = Contents::read(card).unwrap();
    let place = contents.places(card, From::Any).unwrap()[0];
    let at = place.first.0 as usize * 512;
    let state = card.state();
    let found = images.iter().position(|image| state.bytes[at..at + image.len()] == **image);
    found.unwrap_or_else(|| panic!("{:?}: neither the old image nor the new", place.from))
}

#[test]
fn a_thousand_power_cuts_during_an_update_leave_the_old_image_or_the_new() {
    let (old, new) = (bytes("v1-q4.bourn"), bytes("v1-f16.bourn"));
    let fresh = slotted(&old).state().bytes.clone();
    // The whole image is on its way at once: threads that take turns for every chunk are what takes time.
    let setup = Setup { window: 255, ram: 4 << 20, blocks: 8 };
    // How many blocks a whole update writes.
    let card = Card::of(fresh.clone());
    with_board(Some(card.clone()), &setup, |client, _| {
        client.hello(1, &mut |_| {}).unwrap();
        flash(client, &new).unwrap();
    });
    assert_eq!(boots(&card, &[&old, &new]), 1);
    let blocks = card.state().written;
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let mut ends = [0; 2];
    for cut in 0..1000 {
        let card = Card::of(fresh.clone());
        {
            let mut state = card.state();
            // The last block, which switches, and the one before, which makes the image one, again and again.
            state.left =
                Some(if cut % 4 == 0 { blocks - random.below(3) as u64 } else { 1 + random.below(blocks as usize) as u64 });
            state.torn = random.below(513);
        }
        let (result, _) = with_board(Some(card.clone()), &setup, |client, _| {
            client.hello(1, &mut |_| {}).unwrap();
            flash(client, &new)
        });
        card.state().left = None;
        let now = boots(&card, &[&old, &new]);
        ends[now] += 1;
        assert!(result.is_err() || now == 1, "cut {cut}: an update that was confirmed is lost");
        if cut % 50 == 0 {
            // The board itself: it opens what is there, and the next update succeeds.
            let (slot, _) = with_board(Some(card.clone()), &setup, |client, _| {
                client.hello(2, &mut |_| {}).unwrap();
                greedy(client, &IDS, 2).unwrap();
                flash(client, &new).unwrap()
            });
            assert!(slot < 2 && boots(&card, &[&old, &new]) == 1, "cut {cut}");
        }
    }
    println!("{blocks} blocks an update; after 1000 cuts {} old, {} new", ends[0], ends[1]);
    assert!(ends[0] > 0 && ends[1] > 0, "{ends:?}");
}

/// A FAT32 card with one file.
fn fat32(name: &str, image: &[u8]) -> Vec<u8> {
    let (first, n_blocks) = (2048, 70_000);
    let mut card = partitioned(first + n_blocks, &[(0x0c, first, n_blocks)]);
    let mut volume = std::io::Cursor::new(vec![0; n_blocks as usize * 512]);
    let options = fatfs::FormatVolumeOptions::new().fat_type(fatfs::FatType::Fat32).bytes_per_cluster(512);
    fatfs::format_volume(&mut volume, options).unwrap();
    {
        let fs = fatfs::FileSystem::new(&mut volume, fatfs::FsOptions::new()).unwrap();
        let root = fs.root_dir();
        std::io::Write::write_all(&mut root.create_file("kernel8.img").unwrap(), &[7; 3000]).unwrap();
        std::io::Write::write_all(&mut root.create_file(name).unwrap(), image).unwrap();
    }
    card[first as usize * 512..].copy_from_slice(&volume.into_inner());
    card
}

#[test]
fn an_image_is_found_on_fat32_if_it_lies_in_one_piece() {
    let image = bytes("v1-q4.bourn");
    let card = Card::of(fat32("smollm2-135m.bourn", &image));
    with_board(Some(card.clone()), &Setup::default(), |client, _| {
        client.hello(1, &mut |_| {}).unwrap();
        greedy(client, &IDS, 4).unwrap();
        // There are no slots.
        let refused = flash(client, &image);
        assert!(matches!(&refused, Err(Error::Refused { why: Why::Update, text }) if text.contains("no slots")), "{refused:?}");
        // And what was open is open again.
        greedy(client, &IDS, 4).unwrap();
    });
    // The chain turns away in the middle.
    let place = Contents::read(&card).unwrap().places(&card, From::File).unwrap()[0];
    let boot: Vec<u8> = card.state().bytes[2048 * 512..][..512].to_vec();
    let reserved = usize::from(u16::from_le_bytes([boot[14], boot[15]]));
    let fat_blocks = u32::from_le_bytes(boot[36..40].try_into().unwrap()) as usize;
    let data = 2048 + reserved + 2 * fat_blocks;
    let entry = (2048 + reserved) * 512 + (place.first.0 as usize - data + 2 + 10) * 4;
    card.state().bytes[entry..entry + 4].copy_from_slice(&3u32.to_le_bytes());
    let error = Contents::read(&card).unwrap().places(&card, From::File).unwrap_err();
    assert!(error.text.contains("lies in pieces"), "{error}");
}

#[test]
fn two_hundred_damaged_cards_are_reported_and_never_write_a_wrong_token() {
    let image = bytes("v1-q4.bourn");
    let cards = [slotted(&image).state().bytes.clone(), fat32("m.bourn", &image)];
    let setup = Setup { ram: 8 << 20, ..Setup::default() };
    let want = with_board(Some(Card::of(cards[0].clone())), &setup, |client, _| {
        client.hello(1, &mut |_| {}).unwrap();
        greedy(client, &IDS, 4).unwrap()
    })
    .0;
    let mut random = Random(77);
    let (mut reported, mut unharmed) = (0, 0);
    let places = [find(&cards[0], &image[..64]), find(&cards[1], &image[..64])];
    for round in 0..200 {
        let mut bytes = cards[round % 2].clone();
        // In the image mostly, else in what leads to it.
        let at = places[round % 2];
        for _ in 0..=random.below(3) {
            let place = match random.below(4) {
                0 => random.below(512),
                1 => SLOTS.0 as usize * 512 + random.below(1024),
                _ => at + random.below(image.len()),
            };
            match random.below(3) {
                0 => bytes[place] ^= 1 << random.below(8),
                1 => bytes[place..place + 4].fill(0xff),
                _ => bytes[place / 512 * 512..][..512].fill(random.next() as u8),
            }
        }
        let paged = random.below(2) == 0;
        let (result, _) = with_board(Some(Card::of(bytes)), &setup, |client, _| {
            client.hello(1, &mut |_| {})?;
            if paged {
                let load = Load { weights: bourn_protocol::message::Weights::Paged, ..Load::default() };
                client.load(load, &mut GO_ON.clone())?;
            }
            greedy(client, &IDS, 4)
        });
        match result {
            Ok((written, _, sum)) => {
                assert_eq!((&written, sum), (&want.0, want.2), "round {round}: wrong tokens");
                unharmed += 1;
            }
            Err(Error::Refused { why: Why::Image | Why::NoModel | Why::Card, text }) => {
                assert!(!text.is_empty());
                reported += 1;
            }
            Err(other) => panic!("round {round}: {other:?}"),
        }
    }
    println!("{reported} reported, {unharmed} unharmed");
    assert!(reported >= 100, "{reported}");
}

fn find(card: &[u8], what: &[u8]) -> usize {
    card.windows(what.len()).position(|w| w == what).unwrap()
}

#[test]
fn a_card_that_fails_now_and_then_is_read_again() {
    let card = slotted(&bytes("v1-q4.bourn"));
    with_board(Some(card.clone()), &Setup::default(), |client, _| {
        client.hello(1, &mut |_| {}).unwrap();
        let paged = Load { weights: bourn_protocol::message::Weights::Paged, ..Load::default() };
        client.load(paged, &mut GO_ON.clone()).unwrap();
        let (want, ..) = greedy(client, &IDS, 4).unwrap();
        for _ in 0..8 {
            card.state().failing_reads = 2;
            assert_eq!(greedy(client, &IDS, 4).unwrap().0, want);
        }
        card.state().failing_reads = u32::MAX;
        let dead = greedy(client, &IDS[..2], 4);
        assert!(matches!(dead, Err(Error::Refused { why: Why::Card, .. })), "{dead:?}");
        card.state().failing_reads = 0;
        assert_eq!(greedy(client, &IDS, 4).unwrap().0, want);
    });
}

#[test]
fn a_table_is_what_it_says_or_nothing() {
    let table = slots::Table::new(SLOTS.1).unwrap();
    let bytes = table.to_bytes();
    assert_eq!(slots::Table::from_bytes(&bytes, SLOTS.1), Some(table));
    assert_eq!(slots::Table::from_bytes(&bytes, SLOTS.1 - 4096), None, "slots beyond the end");
    for bit in 0..512 * 8 {
        let mut broken = bytes;
        broken[bit / 8] ^= 1 << (bit % 8);
        assert_eq!(slots::Table::from_bytes(&broken, SLOTS.1), None, "bit {bit}");
    }
    let _: fn(Trouble) -> String = |t| t.to_string();
}
