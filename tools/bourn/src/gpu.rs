//! GPUs: the list of them, what a session did on one, what helps when there is none.

use crate::cache;
use crate::output::bytes;
use anyhow::Result;
use serde::Serialize;
use serde_json::Value;
use std::fmt::Write;
use std::fs;

/// What may help with an error of a GPU.
pub fn hint(e: &(dyn std::error::Error + 'static)) -> Option<String> {
    match e.downcast_ref::<bourn::Error>()? {
        bourn::Error::NoGpuBuild => {
            Some("build one: cargo build --release -p bourn-cli --features gpu; or --device cpu".to_owned())
        }
        bourn::Error::GpuRam => Some("leave --ram out, or --device cpu".to_owned()),
        #[cfg(feature = "gpu")]
        bourn::Error::Gpu(e) => with_feature::hint(e),
        _ => None,
    }
}

/// Lets the model find the fastest kernels of its GPU, unless that was done before: what was found is kept for this GPU and driver.
pub fn tune(model: &bourn::Model) -> Result<()> {
    let Some(fingerprint) = model.gpu_fingerprint() else { return Ok(()) };
    let name = format!("{:016x}.kernels", bourn_format::checksum(fingerprint.as_bytes()));
    let place = cache::folder("devices").map(|folder| folder.join(name));
    let known = place.as_ref().ok().and_then(|place| fs::read_to_string(place).ok()).unwrap_or_default();
    if let (Some(found), Ok(place)) = (model.tune(&known)?, place) {
        // What cannot be kept is measured again.
        let partial = cache::partial(&place);
        let _ = fs::write(&partial, found).and_then(|()| fs::rename(&partial, &place));
    }
    Ok(())
}

/// What the adapters are, as JSON: null in a build without the feature.
pub fn adapters() -> Value {
    #[cfg(feature = "gpu")]
    return with_feature::adapters();
    #[cfg(not(feature = "gpu"))]
    Value::Null
}

/// The same in lines.
pub fn text(adapters: &Value) -> String {
    let Some(all) = adapters.as_array() else {
        return if cfg!(feature = "gpu") { String::new() } else { "gpu       this build does not look for one\n".to_owned() };
    };
    if all.is_empty() {
        return "gpu       none found: no Vulkan driver\n".to_owned();
    }
    let mut out = String::new();
    for a in all {
        let word = |key: &str| a[key].as_str().unwrap_or_default().to_owned();
        let number = |key: &str| a[key].as_u64().unwrap_or_default();
        let offers = [("f16", "f16"), ("subgroups", "subgroups")].iter().filter(|(key, _)| a[*key] == true);
        let offers: String = offers.map(|(_, name)| format!(", {name}")).collect();
        let _ = writeln!(out, "gpu       {} ({}, {} {})", word("name"), word("type"), word("backend"), word("driver"));
        let _ = writeln!(
            out,
            "          binds {}, {} invocations, {} of workgroup memory, {} storage buffers{offers}",
            bytes(number("max_binding_bytes")),
            number("max_invocations"),
            bytes(number("max_workgroup_bytes")),
            number("max_storage_buffers"),
        );
        match a["read_bandwidth_gb_s"].as_f64() {
            Some(gb_s) => _ = writeln!(out, "          reads {gb_s:.1} GB/s"),
            None => _ = writeln!(out, "          cannot be opened: {}", word("error")),
        }
    }
    out
}

/// What the dispatches of one kernel take in a token.
#[derive(Debug, Serialize)]
pub struct KernelTime {
    kernel: String,
    dispatches: usize,
    us: f64,
    bytes: u64,
    gb_s: f64,
}

/// What each kernel takes after `prompt`; nothing on the CPU.
pub fn profile(session: &mut bourn::Session<'_>, prompt: &[u32]) -> Result<Vec<KernelTime>> {
    #[cfg(feature = "gpu")]
    return with_feature::profile(session, prompt);
    #[cfg(not(feature = "gpu"))]
    {
        let _ = (session, prompt);
        Ok(Vec::new())
    }
}

/// A profile in lines, beside what the memory gives.
pub fn table(profile: &[KernelTime], bandwidth: f64) -> String {
    let whole: f64 = profile.iter().map(|k| k.us).sum();
    let mut out = String::new();
    if profile.is_empty() {
        return out;
    }
    let _ = writeln!(out, "\n{:<32}{:>11}{:>10}{:>8}{:>10}{:>10}", "kernel", "dispatches", "us", "share", "MB", "GB/s");
    let mut row = |name: &str, dispatches: usize, us: f64, read: u64| {
        let rate = if read == 0 || us == 0.0 { String::new() } else { format!("{:.1}", read as f64 / us / 1e3) };
        let read = if read == 0 { String::new() } else { format!("{:.2}", read as f64 / 1e6) };
        let share = 100.0 * us / whole;
        let _ = writeln!(out, "{name:<32}{dispatches:>11}{us:>10.1}{share:>6.1} %{read:>10}{rate:>10}");
    };
    for k in profile {
        row(&k.kernel, k.dispatches, k.us, k.bytes);
    }
    row("all", profile.iter().map(|k| k.dispatches).sum(), whole, profile.iter().map(|k| k.bytes).sum());
    let _ = writeln!(out, "{:<32}{:>49.1}", "the memory gives", bandwidth / 1e9);
    out
}

/// Bytes of weights that a token reads on the GPU; `None` on the CPU.
pub fn bytes_per_token(session: &bourn::Session<'_>) -> Option<u64> {
    #[cfg(feature = "gpu")]
    return session.gpu_stats().map(|s| s.bytes_per_token);
    #[cfg(not(feature = "gpu"))]
    {
        let _ = session;
        None
    }
}

/// What a session did on a GPU: null on the CPU.
pub fn stats(session: &bourn::Session<'_>, profile: &[KernelTime]) -> Value {
    #[cfg(feature = "gpu")]
    return with_feature::stats(session, profile);
    #[cfg(not(feature = "gpu"))]
    {
        let _ = (session, profile);
        Value::Null
    }
}

/// The same in a line.
pub fn stats_line(session: &bourn::Session<'_>) -> Option<String> {
    #[cfg(feature = "gpu")]
    return with_feature::stats_line(session);
    #[cfg(not(feature = "gpu"))]
    {
        let _ = session;
        None
    }
}

#[cfg(feature = "gpu")]
mod with_feature {
    use super::KernelTime;
    use crate::output::{bytes, round3};
    use crate::signal;
    use anyhow::Result;
    use bourn_gpu::{Adapter, Device, DeviceOptions, Error, GpuStats};
    use serde_json::{Value, json as object};

    pub fn hint(e: &Error) -> Option<String> {
        Some(match e {
            Error::NoAdapter { .. } => {
                "install a Vulkan driver (on Debian: apt-get install mesa-vulkan-drivers libvulkan1); bourn board lists what is found"
                    .to_owned()
            }
            Error::SoftwareOnly { found } => {
                let name = found.first().map_or("", |n| n.split_whitespace().next().unwrap_or(n));
                format!("--device cpu is faster; to use it all the same: --device gpu:{name}")
            }
            Error::OutOfMemory { .. } | Error::BindingTooLarge { .. } => {
                "a smaller --context takes less; or --device cpu".to_owned()
            }
            Error::DeviceLost { .. } | Error::Stalled { .. } | Error::Driver { .. } => "run it again, or --device cpu".to_owned(),
            _ => return None,
        })
    }

    /// Bytes per second that the adapter reads.
    fn bandwidth(adapter: &Adapter) -> std::result::Result<f64, Error> {
        Device::open(adapter.clone(), &DeviceOptions::default())?.read_bandwidth()
    }

    pub fn adapters() -> Value {
        let all = Adapter::all();
        all.iter()
            .map(|a| {
                let l = &a.limits;
                let read = bandwidth(a);
                object!({
                    "name": a.name,
                    "backend": a.backend,
                    "driver": a.driver,
                    "type": a.kind.name(),
                    "f16": a.f16,
                    "subgroups": a.subgroups,
                    "subgroup_size": [a.subgroup_size.0, a.subgroup_size.1],
                    "max_binding_bytes": l.max_storage_buffer_binding_size,
                    "max_buffer_bytes": l.max_buffer_size,
                    "max_invocations": l.max_compute_invocations_per_workgroup,
                    "max_workgroup_bytes": l.max_compute_workgroup_storage_size,
                    "max_storage_buffers": l.max_storage_buffers_per_shader_stage,
                    "read_bandwidth_gb_s": read.as_ref().ok().map(|b| round3(b / 1e9)),
                    "error": read.err().map(|e| e.to_string()),
                })
            })
            .collect()
    }

    fn host_us(s: &GpuStats) -> f64 {
        if s.tokens == 0 { 0.0 } else { s.host.as_secs_f64() * 1e6 / s.tokens as f64 }
    }

    /// Tokens of a profile; of each kernel the least time counts.
    const TOKENS: usize = 8;

    pub fn profile(session: &mut bourn::Session<'_>, prompt: &[u32]) -> Result<Vec<KernelTime>> {
        session.clear()?;
        // Room is left for the tokens that are timed.
        let read = &prompt[..prompt.len().min(session.context().saturating_sub(TOKENS).max(1))];
        session.read(read)?;
        let mut least: Vec<bourn_gpu::KernelTime> = Vec::new();
        for _ in 0..TOKENS.min(session.context() - read.len()) {
            if signal::stopped() {
                break;
            }
            for new in session.gpu_profile(read[0])?.unwrap_or_default() {
                match least.iter_mut().find(|k| k.kernel == new.kernel) {
                    Some(k) if k.time <= new.time => {}
                    Some(k) => *k = new,
                    None => least.push(new),
                }
            }
        }
        least.sort_by_key(|k| std::cmp::Reverse(k.time));
        let row = |k: &bourn_gpu::KernelTime| KernelTime {
            kernel: k.kernel.clone(),
            dispatches: k.dispatches,
            us: round3(k.time.as_secs_f64() * 1e6),
            bytes: k.bytes,
            gb_s: round3(k.bandwidth() / 1e9),
        };
        Ok(least.iter().map(row).collect())
    }

    pub fn stats(session: &bourn::Session<'_>, profile: &[KernelTime]) -> Value {
        session.gpu_stats().map_or(Value::Null, |s| {
            object!({
                "dispatches_per_token": s.dispatches,
                "host_us_per_token": round3(host_us(&s)),
                "bytes_per_token": s.bytes_per_token,
                "candidates_per_token": round3(s.candidates),
                "weight_bytes": s.weight_bytes,
                "session_bytes": s.session_bytes,
                "profile": profile,
            })
        })
    }

    pub fn stats_line(session: &bourn::Session<'_>) -> Option<String> {
        let s = session.gpu_stats()?;
        Some(format!(
            "gpu       {:>10} dispatches per token, {:.0} us of the host; reads {} per token",
            s.dispatches,
            host_us(&s),
            bytes(s.bytes_per_token)
        ))
    }
}
