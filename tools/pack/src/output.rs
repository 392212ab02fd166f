//! The file being written: beside its destination until it is whole, superblock last, gone if anything fails.

use crate::Error;
use bourn_format::superblock::BYTES as SUPERBLOCK_BYTES;
use bourn_format::{PAGE, checksum};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

/// Pages gathered before they are written.
const BUFFER_PAGES: usize = 64;

/// An image under way. Dropping it before [`Self::finish`] removes the file.
#[derive(Debug)]
pub(crate) struct Output {
    file: File,
    temporary: PathBuf,
    destination: PathBuf,
    file_bytes: u64,
    buffer: Vec<u8>,
    /// Bytes of payload taken so far.
    payload: u64,
    page_sums: Vec<u64>,
    finished: bool,
}

impl Output {
    /// Creates the temporary file; the payload begins at `payload_offset`, the whole will be `file_bytes` long.
    pub(crate) fn create(destination: &Path, payload_offset: u64, file_bytes: u64) -> Result<Self, Error> {
        let name = destination.file_name().unwrap_or_default().to_string_lossy();
        let temporary = destination.with_file_name(format!(".{name}.{}.tmp", std::process::id()));
        let create = || OpenOptions::new().write(true).create_new(true).open(&temporary);
        let file = create()
            .or_else(|e| match e.kind() {
                // Left by a killed process that had our number.
                io::ErrorKind::AlreadyExists => fs::remove_file(&temporary).and_then(|()| create()),
                _ => Err(e),
            })
            .map_err(|source| failed(destination, file_bytes, "create", source))?;
        let mut output = Self {
            file,
            temporary,
            destination: destination.to_owned(),
            file_bytes,
            buffer: Vec::with_capacity(BUFFER_PAGES * PAGE),
            payload: 0,
            page_sums: Vec::new(),
            finished: false,
        };
        output.seek(payload_offset)?;
        Ok(output)
    }

    /// Bytes of payload so far.
    pub(crate) const fn position(&self) -> u64 {
        self.payload
    }

    /// Appends to the payload.
    pub(crate) fn push(&mut self, mut bytes: &[u8]) -> Result<(), Error> {
        self.payload += bytes.len() as u64;
        while !bytes.is_empty() {
            let (now, later) = bytes.split_at(bytes.len().min(BUFFER_PAGES * PAGE - self.buffer.len()));
            self.buffer.extend_from_slice(now);
            bytes = later;
            if self.buffer.len() == BUFFER_PAGES * PAGE {
                self.flush()?;
            }
        }
        Ok(())
    }

    /// Appends zeros until the payload has `position` bytes.
    pub(crate) fn pad_to(&mut self, position: u64) -> Result<(), Error> {
        const ZEROS: [u8; 4096] = [0; 4096];
        while self.payload < position {
            let n = (position - self.payload).min(ZEROS.len() as u64) as usize;
            self.push(&ZEROS[..n])?;
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<(), Error> {
        self.page_sums.extend(self.buffer.chunks(PAGE).map(checksum));
        let buffer = std::mem::take(&mut self.buffer);
        self.write(&buffer)?;
        self.buffer = buffer;
        self.buffer.clear();
        Ok(())
    }

    /// Ends the payload, which is a whole number of pages by now, and returns the pages' checksums.
    pub(crate) fn page_sums(&mut self) -> Result<Vec<u64>, Error> {
        debug_assert_eq!(self.payload % PAGE as u64, 0);
        self.flush()?;
        Ok(std::mem::take(&mut self.page_sums))
    }

    /// Writes the head, its superblock only after all else is on the disk, and moves the file to its place.
    pub(crate) fn finish(mut self, head: &[u8]) -> Result<(), Error> {
        let (superblock, rest) = head.split_at(SUPERBLOCK_BYTES);
        self.seek(SUPERBLOCK_BYTES as u64)?;
        self.write(rest)?;
        self.sync()?;
        self.seek(0)?;
        self.write(superblock)?;
        self.sync()?;
        fs::rename(&self.temporary, &self.destination)
            .map_err(|source| failed(&self.destination, self.file_bytes, "rename", source))?;
        self.finished = true;
        // The rename itself reaches the disk with the folder; where folders cannot be synced there is nothing to do.
        if let Some(folder) = self.destination.parent() {
            let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
            if let Ok(folder) = File::open(folder) {
                let _ = folder.sync_all();
            }
        }
        Ok(())
    }

    fn seek(&mut self, to: u64) -> Result<(), Error> {
        let done = self.file.seek(SeekFrom::Start(to)).map(|_| ());
        done.map_err(|source| failed(&self.destination, self.file_bytes, "seek", source))
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.file.write_all(bytes).map_err(|source| failed(&self.destination, self.file_bytes, "write", source))
    }

    fn sync(&mut self) -> Result<(), Error> {
        self.file.sync_all().map_err(|source| failed(&self.destination, self.file_bytes, "sync", source))
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        if !self.finished {
            let _ = fs::remove_file(&self.temporary);
        }
    }
}

fn failed(destination: &Path, need: u64, what: &'static str, source: io::Error) -> Error {
    let path = destination.to_owned();
    match source.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Error::DiskFull { path, need },
        _ => Error::Io { path, what, source },
    }
}
