//! One checkpoint, whatever its files: spec, tensors by role, tokenizer, template.

use std::ops::Range;
use std::path::{Path, PathBuf};

use crate::dtype::{Dtype, dequantize};
use crate::error::Error;
use crate::map::Mapped;
use crate::spec::{GenerationSpec, ModelSpec, Role};
use crate::tokenizer::TokenizerSpec;
use crate::{folder, gguf_model};

/// The container a checkpoint came in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SourceFormat {
    /// A folder with config.json and safetensors.
    HuggingFace,
    /// One .gguf file.
    Gguf,
}

/// Where a checkpoint came from.
#[derive(Clone, Debug)]
pub struct SourceInfo {
    /// The path it was opened by.
    pub path: PathBuf,
    /// Its container.
    pub format: SourceFormat,
    /// Name and bytes of each weight file.
    pub files: Vec<(String, u64)>,
    /// What the model calls itself, if it does.
    pub name: Option<String>,
}

/// One tensor as the decoder needs it, and where its values lie. A fused source appears once for each of its parts.
#[derive(Clone, Debug)]
pub struct TensorInfo {
    /// What it is for.
    pub role: Role,
    /// The layer, for those that belong to one.
    pub layer: Option<u32>,
    /// Rows; 1 for a vector.
    pub rows: usize,
    /// Columns.
    pub cols: usize,
    /// Its name in the source.
    pub name: String,
    /// How the source stores it.
    pub dtype: Dtype,
    pub(crate) file: usize,
    pub(crate) offset: usize,
    pub(crate) order: Order,
    pub(crate) add: f32,
}

/// Order of a source tensor's rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Order {
    /// As the decoder reads them.
    Plain,
    /// Rope pairs side by side in each head of that many rows: source row `2i + j` is row `j·half + i`.
    Pairs(usize),
}

/// An open checkpoint. Tensors stay in the mapped files until their rows are asked for.
#[derive(Debug)]
#[non_exhaustive]
pub struct Checkpoint {
    /// Sizes and constants.
    pub spec: ModelSpec,
    /// Vocabulary and rules; `None` when the checkpoint carries none.
    pub tokenizer: Option<TokenizerSpec>,
    /// The chat template (Jinja); the one called "default" of several.
    pub chat_template: Option<String>,
    /// Recommended sampling, and where text ends.
    pub generation: GenerationSpec,
    /// The licence's identifier as the model card, the LICENSE file's first line or the GGUF names it.
    pub license: Option<String>,
    /// The LICENSE file, when there is one.
    pub license_text: Option<String>,
    /// Where it came from.
    pub source: SourceInfo,
    tensors: Vec<TensorInfo>,
    files: Vec<Mapped>,
}

/// What the readers of both containers hand over.
pub(crate) struct Parts {
    pub(crate) spec: ModelSpec,
    pub(crate) tokenizer: Option<TokenizerSpec>,
    pub(crate) chat_template: Option<String>,
    pub(crate) generation: GenerationSpec,
    pub(crate) license: Option<String>,
    pub(crate) license_text: Option<String>,
    pub(crate) name: Option<String>,
    pub(crate) tensors: Vec<TensorInfo>,
}

impl Checkpoint {
    /// Opens a Hugging Face folder or a .gguf file: reads and checks every header, maps the weights.
    ///
    /// # Errors
    /// [`Error`], naming what was needed and what was found.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let (parts, files, format) = if path.is_dir() {
            let (parts, files) = folder::open(path)?;
            (parts, files, SourceFormat::HuggingFace)
        } else {
            let file = Mapped::open(path)?;
            (gguf_model::open(file.bytes())?, vec![file], SourceFormat::Gguf)
        };
        let sizes = files.iter().map(|f| (f.name(), f.bytes().len() as u64)).collect();
        let source = SourceInfo { path: path.to_owned(), format, files: sizes, name: parts.name };
        let Parts { spec, tokenizer, chat_template, generation, license, license_text, tensors, .. } = parts;
        Ok(Self { spec, tokenizer, chat_template, generation, license, license_text, source, tensors, files })
    }

    /// Every tensor of the decoder: the embedding, each layer's by role, the final norm, the head when it is not tied.
    pub fn tensors(&self) -> &[TensorInfo] {
        &self.tensors
    }

    /// The tensor of that role in that layer (`None` outside layers), if there is one.
    pub fn tensor(&self, role: Role, layer: Option<u32>) -> Option<&TensorInfo> {
        self.tensors.iter().find(|t| t.role == role && t.layer == layer)
    }

    /// De-quantizes rows into `out`, `[rows.len(), cols]`, exactly as the source's makers do. Norms come as the multiplier.
    ///
    /// # Errors
    /// [`Error::Request`] when the rows are not the tensor's or `out` has another length.
    pub fn rows_f32(&self, t: &TensorInfo, rows: Range<usize>, out: &mut [f32]) -> Result<(), Error> {
        let n = t.check(&rows)?;
        if out.len() != n {
            return Err(Error::Request { what: "length of the output", need: n as u64, have: out.len() as u64 });
        }
        match t.order {
            Order::Plain => dequantize(t.dtype, self.bytes(t, rows.clone())?, out),
            Order::Pairs(head) if t.role.is_vector() => {
                let mut plain = vec![0.0; n];
                dequantize(t.dtype, self.bytes(t, rows.clone())?, &mut plain);
                for (i, value) in out.iter_mut().enumerate() {
                    *value = plain[paired(head, i)];
                }
            }
            Order::Pairs(head) => {
                for (row, out) in rows.clone().zip(out.chunks_exact_mut(t.cols)) {
                    let from = paired(head, row);
                    dequantize(t.dtype, self.bytes(t, from..from + 1)?, out);
                }
            }
        }
        if t.add != 0.0 {
            out.iter_mut().for_each(|value| *value += t.add);
        }
        if rows.end == t.rows {
            self.release(t);
        }
        Ok(())
    }

    /// The f16 bits of each block's scale and the codes 0…15 (one a byte, in column order) of a row stored as Q4_0:
    /// the value is `(code − 8) · scale`.
    ///
    /// # Errors
    /// [`Error::Request`] for another dtype, a row outside, or lengths other than `cols / 32` and `cols`.
    pub fn q4_0_row(&self, t: &TensorInfo, row: usize, scales: &mut [u16], codes: &mut [u8]) -> Result<(), Error> {
        let bytes = self.q4_row(t, row, Dtype::Q4_0, scales.len(), codes.len())?;
        for ((block, scale), codes) in bytes.as_chunks::<18>().0.iter().zip(scales).zip(codes.as_chunks_mut::<32>().0) {
            *scale = u16::from_le_bytes([block[0], block[1]]);
            nibbles(&block[2..], codes);
        }
        Ok(())
    }

    /// As [`Self::q4_0_row`] for Q4_1: the value is `code · scale + min`.
    ///
    /// # Errors
    /// [`Error::Request`] for another dtype, a row outside, or lengths other than `cols / 32` (twice) and `cols`.
    pub fn q4_1_row(
        &self,
        t: &TensorInfo,
        row: usize,
        scales: &mut [u16],
        mins: &mut [u16],
        codes: &mut [u8],
    ) -> Result<(), Error> {
        let bytes = self.q4_row(t, row, Dtype::Q4_1, scales.len(), codes.len())?;
        if mins.len() != scales.len() {
            return Err(Error::Request { what: "length of the minima", need: scales.len() as u64, have: mins.len() as u64 });
        }
        let blocks = bytes.as_chunks::<20>().0.iter().zip(codes.as_chunks_mut::<32>().0);
        for ((block, codes), (scale, min)) in blocks.zip(scales.iter_mut().zip(mins)) {
            *scale = u16::from_le_bytes([block[0], block[1]]);
            *min = u16::from_le_bytes([block[2], block[3]]);
            nibbles(&block[4..], codes);
        }
        Ok(())
    }

    /// Tells the system that the tensor's pages are not needed for now: packing a large model then stays small in memory.
    /// [`Self::rows_f32`] does so after a tensor's last row.
    pub fn release(&self, t: &TensorInfo) {
        if let Some(file) = self.files.get(t.file) {
            file.release(t.offset, t.rows * t.row_bytes());
        }
    }

    fn q4_row(&self, t: &TensorInfo, row: usize, dtype: Dtype, scales: usize, codes: usize) -> Result<&[u8], Error> {
        t.check(&(row..row.saturating_add(1)))?;
        let request = |what, need: usize, have: usize| Err(Error::Request { what, need: need as u64, have: have as u64 });
        if t.dtype != dtype || t.role.is_vector() {
            return request("block bytes of a four-bit matrix", dtype.block_bytes(), t.dtype.block_bytes());
        }
        if scales != t.cols / 32 {
            return request("length of the scales", t.cols / 32, scales);
        }
        if codes != t.cols {
            return request("length of the codes", t.cols, codes);
        }
        let row = match t.order {
            Order::Plain => row,
            Order::Pairs(head) => paired(head, row),
        };
        self.bytes(t, row..row + 1)
    }

    /// The bytes of rows in the source's order.
    fn bytes(&self, t: &TensorInfo, rows: Range<usize>) -> Result<&[u8], Error> {
        let file = self.files.get(t.file).map_or(&[][..], Mapped::bytes);
        let (start, end) = (t.offset + rows.start * t.row_bytes(), t.offset + rows.end * t.row_bytes());
        file.get(start..end).ok_or(Error::Request { what: "bytes of the file", need: end as u64, have: file.len() as u64 })
    }
}

impl TensorInfo {
    /// Bytes of a row in the source.
    pub const fn row_bytes(&self) -> usize {
        self.cols / self.dtype.block_len() * self.dtype.block_bytes()
    }

    /// Values in those rows, when they are the tensor's.
    fn check(&self, rows: &Range<usize>) -> Result<usize, Error> {
        if rows.start > rows.end || rows.end > self.rows {
            return Err(Error::Request { what: "rows of the tensor", need: rows.end as u64, have: self.rows as u64 });
        }
        Ok(rows.len() * self.cols)
    }
}

/// The source row of row `row` when rope pairs lie side by side in each head: `j·half + i` comes from `2i + j`.
const fn paired(head: usize, row: usize) -> usize {
    let (first, r) = (row / head * head, row % head);
    let half = head / 2;
    first + 2 * (r % half) + r / half
}

/// Low nibbles are columns 0…15, high ones 16…31.
fn nibbles(packed: &[u8], codes: &mut [u8; 32]) {
    let (low, high) = codes.split_at_mut(16);
    for ((&byte, low), high) in packed.iter().zip(low).zip(high) {
        *low = byte & 15;
        *high = byte >> 4;
    }
}
