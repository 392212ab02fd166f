//! Bytes at an offset: what NOR flash and block devices have in common.

use core::fmt;

use embedded_sdmmc::{Block, BlockDevice, BlockIdx};
use embedded_storage::nor_flash::ReadNorFlash;

use crate::Error;

/// A device that an image lies on. Offsets are from where the image begins.
pub trait Source {
    /// What the device says when it fails.
    type Error: core::fmt::Debug;

    /// Fills `bytes` from `offset`, both multiples of 256.
    ///
    /// # Errors
    /// The device's own.
    fn read(&mut self, offset: u64, bytes: &mut [u8]) -> Result<(), Self::Error>;

    /// Bytes from where the image begins to the end of the device.
    fn capacity(&self) -> u64;

    /// What will be read next, `bytes` from `offset` on, in order: for devices that can fetch while nobody waits.
    fn next(&mut self, offset: u64, bytes: u64) {
        let _ = (offset, bytes);
    }
}

/// Who fetches blocks of a device before they are asked for: another core, a controller by itself.
pub trait Ahead {
    /// These blocks are read next, in order; what was said before does not hold any more. With none of them nothing is fetched.
    fn next(&self, first: BlockIdx, n_blocks: u32);

    /// Bytes so far that had come before they were asked for.
    fn ready_bytes(&self) -> u64;
}

/// An image in NOR flash, behind `embedded-storage`'s trait: a chip on SPI ([`crate::SpiNor`]), a QSPI peripheral of a
/// microcontroller, its internal flash.
#[derive(Debug)]
pub struct NorSource<F> {
    flash: F,
    base: u32,
}

impl<F: ReadNorFlash> NorSource<F> {
    /// The image begins `base` bytes into the flash.
    ///
    /// # Errors
    /// [`Error::Align`] if that is not a multiple of [`ReadNorFlash::READ_SIZE`], or reads of 256 bytes are none;
    /// [`Error::Short`] if it is beyond the end.
    pub fn new(flash: F, base: u32) -> Result<Self, Error> {
        let step = F::READ_SIZE as u64;
        if step == 0 || 256 % step != 0 || u64::from(base) % step != 0 {
            return Err(Error::Align { need: step, found: u64::from(base) });
        }
        let have = flash.capacity() as u64;
        if u64::from(base) >= have {
            return Err(Error::Short { need: u64::from(base), have });
        }
        Ok(Self { flash, base })
    }

    /// The flash again.
    pub fn into_inner(self) -> F {
        self.flash
    }
}

impl<F: ReadNorFlash> Source for NorSource<F> {
    type Error = F::Error;

    fn read(&mut self, offset: u64, bytes: &mut [u8]) -> Result<(), F::Error> {
        // Within the capacity, which `stream` and `head` have checked and which 32 bits can count.
        let at = u64::from(self.base).saturating_add(offset).min(u64::from(u32::MAX)) as u32;
        self.flash.read(at, bytes)
    }

    fn capacity(&self) -> u64 {
        (self.flash.capacity() as u64).saturating_sub(u64::from(self.base)).min(u64::from(u32::MAX))
    }
}

/// An image on a block device (memory card, eMMC, USB stick) behind `embedded-sdmmc`'s trait: in a partition of its own, or in
/// a file that lies in one piece.
pub struct BlockSource<'a, D> {
    device: D,
    first: BlockIdx,
    n_blocks: u32,
    /// Whole blocks are read here and copied on: the trait wants them so. The more, the fewer commands.
    bounce: &'a mut [Block],
    ahead: Option<&'a dyn Ahead>,
}

impl<D> fmt::Debug for BlockSource<'_, D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BlockSource").field("first", &self.first).field("n_blocks", &self.n_blocks).finish_non_exhaustive()
    }
}

impl<'a, D: BlockDevice> BlockSource<'a, D> {
    /// The image begins at block `first`; `bounce` are blocks to read into, as many as one command may bring.
    ///
    /// # Errors
    /// [`Error::Buffer`] if `bounce` is empty, [`Error::Device`] if the device does not tell its size, [`Error::Short`] if
    /// `first` is beyond the end.
    pub fn new(device: D, first: BlockIdx, bounce: &'a mut [Block]) -> Result<Self, Error> {
        if bounce.is_empty() {
            return Err(Error::Buffer { need: Block::LEN as u64, have: 0 });
        }
        let n_blocks = device.num_blocks().map_err(|_| Error::Device { offset: 0, bytes: 0 })?.0;
        if first.0 >= n_blocks {
            let block = Block::LEN as u64;
            return Err(Error::Short { need: u64::from(first.0) * block, have: u64::from(n_blocks) * block });
        }
        Ok(Self { device, first, n_blocks, bounce, ahead: None })
    }

    /// The same, of a device that fetches ahead if it is told what comes.
    #[must_use]
    pub fn reading_ahead(self, ahead: Option<&'a dyn Ahead>) -> Self {
        Self { ahead, ..self }
    }

    /// The device again.
    pub fn into_inner(self) -> D {
        self.device
    }
}

impl<D: BlockDevice> Source for BlockSource<'_, D> {
    type Error = D::Error;

    fn read(&mut self, offset: u64, mut bytes: &mut [u8]) -> Result<(), D::Error> {
        let mut block = self.first.0 + (offset / Block::LEN as u64) as u32;
        let mut skip = (offset % Block::LEN as u64) as usize;
        while !bytes.is_empty() {
            let n = (skip + bytes.len()).div_ceil(Block::LEN).min(self.bounce.len());
            self.device.read(&mut self.bounce[..n], BlockIdx(block))?;
            for from in &self.bounce[..n] {
                let from = &from.contents[skip..];
                let (to, rest) = bytes.split_at_mut(from.len().min(bytes.len()));
                to.copy_from_slice(&from[..to.len()]);
                bytes = rest;
                skip = 0;
            }
            block += n as u32;
        }
        Ok(())
    }

    fn capacity(&self) -> u64 {
        u64::from(self.n_blocks - self.first.0) * Block::LEN as u64
    }

    fn next(&mut self, offset: u64, bytes: u64) {
        let (block, most) = (Block::LEN as u64, u64::from(self.n_blocks - self.first.0));
        if let Some(ahead) = self.ahead {
            let (first, end) = ((offset / block).min(most), (offset + bytes).div_ceil(block).min(most));
            // Both within 32 bits, as the device's blocks are.
            ahead.next(BlockIdx(self.first.0 + first as u32), (end - first) as u32);
        }
    }
}
