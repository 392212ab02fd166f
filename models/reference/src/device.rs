//! Backends by name, chosen at run time.

use crate::Error;
use burn::tensor::Device;
#[cfg(feature = "wgpu")]
use burn::tensor::DeviceKind;

/// The names that [`device()`] knows in this build.
pub const NAMES: &[&str] = &[
    "ndarray",
    #[cfg(feature = "flex")]
    "flex",
    #[cfg(feature = "wgpu")]
    "wgpu:discrete",
    #[cfg(feature = "wgpu")]
    "wgpu:integrated",
    #[cfg(feature = "wgpu")]
    "wgpu:software",
];

/// The backend of that name: `ndarray`; with its feature `flex`; with its feature `wgpu:discrete`, `wgpu:integrated`, and
/// `wgpu:software` (a Vulkan driver on the CPU, which is never chosen unless asked for).
///
/// # Errors
/// [`Error::Device`] for another name.
pub fn device(name: &str) -> Result<Device, Error> {
    match name {
        "ndarray" => Ok(ndarray()),
        #[cfg(feature = "flex")]
        "flex" => Ok(Device::flex()),
        #[cfg(feature = "wgpu")]
        "wgpu:discrete" => Ok(Device::wgpu(DeviceKind::DiscreteGpu(0))),
        #[cfg(feature = "wgpu")]
        "wgpu:integrated" => Ok(Device::wgpu(DeviceKind::IntegratedGpu(0))),
        #[cfg(feature = "wgpu")]
        "wgpu:software" => Ok(Device::wgpu(DeviceKind::Cpu)),
        _ => Err(Error::Device { name: name.to_owned(), known: NAMES.join(", ") }),
    }
}

/// burn-ndarray is the oracle the project names; its last release is 0.22, after which `flex` takes its place.
#[allow(deprecated)]
fn ndarray() -> Device {
    Device::ndarray()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_what_there_is_when_asked_for_what_there_is_not() {
        let error = device("abacus").unwrap_err().to_string();
        assert!(error.starts_with("no backend abacus in this build: there are ndarray"), "{error}");
    }
}
