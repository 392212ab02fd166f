//! The decoder on a GPU: kernels written in CubeCL, compiled to WGSL by its compiler, driven by wgpu.
//!
//! Modules in path order: [`adapter`] (what there is) → [`device`] (what was opened) → [`weights`] (the image on it) → `kernels` (in
//! CubeCL) → `compile` (WGSL, pipelines) → `program` (dispatches) → `record` (the decoder as dispatches), `screen` (a screened
//! head), `select` (the best logits) → [`session`]; [`tune`]
//! measures which form of a kernel is the fastest.
#![deny(unsafe_code)]

pub mod adapter;
mod bandwidth;
mod buffers;
mod compile;
pub mod device;
mod dot;
mod error;
mod fma;
mod kernels;
mod program;
mod record;
mod screen;
mod select;
pub mod session;
pub mod tune;
mod wait;
pub mod weights;

pub use adapter::{Adapter, Choice, Kind};
pub use device::{Device, DeviceOptions};
pub use error::Error;
pub use fma::Fma;
pub use session::{GpuModel, GpuOptions, GpuSession, GpuStats, KernelTime};
pub use tune::Choices;
pub use weights::Weights;
