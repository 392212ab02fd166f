//! The decoder as dispatches: which kernels a pass runs, in which order, for whatever family the image's tensors make it.

use crate::compile::{begin, buffer};
use crate::kernels::{TOKENS, attend, gate, norm, rope};
use crate::program::{Arg, Count, MulBuffers, Program, Recorder};
use crate::session::Buffers;
use crate::{Error, GpuOptions};
use bourn_core::{HeadMode, KvDtype};
use bourn_format::shape::Activation;
use bourn_format::{Image, LayerTensors, Role, Screen, Tensor, layout};

/// Records the passes of a model.
pub(crate) struct Decoder<'d, 'r> {
    pub recorder: Recorder<'r>,
    pub image: &'d Image<'d>,
    pub options: GpuOptions,
    pub b: &'d Buffers,
}

pub(crate) fn whole(buffer: &wgpu::Buffer) -> Arg {
    Arg::Whole(buffer.clone())
}

/// A matrix that the image's check found present.
pub(crate) fn matrix<'t>(image: &Image<'t>, layer: LayerTensors<'t>, role: Role) -> Tensor<'t> {
    layer.get(role).unwrap_or_else(|| image.tensor(usize::MAX))
}

impl<'d> Decoder<'d, '_> {
    fn stride(&self) -> u32 {
        let s = self.image.shape();
        (layout::padded_rows(s.q_rows()) + 2 * layout::padded_rows(s.kv_rows())) as u32
    }

    /// All layers and the final norm of a pass with `lanes` tokens side by side.
    pub fn layers(&mut self, lanes: u32) -> Result<Program, Error> {
        let mut before: Option<LayerTensors<'_>> = None;
        for i in 0..self.image.n_layers() {
            let layer = self.image.layer(i);
            let adds = before.map(|b| (None, b.get(Role::PostFfnNorm)));
            let matrices = [Role::Wq, Role::Wk, Role::Wv].map(|r| matrix(self.image, layer, r));
            self.add_norm(&self.b.residual.clone(), adds, layer.get(Role::AttnNorm), &matrices, lanes)?;
            self.attention(i, layer, &matrices, lanes)?;
            let adds = Some((layer.get(Role::Bo), layer.get(Role::PostAttnNorm)));
            let matrices = [Role::Gate, Role::Up].map(|r| matrix(self.image, layer, r));
            self.add_norm(&self.b.residual.clone(), adds, layer.get(Role::FfnNorm), &matrices, lanes)?;
            self.feed_forward(layer, &matrices, lanes)?;
            before = Some(layer);
        }
        let adds = before.map(|b| (None, b.get(Role::PostFfnNorm)));
        self.final_norm(&self.b.residual.clone(), adds, lanes)?;
        let all = (0..self.image.n_tensors()).map(|i| self.image.tensor(i));
        let vectors = all.filter(|t| t.role.is_flat() && !t.role.is_screen()).map(|t| t.bytes).sum();
        self.recorder.reads(vectors);
        self.recorder.program()
    }

    /// The norm before the head.
    fn final_norm(
        &mut self,
        residual: &wgpu::Buffer,
        adds: Option<(Option<Tensor<'_>>, Option<Tensor<'_>>)>,
        lanes: u32,
    ) -> Result<(), Error> {
        let mut matrices: Vec<Tensor<'_>> = self.image.parts(Role::Head).take(1).collect();
        matrices.extend(self.screen().map(|_| self.image.screen_tensor(Role::ScreenMap)));
        self.add_norm(residual, adds, Some(self.image.final_norm()), &matrices, lanes)
    }

    /// `residual += norm(projected + bias)`, then the norm that `matrices` take their input from. `adds`: bias and norm of what is added.
    fn add_norm(
        &mut self,
        residual: &wgpu::Buffer,
        adds: Option<(Option<Tensor<'_>>, Option<Tensor<'_>>)>,
        weight: Option<Tensor<'_>>,
        matrices: &[Tensor<'_>],
        lanes: u32,
    ) -> Result<(), Error> {
        let s = self.image.shape();
        let (bias, post) = adds.unwrap_or_default();
        let spec = norm::Spec {
            cols: s.hidden,
            lanes,
            stride: layout::padded_rows(s.hidden as usize) as u32,
            adds: adds.is_some(),
            bias: bias.is_some(),
            post: post.is_some(),
            int8: matrices.iter().any(|m| m.dtype.is_quantized()),
            float: matrices.iter().any(|m| !m.dtype.is_quantized()),
            eps: s.norm_eps.to_bits(),
        };
        let at = [bias, post, weight].map(|t| self.recorder.weights.vector(t));
        let params = self.recorder.params(&at);
        let b = self.b;
        let args = vec![
            whole(residual),
            whole(&b.projected),
            whole(&self.recorder.weights.vectors),
            params,
            whole(&b.codes),
            whole(&b.scales),
            whole(&b.float),
        ];
        let grid = [Count::Tokens, Count::Fixed(1), Count::Fixed(1)];
        self.recorder.add(&format!("add_norm {spec:?}"), args, grid, || {
            let (s, p, t) = begin(norm::UNITS);
            let [a, b, c, d, e, f, g] = [0; 7].map(|_| buffer());
            Box::new(norm::add_norm::AddNorm::new(s, p, t, a, b, c, d, e, f, g, spec))
        })
    }

    /// The form of `cols` columns of `x` that `matrices` take.
    fn form(&self, cols: u32, stride: u32, matrices: &[Tensor<'_>], lanes: u32) -> norm::Spec {
        norm::Spec {
            cols,
            lanes,
            stride,
            adds: false,
            bias: false,
            post: false,
            int8: matrices.iter().any(|m| m.dtype.is_quantized()),
            float: matrices.iter().any(|m| !m.dtype.is_quantized()),
            eps: 0,
        }
    }

    fn mul(&mut self, matrices: &[(Tensor<'_>, u32)], out: &wgpu::Buffer, stride: u32, lanes: u32) -> Result<(), Error> {
        let b = self.b;
        let buffers = MulBuffers { codes: &b.codes, scales: &b.scales, float: &b.float, step: &b.step, out };
        self.recorder.mul(self.image, matrices, buffers, stride, lanes)
    }

    /// Heads and cache of layer `i`.
    pub fn heads(&self, layer: LayerTensors<'_>) -> rope::Spec {
        let s = self.image.shape();
        let has = |role| layer.get(role).is_some();
        rope::Spec {
            head_dim: s.head_dim,
            n_heads: s.n_heads,
            n_kv_heads: s.n_kv_heads,
            q_rows: layout::padded_rows(s.q_rows()) as u32,
            kv_rows: layout::padded_rows(s.kv_rows()) as u32,
            slots: (self.options.context as u32).next_multiple_of(attend::RUN),
            halves: self.options.kv == KvDtype::F16,
            pairs: s.rotary_dim / 2,
            block: self.options.block as u32,
            sliding: layer.sliding,
            biases: [has(Role::Bq), has(Role::Bk), has(Role::Bv)],
            norms: [has(Role::QNorm), has(Role::KNorm)],
            eps: s.norm_eps.to_bits(),
            units: s.head_dim.next_power_of_two().clamp(32, 256),
        }
    }

    fn attention(&mut self, index: usize, layer: LayerTensors<'_>, qkv: &[Tensor<'_>; 3], lanes: u32) -> Result<(), Error> {
        let (image, b) = (self.image, self.b);
        let s = image.shape();
        let heads = self.heads(layer);
        let stride = self.stride();
        let [wq, wk, wv] = *qkv;
        let outs = [(wq, 0), (wk, heads.q_rows), (wv, heads.q_rows + heads.kv_rows)];
        self.mul(&outs, &b.qkv, stride, lanes)?;
        let at = [Role::Bq, Role::Bk, Role::Bv, Role::QNorm, Role::KNorm].map(|r| self.recorder.weights.vector(layer.get(r)));
        let params = self.recorder.params(&at);
        let vectors = whole(&self.recorder.weights.vectors);
        let args = vec![whole(&b.qkv), vectors, params, whole(&b.step), whole(&b.kv[index])];
        let grid = [Count::Fixed(s.n_heads + 2 * s.n_kv_heads), Count::Tokens, Count::Fixed(1)];
        self.recorder.add(&format!("rope {heads:?}"), args, grid, || {
            let (s, p, t) = begin(heads.units);
            let [a, b, c, d, e] = [0; 5].map(|_| buffer());
            Box::new(rope::rope::Rope::new(s, p, t, a, b, c, d, e, heads))
        })?;
        let spec = attend::Spec {
            heads,
            window: if layer.sliding { s.window } else { 0 },
            softcap: if s.attn_softcap == 0.0 { 0 } else { s.attn_softcap.to_bits() },
        };
        let args = vec![whole(&b.qkv), whole(&b.kv[index]), whole(&b.step), whole(&b.attended)];
        let grid = [Count::Fixed(s.n_heads), Count::Tokens, Count::Fixed(1)];
        self.recorder.add(&format!("attend {spec:?}"), args, grid, || {
            let (s, p, t) = begin(attend::RUN);
            let [a, b, c, d] = [0; 4].map(|_| buffer());
            Box::new(attend::attend::Attend::new(s, p, t, a, b, c, d, spec))
        })?;
        let wo = matrix(image, layer, Role::Wo);
        let q_rows = s.q_rows() as u32;
        let form = self.form(q_rows, q_rows, &[wo], lanes);
        let args = vec![whole(&b.attended), whole(&b.codes), whole(&b.scales), whole(&b.float)];
        let grid = [Count::Fixed(q_rows.next_multiple_of(64).div_ceil(norm::UNITS)), Count::Tokens, Count::Fixed(1)];
        self.recorder.add(&format!("quantize {form:?}"), args, grid, || {
            let (s, p, t) = begin(norm::UNITS);
            let [a, b, c, d] = [0; 4].map(|_| buffer());
            Box::new(norm::quantize::Quantize::new(s, p, t, a, b, c, d, form))
        })?;
        self.mul(&[(wo, 0)], &b.projected, layout::padded_rows(s.hidden as usize) as u32, lanes)
    }

    fn feed_forward(&mut self, layer: LayerTensors<'_>, matrices: &[Tensor<'_>; 2], lanes: u32) -> Result<(), Error> {
        let (image, b) = (self.image, self.b);
        let s = image.shape();
        let ffn_rows = layout::padded_rows(s.ffn as usize) as u32;
        self.mul(&[(matrices[0], 0), (matrices[1], ffn_rows)], &b.ffn, 2 * ffn_rows, lanes)?;
        let down = matrix(image, layer, Role::Down);
        let form = self.form(s.ffn, 2 * ffn_rows, &[down], lanes);
        let gelu = s.activation == Activation::GeluTanh;
        let args = vec![whole(&b.ffn), whole(&b.codes), whole(&b.scales), whole(&b.float)];
        let grid = [Count::Fixed(s.ffn.next_multiple_of(64).div_ceil(norm::UNITS)), Count::Tokens, Count::Fixed(1)];
        self.recorder.add(&format!("gate {form:?} {ffn_rows} {gelu}"), args, grid, || {
            let (s, p, t) = begin(norm::UNITS);
            let [a, b, c, d] = [0; 4].map(|_| buffer());
            Box::new(gate::gate::Gate::new(s, p, t, a, b, c, d, form, ffn_rows, gelu))
        })?;
        self.mul(&[(down, 0)], &b.projected, layout::padded_rows(s.hidden as usize) as u32, lanes)
    }

    /// The final norm of the one row in `last`, whose residual sum is complete: after a block of which only the last token counts.
    pub fn last_norm(&mut self) -> Result<Program, Error> {
        self.final_norm(&self.b.last.clone(), None, 1)?;
        self.recorder.program()
    }

    /// Of a screened head the coarse part and the candidates' rows, of any other all rows, from one token's normed state; then the best.
    pub fn head(&mut self) -> Result<Program, Error> {
        let b = self.b;
        match (self.screen(), &b.screen) {
            (Some(screen), Some(room)) => self.screened(screen, room)?,
            _ => {
                self.all_rows(&b.select.row, 1)?;
                b.select.one(&mut self.recorder)?;
            }
        }
        self.recorder.program()
    }

    /// All rows of the head for [`LANES`] tokens side by side.
    pub fn all_heads(&mut self) -> Result<Program, Error> {
        self.all_rows(&self.b.rows.clone(), LANES)?;
        self.recorder.program()
    }

    /// The few best logits of the last token.
    pub fn few_best(&mut self) -> Result<Program, Error> {
        self.b.select.few(&mut self.recorder)?;
        self.recorder.program()
    }

    /// The screen, where it is to be used.
    pub fn screen(&self) -> Option<&'d Screen<'d>> {
        self.image.screen().filter(|_| self.options.head == HeadMode::Screened)
    }

    fn all_rows(&mut self, out: &wgpu::Buffer, lanes: u32) -> Result<(), Error> {
        let image = self.image;
        let parts: Vec<_> = image.parts(Role::Head).map(|t| (t, t.first_row as u32)).collect();
        self.mul(&parts, out, self.b.vocab_rows as u32, lanes)
    }
}

/// Tokens side by side in a pass of prefill.
pub(crate) const LANES: u32 = TOKENS;
