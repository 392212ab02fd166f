//! How products of one token are shared out among units: measured on the device, kept by whoever asks.
//!
//! Sums have one order however a row is shared out, so a choice changes no bit of any answer.

use crate::program::{MulBuffers, Program, Recorder};
use crate::record::matrix;
use crate::session::{Buffers, GpuModel, GpuOptions};
use crate::{Device, Error};
use bourn_format::{Dtype, Image, Role, Tensor, layout};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::PoisonError;
use std::time::{Duration, Instant};

/// Sets of four units that may share a row's columns.
const SPLITS: [u32; 3] = [8, 16, 32];
/// What is taken where nothing was measured.
const DEFAULT: u32 = 16;
/// Layers whose weights a measurement reads, so that it is not a cache that is measured.
const LAYERS: usize = 8;
/// Measurements of a choice; the best counts.
const ROUNDS: usize = 3;

/// A product of a dispatch: type, columns and tiles of 16 rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Product {
    dtype: u8,
    cols: u32,
    tiles: u32,
}

impl Product {
    pub fn new(dtype: Dtype, cols: u32, tiles: u32) -> Self {
        Self { dtype: dtype as u8, cols, tiles }
    }
}

/// What was measured on an adapter with its driver, for any number of models: see [`crate::Adapter::fingerprint`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Choices {
    splits: BTreeMap<Product, u32>,
    /// Taken for all, while it is measured.
    all: Option<u32>,
}

impl Choices {
    /// Choices out of the text that [`fmt::Display`] makes of them. Lines that are not understood are left out: they are measured again.
    pub fn read(text: &str) -> Self {
        let line = |line: &str| {
            let mut words = line.split(' ').map(str::parse::<u32>);
            let mut next = || words.next()?.ok();
            let product = Product { dtype: u8::try_from(next()?).ok()?, cols: next()?, tiles: next()? };
            let splits = next().filter(|splits| SPLITS.contains(splits))?;
            Some((product, splits))
        };
        Self { splits: text.lines().filter_map(line).collect(), all: None }
    }

    /// What these say, and where they say nothing `others`.
    pub fn merge(&mut self, others: &Self) {
        for (product, splits) in &others.splits {
            self.splits.entry(*product).or_insert(*splits);
        }
    }

    pub(crate) fn splits(&self, product: Product) -> u32 {
        self.all.or_else(|| self.splits.get(&product).copied()).unwrap_or(DEFAULT)
    }
}

impl fmt::Display for Choices {
    /// A line for each product: type, columns, tiles, sets of units.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (Product { dtype, cols, tiles }, splits) in &self.splits {
            writeln!(f, "{dtype} {cols} {tiles} {splits}")?;
        }
        Ok(())
    }
}

/// Products that go out together: a layer's projections, or a part of its feed-forward, or the head.
struct Group<'t> {
    matrices: Vec<(Tensor<'t>, u32)>,
    out: &'t wgpu::Buffer,
}

fn groups<'t>(image: &Image<'t>, b: &'t Buffers) -> Vec<Group<'t>> {
    let mut groups = Vec::new();
    for i in 0..image.n_layers() {
        let layer = image.layer(i);
        for (roles, out) in [
            (&[Role::Wq, Role::Wk, Role::Wv][..], &b.qkv),
            (&[Role::Wo], &b.projected),
            (&[Role::Gate, Role::Up], &b.ffn),
            (&[Role::Down], &b.projected),
        ] {
            let mut row = 0;
            let mut matrices = Vec::new();
            for &role in roles {
                let tensor = matrix(image, layer, role);
                matrices.push((tensor, row));
                row += layout::padded_rows(tensor.rows) as u32;
            }
            groups.push(Group { matrices, out });
        }
    }
    // A screened head's rows are not read by these kernels, unless all of them are asked for.
    if image.screen().is_none() {
        let matrices = image.parts(Role::Head).map(|t| (t, t.first_row as u32)).collect();
        groups.push(Group { matrices, out: &b.select.row });
    }
    groups
}

impl GpuModel {
    /// Measures every product of the image for which there is no choice yet. Sessions opened from now on go by what was found; returns all
    /// choices if there are new ones.
    ///
    /// # Errors
    /// [`Error`].
    pub fn tune(&self, image: &Image<'_>) -> Result<Option<Choices>, Error> {
        let mut choices = self.choices();
        let options = GpuOptions { context: 1, block: 1, ..GpuOptions::default() };
        let buffers = Buffers::new(self.device(), self.weights(), image, &options)?;
        let mut pipelines = self.pipelines().lock().unwrap_or_else(PoisonError::into_inner);
        let mut recorder = Recorder::new(self.device(), &mut pipelines, self.weights(), Choices::default());
        // Groups by what they are made of.
        let mut kinds: BTreeMap<Vec<Product>, Vec<Group<'_>>> = BTreeMap::new();
        for group in groups(image, &buffers) {
            record(&mut recorder, image, &buffers, &group)?;
            let products = recorder.products();
            recorder.program()?;
            let of_kind = kinds.entry(products).or_default();
            if of_kind.len() < LAYERS {
                of_kind.push(group);
            }
        }
        let known: BTreeSet<Product> = choices.splits.keys().copied().collect();
        let before = choices.splits.len();
        for (products, groups) in kinds {
            if products.iter().all(|product| known.contains(product)) {
                continue;
            }
            let mut fastest = (Duration::MAX, DEFAULT);
            for splits in SPLITS {
                recorder.choices = Choices { all: Some(splits), ..Choices::default() };
                for group in &groups {
                    record(&mut recorder, image, &buffers, group)?;
                }
                fastest = fastest.min((took(self.device(), &recorder.program()?)?, splits));
            }
            choices.splits.extend(products.into_iter().map(|product| (product, fastest.1)));
        }
        let new = choices.splits.len() > before;
        self.set_choices(choices.clone());
        Ok(new.then_some(choices))
    }
}

fn record(recorder: &mut Recorder<'_>, image: &Image<'_>, b: &Buffers, group: &Group<'_>) -> Result<(), Error> {
    let buffers = MulBuffers { codes: &b.codes, scales: &b.scales, float: &b.float, step: &b.step, out: group.out };
    recorder.mul(image, &group.matrices, buffers, 0, 1)
}

/// The shortest time of a run.
fn took(device: &Device, program: &Program) -> Result<Duration, Error> {
    let mut best = Duration::MAX;
    for _ in 0..=ROUNDS {
        let start = Instant::now();
        let mut encoder = device.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        program.encode(&mut encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default()), 1);
        device.queue.submit([encoder.finish()]);
        device.wait()?;
        best = best.min(start.elapsed());
    }
    Ok(best)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_read() {
        let text = "3 640 40 8\n4 576 96 16\n";
        let choices = Choices::read(text);
        assert_eq!(choices.to_string(), text);
        assert_eq!(choices.splits(Product { dtype: 4, cols: 576, tiles: 96 }), 16);
        assert_eq!(choices.splits(Product { dtype: 4, cols: 576, tiles: 97 }), DEFAULT);
    }

    #[test]
    fn what_is_not_understood_is_left_out() {
        let choices = Choices::read("4 576 96 5\n4 576\nfour\n\n300 1 1 8\n4 576 96 32\n");
        assert_eq!(choices.to_string(), "4 576 96 32\n");
        let mut other = Choices::read("4 576 96 16\n4 1 1 8\n");
        other.merge(&choices);
        assert_eq!(other.to_string(), "4 1 1 8\n4 576 96 16\n");
    }
}
