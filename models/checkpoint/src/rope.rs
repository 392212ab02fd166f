//! Rope parameters → tables of `inv_freq`, computed in f32 as transformers does.
//!
//! Source: transformers, modeling_rope_utils.py; the papers are named at each function.

use crate::Error;
use crate::config::{Config, Keys};
use crate::spec::RopeSpec;

/// The kinds that are known.
const KINDS: &str = "default, linear, llama3, yarn, longrope";

/// The rope of one kind of layer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rope<'a> {
    /// `rope_parameters`, `rope_scaling` or neither.
    params: Option<Keys<'a>>,
    config: Config<'a>,
    theta: f64,
}

impl<'a> Rope<'a> {
    /// The rope of full (and, where they have no other, sliding) layers. transformers 5 has all of it in `rope_parameters`,
    /// by kind of layer where kinds differ; earlier `rope_theta` stands beside `rope_scaling`.
    pub(crate) fn full(config: Config<'a>, default_theta: f64) -> Result<Self, Error> {
        let flat = match config.text.object("rope_parameters")? {
            Some(all) => Some(all.object("full_attention")?.unwrap_or(all)),
            None => config.text.object("rope_scaling")?,
        };
        let inside = flat.map_or(Ok(None), |p| p.positive("rope_theta"))?;
        let theta = inside.or(config.text.positive("rope_theta")?).unwrap_or(default_theta);
        Ok(Self { params: flat, config, theta })
    }

    /// Gemma 3's second rope: sliding layers have their own base and no scaling.
    pub(crate) fn local(config: Config<'a>, default_theta: f64) -> Result<Self, Error> {
        let params = match config.text.object("rope_parameters")? {
            Some(all) => all.object("sliding_attention")?,
            None => None,
        };
        let inside = params.map_or(Ok(None), |p| p.positive("rope_theta"))?;
        let theta = inside.or(config.text.positive("rope_local_base_freq")?).unwrap_or(default_theta);
        Ok(Self { params, config, theta })
    }

    /// A number of the parameters above 0.
    fn number(&self, key: &str) -> Result<Option<f64>, Error> {
        self.params.map_or(Ok(None), |p| p.positive(key))
    }

    fn need(&self, key: &str) -> Result<f64, Error> {
        self.number(key)?.ok_or_else(|| Error::missing(format!("rope parameter {key}"), self.config.text.place))
    }

    /// `original_max_position_embeddings`: among the parameters, or beside them (Phi-3).
    pub(crate) fn original_context(&self) -> Result<Option<f64>, Error> {
        const KEY: &str = "original_max_position_embeddings";
        Ok(self.number(KEY)?.or(self.config.text.positive(KEY)?))
    }

    /// `llama_4_scaling_beta`: queries grow with the position (Ministral 3).
    pub(crate) fn temperature_beta(&self) -> Result<Option<f64>, Error> {
        self.number("llama_4_scaling_beta")
    }

    /// Dimensions of a head that are turned.
    pub(crate) fn rotary_dim(&self, head_dim: u32) -> Result<u32, Error> {
        let exact = self.config.text.u32("rotary_dim")?;
        let inside = self.number("partial_rotary_factor")?;
        let part = inside.or(self.config.text.positive("partial_rotary_factor")?).unwrap_or(1.0);
        let dim = exact.unwrap_or((f64::from(head_dim) * part) as u32);
        if dim == 0 || dim > head_dim || dim % 2 != 0 {
            return Err(Error::invalid("rotary dimensions of a head", format!("an even number up to {head_dim}"), dim));
        }
        Ok(dim)
    }

    /// The tables, by the context from which each holds.
    pub(crate) fn tables(&self, sliding: bool, rotary_dim: u32, max_context: u32) -> Result<Vec<RopeSpec>, Error> {
        let kind = match self.params {
            Some(p) => p.str("rope_type")?.or(p.str("type")?).unwrap_or("default"),
            None => "default",
        };
        let n = rotary_dim as usize / 2;
        let inverse: Vec<f32> = self.base_powers(n).into_iter().map(|power| 1.0 / power).collect();
        let mut tables = match kind {
            "default" | "none" => vec![(0, 1.0, inverse)],
            "linear" => {
                let factor = self.need("factor")? as f32;
                vec![(0, 1.0, inverse.into_iter().map(|f| f / factor).collect())]
            }
            "llama3" => vec![(0, 1.0, self.llama3(inverse)?)],
            "yarn" => vec![self.yarn(n, max_context)?],
            "longrope" | "su" => self.longrope(n, max_context)?,
            "divisors" => {
                let divisors = self.factors("divisors", n)?;
                vec![(0, 1.0, inverse.into_iter().zip(divisors).map(|(f, d)| f / d).collect())]
            }
            _ => {
                let what = format!("rope type {}", crate::error::clip(kind));
                return Err(Error::Unsupported { what, supported: KINDS.to_owned() });
            }
        };
        if let Some(f) = tables.iter().flat_map(|(_, factor, table)| table.iter().chain([factor])).find(|f| !f.is_finite()) {
            return Err(Error::invalid("rope table", "finite numbers", f));
        }
        tables.sort_by_key(|table| table.0);
        let spec = |(min_context, factor, inv_freq)| RopeSpec { sliding, min_context, factor, inv_freq };
        Ok(tables.into_iter().map(spec).collect())
    }

    /// `θ^(2i/dim)` for each pair: exponent in f32, power rounded to f32.
    fn base_powers(&self, n: usize) -> Vec<f32> {
        let theta = f64::from(self.theta as f32);
        (0..n).map(|i| theta.powf(f64::from((2 * i) as f32 / (2 * n) as f32)) as f32).collect()
    }

    /// One factor for each pair.
    fn factors(&self, key: &str, n: usize) -> Result<Vec<f32>, Error> {
        let list = self.params.map_or(Ok(None), |p| p.positives(key))?;
        let list = list.ok_or_else(|| Error::missing(format!("rope parameter {key}"), self.config.text.place))?;
        if list.len() != n {
            return Err(Error::invalid(format!("rope parameter {key}"), format!("{n} numbers"), list.len()));
        }
        Ok(list)
    }

    /// Three bands by wavelength: short ones stay, long ones are stretched, between them a ramp.
    ///
    /// Source: Llama 3.1 model card and reference code.
    fn llama3(&self, inverse: Vec<f32>) -> Result<Vec<f32>, Error> {
        let (factor, low, high) =
            (self.need("factor")? as f32, self.need("low_freq_factor")? as f32, self.need("high_freq_factor")? as f32);
        let old = match self.original_context()? {
            Some(old) => old as f32,
            None => return Err(Error::missing("rope parameter original_max_position_embeddings", self.config.text.place)),
        };
        let (longest, shortest) = (old / low, old / high);
        let band = |f: f32| {
            let wavelength = (2.0 * std::f64::consts::PI) as f32 / f;
            let stretched = if wavelength > longest { f / factor } else { f };
            if wavelength < shortest || wavelength > longest {
                return stretched;
            }
            let smooth = (old / wavelength - low) / (high - low);
            (1.0 - smooth) * stretched / factor + smooth * stretched
        };
        Ok(inverse.into_iter().map(band).collect())
    }

    /// Interpolated below `low`, extrapolated above `high`, a ramp between; cos and sin scaled.
    ///
    /// Source: Peng et al., YaRN (arXiv 2309.00071).
    fn yarn(&self, n: usize, max_context: u32) -> Result<(u32, f32, Vec<f32>), Error> {
        let original = self.original_context()?;
        let context = original.unwrap_or(f64::from(max_context));
        let factor = match self.number("factor")? {
            Some(factor) => factor,
            None if original.is_some() => f64::from(max_context) / context,
            None => return Err(Error::missing("rope parameter factor", self.config.text.place)),
        };
        let mscale = |scale: f64, m: f64| if scale <= 1.0 { 1.0 } else { 0.1 * m * scale.ln() + 1.0 };
        let attention = match (self.number("attention_factor")?, self.number("mscale")?, self.number("mscale_all_dim")?) {
            (Some(attention), ..) => attention,
            (None, Some(m), Some(all)) => mscale(factor, m) / mscale(factor, all),
            _ => mscale(factor, 1.0),
        };
        let (fast, slow) = (self.number("beta_fast")?.unwrap_or(32.0), self.number("beta_slow")?.unwrap_or(1.0));
        let dim = 2.0 * n as f64;
        let correction =
            |rotations: f64| dim * (context / (rotations * 2.0 * std::f64::consts::PI)).ln() / (2.0 * self.theta.ln());
        let (mut low, mut high) = (correction(fast), correction(slow));
        if self.params.map_or(Ok(None), |p| p.bool("truncate"))?.unwrap_or(true) {
            (low, high) = (low.floor(), high.ceil());
        }
        (low, high) = (low.max(0.0), high.min(dim - 1.0));
        if low == high {
            high += 0.001;
        }
        let blend = |(i, power): (usize, f32)| {
            let ramp = ((i as f32 - low as f32) / (high - low) as f32).clamp(0.0, 1.0);
            let keep = 1.0 - ramp;
            1.0 / (factor as f32 * power) * (1.0 - keep) + 1.0 / power * keep
        };
        Ok((0, attention as f32, self.base_powers(n).into_iter().enumerate().map(blend).collect()))
    }

    /// Two tables: short factors up to the original context, long ones for sessions beyond it; cos and sin scaled in both.
    ///
    /// Source: Ding et al., LongRoPE (arXiv 2402.13753); Phi-3 and Phi-4-mini model code.
    fn longrope(&self, n: usize, max_context: u32) -> Result<Vec<(u32, f32, Vec<f32>)>, Error> {
        let original = self.original_context()?;
        let context = original.unwrap_or(f64::from(max_context));
        let factor = match original {
            Some(original) => f64::from(max_context) / original,
            None => self.number("factor")?.unwrap_or(1.0),
        };
        let attention = match self.number("attention_factor")? {
            Some(attention) => attention,
            None if factor <= 1.0 => 1.0,
            None => (1.0 + factor.ln() / context.ln()).sqrt(),
        };
        let powers = self.base_powers(n);
        let table = |factors: Vec<f32>| factors.into_iter().zip(&powers).map(|(f, power)| 1.0 / (f * power)).collect();
        let (short, long) = (self.factors("short_factor", n)?, self.factors("long_factor", n)?);
        let from = (context as u32).saturating_add(1);
        Ok(vec![(0, attention as f32, table(short)), (from, attention as f32, table(long))])
    }
}
