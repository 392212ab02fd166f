//! Blocks of 64 positions out of the cache and into it (layout: [`crate::snapshot`]).

use super::{KvPlan, RUN};
use bourn_format::Image;
use bourn_kernels::table::KvDtype;
use core::ops::Range;

/// Positions of a tile of keys.
const TILE: usize = 16;

impl KvPlan {
    /// Ranges of one block in the cache: keys, values, and of an int8 cache their scales, for each layer of a kind and each head.
    fn pieces<'a>(
        &self,
        image: &'a Image<'a>,
        sliding: bool,
        block: usize,
    ) -> impl Iterator<Item = ([Range<usize>; 2], [Range<usize>; 2])> + 'a {
        let plan = *self;
        let row = plan.head_dim * plan.element_bytes();
        let kinds = (0..image.n_layers()).map(|i| image.layer(i).sliding);
        let layers = plan.layers(image).zip(kinds).filter(move |(_, kind)| *kind == sliding);
        layers.flat_map(move |(layer, _)| {
            (0..plan.n_kv_heads).map(move |head| {
                // Slots are whole runs, so a block lies in one piece and its tiles in whole tiles.
                let slot = block * RUN % layer.slots;
                let [k, v, ks, vs] = plan.ranges(&layer, head);
                let bytes = [k, v].map(|r| r.start + slot * row..r.start + (slot + RUN) * row);
                let scales = [ks, vs].map(|r| if r.is_empty() { 0..0 } else { r.start + slot..r.start + slot + RUN });
                (bytes, scales)
            })
        })
    }

    /// Copies a block into `out`, with zeros for positions outside `valid` (counted from the block's first).
    ///
    /// # Panics
    /// If `out` is shorter than the block.
    pub fn export(
        &self,
        image: &Image<'_>,
        (kv, scale): (&[u8], &[f32]),
        sliding: bool,
        block: usize,
        valid: Range<usize>,
        mut out: &mut [u8],
    ) {
        let piece = RUN * self.head_dim * self.element_bytes();
        for (bytes, scales) in self.pieces(image, sliding, block) {
            for (i, range) in bytes.into_iter().enumerate() {
                let (to, rest) = out.split_at_mut(piece);
                to.copy_from_slice(&kv[range]);
                for position in (0..RUN).filter(|p| !valid.contains(p)) {
                    self.elements(i == 0, position, |at, n| to[at..at + n].fill(0));
                }
                out = rest;
            }
            if self.dtype == KvDtype::I8 {
                for range in scales {
                    let (to, rest) = out.split_at_mut(4 * RUN);
                    for (i, (to, s)) in to.as_chunks_mut::<4>().0.iter_mut().zip(&scale[range]).enumerate() {
                        *to = if valid.contains(&i) { s.to_le_bytes() } else { [0; 4] };
                    }
                    out = rest;
                }
            }
        }
    }

    /// Copies positions `valid` (counted from the block's first) of a block into the cache and leaves the others alone.
    ///
    /// # Panics
    /// If `bytes` is shorter than the block.
    pub fn import(
        &self,
        image: &Image<'_>,
        (kv, scale): (&mut [u8], &mut [f32]),
        sliding: bool,
        block: usize,
        valid: Range<usize>,
        mut bytes: &[u8],
    ) {
        let piece = RUN * self.head_dim * self.element_bytes();
        for (ranges, scales) in self.pieces(image, sliding, block) {
            for (i, range) in ranges.into_iter().enumerate() {
                let (from, rest) = bytes.split_at(piece);
                let to = &mut kv[range];
                if valid == (0..RUN) {
                    to.copy_from_slice(from);
                } else {
                    for position in valid.clone() {
                        self.elements(i == 0, position, |at, n| to[at..at + n].copy_from_slice(&from[at..at + n]));
                    }
                }
                bytes = rest;
            }
            if self.dtype == KvDtype::I8 {
                for range in scales {
                    let (from, rest) = bytes.split_at(4 * RUN);
                    let pairs = scale[range].iter_mut().zip(from.as_chunks::<4>().0);
                    for (to, from) in pairs.take(valid.end).skip(valid.start) {
                        *to = f32::from_le_bytes(*from);
                    }
                    bytes = rest;
                }
            }
        }
    }

    /// Calls `run(start, bytes)` for every run of bytes of one position in 64 positions of keys or of values.
    fn elements(&self, keys: bool, position: usize, mut run: impl FnMut(usize, usize)) {
        let (hd, n) = (self.head_dim, self.element_bytes());
        if keys {
            for d in 0..hd {
                run(((position / TILE * hd + d) * TILE + position % TILE) * n, n);
            }
        } else {
            run(position * hd * n, hd * n);
        }
    }
}
