//! Where on the card images lie, and the way to their bytes.

use crate::fat;
use crate::slots::Area;
use crate::trouble::Trouble;
use bourn_flash::{Ahead, BlockSource};
use bourn_protocol::message::{From, Why};
use core::cell::Cell;
use embedded_sdmmc::{Block, BlockCount, BlockDevice, BlockIdx};

/// A run of blocks that may hold an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The block that the image begins with.
    pub first: BlockIdx,
    /// Bytes that belong to it.
    pub bytes: u64,
    /// What it is.
    pub from: From,
}

/// Times that a read or write is tried: contacts are bad at times.
pub(crate) const TRIES: u32 = 3;

/// A borrowed card that counts what is read.
#[derive(Debug)]
pub(crate) struct Counted<'c, D> {
    card: &'c D,
    bytes: &'c Cell<u64>,
}

impl<'c, D> Counted<'c, D> {
    pub const fn new(card: &'c D, bytes: &'c Cell<u64>) -> Self {
        Self { card, bytes }
    }
}

impl<D: BlockDevice> BlockDevice for Counted<'_, D> {
    type Error = D::Error;

    fn read(&self, blocks: &mut [Block], first: BlockIdx) -> Result<(), D::Error> {
        self.bytes.set(self.bytes.get() + (blocks.len() * Block::LEN) as u64);
        self.card.read(blocks, first)
    }

    fn write(&self, blocks: &[Block], first: BlockIdx) -> Result<(), D::Error> {
        self.card.write(blocks, first)
    }

    fn num_blocks(&self) -> Result<BlockCount, D::Error> {
        self.card.num_blocks()
    }
}

/// The bytes of a place.
pub(crate) fn source<'c, D: BlockDevice>(
    card: &'c D,
    counter: &'c Cell<u64>,
    place: &Place,
    blocks: &'c mut [Block],
    ahead: Option<&'c dyn Ahead>,
) -> Result<BlockSource<'c, Counted<'c, D>>, Trouble> {
    if let Some(ahead) = ahead {
        // What was fetched of the card as it was.
        ahead.next(BlockIdx(0), 0);
    }
    Ok(BlockSource::new(Counted::new(card, counter), place.first, blocks)?.reading_ahead(ahead))
}

/// One block, tried again when the card fails.
pub(crate) fn read_block<D: BlockDevice>(card: &D, index: u32) -> Result<[u8; 512], Trouble> {
    let mut block = [fat::empty()];
    let mut tries = 1;
    while let Err(e) = card.read(&mut block, BlockIdx(index)) {
        if tries == TRIES {
            return Err(Trouble::card("read", index, &e));
        }
        tries += 1;
    }
    Ok(block[0].contents)
}

/// Writes blocks, tried again when the card fails.
pub(crate) fn write_blocks<D: BlockDevice>(card: &D, blocks: &[Block], index: u32) -> Result<(), Trouble> {
    let mut tries = 1;
    while let Err(e) = card.write(blocks, BlockIdx(index)) {
        if tries == TRIES {
            return Err(Trouble::card("write", index, &e));
        }
        tries += 1;
    }
    Ok(())
}

/// What a card holds.
#[derive(Clone, Copy, Debug)]
pub struct Contents {
    /// Blocks of the card.
    pub n_blocks: u32,
    /// The slots, if it has any.
    pub slots: Option<Area>,
}

impl Contents {
    /// Looks at the card.
    ///
    /// # Errors
    /// [`Why::Card`].
    pub fn read<D: BlockDevice>(card: &D) -> Result<Self, Trouble> {
        let n = card.num_blocks().map_err(|e| Trouble::new(Why::Card, format_args!("the card does not tell its size: {e}")))?;
        Ok(Self { n_blocks: n.0, slots: Area::find(card, n.0)? })
    }

    /// Places where the model that is asked for may lie, the best first.
    ///
    /// # Errors
    /// [`Why::Card`], [`Why::Image`] (a file that cannot be used), [`Why::NoModel`] if there is none.
    pub fn places<D: BlockDevice>(&self, card: &D, from: From) -> Result<heapless::Vec<Place, 3>, Trouble> {
        let mut places = heapless::Vec::new();
        if let (Some(area), From::Any | From::Slot(_)) = (&self.slots, from) {
            let active = area.table.active;
            for slot in [active, 1 - active] {
                let wanted = from == From::Any || from == From::Slot(slot);
                if wanted && (area.id(card, slot)? != 0 || from != From::Any) {
                    // Three places at most.
                    let _ = places.push(area.place(slot));
                }
            }
        }
        if matches!(from, From::Any | From::File) {
            match fat::locate(card, self.n_blocks) {
                Ok(place) => places.extend(place),
                // Of a file that is not needed.
                Err(_) if !places.is_empty() => {}
                Err(e) => return Err(e),
            }
        }
        if places.is_empty() {
            let text = match from {
                From::Any => format_args!("no image on the card: need a file *.bourn on FAT32, or one in a slot"),
                From::File => format_args!("no image on the card: need a file *.bourn on FAT32"),
                From::Slot(_) => format_args!("no such slot on the card"),
            };
            return Err(Trouble::new(Why::NoModel, text));
        }
        Ok(places)
    }
}
