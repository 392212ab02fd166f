//! The KV state of a text in a file: what was read once is not read again.
//!
//! The file is a snapshot (layout: [`bourn_core::snapshot`]). It is written beside its place, synced and renamed there, so a
//! reader finds the old one or the new one, whole, whoever else writes or dies meanwhile.

use super::Session;
use crate::{Error, Model, PromptCacheError};
use bourn_core::KvDtype;
use bourn_core::snapshot::{Extent, FIXED_BYTES, Head, Origin};
use bourn_format::checksum;
use bourn_host::OwnedSession;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, BufReader, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, SystemTime};

/// Files of writers that died are removed after this long.
const ABANDONED: Duration = Duration::from_secs(3600);
/// Writes of this process: each has a name of its own.
static WRITES: AtomicU32 = AtomicU32::new(0);
/// Ending of a file being written.
const PART: &str = "part";

/// A file and what went wrong with it.
struct At<'a>(&'a Path, &'static str);

impl At<'_> {
    fn io(&self, e: io::Error) -> Error {
        Error::PromptCache { path: self.0.to_owned(), doing: self.1, why: PromptCacheError::Io(e) }
    }

    fn refused(&self, e: bourn_core::Error) -> Error {
        Error::PromptCache { path: self.0.to_owned(), doing: self.1, why: PromptCacheError::Refused(e) }
    }
}

impl Session<'_> {
    /// Takes from the file as much of the beginning of `text` as it holds, at most all but the last token, and returns how many
    /// tokens; 0 where there is no file or the session already knows as much. The text before is forgotten, and
    /// [`Self::generate_from`] goes on from there with the same bits as if all had been read anew.
    ///
    /// # Errors
    /// [`Error::PromptCache`] when the file cannot be read, is of another image, version, KV type or rope, or is damaged: every
    /// byte that is used is checked first. The session is then cleared, and can be used without the file.
    pub fn load_prompt(&mut self, path: &Path, text: &[u32]) -> Result<usize, Error> {
        let at = At(path, "read prompt cache");
        let file = match File::open(path) {
            Ok(file) => file,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(0),
            Err(e) => return Err(at.io(e)),
        };
        let loaded = self.load(file, text, &at);
        if loaded.is_err() {
            self.clear()?;
        }
        loaded
    }

    fn load(&mut self, file: File, text: &[u32], at: &At<'_>) -> Result<usize, Error> {
        let image = self.model.image();
        let origin = self.memory.state()?.origin(image);
        let have = file.metadata().map_err(|e| at.io(e))?.len();
        let mut file = BufReader::with_capacity(FIXED_BYTES, file);
        let mut head = Vec::with_capacity(FIXED_BYTES);
        (&mut file).take(FIXED_BYTES as u64).read_to_end(&mut head).map_err(|e| at.io(e))?;
        let extent = Extent::new_checked(&head, &origin).map_err(|e| at.refused(e))?;
        let need = extent.file_bytes(&origin);
        if have != need {
            return Err(at.refused(bourn_core::Error::Snapshot { what: "bytes", need, found: have }));
        }
        head.resize(extent.head_bytes(&origin), 0);
        file.read_exact(&mut head[FIXED_BYTES..]).map_err(|e| at.io(e))?;
        let head = Head::new_checked(&head, &origin).map_err(|e| at.refused(e))?;
        let same = head.tokens().zip(text).take_while(|(a, b)| a == *b).count();
        let same = same.min(text.len().saturating_sub(1)).min(self.memory.context());
        let known = self.tokens.iter().zip(text).take(self.memory.position()).take_while(|(a, b)| a == b).count();
        let Ok(from) = self.memory.state()?.import_from(image, &extent, same) else { return Ok(0) };
        if same == 0 || same <= known {
            return Ok(0);
        }
        self.clear()?;
        let wanted = Extent { n_tokens: same, sliding_from: from };
        let (full, sliding) = wanted.blocks(&origin);
        let blocks = (0..full).map(|i| (false, i)).chain(sliding.map(|i| (true, i)));
        let mut bytes = vec![0; origin.block_bytes(false).max(origin.block_bytes(true))];
        let mut file = file.into_inner();
        for (kind, block) in blocks {
            let bytes = &mut bytes[..origin.block_bytes(kind)];
            let (offset, index) = extent.place(&origin, kind, block);
            file.seek(SeekFrom::Start(offset)).and_then(|_| file.read_exact(bytes)).map_err(|e| at.io(e))?;
            head.check_block(index, bytes).map_err(|e| at.refused(e))?;
            let valid = if kind { from..same } else { 0..same };
            self.memory.state_mut()?.import(image, kind, block, valid, bytes)?;
        }
        self.memory.state_mut()?.resume(same, from)?;
        self.tokens.extend_from_slice(&text[..same]);
        self.answer = same;
        Ok(same)
    }

    /// Writes the state of the first `n` tokens read, or of all where they are fewer or the session can no longer return to
    /// `n` (see [`super::SessionOptions::rewindable`]); returns the bytes written.
    ///
    /// # Errors
    /// [`Error::PromptCache`] when the file cannot be written, the disk being full for example; the old one is then still there.
    pub fn save_prompt(&self, path: &Path, n: usize) -> Result<u64, Error> {
        let at = At(path, "write prompt cache");
        let image = self.model.image();
        let (position, state) = (self.memory.position(), self.memory.state()?);
        let extent = state.extent(image, n.min(position)).or_else(|_| state.extent(image, position));
        let extent = extent.map_err(|e| at.refused(e))?;
        let mut name = path.file_name().map(OsString::from).ok_or_else(|| at.io(io::ErrorKind::IsADirectory.into()))?;
        let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        remove_abandoned(folder, &name);
        name.push(format!(".{}-{}.{PART}", std::process::id(), WRITES.fetch_add(1, Ordering::Relaxed)));
        let part = Part(folder.join(name));
        let bytes = self.write_snapshot(&part.0, &extent, state).map_err(|e| at.io(e))?;
        fs::rename(&part.0, path).map_err(|e| at.io(e))?;
        // The rename itself reaches the disk with its folder; where folders cannot be synced, later.
        let _ = File::open(folder).and_then(|folder| folder.sync_all());
        Ok(bytes)
    }

    fn write_snapshot(&self, path: &Path, extent: &Extent, state: &OwnedSession) -> io::Result<u64> {
        let image = self.model.image();
        let origin = &state.origin(image);
        let (full, sliding) = extent.blocks(origin);
        let mut head = vec![0; extent.head_bytes(origin)];
        let mut bytes = vec![0; origin.block_bytes(false).max(origin.block_bytes(true))];
        let mut sums = Vec::with_capacity(full + sliding.len());
        let mut options = File::options();
        options.write(true).create(true).truncate(true);
        // It holds what was said.
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let mut file = options.open(path)?;
        // Zeros until all else is written: a file that was cut off is no snapshot.
        file.write_all(&head)?;
        for (kind, block) in (0..full).map(|i| (false, i)).chain(sliding.map(|i| (true, i))) {
            let bytes = &mut bytes[..origin.block_bytes(kind)];
            state.export(image, extent, kind, block, bytes);
            sums.push(checksum(bytes));
            file.write_all(bytes)?;
        }
        extent.write(origin, &self.tokens[..extent.n_tokens], &sums, &mut head);
        file.seek(SeekFrom::Start(0))?;
        file.write_all(&head)?;
        file.sync_all()?;
        Ok(extent.file_bytes(origin))
    }
}

impl Model {
    /// Bytes of memory that [`Session::load_prompt`] and [`Session::save_prompt`] take while they run, beside the tokens; `kv` as in
    /// [`super::SessionOptions`].
    pub fn prompt_cache_bytes(&self, kv: Option<KvDtype>) -> u64 {
        let (image, shape) = (self.image(), self.image().shape());
        let n_sliding = (0..image.n_layers()).filter(|&i| image.layer(i).sliding).count() as u32;
        let sizes = [shape.head_dim, shape.n_kv_heads, image.n_layers() as u32 - n_sliding, n_sliding];
        let origin = Origin { image: 0, kv: kv.unwrap_or_else(|| self.default_kv()), ropes: [0; 2], sizes, vocab: shape.vocab };
        origin.block_bytes(false).max(origin.block_bytes(true)) as u64
    }
}

/// A file being written: removed unless it was renamed.
struct Part(PathBuf);

impl Drop for Part {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// Removes what writers of `name` that died have left in `folder`.
fn remove_abandoned(folder: &Path, name: &OsString) {
    let name = name.to_string_lossy();
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let found = entry.file_name();
        let found = found.to_string_lossy();
        let writer = found.strip_prefix(&*name).and_then(|rest| rest.strip_prefix('.')?.strip_suffix(PART)?.strip_suffix('.'));
        if !writer.is_some_and(|pid| !pid.is_empty() && pid.bytes().all(|b| b.is_ascii_digit() || b == b'-')) {
            continue;
        }
        let age = entry.metadata().and_then(|m| m.modified()).ok().and_then(|t| SystemTime::now().duration_since(t).ok());
        if age.is_some_and(|age| age > ABANDONED) {
            let _ = fs::remove_file(entry.path());
        }
    }
}
