//! The screened head as dispatches.

use crate::compile::{begin, buffer};
use crate::kernels::screen;
use crate::program::{Count, MulBuffers};
use crate::record::{Decoder, whole};
use crate::{Device, Error};
use bourn_format::{Role, Screen, layout};

/// What the coarse look takes on the device.
#[derive(Debug)]
pub(crate) struct ScreenBuffers {
    /// `h − mean`.
    centred: wgpu::Buffer,
    /// `y`: `[dims]`, whole tiles.
    mapped: wgpu::Buffer,
    /// Where each sub-quantizer's book and dimensions begin.
    subs: wgpu::Buffer,
    /// `[n_subs][16]`.
    tables: wgpu::Buffer,
    /// lsb and base.
    scales: wgpu::Buffer,
    /// Logits of the candidates.
    exact: wgpu::Buffer,
}

impl ScreenBuffers {
    /// `books`: the first word of the books.
    pub fn new(
        device: &Device,
        screen: &Screen<'_>,
        hidden: usize,
        books: u32,
        floats: &mut dyn FnMut(&str, usize) -> Result<wgpu::Buffer, Error>,
    ) -> Result<Self, Error> {
        let this = Self {
            centred: floats("centred state", hidden)?,
            mapped: floats("mapped state", layout::padded_rows(screen.dims()))?,
            subs: floats("books of the screen", 4 * screen.n_subs())?,
            tables: floats("tables of the screen", 16 * screen.n_subs())?,
            scales: floats("scales of the screen", 4)?,
            exact: floats("logits of candidates", screen.candidates())?,
        };
        let mut book = books;
        let mut words = Vec::with_capacity(4 * screen.n_subs());
        for sub in screen.subs() {
            words.extend_from_slice(&[book, sub.first as u32, sub.n as u32, 0]);
            book += 16 * sub.n as u32;
        }
        device.queue.write_buffer(&this.subs, 0, bytemuck::cast_slice(&words));
        Ok(this)
    }
}

const ONE: Count = Count::Fixed(1);

impl Decoder<'_, '_> {
    /// Coarse scores of all rows into `row`, exact logits of the candidates in their places, the best of them.
    pub(crate) fn screened(&mut self, screen: &Screen<'_>, s: &ScreenBuffers) -> Result<(), Error> {
        let b = self.b;
        self.tables(screen, s)?;
        self.scores(screen, s)?;
        b.select.candidates(&mut self.recorder, screen.candidates() as u32, screen.margin())?;
        self.exact(screen, s)?;
        self.recorder.add("best_of", vec![whole(&s.exact), whole(&b.select.chosen), whole(&b.select.best)], [ONE; 3], || {
            let (s, p, t) = begin(screen::UNITS);
            Box::new(screen::best_of::BestOf::new(s, p, t, buffer(), buffer(), buffer()))
        })?;
        let n = self.image.shape().vocab;
        let grid = [Count::Fixed(n.div_ceil(screen::UNITS)), ONE, ONE];
        self.recorder.add(&format!("cap {n}"), vec![whole(&b.select.best), whole(&b.select.row)], grid, || {
            let (s, p, t) = begin(screen::UNITS);
            Box::new(screen::cap::Cap::new(s, p, t, buffer(), buffer(), n))
        })
    }

    fn tables(&mut self, screen: &Screen<'_>, s: &ScreenBuffers) -> Result<(), Error> {
        let (image, b) = (self.image, self.b);
        let [mean, map, books] = [Role::ScreenMean, Role::ScreenMap, Role::ScreenBooks].map(|role| image.screen_tensor(role));
        let cols = image.shape().hidden;
        let params = self.recorder.params(&[self.recorder.weights.vector(Some(mean))]);
        let args = vec![whole(&b.float), whole(&self.recorder.weights.vectors), params, whole(&s.centred)];
        let grid = [Count::Fixed(cols.div_ceil(screen::UNITS)), ONE, ONE];
        self.recorder.add(&format!("centre {cols}"), args, grid, || {
            let (s, p, t) = begin(screen::UNITS);
            Box::new(screen::centre::Centre::new(s, p, t, buffer(), buffer(), buffer(), buffer(), cols))
        })?;
        let buffers = MulBuffers { codes: &b.codes, scales: &b.scales, float: &s.centred, step: &b.step, out: &s.mapped };
        self.recorder.mul(image, &[(map, 0)], buffers, layout::padded_rows(map.rows) as u32, 1)?;
        let (n, wide) = (screen.n_subs() as u32, screen.n_wide() as u32);
        let at = self.recorder.weights.place(image, &books).0;
        let weights = whole(&self.recorder.weights.buffers[at]);
        let args = vec![weights, whole(&s.mapped), whole(&s.subs), whole(&s.tables), whole(&s.scales)];
        self.recorder.add(&format!("tables {n} {wide}"), args, [ONE; 3], || {
            let (s, p, t) = begin(screen::UNITS);
            let [a, b, c, d, e] = [0; 5].map(|_| buffer());
            Box::new(screen::tables::Tables::new(s, p, t, a, b, c, d, e, n, wide))
        })?;
        self.recorder.reads(mean.bytes + books.bytes);
        Ok(())
    }

    fn scores(&mut self, screen: &Screen<'_>, s: &ScreenBuffers) -> Result<(), Error> {
        let n = screen.n_subs() as u32;
        for parts in self.recorder.parts(self.image, [Role::ScreenCodes, Role::ScreenBias]) {
            let tiles = parts.rows.div_ceil(16);
            let [codes, biases] = parts.words;
            let params = [tiles, parts.rows_of_part.div_ceil(16), codes, biases, parts.part_words, parts.first_row];
            let params = self.recorder.params(&params);
            let weights = whole(&self.recorder.weights.buffers[parts.buffer]);
            let args = vec![weights, whole(&s.tables), whole(&s.scales), params, whole(&self.b.select.row)];
            let grid = [Count::Fixed(tiles.div_ceil(screen::TILES)), ONE, ONE];
            self.recorder.add(&format!("scores {n}"), args, grid, || {
                let (s, p, t) = begin(screen::UNITS);
                let [a, b, c, d, e] = [0; 5].map(|_| buffer());
                Box::new(screen::scores::Scores::new(s, p, t, a, b, c, d, e, n))
            })?;
            self.recorder.reads(parts.bytes);
        }
        Ok(())
    }

    fn exact(&mut self, screen: &Screen<'_>, s: &ScreenBuffers) -> Result<(), Error> {
        let b = self.b;
        let cols = self.image.shape().hidden;
        for parts in self.recorder.parts(self.image, [Role::Head, Role::Head]) {
            let params = [parts.first_row, parts.rows, parts.rows_of_part, parts.words[0], parts.part_words];
            let params = self.recorder.params(&params);
            let weights = whole(&self.recorder.weights.buffers[parts.buffer]);
            let [codes, scales] = [&b.codes, &b.scales].map(whole);
            let args = vec![weights, codes, scales, params, whole(&b.select.chosen), whole(&s.exact), whole(&b.select.row)];
            let grid = [Count::Fixed((screen.candidates() as u32).div_ceil(screen::ROWS)), ONE, ONE];
            self.recorder.add(&format!("exact {cols}"), args, grid, || {
                let (s, p, t) = begin(screen::UNITS);
                let [a, b, c, d, e, f, g] = [0; 7].map(|_| buffer());
                Box::new(screen::exact::Exact::new(s, p, t, a, b, c, d, e, f, g, cols))
            })?;
        }
        Ok(())
    }
}
