//! GGUF, versions 2 and 3, little-endian: a header of typed keys, a tensor table, aligned data.
//!
//! Source: the GGUF specification in the ggml repository (docs/gguf.md).

use std::collections::HashMap;

use crate::Error;
use crate::dtype::Dtype;
use crate::error::clip;

/// Value types of the file, by their number.
const TYPE_NAMES: [&str; 13] = ["u8", "i8", "u16", "i16", "u32", "i32", "f32", "bool", "string", "array", "u64", "i64", "f64"];
const STRING: u32 = 8;
const ARRAY: u32 = 9;

/// Bytes of a value of a fixed-size type.
const fn scalar_bytes(kind: u32) -> Option<usize> {
    match kind {
        0 | 1 | 7 => Some(1),
        2 | 3 => Some(2),
        4..=6 => Some(4),
        10..=12 => Some(8),
        _ => None,
    }
}

/// One value, still as bytes of the file; its extent has been checked.
#[derive(Clone, Copy, Debug)]
enum Value<'a> {
    Scalar { kind: u32, bytes: &'a [u8] },
    String(&'a [u8]),
    Array { kind: u32, n: usize, bytes: &'a [u8] },
}

impl Value<'_> {
    fn describe(&self) -> String {
        let name = |kind: u32| TYPE_NAMES[kind as usize];
        match self {
            Self::Scalar { kind, .. } => match self.int() {
                Some(value) => format!("{} {value}", name(*kind)),
                None => name(*kind).to_owned(),
            },
            Self::String(_) => "a string".to_owned(),
            Self::Array { kind, n, .. } => format!("{n} values of {}", name(*kind)),
        }
    }

    fn int(&self) -> Option<i128> {
        let Self::Scalar { kind, bytes } = *self else { return None };
        integer(kind, bytes)
    }
}

/// The integer in `bytes`, sign-extended; `None` for floats.
fn integer(kind: u32, bytes: &[u8]) -> Option<i128> {
    let mut raw = [0; 16];
    raw[..bytes.len()].copy_from_slice(bytes);
    let unsigned = i128::from_le_bytes(raw);
    let bits = 8 * bytes.len() as u32;
    match kind {
        0 | 2 | 4 | 7 | 10 => Some(unsigned),
        1 | 3 | 5 | 11 => Some((unsigned << (128 - bits)) >> (128 - bits)),
        _ => None,
    }
}

/// The keys of a GGUF file. Borrowed: strings and arrays stay in the mapping.
#[derive(Clone, Debug, Default)]
pub struct Metadata<'a> {
    values: HashMap<&'a str, Value<'a>>,
}

impl<'a> Metadata<'a> {
    /// Whether the key is there.
    pub fn has(&self, key: &str) -> bool {
        self.values.contains_key(key)
    }

    fn wrong<T>(key: &str, needed: &str, value: &Value<'_>) -> Result<T, Error> {
        Err(Error::invalid(key, needed, value.describe()))
    }

    /// An integer of any width that fits in 32 bits unsigned; `None` when the key is absent.
    ///
    /// # Errors
    /// [`Error::Invalid`] when the value is of another type or out of range.
    pub fn u32(&self, key: &str) -> Result<Option<u32>, Error> {
        let Some(value) = self.values.get(key) else { return Ok(None) };
        match value.int().and_then(|v| u32::try_from(v).ok()) {
            Some(v) => Ok(Some(v)),
            None => Self::wrong(key, "an integer of 32 bits", value),
        }
    }

    /// A float; `None` when the key is absent.
    ///
    /// # Errors
    /// [`Error::Invalid`] when the value is not a number.
    pub fn f32(&self, key: &str) -> Result<Option<f32>, Error> {
        let Some(value) = self.values.get(key) else { return Ok(None) };
        match *value {
            Value::Scalar { kind: 6, bytes: &[a, b, c, d] } => Ok(Some(f32::from_le_bytes([a, b, c, d]))),
            Value::Scalar { kind: 12, bytes: &[a, b, c, d, e, f, g, h] } => {
                Ok(Some(f64::from_le_bytes([a, b, c, d, e, f, g, h]) as f32))
            }
            Value::Scalar { kind, .. } if kind != 7 => match value.int() {
                Some(v) => Ok(Some(v as f32)),
                None => Self::wrong(key, "a number", value),
            },
            _ => Self::wrong(key, "a number", value),
        }
    }

    /// A boolean; `None` when the key is absent.
    ///
    /// # Errors
    /// [`Error::Invalid`] when the value is of another type.
    pub fn bool(&self, key: &str) -> Result<Option<bool>, Error> {
        let Some(value) = self.values.get(key) else { return Ok(None) };
        match *value {
            Value::Scalar { kind: 7, bytes: &[b] } => Ok(Some(b != 0)),
            _ => Self::wrong(key, "a boolean", value),
        }
    }

    /// A string; `None` when the key is absent.
    ///
    /// # Errors
    /// [`Error::Invalid`] when the value is of another type or not UTF-8.
    pub fn str(&self, key: &str) -> Result<Option<&'a str>, Error> {
        let Some(value) = self.values.get(key) else { return Ok(None) };
        match *value {
            Value::String(bytes) => match std::str::from_utf8(bytes) {
                Ok(text) => Ok(Some(text)),
                Err(e) => Err(Error::invalid(key, "UTF-8", e)),
            },
            _ => Self::wrong(key, "a string", value),
        }
    }

    /// An array of strings, as bytes (tokens need not be UTF-8); `None` when the key is absent.
    ///
    /// # Errors
    /// [`Error::Invalid`] when the value is of another type.
    pub fn byte_strings(&self, key: &str) -> Result<Option<Vec<&'a [u8]>>, Error> {
        let Some(value) = self.values.get(key) else { return Ok(None) };
        let Value::Array { kind: STRING, n, bytes } = *value else { return Self::wrong(key, "an array of strings", value) };
        let mut reader = Reader { bytes, at: 0 };
        (0..n).map(|_| reader.string(key)).collect::<Result<_, _>>().map(Some)
    }

    /// An array of UTF-8 strings; `None` when the key is absent.
    ///
    /// # Errors
    /// [`Error::Invalid`] when the value is of another type or one of them is not UTF-8.
    pub fn strings(&self, key: &str) -> Result<Option<Vec<&'a str>>, Error> {
        let Some(list) = self.byte_strings(key)? else { return Ok(None) };
        let text = |(i, bytes)| std::str::from_utf8(bytes).map_err(|e| Error::invalid(format!("{key}[{i}]"), "UTF-8", e));
        list.into_iter().enumerate().map(text).collect::<Result<_, _>>().map(Some)
    }

    /// An array of integers that fit in 32 bits signed; `None` when the key is absent.
    ///
    /// # Errors
    /// [`Error::Invalid`] when the value is of another type or one of them is out of range.
    pub fn i32s(&self, key: &str) -> Result<Option<Vec<i32>>, Error> {
        let Some(value) = self.values.get(key) else { return Ok(None) };
        let Value::Array { kind, bytes, .. } = *value else { return Self::wrong(key, "an array of integers", value) };
        let (Some(size), false) = (scalar_bytes(kind), kind == 6 || kind == 12) else {
            return Self::wrong(key, "an array of integers", value);
        };
        let item = |b: &[u8]| integer(kind, b).and_then(|v| i32::try_from(v).ok());
        match bytes.chunks_exact(size).map(item).collect::<Option<Vec<_>>>() {
            Some(list) => Ok(Some(list)),
            None => Err(Error::invalid(key, "integers of 32 bits", "a larger one")),
        }
    }

    /// An array of booleans; `None` when the key is absent or of another type.
    pub(crate) fn bools(&self, key: &str) -> Option<Vec<bool>> {
        match *self.values.get(key)? {
            Value::Array { kind: 7, bytes, .. } => Some(bytes.iter().map(|b| *b != 0).collect()),
            _ => None,
        }
    }

    /// An array of f32; `None` when the key is absent.
    ///
    /// # Errors
    /// [`Error::Invalid`] when the value is of another type.
    pub fn f32s(&self, key: &str) -> Result<Option<Vec<f32>>, Error> {
        let Some(value) = self.values.get(key) else { return Ok(None) };
        let Value::Array { kind: 6, bytes, .. } = *value else { return Self::wrong(key, "an array of f32", value) };
        Ok(Some(bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect()))
    }
}

/// A tensor of the file; its bytes are inside the file and shared with no other.
#[derive(Clone, Debug)]
pub(crate) struct Tensor {
    /// Outermost first, as everywhere but in the file.
    pub(crate) shape: Vec<u64>,
    pub(crate) dtype: Dtype,
    /// From the beginning of the file.
    pub(crate) offset: u64,
}

/// A checked GGUF file.
#[derive(Debug, Default)]
pub struct Gguf<'a> {
    /// Its keys.
    pub metadata: Metadata<'a>,
    pub(crate) tensors: HashMap<&'a str, Tensor>,
}

/// Takes values off the front, in little-endian order.
struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn take(&mut self, n: u64, what: &str) -> Result<&'a [u8], Error> {
        let have = (self.bytes.len() - self.at) as u64;
        if n > have {
            return Err(Error::Truncated { what: clip(what), need: n, have });
        }
        let taken = &self.bytes[self.at..self.at + n as usize];
        self.at += n as usize;
        Ok(taken)
    }

    fn u32(&mut self, what: &str) -> Result<u32, Error> {
        let mut raw = [0; 4];
        raw.copy_from_slice(self.take(4, what)?);
        Ok(u32::from_le_bytes(raw))
    }

    fn u64(&mut self, what: &str) -> Result<u64, Error> {
        let mut raw = [0; 8];
        raw.copy_from_slice(self.take(8, what)?);
        Ok(u64::from_le_bytes(raw))
    }

    fn string(&mut self, what: &str) -> Result<&'a [u8], Error> {
        let n = self.u64(what)?;
        self.take(n, what)
    }

    fn name(&mut self, what: &str) -> Result<&'a str, Error> {
        std::str::from_utf8(self.string(what)?).map_err(|e| Error::invalid(what, "UTF-8", e))
    }

    fn value(&mut self, key: &str) -> Result<Value<'a>, Error> {
        let kind = self.u32(key)?;
        match kind {
            STRING => self.string(key).map(Value::String),
            ARRAY => {
                let kind = self.u32(key)?;
                let n = self.u64(key)?;
                let start = self.at;
                match scalar_bytes(kind) {
                    Some(size) => drop(self.take(n.saturating_mul(size as u64), key)?),
                    None if kind == STRING => {
                        for _ in 0..n {
                            self.string(key)?;
                        }
                    }
                    None => return Err(Error::invalid(key, "an array of numbers or strings", format!("element type {kind}"))),
                }
                Ok(Value::Array { kind, n: n as usize, bytes: &self.bytes[start..self.at] })
            }
            _ => match scalar_bytes(kind) {
                Some(size) => Ok(Value::Scalar { kind, bytes: self.take(size as u64, key)? }),
                None => Err(Error::invalid(key, "a value type below 13", kind)),
            },
        }
    }
}

impl<'a> Gguf<'a> {
    /// Reads the header of a whole file in memory (or mapped) and checks that every tensor lies inside it, apart from the others.
    ///
    /// # Errors
    /// [`Error::Format`] for another magic, version or byte order; [`Error::Truncated`], [`Error::Invalid`],
    /// [`Error::Dtype`], [`Error::Overlap`].
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Error> {
        let mut reader = Reader { bytes, at: 0 };
        let magic = reader.take(4, "GGUF magic")?;
        if magic != b"GGUF" {
            return Err(Error::Format { needed: "a GGUF file", found: format!("a file beginning with {magic:02x?}") });
        }
        let version = reader.u32("GGUF version")?;
        if !matches!(version, 2 | 3) {
            let order = if matches!(version.swap_bytes(), 1..=3) { " (big-endian)" } else { "" };
            return Err(Error::Format { needed: "GGUF version 2 or 3", found: format!("version {version}{order}") });
        }
        let n_tensors = reader.u64("GGUF tensor count")?;
        let n_keys = reader.u64("GGUF key count")?;
        let mut gguf = Self::default();
        for i in 0..n_keys {
            let key = reader.name("a GGUF key")?;
            let value = reader.value(key)?;
            if gguf.metadata.values.insert(key, value).is_some() {
                return Err(Error::invalid("GGUF keys", "each once", format!("{} again at {i}", clip(key))));
            }
        }
        let align = u64::from(gguf.metadata.u32("general.alignment")?.unwrap_or(32));
        if !align.is_power_of_two() {
            return Err(Error::invalid("general.alignment", "a power of two", align));
        }
        for _ in 0..n_tensors {
            let name = reader.name("a GGUF tensor name")?;
            let tensor = reader.tensor(name, align)?;
            if gguf.tensors.insert(name, tensor).is_some() {
                return Err(Error::invalid("GGUF tensors", "each once", format!("{} twice", clip(name))));
            }
        }
        gguf.place((reader.at as u64).next_multiple_of(align), bytes.len() as u64)?;
        Ok(gguf)
    }

    /// Turns offsets into positions in the file and checks the extents.
    fn place(&mut self, data: u64, file_bytes: u64) -> Result<(), Error> {
        let mut extents = Vec::with_capacity(self.tensors.len());
        for (name, tensor) in &mut self.tensors {
            let n = tensor.shape.iter().try_fold(1u64, |n, &d| n.checked_mul(d));
            let bytes = n.and_then(|n| (n / tensor.dtype.block_len() as u64).checked_mul(tensor.dtype.block_bytes() as u64));
            let offset = tensor.offset.checked_add(data);
            let end = bytes.and_then(|bytes| offset?.checked_add(bytes)).unwrap_or(u64::MAX);
            if end > file_bytes {
                return Err(Error::Truncated { what: format!("tensor {}", clip(name)), need: end, have: file_bytes });
            }
            tensor.offset = end - bytes.unwrap_or(0);
            extents.push((tensor.offset, end, *name));
        }
        extents.sort_unstable();
        match extents.windows(2).find(|pair| pair[0].1 > pair[1].0) {
            Some(pair) => Err(Error::Overlap { first: clip(pair[0].2), second: clip(pair[1].2) }),
            None => Ok(()),
        }
    }
}

impl Reader<'_> {
    fn tensor(&mut self, name: &str, align: u64) -> Result<Tensor, Error> {
        let n_dims = self.u32(name)?;
        if !(1..=4).contains(&n_dims) {
            return Err(Error::invalid(format!("dimensions of tensor {}", clip(name)), "1 to 4", n_dims));
        }
        let mut shape = (0..n_dims).map(|_| self.u64(name)).collect::<Result<Vec<_>, _>>()?;
        shape.reverse();
        let kind = self.u32(name)?;
        let Some(dtype) = Dtype::from_ggml(kind) else {
            return Err(Error::Dtype { tensor: clip(name), found: format!("ggml type {kind}") });
        };
        let offset = self.u64(name)?;
        if offset % align != 0 {
            return Err(Error::invalid(format!("offset of tensor {}", clip(name)), format!("a multiple of {align}"), offset));
        }
        if shape.last().is_none_or(|cols| cols % dtype.block_len() as u64 != 0) {
            let needed = format!("a multiple of {}", dtype.block_len());
            return Err(Error::invalid(format!("columns of tensor {}", clip(name)), needed, format!("{shape:?}")));
        }
        Ok(Tensor { shape, dtype, offset })
    }
}
