//! The safetensors container: a length, a JSON header, tensors back to back.
//!
//! Source: the safetensors format description (huggingface/safetensors, README.md).

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fmt;

use serde::de::{Error as _, IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};

use crate::Error;
use crate::dtype::Dtype;
use crate::error::clip;
use crate::resolve::Found;

/// Longest header that is read, as in the reference implementation.
const MAX_HEADER_BYTES: u64 = 100_000_000;

/// A tensor of the file; its bytes are inside the file and shared with no other.
#[derive(Debug)]
pub(crate) struct Tensor {
    pub(crate) shape: Vec<u64>,
    /// The spelling of the file when it is a type that is not read.
    pub(crate) dtype: Result<Dtype, String>,
    /// From the beginning of the file.
    pub(crate) offset: u64,
}

impl Tensor {
    pub(crate) fn into_found(self, file: usize) -> Found {
        Found { file, offset: self.offset, shape: self.shape, dtype: self.dtype }
    }
}

#[derive(Deserialize)]
struct Described {
    dtype: String,
    shape: Vec<u64>,
    data_offsets: (u64, u64),
}

struct Header(BTreeMap<String, Described>);

impl<'de> Deserialize<'de> for Header {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries;
        impl<'de> Visitor<'de> for Entries {
            type Value = Header;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of tensors")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Header, A::Error> {
                let mut entries = BTreeMap::new();
                while let Some(name) = map.next_key::<String>()? {
                    if name == "__metadata__" {
                        map.next_value::<IgnoredAny>()?;
                        continue;
                    }
                    match entries.entry(name) {
                        Entry::Occupied(tensor) => {
                            return Err(A::Error::custom(format!("tensor {} twice", clip(tensor.key()))));
                        }
                        Entry::Vacant(slot) => drop(slot.insert(map.next_value()?)),
                    }
                }
                Ok(Header(entries))
            }
        }
        deserializer.deserialize_map(Entries)
    }
}

/// Reads the header of a whole file in memory (or mapped) and checks that the tensors fill the rest of it, one after the other.
pub(crate) fn parse(bytes: &[u8], file: &str) -> Result<BTreeMap<String, Tensor>, Error> {
    let truncated = |what: &str, need, have| Error::Truncated { what: format!("{file}: {what}"), need, have };
    let have = bytes.len() as u64;
    let Some((length, rest)) = bytes.split_first_chunk::<8>() else { return Err(truncated("header length", 8, have)) };
    let n = u64::from_le_bytes(*length);
    if n > MAX_HEADER_BYTES {
        return Err(Error::invalid(format!("{file}: header length"), format!("at most {MAX_HEADER_BYTES}"), n));
    }
    let Some(header) = rest.get(..n as usize) else { return Err(truncated("header", n, rest.len() as u64)) };
    let Header(entries) =
        serde_json::from_slice(header).map_err(|e| Error::Json { file: file.to_owned(), message: e.to_string() })?;
    let data = 8 + n;
    let mut extents = Vec::with_capacity(entries.len());
    let mut tensors = BTreeMap::new();
    for (name, entry) in entries {
        let (start, end) = entry.data_offsets;
        let what = || format!("{file}: tensor {}", clip(&name));
        if end < start {
            return Err(Error::invalid(what(), "offsets in order", format!("{start}..{end}")));
        }
        if data.checked_add(end).is_none_or(|end| end > have) {
            return Err(truncated(&format!("tensor {}", clip(&name)), end.saturating_add(data), have));
        }
        if let Some(size) = element_bytes(&entry.dtype) {
            let need = entry.shape.iter().try_fold(size, |n, &d| n.checked_mul(d));
            if need != Some(end - start) {
                let need = need.map_or_else(|| "a size below 2^64".to_owned(), |n| format!("{n} bytes"));
                return Err(Error::invalid(what(), need, format!("{} bytes for {:?}", end - start, entry.shape)));
            }
        }
        extents.push((start, end, name.clone()));
        let dtype = match entry.dtype.as_str() {
            "F32" => Ok(Dtype::F32),
            "F16" => Ok(Dtype::F16),
            "BF16" => Ok(Dtype::Bf16),
            _ => Err(clip(&entry.dtype)),
        };
        tensors.insert(name, Tensor { shape: entry.shape, dtype, offset: data + start });
    }
    extents.sort_unstable();
    let mut next = (0, "the header");
    for (start, end, name) in &extents {
        if *start < next.0 {
            return Err(Error::Overlap { first: clip(next.1), second: clip(name) });
        }
        if *start > next.0 {
            let what = format!("{file}: tensor {}", clip(name));
            return Err(Error::invalid(what, format!("offset {} (after {})", next.0, clip(next.1)), start));
        }
        next = (*end, name);
    }
    if data + next.0 != have {
        return Err(Error::invalid(format!("{file}: bytes"), (data + next.0).to_string(), have));
    }
    Ok(tensors)
}

/// Bytes of an element of the types whose size is whole bytes.
fn element_bytes(dtype: &str) -> Option<u64> {
    match dtype {
        "BOOL" | "U8" | "I8" | "F8_E5M2" | "F8_E4M3" | "F8_E8M0" => Some(1),
        "I16" | "U16" | "F16" | "BF16" => Some(2),
        "I32" | "U32" | "F32" => Some(4),
        "F64" | "I64" | "U64" | "C64" => Some(8),
        _ => None,
    }
}
