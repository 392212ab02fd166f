//! GGUF as llama.cpp writes it: where its tensors lie, and a copy of it with other tensors.
//!
//! Source: the GGUF specification in the ggml repository (docs/gguf.md).

use std::io::Write;
use std::path::Path;

use anyhow::{Context, Result, bail};

/// ggml's number of F32.
const F32: u32 = 0;
/// ggml's number of F16, and llama.cpp's of a file that is mostly F16.
const F16: u32 = 1;
// Value types.
const U32: u32 = 4;
const STRING: u32 = 8;
const ARRAY: u32 = 9;

/// A tensor of a file.
pub(super) struct Tensor {
    pub(super) name: String,
    /// Innermost first.
    pub(super) dims: Vec<u64>,
    /// ggml's number of the type.
    pub(super) kind: u32,
    /// From the beginning of the data.
    offset: u64,
}

impl Tensor {
    /// A matrix: norms and biases are vectors.
    pub(super) fn is_matrix(&self) -> bool {
        self.dims.iter().filter(|&&d| d > 1).count() > 1
    }

    /// Values.
    pub(super) fn len(&self) -> usize {
        self.dims.iter().product::<u64>() as usize
    }
}

/// A file in memory.
pub(super) struct Gguf {
    bytes: Vec<u8>,
    /// Keys and values as they lie in the file.
    keys: std::ops::Range<usize>,
    n_keys: u64,
    /// Where `general.file_type`'s value lies.
    file_type: Option<usize>,
    align: u64,
    data: usize,
    /// In the order of the file.
    pub(super) tensors: Vec<Tensor>,
}

impl Gguf {
    /// Reads a file of version 2 or 3.
    pub(super) fn open(path: &Path) -> Result<Self> {
        let bytes = std::fs::read(path).with_context(|| path.display().to_string())?;
        Self::parse(bytes).with_context(|| path.display().to_string())
    }

    fn parse(bytes: Vec<u8>) -> Result<Self> {
        let mut r = Reader { bytes: &bytes, at: 0 };
        if r.take(4)? != b"GGUF" || !matches!(r.u32()?, 2 | 3) {
            bail!("not a GGUF file of version 2 or 3");
        }
        let (n_tensors, n_keys) = (r.u64()?, r.u64()?);
        let start = r.at;
        let (mut file_type, mut align) = (None, 32);
        for _ in 0..n_keys {
            let key = r.string()?;
            let kind = r.u32()?;
            let at = r.at;
            r.skip(kind)?;
            match key.as_str() {
                "general.file_type" if kind == U32 => file_type = Some(at),
                "general.alignment" if kind == U32 => align = u64::from(Reader { bytes: &bytes, at }.u32()?),
                _ => {}
            }
        }
        let keys = start..r.at;
        let mut tensors = Vec::new();
        for _ in 0..n_tensors {
            let name = r.string()?;
            let dims = (0..r.u32()?).map(|_| r.u64()).collect::<Result<Vec<_>>>()?;
            tensors.push(Tensor { name, dims, kind: r.u32()?, offset: r.u64()? });
        }
        tensors.sort_by_key(|t| t.offset);
        let data = (r.at as u64).next_multiple_of(align.max(1)) as usize;
        Ok(Self { keys, n_keys, file_type, align, data, tensors, bytes })
    }

    /// A tensor's bytes, up to the next one's.
    pub(super) fn bytes(&self, i: usize) -> Result<&[u8]> {
        let start = self.data + self.tensors[i].offset as usize;
        let end = self.tensors.get(i + 1).map_or(self.bytes.len(), |next| self.data + next.offset as usize);
        self.bytes.get(start..end).with_context(|| format!("{}: truncated", self.tensors[i].name))
    }

    /// Bytes that decoding one token reads: every matrix once, the embedding only where it is the head too.
    pub(super) fn bytes_per_token(&self) -> Result<u64> {
        let untied = self.tensors.iter().any(|t| t.name == "output.weight");
        let mut sum = 0;
        for (i, tensor) in self.tensors.iter().enumerate() {
            if !(untied && tensor.name == "token_embd.weight") {
                sum += self.bytes(i)?.len() as u64;
            }
        }
        Ok(sum)
    }

    /// Writes the file anew with every matrix as F16, `values(i)` giving a matrix's values; the rest stays as it is.
    pub(super) fn write_f16(&self, path: &Path, mut values: impl FnMut(usize) -> Result<Vec<f32>>) -> Result<()> {
        let mut out = std::io::BufWriter::new(std::fs::File::create(path).with_context(|| path.display().to_string())?);
        let mut head = Vec::new();
        head.extend_from_slice(b"GGUF");
        head.extend_from_slice(&3u32.to_le_bytes());
        head.extend_from_slice(&(self.tensors.len() as u64).to_le_bytes());
        head.extend_from_slice(&self.n_keys.to_le_bytes());
        let keys_at = head.len();
        head.extend_from_slice(&self.bytes[self.keys.clone()]);
        if let Some(at) = self.file_type {
            let at = keys_at + at - self.keys.start;
            head[at..at + 4].copy_from_slice(&F16.to_le_bytes());
        }
        let mut offset = 0u64;
        for tensor in &self.tensors {
            head.extend_from_slice(&(tensor.name.len() as u64).to_le_bytes());
            head.extend_from_slice(tensor.name.as_bytes());
            head.extend_from_slice(&(tensor.dims.len() as u32).to_le_bytes());
            tensor.dims.iter().for_each(|d| head.extend_from_slice(&d.to_le_bytes()));
            let (kind, bytes) = if tensor.is_matrix() { (F16, 2) } else { (F32, 4) };
            if !tensor.is_matrix() && tensor.kind != F32 {
                bail!("{}: a vector of ggml type {} where F32 is needed", tensor.name, tensor.kind);
            }
            head.extend_from_slice(&kind.to_le_bytes());
            head.extend_from_slice(&offset.to_le_bytes());
            offset = (offset + tensor.len() as u64 * bytes).next_multiple_of(self.align);
        }
        pad(&mut head, self.align);
        out.write_all(&head)?;
        for (i, tensor) in self.tensors.iter().enumerate() {
            let mut bytes = if tensor.is_matrix() {
                values(i)?.iter().flat_map(|&x| half::f16::from_f32(x).to_le_bytes()).collect()
            } else {
                self.bytes(i)?[..4 * tensor.len()].to_vec()
            };
            pad(&mut bytes, self.align);
            out.write_all(&bytes)?;
        }
        out.flush()?;
        Ok(())
    }
}

fn pad(bytes: &mut Vec<u8>, align: u64) {
    bytes.resize((bytes.len() as u64).next_multiple_of(align) as usize, 0);
}

/// Takes values off the front, in little-endian order.
struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Reader<'_> {
    fn take(&mut self, n: usize) -> Result<&[u8]> {
        let end = self.at.checked_add(n).context("a length that cannot be")?;
        let taken = self.bytes.get(self.at..end).context("the header is truncated")?;
        self.at = end;
        Ok(taken)
    }

    fn u32(&mut self) -> Result<u32> {
        Ok(u32::from_le_bytes(self.take(4)?.try_into()?))
    }

    fn u64(&mut self) -> Result<u64> {
        Ok(u64::from_le_bytes(self.take(8)?.try_into()?))
    }

    fn string(&mut self) -> Result<String> {
        let n = self.u64()? as usize;
        Ok(String::from_utf8_lossy(self.take(n)?).into_owned())
    }

    fn skip(&mut self, kind: u32) -> Result<()> {
        match kind {
            0 | 1 | 7 => self.take(1).map(drop),
            2 | 3 => self.take(2).map(drop),
            4..=6 => self.take(4).map(drop),
            10..=12 => self.take(8).map(drop),
            STRING => self.string().map(drop),
            ARRAY => {
                let (kind, n) = (self.u32()?, self.u64()?);
                (0..n).try_for_each(|_| self.skip(kind))
            }
            _ => bail!("a value of type {kind}"),
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A file with a key of each shape, a vector, and a matrix of `kind`.
    pub(in crate::quality) fn file(kind: u32, rows: u64, cols: u64, matrix: &[u8]) -> Vec<u8> {
        let mut bytes = b"GGUF".to_vec();
        let string = |bytes: &mut Vec<u8>, text: &str| {
            bytes.extend((text.len() as u64).to_le_bytes());
            bytes.extend(text.as_bytes());
        };
        bytes.extend(3u32.to_le_bytes());
        bytes.extend(2u64.to_le_bytes());
        bytes.extend(2u64.to_le_bytes());
        string(&mut bytes, "tokenizer.ggml.tokens");
        bytes.extend([ARRAY, STRING].into_iter().flat_map(u32::to_le_bytes));
        bytes.extend(1u64.to_le_bytes());
        string(&mut bytes, "a");
        string(&mut bytes, "general.file_type");
        bytes.extend([U32, 15].into_iter().flat_map(u32::to_le_bytes));
        string(&mut bytes, "token_embd.weight");
        bytes.extend(2u32.to_le_bytes());
        bytes.extend([cols, rows].into_iter().flat_map(u64::to_le_bytes));
        bytes.extend(kind.to_le_bytes());
        bytes.extend(0u64.to_le_bytes());
        string(&mut bytes, "output_norm.weight");
        bytes.extend(1u32.to_le_bytes());
        bytes.extend(2u64.to_le_bytes());
        bytes.extend(F32.to_le_bytes());
        bytes.extend((matrix.len() as u64).next_multiple_of(32).to_le_bytes());
        pad(&mut bytes, 32);
        bytes.extend(matrix);
        pad(&mut bytes, 32);
        bytes.extend([1.5f32, -2.0].into_iter().flat_map(f32::to_le_bytes));
        bytes
    }

    #[test]
    fn a_copy_has_the_keys_the_vectors_and_the_new_values() {
        let folder = std::env::temp_dir().join(format!("bourn-quality-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let source = Gguf::parse(file(F32, 2, 2, &[0; 16])).unwrap();
        let path = folder.join("copy.gguf");
        source.write_f16(&path, |_| Ok(vec![1.0, 2.0, 3.0, -4.0])).unwrap();
        let copy = Gguf::open(&path).unwrap();
        let f16 = |x: f32| half::f16::from_f32(x).to_le_bytes();
        assert_eq!(copy.bytes(0).unwrap()[..8], [f16(1.0), f16(2.0), f16(3.0), f16(-4.0)].concat());
        assert_eq!(copy.bytes(1).unwrap()[..4], 1.5f32.to_le_bytes());
        assert_eq!((copy.tensors[0].kind, copy.tensors[1].kind, copy.n_keys), (F16, F32, 2));
        let at = copy.file_type.unwrap();
        assert_eq!(copy.bytes[at..at + 4], F16.to_le_bytes());
        std::fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn refuses_a_file_that_ends_early() {
        let whole = file(F32, 2, 2, &[0; 16]);
        for n in [0, 4, 20, 60, 150] {
            assert!(Gguf::parse(whole[..n].to_vec()).is_err(), "{n} bytes");
        }
    }
}
