//! The KV cache: a ring of slots per layer and KV head; as long as the context on full layers, as the window on sliding ones.

mod blocks;

use bourn_format::Image;
use bourn_kernels::table::{KvDtype, KvView, KvViewMut};

/// Slots are whole runs of this many positions.
const RUN: usize = 64;

/// Sizes of the cache. Layers lie one after another; in a layer each KV head's keys, then its values.
#[derive(Clone, Copy, Debug)]
pub(crate) struct KvPlan {
    dtype: KvDtype,
    head_dim: usize,
    n_kv_heads: usize,
    full_slots: usize,
    sliding_slots: usize,
    n_full: usize,
    n_sliding: usize,
}

/// Where one layer lies.
#[derive(Clone, Copy, Debug)]
pub(crate) struct KvLayer {
    pub slots: usize,
    /// Slots (× KV heads) of all layers before this one.
    first: usize,
}

impl KvPlan {
    pub fn new(image: &Image<'_>, dtype: KvDtype, context: usize, block: usize, retain: usize) -> Self {
        let s = image.shape();
        let n_sliding = (0..image.n_layers()).filter(|&i| image.layer(i).sliding).count();
        let full_slots = context.div_ceil(RUN) * RUN;
        // While a block is attended, its first token still sees `window − 1` keys before it.
        let sliding_slots = (s.window as usize + block - 1).saturating_add(retain.min(context)).div_ceil(RUN) * RUN;
        Self {
            dtype,
            head_dim: s.head_dim as usize,
            n_kv_heads: s.n_kv_heads as usize,
            full_slots,
            sliding_slots: sliding_slots.min(full_slots),
            n_full: image.n_layers() - n_sliding,
            n_sliding,
        }
    }

    fn element_bytes(&self) -> usize {
        match self.dtype {
            KvDtype::F32 => 4,
            KvDtype::F16 => 2,
            KvDtype::I8 => 1,
        }
    }

    /// Slots of all layers and heads.
    fn total_slots(&self) -> usize {
        self.n_full
            .saturating_mul(self.full_slots)
            .saturating_add(self.n_sliding.saturating_mul(self.sliding_slots))
            .saturating_mul(self.n_kv_heads)
    }

    pub fn bytes(&self) -> usize {
        self.total_slots().saturating_mul(2 * self.head_dim * self.element_bytes())
    }

    pub fn scale_bytes(&self) -> usize {
        if self.dtype == KvDtype::I8 { self.total_slots().saturating_mul(8) } else { 0 }
    }

    /// Oldest position that a session which has written positions below `written` can return to (0 always can be).
    ///
    /// A token at `to` sees keys from `to − window + 1` on; the ring has lost those below `written − slots`.
    pub fn oldest(&self, written: usize, window: usize) -> usize {
        if self.n_sliding == 0 || written <= self.sliding_slots { 0 } else { written + window - self.sliding_slots }
    }

    /// Positions below this are no longer in the rings of sliding layers once those below `written` were written.
    pub fn lost(&self, written: usize) -> usize {
        if self.n_sliding == 0 { 0 } else { written.saturating_sub(self.sliding_slots) }
    }

    /// Element type.
    pub fn dtype(&self) -> KvDtype {
        self.dtype
    }

    /// Head size, KV heads, full layers, sliding layers.
    pub fn sizes(&self) -> [u32; 4] {
        [self.head_dim, self.n_kv_heads, self.n_full, self.n_sliding].map(|n| n as u32)
    }

    /// The layers in order.
    pub fn layers<'a>(&self, image: &'a Image<'a>) -> impl Iterator<Item = KvLayer> + use<'a> {
        let plan = *self;
        let mut first = 0;
        (0..image.n_layers()).map(move |i| {
            let slots = if image.layer(i).sliding { plan.sliding_slots } else { plan.full_slots };
            let layer = KvLayer { slots, first };
            first += slots * plan.n_kv_heads;
            layer
        })
    }

    /// Byte ranges of a head's keys and values, and index ranges of their scales.
    fn ranges(&self, layer: &KvLayer, head: usize) -> [core::ops::Range<usize>; 4] {
        let first = layer.first + head * layer.slots;
        let n = layer.slots * self.head_dim * self.element_bytes();
        let k = first * 2 * self.head_dim * self.element_bytes();
        let (ks, ns) = if self.dtype == KvDtype::I8 { (2 * first, layer.slots) } else { (0, 0) };
        [k..k + n, k + n..k + 2 * n, ks..ks + ns, ks + ns..ks + 2 * ns]
    }

    pub fn view<'a>(&self, layer: &KvLayer, head: usize, kv: &'a [u8], scale: &'a [f32]) -> KvView<'a> {
        let [k, v, ks, vs] = self.ranges(layer, head);
        KvView {
            dtype: self.dtype,
            slots: layer.slots,
            head_dim: self.head_dim,
            k: &kv[k],
            v: &kv[v],
            k_scale: &scale[ks],
            v_scale: &scale[vs],
        }
    }

    pub fn view_mut<'a>(&self, layer: &KvLayer, head: usize, kv: &'a mut [u8], scale: &'a mut [f32]) -> KvViewMut<'a> {
        let [k, v, ks, vs] = self.ranges(layer, head);
        let (k_bytes, v_bytes) = kv[k.start..v.end].split_at_mut(k.len());
        let (k_scale, v_scale) = scale[ks.start..vs.end].split_at_mut(ks.len());
        KvViewMut { dtype: self.dtype, slots: layer.slots, head_dim: self.head_dim, k: k_bytes, v: v_bytes, k_scale, v_scale }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ring_that_has_wrapped_keeps_less_than_it_has_slots() {
        let ring = KvPlan {
            dtype: KvDtype::F16,
            head_dim: 64,
            n_kv_heads: 1,
            full_slots: 4096,
            sliding_slots: 576,
            n_full: 1,
            n_sliding: 5,
        };
        assert_eq!(ring.oldest(576, 512), 0);
        // Position 0's key is gone once position 576 is written; a token at 514 no longer sees its whole window.
        assert_eq!(ring.oldest(620, 512), 556);
        assert_eq!(KvPlan { n_sliding: 0, ..ring }.oldest(4000, 512), 0);
    }
}
