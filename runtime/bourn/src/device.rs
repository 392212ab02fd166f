//! What computes: the CPU, or a GPU.

use crate::Error;
#[cfg(feature = "gpu")]
use bourn_gpu::{Adapter, Choice, Device, DeviceOptions, GpuModel};
use bourn_host::ImageFile;
#[cfg(feature = "gpu")]
use std::sync::Arc;

/// What is to compute.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Compute {
    /// The CPU.
    #[default]
    Cpu,
    /// The first GPU that is hardware.
    Gpu,
    /// The GPU whose name contains this; one that computes on the CPU too.
    GpuNamed(String),
}

/// An image on a GPU.
#[cfg(feature = "gpu")]
pub(crate) type OnGpu = Arc<GpuModel>;
/// No image is on a GPU in this build.
#[cfg(not(feature = "gpu"))]
pub(crate) type OnGpu = std::convert::Infallible;

/// Writes the image's weights to the GPU that was asked for; `None` for the CPU.
#[cfg(feature = "gpu")]
pub(crate) fn open(compute: &Compute, file: &ImageFile) -> Result<Option<OnGpu>, Error> {
    let choice = match compute {
        Compute::Cpu => return Ok(None),
        Compute::Gpu => Choice::Hardware,
        Compute::GpuNamed(name) => Choice::Named(name.clone()),
    };
    let device = Device::open(Adapter::choose(&choice)?, &DeviceOptions::default())?;
    Ok(Some(Arc::new(GpuModel::new(device, file.image(), &mut file.stream())?)))
}

#[cfg(not(feature = "gpu"))]
pub(crate) fn open(compute: &Compute, _: &ImageFile) -> Result<Option<OnGpu>, Error> {
    if *compute == Compute::Cpu { Ok(None) } else { Err(Error::NoGpuBuild) }
}
