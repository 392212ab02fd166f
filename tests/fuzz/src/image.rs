//! The image: its head, its tokenizer section, and the decoder on whatever weights an accepted image has.

use bourn_core::{Engine, Error, HeadMode, KvDtype, Options, Session, WeightStream, workspace_bytes};
use bourn_format::superblock::BYTES;
use bourn_format::{Image, checksum};
use bourn_kernels::OneCore;

/// Largest workspace that a run of the decoder may ask for here.
const MAX_WORKSPACE: usize = 8 << 20;
/// Most weight bytes that a run of the decoder may read here.
const MAX_WEIGHTS: u64 = 1 << 20;

/// Opens the bytes as they are, and once more with the checksums put right, so that mutations reach what lies behind them.
pub fn image(data: &[u8]) {
    open(data);
    let mut sealed = data.to_vec();
    if seal(&mut sealed).is_some() {
        open(&sealed);
    }
}

/// Makes the checksums of superblock and head true.
fn seal(bytes: &mut [u8]) -> Option<()> {
    let head_bytes = u64::from_le_bytes(bytes.get(24..32)?.try_into().ok()?);
    let head = bytes.get(BYTES..usize::try_from(head_bytes).ok()?)?;
    let head_sum = checksum(head);
    bytes.get_mut(48..56)?.copy_from_slice(&head_sum.to_le_bytes());
    let sum = checksum(&bytes[..BYTES - 8]);
    bytes[BYTES - 8..BYTES].copy_from_slice(&sum.to_le_bytes());
    Some(())
}

/// Once accepted, nothing may panic: every accessor, and the decoder where its size allows.
fn open(bytes: &[u8]) {
    let Ok(image) = Image::new_checked(bytes) else { return };
    let mut seen = image.parameters() ^ image.bytes_per_token();
    for i in 0..image.n_tensors() {
        let tensor = image.tensor(i);
        seen ^= tensor.bytes ^ tensor.name.len() as u64;
        let segment = image.segment(tensor.segment);
        if let Some(within) = weights(bytes, segment.offset, segment.bytes) {
            seen ^= tensor.within(&segment, within).len() as u64;
        }
    }
    for i in 0..image.n_layers() {
        let layer = image.layer(i);
        seen ^= u64::from(layer.get(bourn_format::Role::Down).is_some());
    }
    if let Some(screen) = image.screen() {
        seen ^= (screen.book_values() ^ screen.candidate_bytes(image.shape().hidden as usize)) as u64;
    }
    for page in 0..image.n_pages().min(64) {
        seen ^= u64::from(image.check_page(page, &[]).is_ok());
    }
    seen ^= image.ropes().map(|rope| u64::from(rope.inv_freq(0).to_bits())).sum::<u64>();
    seen ^= (image.generation().eos().count() + image.provenance().len() + image.license().len()) as u64;
    std::hint::black_box(seen);
    if let Some(tables) = image.tokenizer() {
        crate::tokenizer::round_trip(tables, "A text, über 12 345 \u{1F600} <s>\n\n  x");
    }
    decode(&image, bytes);
}

fn decode(image: &Image<'_>, bytes: &[u8]) {
    let context = 4.min(image.shape().max_context as usize);
    let options = Options { context, prefill_block: 2, retain: 0, kv: KvDtype::F16, logit_rows: 1 };
    let Ok(need) = workspace_bytes(image, &options) else { return };
    if need > MAX_WORKSPACE || image.bytes_per_token() > MAX_WEIGHTS || image.n_layers() > 8 {
        return;
    }
    let mut workspace = vec![0; need];
    let Ok(mut session) = Session::new(image, &options, &mut workspace) else { return };
    let mut stream = Bytes { image, bytes };
    let kernels = bourn_kernels::best();
    let mut engine = Engine { image, stream: &mut stream, kernels, decode: &OneCore, prefill: &OneCore };
    for (tokens, mode) in
        [(&[0, 1][..], HeadMode::Screened), (&[u32::MAX], HeadMode::Screened), (&[image.shape().vocab - 1], HeadMode::Exact)]
    {
        session.set_head_mode(mode);
        // An error is an answer; only a panic is a finding.
        let _ = session.prefill(&mut engine, tokens);
    }
    let _ = session.prefill_allowed(&mut engine, &[0], &[0, image.shape().vocab - 1, u32::MAX]);
}

/// The image's bytes as they are: page sums are not checked, so that broken weights reach the kernels.
struct Bytes<'a> {
    image: &'a Image<'a>,
    bytes: &'a [u8],
}

fn weights(bytes: &[u8], offset: u64, len: u64) -> Option<&[u8]> {
    bytes.get(usize::try_from(offset).ok()?..usize::try_from(offset.checked_add(len)?).ok()?)
}

impl WeightStream for Bytes<'_> {
    fn segment(&mut self, index: usize) -> Result<&[u8], Error> {
        let segment = self.image.segment(index);
        weights(self.bytes, segment.offset, segment.bytes).ok_or(Error::Read { offset: segment.offset, bytes: 0, code: 0 })
    }

    fn read(&mut self, offset: u64, bytes: usize) -> Result<&[u8], Error> {
        weights(self.bytes, offset, bytes as u64).ok_or(Error::Read { offset, bytes: bytes as u64, code: 0 })
    }
}
