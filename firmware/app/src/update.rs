//! A new image, chunk by chunk into the slot that is not in use, so that a cut at any moment leaves the old image or the new one.
//!
//! Order: the slot's first block is cleared; all others are written; everything is read back and checked; the first block, with
//! the superblock, is written; the table is switched. Before the switch the old slot counts, and nothing has touched it.

use crate::card::{Contents, TRIES, read_block, source, write_blocks};
use crate::desk::Ending;
use crate::fat;
use crate::model::{Arena, fits, read_pages};
use crate::serve::Room;
use crate::slots::{Area, id_of};
use crate::trouble::Trouble;
use bourn_flash::Source;
use bourn_format::superblock::Superblock;
use bourn_format::{Image, PAGE};
use bourn_protocol::message::Why;
use embedded_sdmmc::{Block, BlockDevice};

/// An update that is under way.
#[derive(Debug)]
pub(crate) struct Update {
    pub slot: u8,
    area: Area,
    bytes: u64,
    sum: u64,
    /// Bytes that have come.
    next: u64,
    /// Kept back until all else is checked.
    first: [u8; 512],
    /// Blocks of the lent ones that are filled and not written, and where they belong.
    filled: usize,
    written: u64,
    verified: bool,
    switched: bool,
}

fn refused(text: core::fmt::Arguments<'_>) -> Trouble {
    Trouble::new(Why::Update, text)
}

impl Update {
    /// Gives up what was in the slot.
    pub fn begin<D: BlockDevice>(room: &mut Room<'_, D>, bytes: u64, sum: u64) -> Result<Self, Trouble> {
        let card = room.card()?;
        let contents = Contents::read(card)?;
        let area = contents.slots.ok_or_else(|| {
            refused(format_args!("no slots on the card: need a partition of type {:#04x} with two", crate::slots::PARTITION))
        })?;
        let slot = area.target(card)?;
        let place = area.place(slot);
        if bytes > place.bytes || bytes < PAGE as u64 || !bytes.is_multiple_of(PAGE as u64) {
            let have = place.bytes;
            return Err(refused(format_args!("the image does not fit the slot: {bytes} bytes, the slot has {have}")));
        }
        write_blocks(card, &[fat::empty()], place.first.0)?;
        if read_block(card, place.first.0)? != [0; 512] {
            return Err(Trouble::new(Why::Card, format_args!("the card lost what was written to block {}", place.first.0)));
        }
        Ok(Self { slot, area, bytes, sum, next: 0, first: [0; 512], filled: 0, written: 0, verified: false, switched: false })
    }

    pub const fn is_of(&self, bytes: u64, sum: u64) -> bool {
        self.bytes == bytes && self.sum == sum && !self.switched
    }

    pub const fn ending(&self, window: u8) -> Ending {
        Ending::Update { slot: self.slot, next: self.next, window }
    }

    /// Takes a chunk if it is the one that is wanted; any other is left.
    pub fn put<D: BlockDevice>(&mut self, room: &mut Room<'_, D>, offset: u64, chunk: &[u8]) -> Result<(), Trouble> {
        if offset != self.next || chunk.is_empty() || self.next == self.bytes {
            return Ok(());
        }
        let n = chunk.len() as u64;
        let whole = n.is_multiple_of(512) || self.next + n == self.bytes;
        if !whole || self.next + n > self.bytes {
            return Err(refused(format_args!("chunks need whole blocks of 512 bytes: {n} bytes at {offset} of {}", self.bytes)));
        }
        for block in chunk.chunks(512) {
            if self.filled == room.blocks.len() {
                self.write(room)?;
            }
            let place = room.blocks.get_mut(self.filled);
            let place = place.ok_or_else(|| Trouble::new(Why::Memory, format_args!("no blocks lent: need 1 or more")))?;
            place.contents = [0; 512];
            place.contents[..block.len()].copy_from_slice(block);
            if self.written == 0 && self.filled == 0 {
                self.first = core::mem::take(place).contents;
            }
            self.filled += 1;
        }
        self.next += n;
        if self.next == self.bytes {
            self.write(room)?;
        }
        Ok(())
    }

    /// Writes the blocks that have come.
    fn write<D: BlockDevice>(&mut self, room: &mut Room<'_, D>) -> Result<(), Trouble> {
        let at = self.area.place(self.slot).first.0 + (self.written / 512) as u32;
        write_blocks(room.card()?, &room.blocks[..self.filled], at)?;
        self.written += (self.filled * 512) as u64;
        self.filled = 0;
        Ok(())
    }

    /// Reads all back, checks it, and makes the slot's image one.
    pub fn verify<D: BlockDevice>(
        &mut self,
        room: &mut Room<'_, D>,
        step: &mut dyn FnMut(u64, u64) -> Result<(), Trouble>,
    ) -> Result<(), Trouble> {
        if self.verified {
            return Ok(());
        }
        if self.next != self.bytes || self.filled > 0 {
            return Err(refused(format_args!("the image has not come: need {} bytes, have {}", self.bytes, self.next)));
        }
        let card = room.card()?;
        let superblock = Superblock::new_checked(&self.first)?;
        let (need, found) = (self.sum, id_of(&self.first));
        if need != found || superblock.file_bytes != self.bytes {
            return Err(refused(format_args!(
                "another image came: need {need:016x} of {} bytes, found {found:016x} of {}",
                self.bytes, superblock.file_bytes
            )));
        }
        let place = self.area.place(self.slot);
        fits(&superblock, &place)?;
        let mut arena = Arena::new(room.arena);
        let head = arena.take(usize::try_from(superblock.head_bytes.next_multiple_of(512)).unwrap_or(usize::MAX))?;
        let pages = arena.rest();
        let mut source = source(card, room.counter, &place, room.blocks, room.ahead)?;
        let mut tries = 1;
        while source.read(0, head).is_err() {
            if tries == TRIES {
                return Err(bourn_flash::Error::Device { offset: 0, bytes: superblock.head_bytes }.into());
            }
            tries += 1;
        }
        head[..512].copy_from_slice(&self.first);
        let image = Image::new_checked(&head[..superblock.head_bytes as usize])?;
        let n = pages.len().min(1 << 18);
        read_pages(&image, &mut source, &mut pages[..n], step)?;
        let mut block = Block { contents: self.first };
        write_blocks(card, core::slice::from_ref(&block), place.first.0)?;
        block.contents = read_block(card, place.first.0)?;
        if block.contents != self.first {
            return Err(Trouble::new(Why::Card, format_args!("the card lost what was written to block {}", place.first.0)));
        }
        self.verified = true;
        Ok(())
    }

    /// Makes the new image the one in use; the slot, and how many times slots were switched.
    pub fn switch<D: BlockDevice>(&mut self, room: &Room<'_, D>) -> Result<(u8, u32), Trouble> {
        if !self.verified {
            return Err(refused(format_args!("the new image is not verified")));
        }
        if !self.switched {
            self.area.switch(room.card()?, self.slot)?;
            self.switched = true;
        }
        Ok((self.slot, self.area.table.sequence))
    }
}
