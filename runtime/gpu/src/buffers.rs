//! How much memory a session takes on the device.

use crate::kernels::attend;
use crate::record::LANES;
use crate::screen::ScreenBuffers;
use crate::select::{MAX_BEST, Selection};
use crate::session::{Buffers, GpuOptions};
use crate::{Device, Error, Weights};
use bourn_core::{HeadMode, KvDtype};
use bourn_format::{Image, Role, layout};

impl Buffers {
    pub(crate) fn new(device: &Device, weights: &Weights, image: &Image<'_>, options: &GpuOptions) -> Result<Self, Error> {
        let s = image.shape();
        let (hidden, ffn, block) = (s.hidden as usize, s.ffn as usize, options.block);
        let vocab_rows: usize = image.parts(Role::Head).map(|t| layout::padded_rows(t.rows)).sum();
        let widest = layout::padded_cols(hidden.max(s.q_rows()).max(ffn));
        let qkv = layout::padded_rows(s.q_rows()) + 2 * layout::padded_rows(s.kv_rows());
        let back = 16 + 4 * u64::from(s.vocab).max(4 + 2 * MAX_BEST as u64);
        let storage = wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_DST | wgpu::BufferUsages::COPY_SRC;
        let mut total = 0;
        let mut floats = |what: &str, n: usize| {
            total += 4 * n as u64;
            device.buffer(what, 4 * n as u64, storage)
        };
        let words = if options.kv == KvDtype::F16 { s.head_dim as usize / 2 } else { s.head_dim as usize };
        let slots = options.context.next_multiple_of(attend::RUN as usize);
        let cache = 2 * s.n_kv_heads as usize * slots * words;
        let kv = (0..image.n_layers()).map(|i| floats(&format!("KV cache of layer {i}"), cache)).collect::<Result<_, _>>()?;
        let screen = image.screen().filter(|_| options.head == HeadMode::Screened);
        let books = screen.map_or(0, |_| weights.place(image, &image.screen_tensor(Role::ScreenBooks)).1);
        Ok(Self {
            residual: floats("residual stream", block * hidden)?,
            last: floats("last state", hidden)?,
            qkv: floats("queries, keys and values", block * qkv)?,
            attended: floats("attention", block * s.q_rows())?,
            projected: floats("projections", block * layout::padded_rows(hidden))?,
            ffn: floats("gates", block * 2 * layout::padded_rows(ffn))?,
            codes: floats("activations", block * widest / 4)?,
            scales: floats("scales", block * widest / layout::GROUP * 2)?,
            float: floats("activations", block * widest)?,
            step: floats("step", 4 + block + 4 * block * (s.rotary_dim as usize / 2))?,
            rows: floats("logits of a block", LANES as usize * vocab_rows)?,
            select: Selection::new(s.vocab, vocab_rows, screen.map_or(0, |s| s.candidates()), &mut floats)?,
            screen: screen.map(|screen| ScreenBuffers::new(device, screen, hidden, books, &mut floats)).transpose()?,
            back: device.buffer("answers", back, wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST)?,
            kv,
            vocab_rows,
            bytes: total + back,
        })
    }
}
