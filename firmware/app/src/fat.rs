//! The one file on a FAT32 partition that is an image, as a run of blocks.
//!
//! Looked for once; after that the file system is out of the way. Own code, some hundred lines: `embedded-sdmmc`, whose
//! block device trait is used, does not tell where a file's clusters lie, and every byte here is hostile until checked.
//! Source: Microsoft, FAT32 File System Specification 1.03; UEFI 2.10, 5.2.1 (legacy MBR).

use crate::card::{Place, read_block};
use crate::trouble::Trouble;
use bourn_protocol::message::{From, Why};
use embedded_sdmmc::{Block, BlockDevice, BlockIdx};

/// Entries of a root directory that are looked at.
const MAX_ENTRIES: u32 = 65_536;

/// A partition of the MBR.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Partition {
    /// Its type.
    pub kind: u8,
    /// First block.
    pub first: u32,
    /// Blocks.
    pub n_blocks: u32,
}

/// Partitions of the card that have a type and lie on it; none if there is no MBR.
///
/// # Errors
/// [`Why::Card`].
pub fn partitions<D: BlockDevice>(card: &D, n_blocks: u32) -> Result<heapless::Vec<Partition, 4>, Trouble> {
    let mbr = read_block(card, 0)?;
    let mut all = heapless::Vec::new();
    if mbr[510..] != [0x55, 0xaa] {
        return Ok(all);
    }
    for entry in mbr[446..510].chunks_exact(16) {
        let partition = Partition { kind: entry[4], first: u32_at(entry, 8), n_blocks: u32_at(entry, 12) };
        let fits = partition.first.checked_add(partition.n_blocks).is_some_and(|end| end <= n_blocks);
        if partition.kind != 0 && partition.first > 0 && partition.n_blocks > 0 && fits {
            // Four entries, four places.
            let _ = all.push(partition);
        }
    }
    Ok(all)
}

/// What a FAT32 volume says of itself.
#[derive(Clone, Copy, Debug)]
struct Volume {
    /// First block of the file allocation table.
    fat: u32,
    /// Entries of it: clusters are 2..this.
    n_entries: u32,
    /// First block of cluster 2.
    data: u32,
    blocks_per_cluster: u32,
    root: u32,
}

impl Volume {
    /// Reads the boot sector; nothing if this is no FAT32 volume of 512-byte sectors.
    fn open<D: BlockDevice>(card: &D, first: u32, n_blocks: u32) -> Result<Option<Self>, Trouble> {
        let boot = read_block(card, first)?;
        let per_cluster = u32::from(boot[13]);
        let (reserved, n_fats) = (u32::from(u16_at(&boot, 14)), u32::from(boot[16]));
        let (total, fat_blocks, root) = (u32_at(&boot, 32), u32_at(&boot, 36), u32_at(&boot, 44));
        let is_fat32 = boot[510..] == [0x55, 0xaa]
            && u16_at(&boot, 11) == 512
            && per_cluster.is_power_of_two()
            && reserved > 0
            && (1..=2).contains(&n_fats)
            && u16_at(&boot, 17) == 0
            && u16_at(&boot, 22) == 0;
        let data = fat_blocks.checked_mul(n_fats).and_then(|n| n.checked_add(reserved));
        let Some(data) = data.filter(|data| is_fat32 && *data < total && total <= n_blocks) else { return Ok(None) };
        let n_clusters = (total - data) / per_cluster;
        let n_entries = n_clusters.saturating_add(2).min(fat_blocks.saturating_mul(128));
        if !(2..n_entries).contains(&root) {
            return Ok(None);
        }
        let volume = Self { fat: first + reserved, n_entries, data: first + data, blocks_per_cluster: per_cluster, root };
        Ok(Some(volume))
    }

    /// First block of a cluster that is one (2..`n_entries`).
    const fn block(&self, cluster: u32) -> u32 {
        self.data + (cluster - 2) * self.blocks_per_cluster
    }

    fn is_cluster(&self, n: u32) -> bool {
        (2..self.n_entries).contains(&n)
    }
}

/// Walks the allocation table; one block of it is kept.
struct Chain<'c, D> {
    card: &'c D,
    volume: Volume,
    held: u32,
    block: [u8; 512],
}

impl<D: BlockDevice> Chain<'_, D> {
    /// What follows `cluster`.
    fn next(&mut self, cluster: u32) -> Result<u32, Trouble> {
        let block = self.volume.fat + cluster / 128;
        if block != self.held {
            self.block = read_block(self.card, block)?;
            self.held = block;
        }
        Ok(u32_at(&self.block, (cluster % 128) as usize * 4) & 0x0fff_ffff)
    }
}

/// The image on the first FAT32 partition, or on a card that is one volume: the first file in its root with the ending `.bourn` or
/// `.brn` that is not hidden. Nothing if there is no such file.
///
/// # Errors
/// [`Why::Card`]; [`Why::Image`] if the file is broken, or lies in more than one piece.
pub fn locate<D: BlockDevice>(card: &D, n_blocks: u32) -> Result<Option<Place>, Trouble> {
    let parts = partitions(card, n_blocks)?;
    let fat32 = parts.iter().filter(|p| matches!(p.kind, 0x0b | 0x0c)).map(|p| (p.first, p.n_blocks));
    for (first, n) in fat32.chain([(0, n_blocks)]) {
        let Some(volume) = Volume::open(card, first, n)? else { continue };
        let mut chain = Chain { card, volume, held: u32::MAX, block: [0; 512] };
        let found = find(&mut chain)?;
        return found.map(|file| extent(&mut chain, &file)).transpose();
    }
    Ok(None)
}

/// A directory entry.
struct File {
    name: [u8; 11],
    cluster: u32,
    bytes: u32,
}

fn find<D: BlockDevice>(chain: &mut Chain<'_, D>) -> Result<Option<File>, Trouble> {
    let volume = chain.volume;
    let (mut cluster, mut seen) = (volume.root, 0);
    while volume.is_cluster(cluster) && seen < MAX_ENTRIES {
        for block in 0..volume.blocks_per_cluster {
            let bytes = read_block(chain.card, volume.block(cluster) + block)?;
            for entry in bytes.chunks_exact(32) {
                match entry[0] {
                    0 => return Ok(None),
                    0xe5 => continue,
                    _ => {}
                }
                // Hidden, system, volume label, folder: none of these (a long name is all but the last).
                let ending = &entry[8..11];
                if entry[11] & 0x1e == 0 && (ending == b"BOU" || ending == b"BRN") {
                    let mut name = [0; 11];
                    name.copy_from_slice(&entry[..11]);
                    let cluster = u32::from(u16_at(entry, 20)) << 16 | u32::from(u16_at(entry, 26));
                    return Ok(Some(File { name, cluster, bytes: u32_at(entry, 28) }));
                }
            }
            seen += 16;
        }
        cluster = chain.next(cluster)?;
    }
    Ok(None)
}

/// The blocks of a file that lies in one piece.
fn extent<D: BlockDevice>(chain: &mut Chain<'_, D>, file: &File) -> Result<Place, Trouble> {
    let volume = chain.volume;
    // Printable as it stands: eight characters of name, three of ending.
    let mut shown = heapless::String::<12>::new();
    for &b in file.name[..8].iter().chain(b".").chain(&file.name[8..]) {
        if b != b' ' {
            let _ = shown.push(if b.is_ascii_graphic() { char::from(b) } else { '?' });
        }
    }
    let broken = |what: &str, found: u32| {
        Trouble::new(
            Why::Image,
            format_args!("{shown}: the file system is broken: {what} {found}, clusters are 2 to {}", volume.n_entries - 1),
        )
    };
    let cluster_bytes = volume.blocks_per_cluster * 512;
    let n = file.bytes.div_ceil(cluster_bytes);
    if n == 0 {
        return Err(Trouble::new(Why::Image, format_args!("{shown} is empty: need an image, have 0 bytes")));
    }
    let last = file.cluster.checked_add(n - 1).filter(|&last| volume.is_cluster(file.cluster) && volume.is_cluster(last));
    let last = last.ok_or_else(|| broken("a file begins at cluster", file.cluster))?;
    for cluster in file.cluster..last {
        let next = chain.next(cluster)?;
        if next == cluster + 1 {
            continue;
        }
        if !volume.is_cluster(next) {
            return Err(broken("a chain goes on with", next));
        }
        let have = u64::from(cluster - file.cluster + 1) * u64::from(cluster_bytes);
        return Err(Trouble::new(
            Why::Image,
            format_args!(
                "{shown} lies in pieces: need {} bytes in a row, have {have}; copy it onto a freshly formatted card",
                file.bytes
            ),
        ));
    }
    Ok(Place { first: BlockIdx(volume.block(file.cluster)), bytes: u64::from(file.bytes), from: From::File })
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

/// One block.
pub(crate) const fn empty() -> Block {
    Block { contents: [0; Block::LEN] }
}
