//! The head of an image: superblock, section directory, sections (FORMAT.md §1, §2, §3, §5, §7).

use crate::Error;
use crate::plan::Plan;
use bourn_format::image::{LAYER_BYTES, SEGMENT_BYTES, TENSOR_BYTES, section};
use bourn_format::superblock::{BYTES as SUPERBLOCK_BYTES, SECTION_BYTES, Superblock};
use bourn_format::{PAGE, Shape, VERSION, checksum};
use std::collections::HashMap;

/// Sections begin on a multiple of this.
const SECTION_ALIGN: usize = 64;

/// One rope table (FORMAT.md §3).
#[derive(Clone, Debug)]
pub(crate) struct RopeTable {
    pub sliding: bool,
    pub min_context: u32,
    pub factor: f32,
    pub inv_freq: Vec<f32>,
}

/// Sampling defaults and ends of text (FORMAT.md §7).
#[derive(Clone, Debug)]
pub(crate) struct Sampling {
    pub temperature: f32,
    pub top_k: u32,
    pub top_p: f32,
    pub min_p: f32,
    pub repetition_penalty: f32,
    pub eos: Vec<u32>,
}

/// All of the head that does not follow from the plan.
#[derive(Clone, Debug)]
pub(crate) struct Parts {
    pub shape: Shape,
    /// One per layer.
    pub sliding: Vec<bool>,
    pub rope: Vec<RopeTable>,
    pub sampling: Sampling,
    pub tokenizer: Option<Vec<u8>>,
    pub chat_template: Option<String>,
    pub provenance: String,
    pub license: Option<String>,
}

/// Bytes that the head's fields are written to, little-endian.
#[derive(Default)]
struct Fields(Vec<u8>);

impl Fields {
    fn u16(&mut self, v: u16) -> &mut Self {
        self.0.extend_from_slice(&v.to_le_bytes());
        self
    }
    fn u32(&mut self, v: u32) -> &mut Self {
        self.0.extend_from_slice(&v.to_le_bytes());
        self
    }
    fn u64(&mut self, v: u64) -> &mut Self {
        self.0.extend_from_slice(&v.to_le_bytes());
        self
    }
    fn f32(&mut self, v: f32) -> &mut Self {
        self.u32(v.to_bits())
    }
    /// Zeros up to a multiple of `n`.
    fn pad(&mut self, n: usize) -> &mut Self {
        self.0.resize(self.0.len().next_multiple_of(n), 0);
        self
    }
}

/// The head's bytes, superblock included. `page_sums` is of the payload, one per page.
pub(crate) fn head(parts: &Parts, plan: &Plan, page_sums: &[u64]) -> Result<Vec<u8>, Error> {
    // Offsets in the file are known once the head's length is, which does not depend on them.
    let length = assemble(&sections(parts, plan, page_sums, 0)?)?.len();
    let payload_offset = length.next_multiple_of(PAGE) as u64;
    let mut head = assemble(&sections(parts, plan, page_sums, payload_offset)?)?;
    debug_assert_eq!(head.len(), length);
    let superblock = Superblock {
        version: version(plan),
        file_bytes: payload_offset + plan.payload_bytes,
        head_bytes: length as u64,
        payload_offset,
        n_sections: u32::from_le_bytes([head[40], head[41], head[42], head[43]]),
        head_sum: checksum(&head[SUPERBLOCK_BYTES..]),
    };
    head[..SUPERBLOCK_BYTES].copy_from_slice(&superblock.to_bytes());
    Ok(head)
}

/// The oldest version that has all that this image needs.
fn version(plan: &Plan) -> u32 {
    let newest = plan.tensors.iter().map(|t| t.dtype.version()).max().unwrap_or(1);
    if plan.screen.is_some() { VERSION } else { newest }
}

/// Directory and sections at their places; of the superblock only the number of sections.
fn assemble(sections: &[(u32, Vec<u8>)]) -> Result<Vec<u8>, Error> {
    let mut head = vec![0; SUPERBLOCK_BYTES + sections.len() * SECTION_BYTES];
    head[40..44].copy_from_slice(&(sections.len() as u32).to_le_bytes());
    for (i, (kind, bytes)) in sections.iter().enumerate() {
        head.resize(head.len().next_multiple_of(SECTION_ALIGN), 0);
        let mut entry = Fields::default();
        entry.u32(*kind).u32(0).u64(head.len() as u64).u64(bytes.len() as u64);
        head[SUPERBLOCK_BYTES + i * SECTION_BYTES..][..SECTION_BYTES].copy_from_slice(&entry.0);
        head.extend_from_slice(bytes);
    }
    let most = 1 << 30;
    if head.len() > most {
        return Err(Error::TooLarge { what: "head of the image", most: most as u64, found: head.len() as u64 });
    }
    Ok(head)
}

/// The sections, by kind.
fn sections(parts: &Parts, plan: &Plan, page_sums: &[u64], payload_offset: u64) -> Result<Vec<(u32, Vec<u8>)>, Error> {
    let names = Names::of(plan)?;
    let mut sections = vec![
        (section::SHAPE, parts.shape.to_bytes().to_vec()),
        (section::LAYERS, layers(parts, plan)),
        (section::ROPE, rope(&parts.rope)),
        (section::TENSORS, tensors(plan, &names, payload_offset)),
        (section::SEGMENTS, segments(plan, payload_offset)),
        (section::PAGE_SUMS, page_sums.iter().flat_map(|sum| sum.to_le_bytes()).collect()),
        (section::NAMES, names.bytes),
        (section::GENERATION, sampling(&parts.sampling)),
        (section::PROVENANCE, parts.provenance.clone().into_bytes()),
    ];
    let optional = [
        (section::SCREEN, plan.screen.clone()),
        (section::TOKENIZER, parts.tokenizer.clone()),
        (section::CHAT_TEMPLATE, parts.chat_template.clone().map(String::into_bytes)),
        (section::LICENSE, parts.license.clone().map(String::into_bytes)),
    ];
    sections.extend(optional.into_iter().filter_map(|(kind, bytes)| Some((kind, bytes?))));
    sections.sort_by_key(|(kind, _)| *kind);
    Ok(sections)
}

/// The checkpoint's names, each once.
struct Names {
    bytes: Vec<u8>,
    at: HashMap<String, u32>,
}

impl Names {
    fn of(plan: &Plan) -> Result<Self, Error> {
        let mut names = Self { bytes: Vec::new(), at: HashMap::new() };
        for t in &plan.tensors {
            if !names.at.contains_key(&t.name) {
                names.at.insert(t.name.clone(), names.bytes.len() as u32);
                names.bytes.extend_from_slice(t.name.as_bytes());
            }
        }
        let most = u64::from(u32::MAX);
        let found = names.bytes.len() as u64;
        if found > most { Err(Error::TooLarge { what: "names of tensors", most, found }) } else { Ok(names) }
    }
}

fn layers(parts: &Parts, plan: &Plan) -> Vec<u8> {
    let mut out = Fields::default();
    for (i, layer) in plan.layers.iter().enumerate() {
        let sliding = parts.sliding.get(i).copied().unwrap_or(false);
        out.u32(u32::from(sliding)).u32(layer.tensors.start as u32).u32(layer.tensors.len() as u32);
        out.u32(layer.attention as u32).u32(layer.feed_forward as u32).pad(LAYER_BYTES);
    }
    out.0
}

fn rope(tables: &[RopeTable]) -> Vec<u8> {
    let mut out = Fields::default();
    out.u32(tables.len() as u32).pad(16);
    let mut first = 0;
    for t in tables {
        out.u32(u32::from(t.sliding)).u32(t.min_context).f32(t.factor);
        out.u32(first).u32(t.inv_freq.len() as u32).u32(0).u64(0);
        first += t.inv_freq.len() as u32;
    }
    for f in tables.iter().flat_map(|t| &t.inv_freq) {
        out.f32(*f);
    }
    out.0
}

fn tensors(plan: &Plan, names: &Names, payload_offset: u64) -> Vec<u8> {
    let mut out = Fields::default();
    for t in &plan.tensors {
        out.u16(t.role as u16).u16(t.layer);
        out.0.extend_from_slice(&[t.dtype as u8, u8::from(t.role.is_flat()), 0, 0]);
        out.u32(t.rows.len() as u32).u32(t.cols as u32).u32(t.rows.start as u32).u32(t.segment as u32);
        out.u32(names.at[&t.name]).u32(t.name.len() as u32);
        out.u64(payload_offset + t.offset).u64(t.bytes);
        out.0.extend(t.table.map(|level| level as u8));
        out.u64(0).u64(0);
        debug_assert_eq!(out.0.len() % TENSOR_BYTES, 0);
    }
    out.0
}

fn segments(plan: &Plan, payload_offset: u64) -> Vec<u8> {
    let mut out = Fields::default();
    for s in &plan.segments {
        out.u32(s.kind as u32).u32(s.layer).u64(payload_offset + s.offset).u64(s.bytes).u64(0);
        debug_assert_eq!(out.0.len() % SEGMENT_BYTES, 0);
    }
    out.0
}

fn sampling(s: &Sampling) -> Vec<u8> {
    let mut out = Fields::default();
    out.f32(s.temperature).u32(s.top_k).f32(s.top_p).f32(s.min_p).f32(s.repetition_penalty);
    out.u32(s.eos.len() as u32).u64(0);
    for id in &s.eos {
        out.u32(*id);
    }
    out.0
}
