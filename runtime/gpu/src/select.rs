//! The best of a row of logits as dispatches: one, a few, a screen's candidates.

use crate::Error;
use crate::compile::{begin, buffer};
use crate::kernels::{head, screen, select};
use crate::program::{Count, Recorder};
use crate::record::whole;

/// Largest number of best logits that is brought back alone.
pub(crate) const MAX_BEST: usize = 1024;

const ONE: Count = Count::Fixed(1);

/// A row, and the room for choosing among it.
#[derive(Debug)]
pub(crate) struct Selection {
    n: u32,
    /// Logits of one token, whole tiles.
    pub row: wgpu::Buffer,
    spans: wgpu::Buffer,
    /// Of all: bits of the logit, its row; of a screened head also the candidates and bits of their threshold.
    pub best: wgpu::Buffer,
    keys: wgpu::Buffer,
    /// How many are sought.
    pub wanted: wgpu::Buffer,
    bound: wgpu::Buffer,
    counts: wgpu::Buffer,
    listed: wgpu::Buffer,
    /// What was chosen, after [`screen::CHOSEN_WORDS`] words.
    pub chosen: wgpu::Buffer,
}

impl Selection {
    /// Room for `n` logits in a row of `rows`, and for so many candidates.
    pub fn new(
        n: u32,
        rows: usize,
        candidates: usize,
        words: &mut dyn FnMut(&str, usize) -> Result<wgpu::Buffer, Error>,
    ) -> Result<Self, Error> {
        let spans = n.div_ceil(head::SPAN) as usize;
        Ok(Self {
            n,
            row: words("logits", rows)?,
            spans: words("best of spans", 2 * spans)?,
            best: words("best token", 4)?,
            keys: words("best of stretches", spans * (head::SPAN / select::STRETCH) as usize)?,
            wanted: words("number of candidates", 4)?,
            bound: words("bound of candidates", 4)?,
            counts: words("numbers of candidates", spans)?,
            listed: words("rows of candidates", n as usize)?,
            chosen: words("candidates", screen::CHOSEN_WORDS as usize + candidates.max(2 * MAX_BEST))?,
        })
    }

    fn n_spans(&self) -> u32 {
        self.n.div_ceil(head::SPAN)
    }

    /// The largest logit into [`Self::best`].
    pub fn one(&self, recorder: &mut Recorder<'_>) -> Result<(), Error> {
        self.largest(recorder, &self.best)
    }

    fn largest(&self, recorder: &mut Recorder<'_>, out: &wgpu::Buffer) -> Result<(), Error> {
        let (n, spans) = (self.n, self.n_spans());
        let grid = [Count::Fixed(spans), ONE, ONE];
        recorder.add(&format!("argmax_spans {n}"), vec![whole(&self.row), whole(&self.spans)], grid, || {
            let (s, p, t) = begin(head::UNITS);
            Box::new(head::argmax_spans::ArgmaxSpans::new(s, p, t, buffer(), buffer(), n))
        })?;
        recorder.add(&format!("argmax {spans}"), vec![whole(&self.spans), whole(out)], [ONE; 3], || {
            let (s, p, t) = begin(head::UNITS);
            Box::new(head::argmax::Argmax::new(s, p, t, buffer(), buffer(), spans))
        })
    }

    /// As many of the largest as [`Self::wanted`] says into [`Self::chosen`].
    pub fn few(&self, recorder: &mut Recorder<'_>) -> Result<(), Error> {
        let (n, spans) = (self.n, self.n_spans());
        let keys = spans * (head::SPAN / select::STRETCH);
        let grid = [Count::Fixed(spans), ONE, ONE];
        recorder.add(&format!("maxima {n}"), vec![whole(&self.row), whole(&self.keys)], grid, || {
            let (s, p, t) = begin(head::UNITS);
            Box::new(select::maxima::Maxima::new(s, p, t, buffer(), buffer(), n))
        })?;
        let args = vec![whole(&self.keys), whole(&self.wanted), whole(&self.bound)];
        recorder.add(&format!("bound {keys}"), args, [ONE; 3], || {
            let (s, p, t) = begin(head::UNITS);
            Box::new(select::bound::Bound::new(s, p, t, buffer(), buffer(), buffer(), keys))
        })?;
        self.list(recorder, select::Spec { n, margin: 0, nans: true })?;
        let [row, counts, listed, chosen] = [&self.row, &self.counts, &self.listed, &self.chosen].map(whole);
        recorder.add(&format!("largest {spans}"), vec![row, whole(&self.wanted), counts, listed, chosen], [ONE; 3], || {
            let (s, p, t) = begin(head::UNITS);
            let [a, b, c, d, e] = [0; 5].map(|_| buffer());
            Box::new(select::largest::Largest::new(s, p, t, a, b, c, d, e, spans))
        })
    }

    /// A screen's candidates among its scores into [`Self::chosen`]: at most `most`, none more than a margin below the best.
    pub fn candidates(&self, recorder: &mut Recorder<'_>, most: u32, margin: f32) -> Result<(), Error> {
        let (n, spans, margin) = (self.n, self.n_spans(), margin.to_bits());
        self.largest(recorder, &self.bound)?;
        self.list(recorder, select::Spec { n, margin, nans: false })?;
        let [row, counts, listed, chosen] = [&self.row, &self.counts, &self.listed, &self.chosen].map(whole);
        let args = vec![row, whole(&self.bound), counts, listed, chosen];
        recorder.add(&format!("candidates {spans} {most} {margin}"), args, [ONE; 3], || {
            let (s, p, t) = begin(head::UNITS);
            let [a, b, c, d, e] = [0; 5].map(|_| buffer());
            Box::new(select::candidates::Candidates::new(s, p, t, a, b, c, d, e, spans, most, margin))
        })
    }

    /// Rows that reach the bound, in rising order.
    fn list(&self, recorder: &mut Recorder<'_>, spec: select::Spec) -> Result<(), Error> {
        let grid = [Count::Fixed(self.n_spans()), ONE, ONE];
        let args = vec![whole(&self.row), whole(&self.bound), whole(&self.counts)];
        recorder.add(&format!("count {spec:?}"), args.clone(), grid, || {
            let (s, p, t) = begin(head::UNITS);
            Box::new(select::count::Count::new(s, p, t, buffer(), buffer(), buffer(), spec))
        })?;
        let args = args.into_iter().chain([whole(&self.listed)]).collect();
        recorder.add(&format!("list {spec:?}"), args, grid, || {
            let (s, p, t) = begin(head::UNITS);
            Box::new(select::list::List::new(s, p, t, buffer(), buffer(), buffer(), buffer(), spec))
        })
    }
}

#[cfg(test)]
mod tests;
