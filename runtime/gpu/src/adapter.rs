//! The adapters of this machine: what they are, what they offer, which one is taken.

use crate::Error;
use crate::wait::block_on;

/// The kernels' edition: one more with every change that may make another form the fastest.
const KERNELS: u32 = 2;

/// Which adapter to take.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Choice {
    /// The first that is hardware: discrete before integrated.
    Hardware,
    /// The first whose name, driver or number contains this, whatever the case; software too.
    Named(String),
}

/// What an adapter is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A card with memory of its own.
    Discrete,
    /// Shares memory with the CPU.
    Integrated,
    /// Part of a virtual machine.
    Virtual,
    /// Computes on the CPU: never chosen unless asked for by name.
    Software,
    /// The driver does not say.
    Other,
}

impl Kind {
    /// The word for it in lists and JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Discrete => "discrete",
            Self::Integrated => "integrated",
            Self::Virtual => "virtual",
            Self::Software => "software",
            Self::Other => "other",
        }
    }
}

/// An adapter as it describes itself.
#[derive(Clone, Debug)]
pub struct Adapter {
    /// The driver's name for it.
    pub name: String,
    /// `vulkan`, `metal` …
    pub backend: String,
    /// The driver and its version.
    pub driver: String,
    /// What it is.
    pub kind: Kind,
    /// Offers half floats in shaders.
    pub f16: bool,
    /// Offers subgroup operations.
    pub subgroups: bool,
    /// Smallest and largest subgroup.
    pub subgroup_size: (u32, u32),
    /// Its limits.
    pub limits: wgpu::Limits,
    pub(crate) inner: wgpu::Adapter,
}

/// The backends that are looked at. Vulkan is loaded at run time: a program with this crate starts without it.
fn instance() -> wgpu::Instance {
    let mut descriptor = wgpu::InstanceDescriptor::new_without_display_handle();
    descriptor.backends = wgpu::Backends::VULKAN;
    descriptor.flags = wgpu::InstanceFlags::empty();
    wgpu::Instance::new(descriptor)
}

impl Adapter {
    fn new(inner: wgpu::Adapter) -> Self {
        let info = inner.get_info();
        let features = inner.features();
        let kind = match info.device_type {
            wgpu::DeviceType::DiscreteGpu => Kind::Discrete,
            wgpu::DeviceType::IntegratedGpu => Kind::Integrated,
            wgpu::DeviceType::VirtualGpu => Kind::Virtual,
            wgpu::DeviceType::Cpu => Kind::Software,
            wgpu::DeviceType::Other => Kind::Other,
        };
        Self {
            backend: info.backend.to_str().to_owned(),
            driver: format!("{} {}", info.driver, info.driver_info).trim().to_owned(),
            kind,
            f16: features.contains(wgpu::Features::SHADER_F16),
            subgroups: features.contains(wgpu::Features::SUBGROUP),
            subgroup_size: (info.subgroup_min_size, info.subgroup_max_size),
            limits: inner.limits(),
            name: info.name,
            inner,
        }
    }

    /// All adapters, in the order in which the drivers list them.
    pub fn all() -> Vec<Self> {
        block_on(instance().enumerate_adapters(wgpu::Backends::VULKAN)).into_iter().map(Self::new).collect()
    }

    /// The adapter that `choice` takes.
    ///
    /// # Errors
    /// [`Error::NoAdapter`], [`Error::SoftwareOnly`].
    pub fn choose(choice: &Choice) -> Result<Self, Error> {
        let all = Self::all();
        let found: Vec<String> = all.iter().map(|a| a.name.clone()).collect();
        match choice {
            Choice::Named(name) => {
                let wanted = name.to_lowercase();
                let answers = |text: &str| text.to_lowercase().contains(&wanted);
                let index = wanted.parse::<usize>().ok();
                let mut all = all.into_iter().enumerate();
                let hit = all.find(|(i, a)| index == Some(*i) || answers(&a.name) || answers(&a.driver));
                hit.map(|(_, a)| a).ok_or_else(|| Error::NoAdapter { need: format!("one named {name}"), found })
            }
            Choice::Hardware => {
                let rank = |a: &Self| match a.kind {
                    Kind::Discrete => 0,
                    Kind::Integrated => 1,
                    Kind::Virtual | Kind::Other => 2,
                    Kind::Software => 3,
                };
                let best = all.into_iter().min_by_key(rank);
                match best {
                    None => Err(Error::NoAdapter { need: "an adapter with a Vulkan driver".to_owned(), found }),
                    Some(a) if a.kind == Kind::Software => Err(Error::SoftwareOnly { found }),
                    Some(a) => Ok(a),
                }
            }
        }
    }

    /// What is measured on it is kept under: this adapter with this driver and these kernels.
    pub fn fingerprint(&self) -> String {
        format!("{} {} {} {KERNELS}", self.backend, self.name, self.driver)
    }
}
