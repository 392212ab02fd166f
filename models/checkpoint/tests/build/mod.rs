//! Small GGUF and safetensors files, byte by byte.
#![allow(dead_code)]

/// A GGUF file in the making.
pub struct GgufFile {
    pub version: u32,
    keys: Vec<u8>,
    n_keys: u64,
    table: Vec<u8>,
    n_tensors: u64,
    data: Vec<u8>,
}

pub fn string(text: &str) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes()[..], text.as_bytes()].concat()
}

impl GgufFile {
    pub fn new(arch: &str) -> Self {
        let file = Self { version: 3, keys: Vec::new(), n_keys: 0, table: Vec::new(), n_tensors: 0, data: Vec::new() };
        file.text("general.architecture", arch)
    }

    pub fn key(mut self, key: &str, kind: u32, value: &[u8]) -> Self {
        self.keys.extend([&string(key)[..], &kind.to_le_bytes(), value].concat());
        self.n_keys += 1;
        self
    }

    pub fn u32(self, key: &str, value: u32) -> Self {
        self.key(key, 4, &value.to_le_bytes())
    }

    pub fn f32(self, key: &str, value: f32) -> Self {
        self.key(key, 6, &value.to_le_bytes())
    }

    pub fn text(self, key: &str, value: &str) -> Self {
        self.key(key, 8, &string(value))
    }

    pub fn texts(self, key: &str, values: &[&str]) -> Self {
        let items: Vec<u8> = values.iter().flat_map(|v| string(v)).collect();
        self.key(key, 9, &[&8u32.to_le_bytes()[..], &(values.len() as u64).to_le_bytes(), &items].concat())
    }

    /// `dims` innermost first, as in the file.
    pub fn tensor_at(mut self, name: &str, dims: &[u64], kind: u32, offset: u64) -> Self {
        self.table.extend(string(name));
        self.table.extend((dims.len() as u32).to_le_bytes());
        dims.iter().for_each(|d| self.table.extend(d.to_le_bytes()));
        self.table.extend(kind.to_le_bytes());
        self.table.extend(offset.to_le_bytes());
        self.n_tensors += 1;
        self
    }

    pub fn tensor(mut self, name: &str, dims: &[u64], kind: u32, bytes: &[u8]) -> Self {
        self.data.resize(self.data.len().next_multiple_of(32), 0);
        let offset = self.data.len() as u64;
        self.data.extend(bytes);
        self.tensor_at(name, dims, kind, offset)
    }

    pub fn floats(self, name: &str, dims: &[u64], values: &[f32]) -> Self {
        let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        self.tensor(name, dims, 0, &bytes)
    }

    pub fn bytes(&self) -> Vec<u8> {
        let mut out = b"GGUF".to_vec();
        out.extend(self.version.to_le_bytes());
        out.extend(self.n_tensors.to_le_bytes());
        out.extend(self.n_keys.to_le_bytes());
        out.extend(&self.keys);
        out.extend(&self.table);
        out.resize(out.len().next_multiple_of(32), 0);
        out.extend(&self.data);
        out
    }
}

/// A safetensors file of a header as given and `data_bytes` zeros.
pub fn safetensors(header: &str, data_bytes: usize) -> Vec<u8> {
    let mut out = (header.len() as u64).to_le_bytes().to_vec();
    out.extend(header.as_bytes());
    out.resize(out.len() + data_bytes, 0);
    out
}
