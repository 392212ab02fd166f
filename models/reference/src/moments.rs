//! Second moments of what each matrix is fed, `H = Σ x·xᵀ`: the statistics of calibrated quantization.

use std::collections::BTreeMap;

use crate::tap::{Site, Tap};
use crate::{Error, reference::values};
use burn::tensor::Tensor;

/// `H = Σ x·xᵀ` over the vectors seen at one site.
#[derive(Clone, Debug, PartialEq)]
pub struct Moments {
    /// Vectors summed.
    pub n: u64,
    /// Their width.
    pub cols: usize,
    /// `H`, `[cols, cols]`, symmetric.
    pub sum: Vec<f64>,
}

impl Moments {
    /// `H[c, c] / n`: the mean square of each column.
    pub fn mean_squares(&self) -> Vec<f64> {
        (0..self.cols).map(|c| self.sum[c * self.cols + c] / self.n.max(1) as f64).collect()
    }

    /// `‖H/n − G/m‖ / ‖H/n‖` (Frobenius) against another's sum `G` over `m` vectors: how far two gatherers are apart.
    ///
    /// # Errors
    /// [`Error::Statistics`] when `sum` is not `[cols, cols]`.
    pub fn relative_difference(&self, sum: &[f64], m: u64) -> Result<f64, Error> {
        if sum.len() != self.sum.len() {
            return Err(Error::Statistics { what: "second moments", need: self.sum.len() as u64, have: sum.len() as u64 });
        }
        let (n, m) = (self.n.max(1) as f64, m.max(1) as f64);
        let apart: f64 = self.sum.iter().zip(sum).map(|(a, b)| (a / n - b / m).powi(2)).sum();
        let whole: f64 = self.sum.iter().map(|a| (a / n).powi(2)).sum();
        Ok((apart / whole.max(f64::MIN_POSITIVE)).sqrt())
    }
}

/// The moments of every site: a [`Tap`] to gather them with. Products are f32 on the device within a text, sums f64 over texts.
#[derive(Debug, Default)]
pub struct Statistics {
    sites: BTreeMap<Site, Moments>,
    failure: Option<Error>,
}

impl Statistics {
    /// Of every site seen, in the order the decoder meets them within a layer; the head's come first.
    pub fn iter(&self) -> impl Iterator<Item = (Site, &Moments)> {
        self.sites.iter().map(|(site, moments)| (*site, moments))
    }

    /// Of one site.
    pub fn get(&self, site: Site) -> Option<&Moments> {
        self.sites.get(&site)
    }

    /// The first failure to read from the device, if there was one.
    ///
    /// # Errors
    /// That failure.
    pub(crate) fn checked(&mut self) -> Result<(), Error> {
        self.failure.take().map_or(Ok(()), Err)
    }

    fn add(&mut self, site: Site, x: &Tensor<2>) -> Result<(), Error> {
        let [n, cols] = x.dims();
        let product = values(x.clone().transpose().matmul(x.clone()))?;
        let moments = self.sites.entry(site).or_insert_with(|| Moments { n: 0, cols, sum: vec![0.0; cols * cols] });
        moments.n += n as u64;
        moments.sum.iter_mut().zip(&product).for_each(|(sum, &p)| *sum += f64::from(p));
        Ok(())
    }
}

impl Tap for Statistics {
    fn input(&mut self, site: Site, x: &Tensor<2>) {
        if self.failure.is_none() {
            self.failure = self.add(site, x).err();
        }
    }
}
