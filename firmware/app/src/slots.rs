//! Two slots for images in a partition of their own, and a table that says which one is in use.
//!
//! The table is one block with a sequence number and a CRC, and there are two copies of it, 1 MiB apart. The next state is written over the
//! older copy, so that a cut at any moment leaves one that is whole. Layout, by byte: `magic [0, 8)`, `version u32 8`,
//! `sequence u32 12`, `active u32 16`, `first block of slot 0, 1 u32 20, 24`, `blocks of slot 0, 1 u32 28, 32`, zeros, `CRC-32 u32 508` over
//! all before it. Blocks count from the beginning of the partition.

use crate::card::{Place, read_block, write_blocks};
use crate::fat::{self, partitions};
use crate::trouble::Trouble;
use bourn_format::superblock::{BYTES as SUPERBLOCK_BYTES, Superblock};
use bourn_protocol::message::{From, Slots, Why};
use embedded_sdmmc::{BlockDevice, BlockIdx};

/// Type of the partition: data of no file system.
pub const PARTITION: u8 = 0xda;
/// First eight bytes of a table.
pub const MAGIC: [u8; 8] = *b"BOURNSLT";
/// Blocks from one copy of the table to the other, and before the first slot.
pub const APART: u32 = 2048;
const VERSION: u32 = 1;

/// A state of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Table {
    /// How many times slots were switched.
    pub sequence: u32,
    /// The slot in use: 0 or 1.
    pub active: u8,
    /// First block of each, counted from the beginning of the partition.
    pub first: [u32; 2],
    /// Blocks of each.
    pub n_blocks: [u32; 2],
}

impl Table {
    /// Two slots of the same size for a partition of so many blocks, each beginning at a multiple of 1 MiB; the first is in use.
    /// Nothing if there is no room.
    pub const fn new(n_blocks: u32) -> Option<Self> {
        let room = n_blocks.saturating_sub(2 * APART) / 2 / APART * APART;
        if room == 0 {
            return None;
        }
        Some(Self { sequence: 0, active: 0, first: [2 * APART, 2 * APART + room], n_blocks: [room, room] })
    }

    /// Its block.
    pub fn to_bytes(&self) -> [u8; 512] {
        let mut out = [0; 512];
        out[..8].copy_from_slice(&MAGIC);
        let [a, b] = self.first;
        let [c, d] = self.n_blocks;
        for (i, word) in [VERSION, self.sequence, u32::from(self.active), a, b, c, d].into_iter().enumerate() {
            out[8 + 4 * i..12 + 4 * i].copy_from_slice(&word.to_le_bytes());
        }
        let crc = crc32fast::hash(&out[..508]);
        out[508..].copy_from_slice(&crc.to_le_bytes());
        out
    }

    /// Reads a block of a partition of `n_blocks`; nothing if it is not a whole table whose slots lie apart within it.
    pub fn from_bytes(bytes: &[u8; 512], n_blocks: u32) -> Option<Self> {
        let word = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        if bytes[..8] != MAGIC || word(508) != crc32fast::hash(&bytes[..508]) || word(8) != VERSION {
            return None;
        }
        let table = Self {
            sequence: word(12),
            active: u8::try_from(word(16)).ok().filter(|a| *a < 2)?,
            first: [word(20), word(24)],
            n_blocks: [word(28), word(32)],
        };
        let end = |i: usize| table.first[i].checked_add(table.n_blocks[i]);
        let (a, b) = (end(0)?, end(1)?);
        let apart = a <= table.first[1] || b <= table.first[0];
        let after_the_tables = table.first.iter().all(|first| *first > APART);
        (apart && after_the_tables && a <= n_blocks && b <= n_blocks).then_some(table)
    }
}

/// The partition with the slots.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Area {
    /// Its first block on the card.
    pub first: u32,
    /// Its blocks.
    pub n_blocks: u32,
    /// The state that counts.
    pub table: Table,
    /// Which copy holds it.
    copy: u32,
}

impl Area {
    /// The first partition of type [`PARTITION`] with a whole table.
    ///
    /// # Errors
    /// [`Why::Card`].
    pub fn find<D: BlockDevice>(card: &D, n_blocks: u32) -> Result<Option<Self>, Trouble> {
        for partition in partitions(card, n_blocks)?.iter().filter(|p| p.kind == PARTITION && p.n_blocks > 2 * APART) {
            let mut best: Option<Self> = None;
            for copy in [0, 1] {
                let bytes = read_block(card, partition.first + copy * APART)?;
                let Some(table) = Table::from_bytes(&bytes, partition.n_blocks) else { continue };
                if best.is_none_or(|b| b.table.sequence < table.sequence) {
                    best = Some(Self { first: partition.first, n_blocks: partition.n_blocks, table, copy });
                }
            }
            if best.is_some() {
                return Ok(best);
            }
        }
        Ok(None)
    }

    /// Makes two empty slots on a card of `n_blocks` with nothing else: a boot record with one partition from 1 MiB to the end, then
    /// [`Self::create`].
    ///
    /// # Errors
    /// As that.
    pub fn on_new_card<D: BlockDevice>(card: &D, n_blocks: u32) -> Result<Self, Trouble> {
        const FIRST: u32 = 2048;
        let n_blocks = n_blocks.saturating_sub(FIRST);
        let mut record = fat::empty();
        record[446 + 4] = PARTITION;
        record[446 + 8..446 + 12].copy_from_slice(&FIRST.to_le_bytes());
        record[446 + 12..446 + 16].copy_from_slice(&n_blocks.to_le_bytes());
        record[510..].copy_from_slice(&[0x55, 0xaa]);
        write_blocks(card, &[record], 0)?;
        Self::create(card, FIRST, n_blocks)
    }

    /// Makes two empty slots in a partition that begins at block `first`: both copies of the table, and no image in either.
    ///
    /// # Errors
    /// [`Why::Update`] if there is no room, [`Why::Card`].
    pub fn create<D: BlockDevice>(card: &D, first: u32, n_blocks: u32) -> Result<Self, Trouble> {
        let table = Table::new(n_blocks).ok_or_else(|| {
            Trouble::new(Why::Update, format_args!("partition too small for slots: need {} blocks, have {n_blocks}", 4 * APART))
        })?;
        let area = Self { first, n_blocks, table, copy: 0 };
        for slot in [0, 1] {
            write_blocks(card, &[fat::empty()], area.place(slot).first.0)?;
        }
        let mut block = fat::empty();
        block.contents = table.to_bytes();
        for copy in [0, 1] {
            write_blocks(card, core::slice::from_ref(&block), first + copy * APART)?;
        }
        Ok(area)
    }

    /// A slot's blocks.
    pub const fn place(&self, slot: u8) -> Place {
        let i = (slot & 1) as usize;
        Place {
            first: BlockIdx(self.first + self.table.first[i]),
            bytes: self.table.n_blocks[i] as u64 * 512,
            from: From::Slot(slot & 1),
        }
    }

    /// The checksum in the superblock of the image in a slot, 0 if there is none.
    ///
    /// # Errors
    /// [`Why::Card`].
    pub fn id<D: BlockDevice>(&self, card: &D, slot: u8) -> Result<u64, Trouble> {
        let place = self.place(slot);
        let block = read_block(card, place.first.0)?;
        let whole = Superblock::new_checked(&block).is_ok_and(|s| s.file_bytes <= place.bytes);
        Ok(if whole { id_of(&block) } else { 0 })
    }

    /// The slot that a new image goes to: the one not in use, or the one in use if there is no image in it but one in the other.
    ///
    /// # Errors
    /// [`Why::Card`].
    pub fn target<D: BlockDevice>(&self, card: &D) -> Result<u8, Trouble> {
        let (active, other) = (self.table.active, 1 - self.table.active);
        Ok(if self.id(card, active)? == 0 && self.id(card, other)? != 0 { active } else { other })
    }

    /// Makes `slot` the one in use: one block, written over the copy that does not count and read back.
    ///
    /// # Errors
    /// [`Why::Card`].
    pub fn switch<D: BlockDevice>(&mut self, card: &D, slot: u8) -> Result<(), Trouble> {
        let table = Table { sequence: self.table.sequence.wrapping_add(1), active: slot & 1, ..self.table };
        let copy = 1 - self.copy;
        let at = self.first + copy * APART;
        let mut block = fat::empty();
        block.contents = table.to_bytes();
        write_blocks(card, core::slice::from_ref(&block), at)?;
        if read_block(card, at)? != block.contents {
            return Err(Trouble::new(Why::Card, format_args!("the card lost what was written to block {at}")));
        }
        (self.table, self.copy) = (table, copy);
        Ok(())
    }

    /// For the host.
    ///
    /// # Errors
    /// [`Why::Card`].
    pub fn describe<D: BlockDevice>(&self, card: &D) -> Result<Slots, Trouble> {
        Ok(Slots {
            active: self.table.active,
            sequence: self.table.sequence,
            bytes: [self.place(0).bytes, self.place(1).bytes],
            ids: [self.id(card, 0)?, self.id(card, 1)?],
        })
    }
}

/// The checksum in a superblock, which stands for the whole image.
pub fn id_of(superblock: &[u8]) -> u64 {
    superblock.get(SUPERBLOCK_BYTES - 8..SUPERBLOCK_BYTES).and_then(|b| b.try_into().ok()).map_or(0, u64::from_le_bytes)
}
