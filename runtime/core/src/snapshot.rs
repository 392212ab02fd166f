//! The KV state of a prefix as bytes: what a prompt cache keeps, so that a text read once need not be read again.
//!
//! A snapshot is little-endian, without gaps:
//!
//! | bytes | what |
//! |---|---|
//! | 8 | `BOURNKV` and a zero |
//! | u32 | version, 1 |
//! | u32 | element type: 0 f32, 1 f16, 2 int8 |
//! | u64 | checksum of the image's superblock, which holds those of everything else in it |
//! | 2 × u32 | rope tables of full and of sliding layers, by index |
//! | 4 × u32 | head size, KV heads, full layers, sliding layers |
//! | u64 | `n`, tokens of the prefix |
//! | u64 | first position of which sliding layers have keys and values |
//! | u64 | 0 |
//! | n × u32 | the tokens |
//! | u64 each | a checksum per block |
//! | u64 | checksum of all bytes before this |
//! | | blocks: full layers' positions 0, 64, …, then sliding layers' from the first one on |
//!
//! A block holds 64 positions of all layers of its kind, for each layer and KV head the keys in four tiles `[head size, 16]`, the
//! values `[64, head size]`, and for int8 64 + 64 scales in f32; what lies outside the prefix is zero. The checksum is the image's
//! (XXH3, 64 bits). Keys and values have the same bits on every machine, so a snapshot may be taken to another one.

use crate::Error;
use bourn_format::{Image, checksum};
use bourn_kernels::table::KvDtype;

/// Positions of a block.
pub const BLOCK: usize = 64;
/// Bytes before the tokens.
pub const FIXED_BYTES: usize = 72;
/// The version that is written and read.
pub const VERSION: u32 = 1;

const MAGIC: [u8; 8] = *b"BOURNKV\0";
/// More positions than any context has.
const MOST_TOKENS: u64 = 1 << 24;

/// What a snapshot must have been taken of to fit a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Origin {
    /// Checksum of the image's superblock.
    pub image: u64,
    /// Element type.
    pub kv: KvDtype,
    /// Rope tables of full and sliding layers: a longer context may use others.
    pub ropes: [u32; 2],
    /// Head size, KV heads, full layers, sliding layers.
    pub sizes: [u32; 4],
    /// Ids are below this.
    pub vocab: u32,
}

impl Origin {
    /// The number of an image: equal only for equal bytes, as far as a checksum tells.
    pub fn image_sum(image: &Image<'_>) -> u64 {
        checksum(&image.superblock().to_bytes())
    }

    /// The words of the fixed part after the magic.
    fn words(&self) -> [u32; 8] {
        let kv = match self.kv {
            KvDtype::F32 => 0,
            KvDtype::F16 => 1,
            KvDtype::I8 => 2,
        };
        let [a, b, c, d] = self.sizes;
        [VERSION, kv, self.ropes[0], self.ropes[1], a, b, c, d]
    }

    /// Bytes of a block of full or of sliding layers.
    pub fn block_bytes(&self, sliding: bool) -> usize {
        let [head_dim, heads, full, windowed] = self.sizes.map(|n| n as usize);
        let layers = if sliding { windowed } else { full };
        let (element, scales) = match self.kv {
            KvDtype::F32 => (4, 0),
            KvDtype::F16 => (2, 0),
            KvDtype::I8 => (1, 2 * 4),
        };
        layers * heads * BLOCK * (2 * head_dim * element + scales)
    }
}

/// What a snapshot holds, from its fixed part: enough to know how long everything is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// Tokens of the prefix.
    pub n_tokens: usize,
    /// First position of which sliding layers have keys and values.
    pub sliding_from: usize,
}

impl Extent {
    /// Reads the fixed part and holds it against what is needed.
    ///
    /// # Errors
    /// [`Error::Snapshot`] names what does not fit.
    pub fn new_checked(fixed: &[u8], origin: &Origin) -> Result<Self, Error> {
        let refuse = |what, need, found| Err(Error::Snapshot { what, need, found });
        if fixed.len() < FIXED_BYTES {
            return refuse("bytes", FIXED_BYTES as u64, fixed.len() as u64);
        }
        if fixed[..8] != MAGIC {
            return refuse("magic", u64::from_be_bytes(MAGIC), u64::from_be_bytes(array(fixed, 0)));
        }
        let names = [
            "version",
            "element type",
            "rope of full layers",
            "rope of sliding layers",
            "head size",
            "KV heads",
            "full layers",
            "sliding layers",
        ];
        let places = [8, 12, 24, 28, 32, 36, 40, 44];
        // The version first: what another one has elsewhere means nothing.
        for (i, ((need, what), at)) in origin.words().into_iter().zip(names).zip(places).enumerate() {
            let found = u32::from_le_bytes(array(fixed, at));
            if need != found {
                return refuse(what, need.into(), found.into());
            }
            let image = u64::from_le_bytes(array(fixed, 16));
            if i == 0 && image != origin.image {
                return refuse("image checksum", origin.image, image);
            }
        }
        let (n, from) = (u64::from_le_bytes(array(fixed, 48)), u64::from_le_bytes(array(fixed, 56)));
        if n == 0 || n > MOST_TOKENS {
            return refuse("number of tokens", MOST_TOKENS, n);
        }
        if from >= n || (from > 0 && origin.sizes[3] == 0) {
            return refuse("first position of sliding layers", n - 1, from);
        }
        // A word kept for later versions.
        let zero = u64::from_le_bytes(array(fixed, 64));
        if zero != 0 {
            return refuse("reserved word", 0, zero);
        }
        Ok(Self { n_tokens: n as usize, sliding_from: from as usize })
    }

    /// Blocks of full layers, and the numbers of the blocks of sliding ones.
    pub fn blocks(&self, origin: &Origin) -> (usize, core::ops::Range<usize>) {
        let end = self.n_tokens.div_ceil(BLOCK);
        let full = if origin.sizes[2] == 0 { 0 } else { end };
        let sliding = if origin.sizes[3] == 0 { end..end } else { self.sliding_from / BLOCK..end };
        (full, sliding)
    }

    /// Bytes before the blocks.
    pub fn head_bytes(&self, origin: &Origin) -> usize {
        let (full, sliding) = self.blocks(origin);
        FIXED_BYTES + 4 * self.n_tokens + 8 * (full + sliding.len()) + 8
    }

    /// Bytes in all.
    pub fn file_bytes(&self, origin: &Origin) -> u64 {
        let (full, sliding) = self.blocks(origin);
        let blocks = [(full, false), (sliding.len(), true)].map(|(n, kind)| n as u64 * origin.block_bytes(kind) as u64);
        self.head_bytes(origin) as u64 + blocks[0] + blocks[1]
    }

    /// Where a block begins, and the index of its checksum.
    pub fn place(&self, origin: &Origin, sliding: bool, block: usize) -> (u64, usize) {
        let (full, windowed) = self.blocks(origin);
        let [a, b] = [false, true].map(|kind| origin.block_bytes(kind) as u64);
        let head = self.head_bytes(origin) as u64;
        if sliding {
            let i = block - windowed.start;
            (head + full as u64 * a + i as u64 * b, full + i)
        } else {
            (head + block as u64 * a, block)
        }
    }

    /// Writes the head of a snapshot into `out`, `head_bytes` long: `sums` are the blocks' checksums in order.
    ///
    /// # Panics
    /// If a length is another than stated.
    pub fn write(&self, origin: &Origin, tokens: &[u32], sums: &[u64], out: &mut [u8]) {
        assert!(out.len() == self.head_bytes(origin) && tokens.len() == self.n_tokens);
        out.fill(0);
        out[..8].copy_from_slice(&MAGIC);
        for (word, at) in origin.words().into_iter().zip([8, 12, 24, 28, 32, 36, 40, 44]) {
            out[at..at + 4].copy_from_slice(&word.to_le_bytes());
        }
        for (word, at) in [(origin.image, 16), (self.n_tokens as u64, 48), (self.sliding_from as u64, 56)] {
            out[at..at + 8].copy_from_slice(&word.to_le_bytes());
        }
        let (before, last) = out.split_at_mut(out.len() - 8);
        let (ids, rest) = before[FIXED_BYTES..].split_at_mut(4 * tokens.len());
        for (out, id) in ids.as_chunks_mut::<4>().0.iter_mut().zip(tokens) {
            *out = id.to_le_bytes();
        }
        assert!(rest.len() == 8 * sums.len());
        for (out, sum) in rest.as_chunks_mut::<8>().0.iter_mut().zip(sums) {
            *out = sum.to_le_bytes();
        }
        last.copy_from_slice(&checksum(before).to_le_bytes());
    }
}

/// The checked head of a snapshot: fixed part, tokens, checksums of blocks.
#[derive(Clone, Copy, Debug)]
pub struct Head<'a> {
    extent: Extent,
    tokens: &'a [[u8; 4]],
    sums: &'a [[u8; 8]],
}

impl<'a> Head<'a> {
    /// Checks all bytes before the blocks.
    ///
    /// # Errors
    /// [`Error::Snapshot`] names what does not fit.
    pub fn new_checked(bytes: &'a [u8], origin: &Origin) -> Result<Self, Error> {
        let extent = Extent::new_checked(bytes, origin)?;
        let need = extent.head_bytes(origin);
        let Some(bytes) = bytes.get(..need) else {
            return Err(Error::Snapshot { what: "bytes", need: need as u64, found: bytes.len() as u64 });
        };
        let (before, last) = bytes.split_at(need - 8);
        let (need, found) = (u64::from_le_bytes(array(last, 0)), checksum(before));
        if need != found {
            return Err(Error::Snapshot { what: "checksum of the head", need, found });
        }
        let (tokens, sums) = before[FIXED_BYTES..].split_at(4 * extent.n_tokens);
        let head = Self { extent, tokens: tokens.as_chunks().0, sums: sums.as_chunks().0 };
        match head.tokens().find(|&id| id >= origin.vocab) {
            Some(id) => Err(Error::Snapshot { what: "token id", need: origin.vocab.into(), found: id.into() }),
            None => Ok(head),
        }
    }

    /// How much it holds.
    pub const fn extent(&self) -> Extent {
        self.extent
    }

    /// The prefix.
    pub fn tokens(&self) -> impl Iterator<Item = u32> + 'a {
        self.tokens.iter().map(|&id| u32::from_le_bytes(id))
    }

    /// Checks block `index` (see [`Extent::place`]).
    ///
    /// # Errors
    /// [`Error::Snapshot`] when its checksum is another.
    pub fn check_block(&self, index: usize, bytes: &[u8]) -> Result<(), Error> {
        let need = self.sums.get(index).map_or(0, |&sum| u64::from_le_bytes(sum));
        let found = checksum(bytes);
        if need == found { Ok(()) } else { Err(Error::Snapshot { what: "checksum of a block", need, found }) }
    }
}

/// `N` bytes at `at`, zeros where there are none.
fn array<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let mut out = [0; N];
    if let Some(bytes) = bytes.get(at..at + N) {
        out.copy_from_slice(bytes);
    }
    out
}
