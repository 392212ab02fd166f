//! `--device auto`: the CPU or a GPU, whichever writes faster here. Measured once for a model and a GPU with its driver.

use crate::args;
use anyhow::Result;
use bourn::Compute;
use std::path::Path;

/// Which, and why.
#[cfg(not(feature = "gpu"))]
pub fn choose(_: &Path, _: &args::Open, _: bool) -> Result<(Compute, String)> {
    Ok((Compute::Cpu, "device: cpu: this build has no gpu".to_owned()))
}

#[cfg(feature = "gpu")]
pub use measured::choose;

#[cfg(feature = "gpu")]
mod measured {
    use super::{Compute, Path, Result, args};
    use crate::output::note;
    use crate::{cache, models};
    use bourn::{GenerateOptions, SessionOptions};
    use bourn_format::checksum;
    use bourn_gpu::{Adapter, Choice};
    use std::ops::ControlFlow;

    /// Tokens that each writes to be judged.
    const TOKENS: usize = 16;

    pub fn choose(path: &Path, open: &args::Open, quiet: bool) -> Result<(Compute, String)> {
        if open.ram.is_some() {
            return Ok((Compute::Cpu, "device: cpu: a gpu has no room for a RAM budget".to_owned()));
        }
        let adapter = match Adapter::choose(&Choice::Hardware) {
            Ok(adapter) => adapter,
            Err(e) => return Ok((Compute::Cpu, format!("device: cpu: {e}"))),
        };
        let place = kept_at(path, &adapter)?;
        if let Some(kept) = std::fs::read_to_string(&place).ok().and_then(|text| Speeds::read(&text)) {
            return Ok(kept.choice(&adapter, " (measured before)"));
        }
        let name = &adapter.name;
        note(
            quiet,
            &format!("device: measuring the cpu and {name}, this once; its driver compiles kernels, which may take minutes"),
        );
        let cpu = speed(path, open, Compute::Cpu)?;
        let speeds = match speed(path, open, Compute::Gpu) {
            Ok(gpu) => Speeds { cpu, gpu },
            Err(e) => return Ok((Compute::Cpu, format!("device: cpu: {e:#}"))),
        };
        // A choice that cannot be kept is measured again.
        let _ = std::fs::write(&place, format!("{} {}", speeds.cpu, speeds.gpu));
        Ok(speeds.choice(&adapter, ""))
    }

    /// Tokens per second.
    struct Speeds {
        cpu: f64,
        gpu: f64,
    }

    impl Speeds {
        fn read(text: &str) -> Option<Self> {
            let (cpu, gpu) = text.trim().split_once(' ')?;
            Some(Self { cpu: cpu.parse().ok()?, gpu: gpu.parse().ok()? })
        }

        fn choice(&self, adapter: &Adapter, when: &str) -> (Compute, String) {
            let (device, name) = if self.gpu > self.cpu { (Compute::Gpu, adapter.name.as_str()) } else { (Compute::Cpu, "cpu") };
            (device, format!("device: {name}: the cpu writes {:.1} tok/s, {} {:.1}{when}", self.cpu, adapter.name, self.gpu))
        }
    }

    /// Where the speeds are kept: another image, adapter or driver has another place.
    fn kept_at(path: &Path, adapter: &Adapter) -> Result<std::path::PathBuf> {
        let file = bourn_host::ImageFile::open(path, bourn::StreamKind::Mapped)?;
        let of = format!("{:?} {}", file.image().superblock(), adapter.fingerprint());
        Ok(cache::folder("devices")?.join(format!("{:016x}.txt", checksum(of.as_bytes()))))
    }

    fn speed(path: &Path, open: &args::Open, device: Compute) -> Result<f64> {
        let open = args::Open { device: args::Compute::Given(device), ..open.clone() };
        let model = models::open_image(path, &open)?;
        let context = (2 * TOKENS).min(model.image().shape().max_context as usize);
        let mut session = model.session(&SessionOptions { context: Some(context), ..SessionOptions::default() })?;
        let options =
            GenerateOptions { max_tokens: Some(TOKENS.min(context - 1)), ignore_eos: true, ..GenerateOptions::default() };
        let mut best = 0.0f64;
        for _ in 0..2 {
            session.clear()?;
            best = best.max(session.generate(&[0], &options, &mut |_| ControlFlow::Continue(()))?.decode_tok_s);
        }
        Ok(best)
    }
}
