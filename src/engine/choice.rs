//! Which backend to run on: by name, on a device of some name, or by what is there.

use super::Error;
use crate::backend;
#[cfg(feature = "cuda")]
use crate::backend::cuda::{self, DeviceChoice, DeviceSummary, Pass};
#[cfg(feature = "wgpu")]
use crate::backend::wgpu::{self, AdapterChoice, AdapterSummary};

/// Which backend to run on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum BackendChoice {
    /// The fastest there is; the report says which and why.
    #[default]
    Auto,
    /// The fast CPU path.
    Cpu,
    /// The scalar specification.
    Twin,
    /// PTX through the CUDA driver.
    #[cfg(feature = "cuda")]
    Cuda(DeviceChoice),
    /// WGSL on Vulkan, Metal or DX12.
    #[cfg(feature = "wgpu")]
    Wgpu(AdapterChoice),
}

impl BackendChoice {
    /// The names that `--backend` takes.
    pub const NAMES: &[&str] = &[
        "auto",
        "cpu",
        "twin",
        #[cfg(feature = "cuda")]
        "cuda",
        #[cfg(feature = "wgpu")]
        "wgpu",
    ];

    /// The choice of this name. `cuda:DEVICE` and `wgpu:ADAPTER` name a part of a device's name, or its index.
    ///
    /// # Errors
    /// The backend is not built into this program, or there is none of this name.
    pub fn from_name(name: &str) -> Result<Self, Error> {
        let (backend, device) = match name.split_once(':') {
            Some((backend, device)) => (backend, Some(device.to_owned())),
            None => (name, None),
        };
        match (backend, device) {
            ("auto", None) => Ok(Self::Auto),
            ("cpu", None) => Ok(Self::Cpu),
            ("twin", None) => Ok(Self::Twin),
            #[cfg(feature = "cuda")]
            ("cuda", device) => Ok(Self::Cuda(DeviceChoice { device, ..DeviceChoice::default() })),
            #[cfg(feature = "wgpu")]
            ("wgpu", adapter) => Ok(Self::Wgpu(AdapterChoice::of_user(adapter, false))),
            _ => {
                let built_in = Self::NAMES.join(", ");
                let what = format!("`{name}` is not built into this program; there are {built_in}");
                Err(backend::Error::Unavailable { backend: "unknown", reason: what }.into())
            }
        }
    }

    /// The same on a device that the user has named, or, with wgpu, on one that may be a CPU. Backends without devices
    /// stay as they are. To name a device is to ask for one: `auto` becomes CUDA where it has a device of that name, wgpu
    /// otherwise.
    #[must_use]
    #[cfg_attr(not(feature = "wgpu"), expect(unused_variables, reason = "there is no such CPU"))]
    pub fn on_device(self, device: Option<&str>, allow_software: bool) -> Self {
        match (self, device) {
            #[cfg(feature = "cuda")]
            (Self::Cuda(choice), _) => {
                Self::Cuda(DeviceChoice { device: device.map(str::to_owned).or(choice.device), ..choice })
            }
            #[cfg(feature = "cuda")]
            (Self::Auto, Some(name)) if cuda_has(name) => {
                Self::Cuda(DeviceChoice { device: Some(name.to_owned()), ..DeviceChoice::default() })
            }
            #[cfg(feature = "wgpu")]
            (Self::Auto, Some(name)) => {
                Self::Wgpu(AdapterChoice::of_user(Some(name.to_owned()), allow_software))
            }
            #[cfg(feature = "wgpu")]
            (Self::Wgpu(choice), _) => Self::Wgpu(AdapterChoice {
                adapter: device.map(str::to_owned).or(choice.adapter),
                allow_software: allow_software || choice.allow_software,
                ..choice
            }),
            (other, _) => other,
        }
    }

    /// The same with passes over a decode plan launched in this way, where the backend is CUDA; others stay as they are.
    /// To ask for a persistent kernel is to ask for CUDA: `auto` becomes that.
    #[must_use]
    #[cfg(feature = "cuda")]
    pub fn with_cuda_pass(self, pass: Option<Pass>) -> Self {
        match (self, pass) {
            (Self::Cuda(choice), Some(pass)) => Self::Cuda(DeviceChoice { pass, ..choice }),
            (Self::Auto, Some(pass @ Pass::Persistent)) => {
                Self::Cuda(DeviceChoice { pass, ..DeviceChoice::default() })
            }
            (other, _) => other,
        }
    }
}

/// Whether there is a CUDA device of this name or index that is not a simulator.
#[cfg(feature = "cuda")]
fn cuda_has(name: &str) -> bool {
    let is_it = |device: &DeviceSummary| {
        device.index.to_string() == name || device.name.to_lowercase().contains(&name.to_lowercase())
    };
    cuda::list_devices().is_ok_and(|devices| devices.iter().any(|device| !device.simulated && is_it(device)))
}

/// What `auto` takes on this machine, and why.
pub(super) fn automatic() -> (BackendChoice, String) {
    #[cfg(feature = "cuda")]
    if let Some(found) = cuda::list_devices().ok().and_then(|devices| cuda_device(&devices)) {
        return found;
    }
    #[cfg(feature = "wgpu")]
    return adapter(&if may_have_gpu() { wgpu::list_adapters() } else { Vec::new() });
    #[cfg(not(feature = "wgpu"))]
    (BackendChoice::Cpu, "chosen by `auto`: there is no CUDA device".to_owned())
}

/// The first CUDA device that the kernels are for. A simulator is never taken.
#[cfg(feature = "cuda")]
fn cuda_device(devices: &[DeviceSummary]) -> Option<(BackendChoice, String)> {
    let device = devices.iter().find(|device| !device.simulated && device.has_kernels())?;
    let choice = DeviceChoice { device: Some(device.index.to_string()), ..DeviceChoice::default() };
    Some((BackendChoice::Cuda(choice), format!("chosen by `auto`: {} is there", device.name)))
}

/// Whether a driver has made a GPU's device file. To ask Vulkan loads every driver there is, which takes time and, on a
/// machine without a display, prints their complaints.
#[cfg(feature = "wgpu")]
fn may_have_gpu() -> bool {
    let exists = |path: &str| std::path::Path::new(path).exists();
    let render_node = || {
        let entries = std::fs::read_dir("/dev/dri").into_iter().flatten().flatten();
        entries.into_iter().any(|entry| entry.file_name().to_string_lossy().starts_with("render"))
    };
    // Direct rendering, NVIDIA's own, Windows' under Linux, Qualcomm's, ARM's.
    let others = ["/dev/nvidia0", "/dev/dxg", "/dev/kgsl-3d0", "/dev/mali0"];
    !cfg!(target_os = "linux") || render_node() || others.into_iter().any(exists)
}

/// What `auto` takes among these adapters, and why: the CPU unless one is a GPU.
#[cfg(feature = "wgpu")]
fn adapter(adapters: &[AdapterSummary]) -> (BackendChoice, String) {
    match adapters.iter().find(|adapter| !adapter.software) {
        Some(adapter) => {
            let why = format!("chosen by `auto`: {} is a GPU", adapter.name);
            (BackendChoice::Wgpu(AdapterChoice::of_user(None, false)), why)
        }
        None if adapters.is_empty() => (BackendChoice::Cpu, "chosen by `auto`: there is no GPU".to_owned()),
        None => {
            let why = "chosen by `auto`: there are only software adapters, which are no faster";
            (BackendChoice::Cpu, why.to_owned())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(feature = "wgpu")]
    #[test]
    fn auto_takes_a_gpu_that_is_one_and_says_why() {
        let summary = |name: &str, software: bool| AdapterSummary {
            name: name.to_owned(),
            software,
            ..AdapterSummary::default()
        };
        let (software, gpu) = (summary("llvmpipe", true), summary("Radeon", false));
        let chosen = |adapters: &[AdapterSummary]| {
            let (choice, why) = adapter(adapters);
            (matches!(choice, BackendChoice::Wgpu(_)), why)
        };
        let (taken, why) = chosen(&[software.clone(), gpu]);
        assert!(taken && why.contains("Radeon"), "{why}");
        let (taken, why) = chosen(&[software]);
        assert!(!taken && why.contains("software"), "{why}");
        let (taken, why) = chosen(&[]);
        assert!(!taken && why.contains("no GPU"), "{why}");
    }

    #[cfg(feature = "cuda")]
    #[test]
    fn auto_takes_a_cuda_device_that_is_one() {
        let summary = |index: usize, capability: u32, simulated: bool| DeviceSummary {
            index,
            name: format!("device {index}"),
            capability,
            memory_bytes: 1 << 30,
            multiprocessors: 16,
            driver: (12, 8),
            simulated,
            variants: String::new(),
        };
        assert_eq!(cuda_device(&[]), None);
        assert_eq!(cuda_device(&[summary(0, 89, true), summary(1, 75, false)]), None);
        let (choice, why) = cuda_device(&[summary(0, 75, false), summary(1, 89, false)]).unwrap();
        let device = DeviceChoice { device: Some("1".to_owned()), ..DeviceChoice::default() };
        assert_eq!(choice, BackendChoice::Cuda(device));
        assert!(why.contains("device 1"), "{why}");
    }

    #[cfg(feature = "cuda")]
    #[test]
    fn a_persistent_pass_is_asked_for() {
        let with = |name: &str, pass| BackendChoice::from_name(name).unwrap().with_cuda_pass(pass);
        let choice = |device: Option<&str>, pass| {
            BackendChoice::Cuda(DeviceChoice { device: device.map(str::to_owned), pass })
        };
        assert_eq!(with("cuda", None), choice(None, Pass::Launches));
        assert_eq!(with("cuda:1", Some(Pass::Persistent)), choice(Some("1"), Pass::Persistent));
        assert_eq!(
            with("cuda", Some(Pass::Persistent)).on_device(Some("2"), false),
            choice(Some("2"), Pass::Persistent)
        );
        assert_eq!(with("auto", Some(Pass::Persistent)), choice(None, Pass::Persistent));
        assert_eq!(with("auto", Some(Pass::Launches)), BackendChoice::Auto);
        assert_eq!(with("cpu", Some(Pass::Persistent)), BackendChoice::Cpu);
        assert!("both".parse::<Pass>().is_err() && "persistent".parse() == Ok(Pass::Persistent));
    }

    #[cfg(feature = "wgpu")]
    #[test]
    fn an_adapter_that_is_named_is_asked_for() {
        let on = |name: &str, adapter: Option<&str>, software: bool| match BackendChoice::from_name(name)
            .unwrap()
            .on_device(adapter, software)
        {
            BackendChoice::Wgpu(choice) => Some((choice.adapter, choice.allow_software)),
            _ => None,
        };
        let named = |name: &str| Some(name.to_owned());
        assert_eq!(on("wgpu", None, true), Some((None, true)));
        assert_eq!(on("wgpu", Some("1"), false), Some((named("1"), false)));
        assert_eq!(on("wgpu:A", None, true), Some((named("A"), true)));
        assert_eq!(on("auto", Some("no such device"), false), Some((named("no such device"), false)));
        assert_eq!(on("auto", None, true), None);
        assert_eq!(on("cpu", Some("A"), true), None);
    }
}
