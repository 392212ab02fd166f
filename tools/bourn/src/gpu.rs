//! GPUs: the list of them, what a session did on one, what helps when there is none.

use crate::cache;
use crate::output::bytes;
use anyhow::Result;
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

/// What a session did on a GPU: null on the CPU.
pub fn stats(session: &bourn::Session<'_>) -> Value {
    #[cfg(feature = "gpu")]
    return with_feature::stats(session);
    #[cfg(not(feature = "gpu"))]
    {
        let _ = session;
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
    use crate::output::{bytes, round3};
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
    fn bandwidth(adapter: &Adapter) -> Result<f64, Error> {
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

    pub fn stats(session: &bourn::Session<'_>) -> Value {
        session.gpu_stats().map_or(Value::Null, |s| {
            object!({
                "dispatches_per_token": s.dispatches,
                "host_us_per_token": round3(host_us(&s)),
                "bytes_per_token": s.bytes_per_token,
                "candidates_per_token": round3(s.candidates),
                "weight_bytes": s.weight_bytes,
                "session_bytes": s.session_bytes,
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
