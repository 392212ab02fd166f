//! What makes a head valid: bounds of every table, every tensor in its place (FORMAT.md §8).

use crate::bytes::{f32_at, u8_at, u16_at, u32_at, u64_at};
use crate::image::{Image, LAYER_BYTES};
use crate::layout::{self, Dtype};
use crate::tensor::{Role, SEGMENT_BYTES, SegmentKind, TENSOR_ALIGN, TENSOR_BYTES};
use crate::{Error, PAGE};

impl Image<'_> {
    pub(crate) fn check_tables(&self) -> Result<(), Error> {
        let invalid = |what, found: usize| Err(Error::Invalid { what, found: found as u64 });
        if self.layers.len() != self.shape.n_layers as usize * LAYER_BYTES {
            return invalid("layers section length", self.layers.len());
        }
        if !self.tensors.len().is_multiple_of(TENSOR_BYTES) {
            return invalid("tensors section length", self.tensors.len());
        }
        if !self.segments.len().is_multiple_of(SEGMENT_BYTES) {
            return invalid("segments section length", self.segments.len());
        }
        let pages = (self.superblock.file_bytes - self.superblock.payload_offset) / PAGE as u64;
        if self.page_sums.len() as u64 != pages * 8 {
            return invalid("page sums section length", self.page_sums.len());
        }
        let n_rope = u32_at(self.rope, 0) as usize;
        if n_rope > 8 || self.rope.len() < 16 + 32 * n_rope {
            return invalid("rope count", n_rope);
        }
        let mut kinds = [false; 2];
        for i in 0..n_rope {
            let at = 16 + 32 * i;
            let (kind, first, n) = (u32_at(self.rope, at), u32_at(self.rope, at + 12), u32_at(self.rope, at + 16));
            let factor = f32_at(self.rope, at + 8);
            if kind > 1 {
                return invalid("rope kind", kind as usize);
            }
            if n != self.shape.rotary_dim / 2 {
                return invalid("rope length", n as usize);
            }
            if !factor.is_finite() {
                return invalid("rope factor", factor.to_bits() as usize);
            }
            let end = (16 + 32 * n_rope) as u64 + 4 * (u64::from(first) + u64::from(n));
            if end > self.rope.len() as u64 {
                return invalid("rope first", first as usize);
            }
            // A table for every context: the smallest threshold of a kind is 0.
            kinds[kind as usize] |= u32_at(self.rope, at + 4) == 0;
        }
        for i in 0..self.n_layers() {
            let sliding = u32_at(self.layers, i * LAYER_BYTES) & 1 == 1;
            if !kinds[usize::from(sliding)] {
                return Err(Error::Missing { what: "rope table", layer: i as u32 });
            }
            if sliding && self.shape.window == 0 {
                return invalid("window", 0);
            }
        }
        for i in 0..self.n_segments() {
            let at = i * SEGMENT_BYTES;
            let (kind, offset, bytes) =
                (u32_at(self.segments, at), u64_at(self.segments, at + 8), u64_at(self.segments, at + 16));
            let newest = if self.superblock.version < 2 { SegmentKind::Head } else { SegmentKind::ScreenCodes };
            if kind > newest as u32 {
                return invalid("segment kind", kind as usize);
            }
            let page = PAGE as u64;
            let end = offset.checked_add(bytes);
            if offset % page != 0
                || bytes % page != 0
                || offset < self.superblock.payload_offset
                || end.is_none_or(|e| e > self.superblock.file_bytes)
            {
                return Err(Error::Invalid { what: "segment offset", found: offset });
            }
        }
        Ok(())
    }

    pub(crate) fn check_tensors(&self) -> Result<(), Error> {
        let invalid = |what, found: u64| Err(Error::Invalid { what, found });
        for i in 0..self.n_tensors() {
            let at = i * TENSOR_BYTES;
            let role_code = u16_at(self.tensors, at);
            let role = Role::ALL.get(usize::from(role_code)).filter(|r| !r.is_screen() || self.screen.is_some());
            let Some(&role) = role else {
                return invalid("tensor role", u64::from(role_code));
            };
            if Dtype::from_code(u8_at(self.tensors, at + 4)).is_none_or(|d| d.version() > self.superblock.version) {
                return invalid("tensor dtype", u64::from(u8_at(self.tensors, at + 4)));
            }
            let name_end = u64::from(u32_at(self.tensors, at + 24)) + u64::from(u32_at(self.tensors, at + 28));
            if usize::try_from(name_end).is_ok_and(|e| self.names.get(u32_at(self.tensors, at + 24) as usize..e).is_none()) {
                return invalid("tensor name", name_end);
            }
            let t = self.tensor(i);
            let (rows, cols) = role.dims_with(&self.shape, self.screen.as_ref());
            let rows_fit = if role.is_parted() {
                t.first_row.is_multiple_of(layout::TILE_ROWS) && t.first_row + t.rows <= rows && t.rows > 0
            } else {
                t.rows == rows && t.first_row == 0
            };
            if t.cols != cols || !rows_fit {
                return invalid("tensor rows or columns", (t.rows as u64) << 32 | t.cols as u64);
            }
            if !role.allows(t.dtype) {
                return invalid(if role.is_flat() { "dtype of a vector" } else { "dtype for this role" }, t.dtype as u64);
            }
            let bytes = if role.is_flat() { cols * 4 } else { layout::matrix_bytes(t.dtype, t.rows, cols) };
            if t.bytes != bytes as u64 {
                return invalid("tensor bytes", t.bytes);
            }
            if t.table.iter().any(|&level| level.unsigned_abs() > layout::MAX_LEVEL as u8) {
                return invalid("level table of tensor", i as u64);
            }
            if t.segment >= self.n_segments() {
                return invalid("tensor segment", t.segment as u64);
            }
            let s = self.segment(t.segment);
            let inside = t.offset >= s.offset && t.offset.checked_add(t.bytes).is_some_and(|e| e <= s.offset + s.bytes);
            if !inside || !t.offset.is_multiple_of(TENSOR_ALIGN as u64) {
                return invalid("tensor offset", t.offset);
            }
        }
        Ok(())
    }

    pub(crate) fn check_layers(&self) -> Result<(), Error> {
        let invalid = |what, found: usize| Err(Error::Invalid { what, found: found as u64 });
        for i in 0..self.n_layers() {
            let layer = self.layer(i);
            if layer.first.checked_add(layer.n).is_none_or(|e| e > self.n_tensors()) || layer.n > 64 {
                return invalid("tensors of a layer", layer.n);
            }
            for (what, index, kind) in [
                ("attention segment", layer.attention, SegmentKind::Attention),
                ("feed-forward segment", layer.feed_forward, SegmentKind::FeedForward),
            ] {
                if index >= self.n_segments() || self.segment(index).kind != kind {
                    return invalid(what, index);
                }
            }
            for (j, role) in (layer.first..layer.first + layer.n).map(|t| (t, self.tensor(t).role)) {
                let segment = if role < Role::FfnNorm && role != Role::Embed { layer.attention } else { layer.feed_forward };
                if self.tensor(j).segment != segment {
                    return invalid("segment of a layer's tensor", j);
                }
            }
            for role in [Role::AttnNorm, Role::Wq, Role::Wk, Role::Wv, Role::Wo, Role::FfnNorm, Role::Gate, Role::Up, Role::Down]
            {
                if layer.get(role).is_none() {
                    return Err(Error::Missing { what: role.name(), layer: i as u32 });
                }
            }
        }
        if self.final_norm_index().is_none() {
            return Err(Error::Missing { what: Role::FinalNorm.name(), layer: 0 });
        }
        let parts = if self.shape.tied { &[Role::Head][..] } else { &[Role::Embed, Role::Head][..] };
        for &role in parts {
            let mut next = 0;
            for t in self.parts(role) {
                if t.first_row != next {
                    return invalid("first row of an embedding part", t.first_row);
                }
                next += t.rows;
            }
            if next != self.shape.vocab as usize {
                return Err(Error::Missing { what: role.name(), layer: 0 });
            }
        }
        Ok(())
    }

    /// The screen's tensors: mean, map and books in one segment; codes and biases of the same rows in one segment each, without
    /// gaps; and a head whose rows can be read one by one.
    pub(crate) fn check_screen(&self) -> Result<(), Error> {
        let invalid = |what, found: usize| Err(Error::Invalid { what, found: found as u64 });
        if self.screen.is_none() {
            return Ok(());
        }
        let segment = self.screen_tensor(Role::ScreenMean).segment;
        for role in [Role::ScreenMean, Role::ScreenMap, Role::ScreenBooks] {
            match self.parts(role).next() {
                None => return Err(Error::Missing { what: role.name(), layer: 0 }),
                Some(t) if t.segment != segment => return invalid("segment of the screen", t.segment),
                Some(_) => {}
            }
        }
        let mut next = 0;
        let mut biases = self.parts(Role::ScreenBias);
        for codes in self.parts(Role::ScreenCodes) {
            let bias = biases.next().ok_or(Error::Missing { what: Role::ScreenBias.name(), layer: 0 })?;
            if codes.first_row != next || bias.first_row != next || bias.rows != codes.rows {
                return invalid("first row of a part of the screen", codes.first_row);
            }
            if bias.segment != codes.segment {
                return invalid("segment of the screen", bias.segment);
            }
            next += codes.rows;
        }
        if next != self.shape.vocab as usize {
            return Err(Error::Missing { what: Role::ScreenCodes.name(), layer: 0 });
        }
        match self.parts(Role::Head).find(|t| t.dtype != Dtype::Q8R) {
            Some(t) => invalid("dtype of a screened head", t.dtype as usize),
            None => Ok(()),
        }
    }
}
