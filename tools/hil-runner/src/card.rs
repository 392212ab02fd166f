//! A card: a boot record, a FAT32 partition with firmware and model, a partition with two slots for updates.
//!
//! ```text
//! 0        boot record (MBR)
//! 1 MiB    partition 1, FAT32: loader's files, config.txt, kernel8.img, the model
//! …        partition 2, type 0xda: a table twice, 1 MiB apart, then two slots (firmware/app/src/slots.rs)
//! end      a power of two, as QEMU's cards must be
//! ```
//!
//! Files are written to an empty file system one after the other, so each lies in one piece.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;

use anyhow::{Context, Result, bail};
use fatfs::{FatType, FileSystem, FormatVolumeOptions, FsOptions};

const MIB: u64 = 1 << 20;
const BLOCK: u64 = 512;
/// A FAT32 file system has at least 65 525 clusters.
const LEAST_CLUSTERS: u64 = 65_600;
const FAT32: u8 = 0x0c;
/// Data of no file system; as in `firmware/app/src/slots.rs`, and so is the table.
const SLOTS: u8 = 0xda;
const TABLE_APART: u64 = MIB;

/// What goes on a card.
#[derive(Debug)]
pub struct Contents<'a> {
    /// The firmware.
    pub kernel: &'a [u8],
    /// `config.txt`, empty for none.
    pub config: &'a str,
    /// The model.
    pub image: Option<&'a Path>,
    /// A folder with the files of the board's own loader.
    pub loader: Option<&'a Path>,
}

/// Part of a file.
struct Part<'f> {
    file: &'f File,
    start: u64,
    bytes: u64,
    at: u64,
}

impl Part<'_> {
    fn within(&self, n: usize) -> usize {
        usize::try_from(self.bytes.saturating_sub(self.at)).unwrap_or(usize::MAX).min(n)
    }
}

impl Read for Part<'_> {
    fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
        let n = self.within(buf.len());
        self.file.seek(SeekFrom::Start(self.start + self.at))?;
        let n = self.file.read(&mut buf[..n])?;
        self.at += n as u64;
        Ok(n)
    }
}

impl Write for Part<'_> {
    fn write(&mut self, buf: &[u8]) -> std::io::Result<usize> {
        let n = self.within(buf.len());
        self.file.seek(SeekFrom::Start(self.start + self.at))?;
        let n = self.file.write(&buf[..n])?;
        self.at += n as u64;
        Ok(n)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.file.flush()
    }
}

impl Seek for Part<'_> {
    fn seek(&mut self, to: SeekFrom) -> std::io::Result<u64> {
        let to = match to {
            SeekFrom::Start(at) => Some(at),
            SeekFrom::End(by) => self.bytes.checked_add_signed(by),
            SeekFrom::Current(by) => self.at.checked_add_signed(by),
        };
        self.at = to.ok_or(std::io::ErrorKind::InvalidInput)?;
        Ok(self.at)
    }
}

/// Writes a card; says what is on it.
///
/// # Errors
/// If a file cannot be read or the card not written.
pub fn write(path: &Path, contents: &Contents<'_>) -> Result<String> {
    let files = files(contents)?;
    let file_bytes: u64 = files.iter().map(|(_, bytes)| bytes.len() as u64 + 64 * 1024).sum();
    let image_bytes = contents.image.map_or(Ok(0), |image| std::fs::metadata(image).map(|meta| meta.len()))?;
    // Clusters of 4 KiB where the partition is large enough for FAT32 with them.
    let cluster: u64 = if file_bytes > LEAST_CLUSTERS * 4096 { 4096 } else { 512 };
    let fat_bytes = (file_bytes + file_bytes / 64).max(LEAST_CLUSTERS * cluster + MIB).next_multiple_of(MIB);
    // Two slots for an image a little larger than this one.
    let slot = (image_bytes + image_bytes / 8).max(MIB).next_multiple_of(MIB);
    let slots_start = MIB + fat_bytes;
    let card_bytes = (slots_start + 2 * TABLE_APART + 2 * slot).next_power_of_two();
    let slots_bytes = card_bytes - slots_start;
    let file = File::options().read(true).write(true).create(true).truncate(true).open(path);
    let file = file.with_context(|| path.display().to_string())?;
    file.set_len(card_bytes)?;
    let mut first = &file;
    first.write_all(&boot_record(&[(FAT32, MIB, fat_bytes), (SLOTS, slots_start, slots_bytes)])?)?;
    write_files(Part { file: &file, start: MIB, bytes: fat_bytes, at: 0 }, u32::try_from(cluster)?, &files)?;
    let table = slot_table(slots_bytes / BLOCK)?;
    for copy in [0, TABLE_APART] {
        first.seek(SeekFrom::Start(slots_start + copy))?;
        first.write_all(&table)?;
    }
    file.sync_all()?;
    Ok(format!(
        "{}: {} MiB: FAT32 of {} MiB, two slots of {} MiB",
        path.display(),
        card_bytes / MIB,
        fat_bytes / MIB,
        slot_bytes(slots_bytes / BLOCK) * BLOCK / MIB
    ))
}

/// Names and bytes of the files, in the order in which they are written.
fn files(contents: &Contents<'_>) -> Result<Vec<(String, Vec<u8>)>> {
    let mut files = Vec::new();
    if let Some(folder) = contents.loader {
        let mut entries: Vec<_> =
            std::fs::read_dir(folder).with_context(|| folder.display().to_string())?.collect::<Result<_, _>>()?;
        entries.sort_by_key(std::fs::DirEntry::file_name);
        for entry in entries.iter().filter(|entry| entry.path().is_file()) {
            let name = entry.file_name().to_string_lossy().into_owned();
            if !["config.txt", "kernel8.img"].contains(&name.as_str()) {
                files.push((name, std::fs::read(entry.path())?));
            }
        }
    }
    if !contents.config.is_empty() {
        files.push(("config.txt".to_owned(), contents.config.as_bytes().to_vec()));
    }
    files.push(("kernel8.img".to_owned(), contents.kernel.to_vec()));
    if let Some(image) = contents.image {
        let name = image.file_name().context("the image has no name")?.to_string_lossy().into_owned();
        if !name.ends_with(".bourn") {
            bail!("{name}: need a name that ends in .bourn, by which the board finds it");
        }
        files.push((name, std::fs::read(image).with_context(|| image.display().to_string())?));
    }
    Ok(files)
}

fn write_files(mut part: Part<'_>, cluster: u32, files: &[(String, Vec<u8>)]) -> Result<()> {
    let options = FormatVolumeOptions::new().fat_type(FatType::Fat32).bytes_per_cluster(cluster).volume_label(*b"BOURN      ");
    fatfs::format_volume(&mut part, options)?;
    part.rewind()?;
    let volume = FileSystem::new(part, FsOptions::new().update_accessed_date(false))?;
    for (name, bytes) in files {
        let mut file = volume.root_dir().create_file(name)?;
        file.write_all(bytes).with_context(|| format!("{name} does not fit the card"))?;
        file.flush()?;
    }
    volume.unmount()?;
    Ok(())
}

/// Reads a file from the root of a card's first partition.
///
/// # Errors
/// If there is no such card, partition or file.
pub fn read(path: &Path, name: &str) -> Result<Vec<u8>> {
    let file = File::open(path).with_context(|| path.display().to_string())?;
    let mut record = [0; BLOCK as usize];
    (&file).read_exact(&mut record)?;
    if record[510..] != [0x55, 0xaa] {
        bail!("{}: need a boot record, found none", path.display());
    }
    let word = |at: usize| u64::from(u32::from_le_bytes([record[at], record[at + 1], record[at + 2], record[at + 3]]));
    let part = Part { file: &file, start: word(454) * BLOCK, bytes: word(458) * BLOCK, at: 0 };
    let volume = FileSystem::new(part, FsOptions::new().update_accessed_date(false))?;
    let mut bytes = Vec::new();
    let mut found = volume.root_dir().open_file(name).with_context(|| format!("{}: {name}", path.display()))?;
    found.read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// A boot record with partitions of a type, a start and a length, whole blocks.
fn boot_record(partitions: &[(u8, u64, u64)]) -> Result<[u8; BLOCK as usize]> {
    let mut record = [0; BLOCK as usize];
    for (i, &(kind, start, bytes)) in partitions.iter().enumerate().take(4) {
        let entry = &mut record[446 + 16 * i..][..16];
        // Places by cylinder, head and sector are beyond what they can say.
        entry[1..4].copy_from_slice(&[0xfe, 0xff, 0xff]);
        entry[4] = kind;
        entry[5..8].copy_from_slice(&[0xfe, 0xff, 0xff]);
        entry[8..12].copy_from_slice(&u32::try_from(start / BLOCK)?.to_le_bytes());
        entry[12..].copy_from_slice(&u32::try_from(bytes / BLOCK)?.to_le_bytes());
    }
    record[510..].copy_from_slice(&[0x55, 0xaa]);
    Ok(record)
}

/// Blocks of each slot in a partition of so many.
fn slot_bytes(n_blocks: u64) -> u64 {
    let apart = TABLE_APART / BLOCK;
    n_blocks.saturating_sub(2 * apart) / 2 / apart * apart
}

/// The table of two empty slots: magic, version, sequence, slot in use, first blocks, blocks, CRC-32.
fn slot_table(n_blocks: u64) -> Result<[u8; BLOCK as usize]> {
    let mut table = [0; BLOCK as usize];
    table[..8].copy_from_slice(b"BOURNSLT");
    let (first, room) = (2 * TABLE_APART / BLOCK, slot_bytes(n_blocks));
    for (i, word) in [1, 0, 0, first, first + room, room, room].into_iter().enumerate() {
        table[8 + 4 * i..12 + 4 * i].copy_from_slice(&u32::try_from(word)?.to_le_bytes());
    }
    let crc = crc32fast::hash(&table[..508]);
    table[508..].copy_from_slice(&crc.to_le_bytes());
    Ok(table)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_card_holds_what_was_put_on_it_in_one_piece_each() {
        let folder = std::env::temp_dir().join(format!("bourn-card-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let (card, image) = (folder.join("card.img"), folder.join("some-model.bourn"));
        let model: Vec<u8> = (0..100_000_u32).map(|i| (i * 7) as u8).collect();
        std::fs::write(&image, &model).unwrap();
        let contents = Contents { kernel: b"kernel", config: "a=1\n", image: Some(&image), loader: None };
        write(&card, &contents).unwrap();
        assert_eq!(read(&card, "kernel8.img").unwrap(), b"kernel");
        assert_eq!(read(&card, "config.txt").unwrap(), b"a=1\n");
        assert_eq!(read(&card, "some-model.bourn").unwrap(), model);
        assert!(read(&card, "absent").is_err());
        let bytes = std::fs::read(&card).unwrap();
        assert!(bytes.len().is_power_of_two());
        assert!(bytes.windows(model.len()).any(|piece| piece == model), "the model lies in one piece");
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
