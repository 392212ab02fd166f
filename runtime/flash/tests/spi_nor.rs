//! The driver of an SPI NOR chip against a model of one.

mod mock;

use bourn_flash::SpiNor;
use bourn_flash::spi_nor::{JedecId, SpiNorError};
use embedded_storage::nor_flash::{NorFlash, ReadNorFlash};
use mock::{Bus, BusError, Chip, Delay, SECTOR, sfdp};
use proptest::prelude::*;

fn driver(chip: Chip) -> (Bus, Result<SpiNor<Bus, Delay>, SpiNorError<BusError>>) {
    let bus = Bus::new(chip);
    (bus.clone(), SpiNor::new(bus, Delay::default()))
}

fn refused(chip: Chip) -> SpiNorError<BusError> {
    driver(chip).1.unwrap_err()
}

#[test]
fn a_chip_is_known_by_its_tables_or_its_id() {
    for bytes in [1 << 16, 1 << 20, 1 << 24, 1 << 25] {
        let chip = Chip::new(bytes);
        let id = JedecId { manufacturer: 0xef, kind: 0x40, capacity: bytes.trailing_zeros() as u8 };
        for sfdp in [chip.sfdp.clone(), None] {
            let (_, nor) = driver(Chip { sfdp, ..chip.clone() });
            let nor = nor.unwrap();
            assert_eq!((nor.id(), nor.capacity()), (id, bytes));
        }
    }
    // A size that is no power of two is in the tables alone; a maker's code beyond 0x19 follows a gap.
    let odd = Chip { id: [0x01, 0x02, 0x03], ..Chip::new(3 << 20) };
    assert_eq!(driver(odd.clone()).1.unwrap().capacity(), 3 << 20);
    assert!(matches!(refused(Chip { sfdp: None, ..odd }), SpiNorError::UnknownSize(_)));
    let gap = Chip { id: [0x20, 0xba, 0x20], sfdp: None, ..Chip::new(1 << 26) };
    assert_eq!(driver(gap).1.unwrap().capacity(), 1 << 26);
}

#[test]
fn rejects_what_is_no_chip_or_cannot_do_what_is_needed() {
    for id in [[0; 3], [0xff; 3]] {
        assert!(matches!(refused(Chip { id, ..Chip::new(1 << 20) }), SpiNorError::NoChip(_)));
    }
    let mut table = sfdp(1 << 20, 0);
    table[0x80] = 0b11;
    assert!(matches!(refused(Chip { sfdp: Some(table), ..Chip::new(1 << 20) }), SpiNorError::Unsupported(_)));
    // More than three address bytes can tell apart, and no other addresses.
    let table = sfdp(1 << 25, 0);
    assert!(matches!(refused(Chip { sfdp: Some(table), ..Chip::new(1 << 25) }), SpiNorError::Unsupported(_)));
}

#[test]
fn wakes_a_chip_and_waits_for_what_it_was_doing() {
    let (bus, nor) = driver(Chip { asleep: true, ..Chip::new(1 << 20) });
    let mut nor = nor.unwrap();
    nor.power_down().unwrap();
    assert!(bus.0.borrow().asleep);
    nor.wake().unwrap();
    nor.read(0, &mut [0; 4]).unwrap();
    assert!(bus.0.borrow().broken_rules.is_empty());
}

#[test]
fn tells_of_a_chip_that_is_protected_or_stays_busy() {
    let (bus, nor) = driver(Chip::new(1 << 20));
    let mut nor = nor.unwrap();
    bus.0.borrow_mut().protected = true;
    assert_eq!(nor.write(0, &[0]), Err(SpiNorError::Protected));
    assert_eq!(nor.erase(0, SECTOR as u32), Err(SpiNorError::Protected));
    bus.0.borrow_mut().protected = false;
    bus.0.borrow_mut().slowness = u32::MAX;
    assert!(matches!(nor.write(0, &[0]), Err(SpiNorError::Busy { doing: "a program", us }) if us >= 10_000));
}

#[test]
fn rejects_what_is_beyond_the_end_or_between_sectors() {
    let (bus, nor) = driver(Chip::new(1 << 20));
    let mut nor = nor.unwrap();
    let have = 1 << 20;
    assert_eq!(
        nor.read(have - 1, &mut [0; 2]),
        Err(SpiNorError::OutOfBounds { need: u64::from(have) + 1, have: u64::from(have) })
    );
    assert_eq!(nor.write(u32::MAX, &[0]), Err(SpiNorError::OutOfBounds { need: 1 << 32, have: u64::from(have) }));
    assert_eq!(nor.erase(1, 4096), Err(SpiNorError::NotAligned { from: 1, to: 4096 }));
    assert_eq!(nor.erase(8192, 4096), Err(SpiNorError::NotAligned { from: 8192, to: 4096 }));
    assert!(matches!(nor.erase(0, have + 4096), Err(SpiNorError::OutOfBounds { .. })));
    let counts = bus.0.borrow().counts;
    assert_eq!((counts.programs, counts.erases, counts.reads), (0, 0, 0));
}

#[test]
fn a_read_is_one_transaction_and_says_only_what_it_must() {
    let (bus, nor) = driver(Chip::new(1 << 20));
    let mut nor = nor.unwrap();
    let before = bus.0.borrow().counts;
    nor.read(0x1234, &mut vec![0; 16_384]).unwrap();
    let after = bus.0.borrow().counts;
    assert_eq!(after.transactions - before.transactions, 1);
    // Command, three address bytes, one dummy.
    assert_eq!((after.bytes_out - before.bytes_out, after.bytes_in - before.bytes_in), (5, 16_384));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// The driver and a plain array agree, however writes fall on pages, and no rule of the chip is broken.
    #[test]
    fn writes_clear_bits_and_erases_set_them(
        four in 0..3u8,
        steps in prop::collection::vec((0..3u8, 0..16_384u32, prop::collection::vec(any::<u8>(), 0..700)), 1..24),
    ) {
        // Three address bytes; four by commands of their own; four always.
        let base = if four == 1 { (1 << 24) + 8192 } else { 0 };
        let mut chip = Chip::new(if four == 1 { 1 << 25 } else { 1 << 16 });
        if four == 2 {
            chip.sfdp = Some(sfdp(1 << 16, 0b10));
            chip.four_always = true;
        }
        let (bus, nor) = driver(chip);
        let mut nor = nor.unwrap();
        let mut model = vec![0xffu8; 5 * SECTOR];
        for (kind, at, data) in steps {
            match kind {
                0 => {
                    nor.write(base + at, &data).unwrap();
                    model[at as usize..].iter_mut().zip(&data).for_each(|(have, new)| *have &= new);
                }
                1 => {
                    let sector = at / SECTOR as u32 * SECTOR as u32;
                    nor.erase(base + sector, base + sector + SECTOR as u32).unwrap();
                    model[sector as usize..][..SECTOR].fill(0xff);
                }
                _ => {
                    let mut back = vec![0; data.len()];
                    nor.read(base + at, &mut back).unwrap();
                    prop_assert_eq!(&back[..], &model[at as usize..][..data.len()]);
                }
            }
        }
        let chip = bus.0.borrow();
        prop_assert_eq!(&chip.broken_rules, &Vec::<String>::new());
        prop_assert_eq!(&chip.memory[base as usize..][..model.len()], &model[..]);
    }
}
