//! What is to compute: `--device`.

/// What computes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Compute {
    /// What was said.
    Given(bourn::Compute),
    /// The faster of the CPU and the first GPU that is hardware.
    Auto,
}

/// `cpu`, `gpu`, `gpu:NAME`, `auto`.
pub fn parse(text: &str) -> Result<Compute, String> {
    Ok(match text {
        "auto" => Compute::Auto,
        "cpu" => Compute::Given(bourn::Compute::Cpu),
        "gpu" => Compute::Given(bourn::Compute::Gpu),
        _ => match text.strip_prefix("gpu:") {
            Some(name) if !name.is_empty() => Compute::Given(bourn::Compute::GpuNamed(name.to_owned())),
            _ => return Err("need cpu, gpu, gpu:NAME or auto".to_owned()),
        },
    })
}
