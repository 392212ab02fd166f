//! What a pass begins with.

use super::GpuSession;
use crate::Error;
use bourn_core::WeightStream;
use bourn_format::{Image, Role, layout};
use bourn_kernels::table::Tiles;

impl GpuSession {
    /// Writes what a pass begins with: embeddings and the tables of its positions, made as the CPU makes them.
    pub(super) fn inputs(&mut self, image: &Image<'_>, stream: &mut dyn WeightStream, tokens: &[u32]) -> Result<(), Error> {
        let s = image.shape();
        let hidden = s.hidden as usize;
        for (&token, x) in tokens.iter().zip(self.residual.chunks_mut(hidden)) {
            let row = token as usize;
            let part = image.parts(Role::Embed).find(|t| row < t.first_row + t.rows);
            let part = part.ok_or(bourn_core::Error::Token { id: token, vocab: s.vocab })?;
            let tile_bytes = layout::tile_bytes(part.dtype, part.cols);
            let (tile, in_tile) = ((row - part.first_row) / layout::TILE_ROWS, (row - part.first_row) % layout::TILE_ROWS);
            let bytes = stream.read(part.offset + (tile * tile_bytes) as u64, tile_bytes)?;
            bourn_kernels::row_f32(&Tiles { dtype: part.dtype, bytes, cols: part.cols, table: part.table }, in_tile, x);
            if s.embed_scale != 1.0 {
                x.iter_mut().for_each(|v| *v *= s.embed_scale);
            }
        }
        let (block, pairs) = (self.options.block, s.rotary_dim as usize / 2);
        self.step[0] = self.position as u32;
        self.step[1] = tokens.len() as u32;
        for (t, scale) in self.step[4..4 + block].iter_mut().enumerate().take(tokens.len()) {
            *scale = (s.attn_scale * temperature(s, self.position + t)).to_bits();
        }
        let tables = self.step[4 + block..].chunks_mut((2 * block * pairs).max(1));
        for (&rope, table) in self.ropes.iter().zip(tables) {
            let Some(rope) = image.ropes().nth(rope) else { continue };
            let (cos, sin) = table.split_at_mut(block * pairs);
            for t in 0..tokens.len() {
                let position = (self.position + t) as f32;
                for i in 0..pairs {
                    let angle = position * rope.inv_freq(i);
                    cos[t * pairs + i] = (libm::cosf(angle) * rope.factor).to_bits();
                    sin[t * pairs + i] = (libm::sinf(angle) * rope.factor).to_bits();
                }
            }
        }
        let queue = &self.model.device.queue;
        queue.write_buffer(&self.buffers.residual, 0, bytemuck::cast_slice(&self.residual[..tokens.len() * hidden]));
        // Of each table only what was made.
        let n = tokens.len();
        let tables = (0..4).map(|i| (4 + block + i * block * pairs, n * pairs));
        for (first, words) in std::iter::once((0, 4 + n)).chain(tables) {
            queue.write_buffer(&self.buffers.step, 4 * first as u64, bytemuck::cast_slice(&self.step[first..first + words]));
        }
        Ok(())
    }
}

/// `1 + β·ln(1 + ⌊position/context⌋)`: Ministral 3's query scale; 1 for everyone else.
fn temperature(s: &bourn_format::Shape, position: usize) -> f32 {
    if s.attn_temperature_beta == 0.0 {
        return 1.0;
    }
    let stretch = (position / s.attn_temperature_context as usize) as f32;
    1.0 + s.attn_temperature_beta * libm::logf(1.0 + stretch)
}
