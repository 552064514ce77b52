//! Devices: which there are, which one is taken, and an open one.

use super::driver::{self, Absent, Context, DeviceMemory, DriverError, OLDEST_DRIVER, Properties, Stream};
use super::modules::Modules;
use super::persistent::Pass;
use super::sources::Target;
use crate::backend::Error;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

/// The oldest chips that the kernels assemble for: Ampere.
const OLDEST_CAPABILITY: u32 = 80;

/// The first CUDA version whose graphs can say that a kernel may begin before the one before it ends.
const DEPENDENT_GRAPHS: (u32, u32) = (12, 3);

/// Which device to use.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeviceChoice {
    /// A part of its name, or its place in the list of `devices`; `None` takes the first that can run the kernels.
    pub device: Option<String>,
    /// How captured passes over a decode plan are launched.
    pub pass: Pass,
}

/// A device, for the list of devices.
#[derive(Clone, Debug, PartialEq)]
pub struct DeviceSummary {
    /// Its place in the list.
    pub index: usize,
    /// Its name.
    pub name: String,
    /// Compute capability, 10 major + minor.
    pub capability: u32,
    /// Memory, bytes.
    pub memory_bytes: u64,
    /// Multiprocessors.
    pub multiprocessors: u32,
    /// The CUDA version of the driver, major and minor.
    pub driver: (u32, u32),
    /// Whether it is the simulator of this project, not a GPU.
    pub simulated: bool,
    /// Which kernels will be used, or why none.
    pub variants: String,
}

impl DeviceSummary {
    /// Whether there are kernels for it.
    pub fn has_kernels(&self) -> bool {
        target(self.capability).is_some()
    }
}

impl fmt::Display for DeviceSummary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}: {} (sm_{}, {} multiprocessors, {} MiB, driver for CUDA {}.{}); {}",
            self.index,
            self.name,
            self.capability,
            self.multiprocessors,
            self.memory_bytes >> 20,
            self.driver.0,
            self.driver.1,
            self.variants
        )
    }
}

/// The kernels of a chip.
fn target(capability: u32) -> Option<Target> {
    match capability {
        90.. => Some(Target::Sm90),
        OLDEST_CAPABILITY.. => Some(Target::Sm80),
        _ => None,
    }
}

fn unavailable(reason: impl Into<String>) -> Error {
    Error::Unavailable { backend: "cuda", reason: reason.into() }
}

fn absent(absent: Absent) -> Error {
    unavailable(match absent {
        Absent::NoDriver => {
            "no NVIDIA driver: the loader does not find libcuda.so (nvcuda.dll on Windows); install the driver".to_owned()
        }
        Absent::TooOld(version) => format!(
            "the NVIDIA driver is too old: it is for CUDA {}.{}, the kernels need {}.{} (release 520); update the driver",
            version / 1000,
            version % 1000 / 10,
            OLDEST_DRIVER / 1000,
            OLDEST_DRIVER % 1000 / 10
        ),
        Absent::NoDevice => "the NVIDIA driver is there and finds no device: see `nvidia-smi`, and \
                             CUDA_VISIBLE_DEVICES if that is set"
            .to_owned(),
        Absent::Broken(error) => format!("the NVIDIA driver does not start: {error}"),
    })
}

fn summary(index: usize, version: i32, properties: &Properties) -> DeviceSummary {
    let version = version.unsigned_abs();
    let variants = match target(properties.capability) {
        Some(target) => format!("kernels for {}", target.name()),
        None => format!("no kernels: they need sm_{OLDEST_CAPABILITY} or above"),
    };
    DeviceSummary {
        index,
        name: properties.name.clone(),
        capability: properties.capability,
        memory_bytes: properties.total_memory,
        multiprocessors: properties.multiprocessors,
        driver: (version / 1000, version % 1000 / 10),
        simulated: properties.name.starts_with("ptxsim"),
        variants,
    }
}

/// The devices of this machine.
///
/// # Errors
/// `Unavailable`: no driver, one that is too old or does not start, no device.
pub fn list_devices() -> Result<Vec<DeviceSummary>, Error> {
    let (version, count) = driver::start().map_err(absent)?;
    let mut summaries = Vec::new();
    for index in 0..count {
        let properties = driver::properties(index).map_err(|error| absent(Absent::Broken(error)))?;
        summaries.push(summary(index, version, &properties));
    }
    Ok(summaries)
}

/// The device that is meant, or what was looked for.
fn choose<'d>(choice: &DeviceChoice, devices: &'d [DeviceSummary]) -> Result<&'d DeviceSummary, String> {
    let describe = |d: &DeviceSummary| format!("{} ({}, sm_{})", d.index, d.name, d.capability);
    let list = devices.iter().map(describe).collect::<Vec<_>>().join(", ");
    let usable = |device: &&DeviceSummary| target(device.capability).is_some();
    let wrong = |device: &DeviceSummary| {
        format!(
            "{} is sm_{}, the kernels need sm_{OLDEST_CAPABILITY} or above (Ampere and later); there are: {list}",
            device.name, device.capability
        )
    };
    let Some(wanted) = &choice.device else {
        let first = devices.iter().find(usable);
        return first.ok_or_else(|| devices.first().map_or("there is no device".to_owned(), wrong));
    };
    let by_index = wanted.parse::<usize>().ok().and_then(|index| devices.get(index));
    let named = |device: &&DeviceSummary| device.name.to_lowercase().contains(&wanted.to_lowercase());
    let found = by_index.or_else(|| devices.iter().find(named));
    let missing = || {
        format!("looked for a device whose name contains `{wanted}`, or with that index; there are: {list}")
    };
    let device = found.ok_or_else(missing)?;
    if usable(&device) { Ok(device) } else { Err(wrong(device)) }
}

/// An open device with the kernels compiled on it. Backends share the kernels, and each has a stream of its own.
pub struct Gpu {
    // The modules go before the context does.
    pub(super) modules: Arc<Modules>,
    pub(super) stream: Stream,
    pub(super) context: Arc<Context>,
    pub(super) summary: DeviceSummary,
    pub(super) target: Target,
    /// Shared memory that a block may ask for.
    pub(super) shared_opt_in: u32,
    /// All blocks of a launch can be on the device at once.
    pub(super) cooperative: bool,
}

impl Gpu {
    /// Opens the device that `choice` means.
    ///
    /// # Errors
    /// `Unavailable`, saying what was looked for and what there is.
    pub fn open(choice: &DeviceChoice) -> Result<Self, Error> {
        let devices = list_devices()?;
        let summary = choose(choice, &devices).map_err(unavailable)?.clone();
        let Some(target) = target(summary.capability) else {
            return Err(unavailable(summary.variants));
        };
        let opened = |error: DriverError| unavailable(format!("{} cannot be opened: {error}", summary.name));
        let Properties { shared_opt_in, cooperative, .. } =
            driver::properties(summary.index).map_err(opened)?;
        let context = Context::open(summary.index).map_err(opened)?;
        let stream = Stream::new(&context).map_err(opened)?;
        let modules = Arc::new(Modules::new(Arc::clone(&context), &summary));
        Ok(Self { modules, stream, context, summary, target, shared_opt_in, cooperative })
    }

    /// The device that this process has opened by the same name, or a new one: opening and compiling take time.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn shared(choice: &DeviceChoice) -> Result<Arc<Self>, Error> {
        static OPEN: Mutex<Vec<(Option<String>, Arc<Gpu>)>> = Mutex::new(Vec::new());
        let mut open = OPEN.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, gpu)) = open.iter().find(|(known, _)| *known == choice.device) {
            return Ok(Arc::clone(gpu));
        }
        let gpu = Arc::new(Self::open(choice)?);
        open.push((choice.device.clone(), Arc::clone(&gpu)));
        Ok(gpu)
    }

    /// What it is.
    pub fn summary(&self) -> &DeviceSummary {
        &self.summary
    }

    /// What a user should know about the kernels compiled so far: damaged entries of the cache, a cache that cannot be
    /// written. Each is said once.
    pub fn take_notes(&self) -> Vec<String> {
        self.modules.take_notes()
    }

    /// Compiles PTX that is none of this program's kernels, and finds `entry` in it: to try a kernel out.
    ///
    /// # Errors
    /// What the driver's compiler says.
    pub fn try_source(&self, source: &str, entry: &str) -> Result<(), Error> {
        self.modules.try_source(source, entry)
    }

    /// Whether captured launches may overlap. Where they may not, the wait of the kernels for it ends at once.
    pub(super) fn graphs_overlap(&self) -> bool {
        self.summary.driver >= DEPENDENT_GRAPHS
    }

    /// An error that names what was done and the device.
    pub(super) fn error(&self, kernel: impl Into<String>, reason: impl fmt::Display) -> Error {
        Error::Device {
            kernel: kernel.into(),
            adapter: self.summary.name.clone(),
            reason: reason.to_string(),
        }
    }

    /// The same device and kernels with a new stream. A capture takes whatever is queued in its stream, by any thread, so
    /// no two backends may queue in one.
    pub(super) fn with_own_stream(&self) -> Result<Self, Error> {
        let stream = Stream::new(&self.context).map_err(|error| self.error("a new stream", error))?;
        Ok(Self {
            modules: Arc::clone(&self.modules),
            stream,
            context: Arc::clone(&self.context),
            summary: self.summary.clone(),
            target: self.target,
            shared_opt_in: self.shared_opt_in,
            cooperative: self.cooperative,
        })
    }

    /// Waits for everything that was queued.
    pub(super) fn wait(&self, doing: &str) -> Result<(), Error> {
        self.stream.wait().map_err(|error| self.error(doing, error))
    }

    /// Zeroed memory.
    pub(super) fn zeroed(&self, what: &str, bytes: u64) -> Result<Arc<DeviceMemory>, Error> {
        self.allocated(what, bytes, DeviceMemory::zeroed(&self.stream, bytes))
    }

    /// Memory that will be filled before it is read.
    pub(super) fn uninitialized(&self, what: &str, bytes: u64) -> Result<Arc<DeviceMemory>, Error> {
        self.allocated(what, bytes, DeviceMemory::uninitialized(&self.context, bytes))
    }

    fn allocated(
        &self,
        what: &str,
        bytes: u64,
        memory: Result<DeviceMemory, DriverError>,
    ) -> Result<Arc<DeviceMemory>, Error> {
        memory.map(Arc::new).map_err(|error| {
            if !error.is_out_of_memory() {
                return self.error(what, error);
            }
            Error::OutOfMemory {
                what: format!("{what} on {}", self.summary.name),
                needed: bytes,
                available: self.context.memory().map_or(0, |(free, _)| free),
                advice: "another program may have taken memory since it was counted: see `nvidia-smi`"
                    .to_owned(),
            }
        })
    }

    /// Copies to the device, in order.
    pub(super) fn write(&self, to: &DeviceMemory, at: u64, bytes: &[u8]) -> Result<(), Error> {
        to.write(&self.stream, at, bytes).map_err(|error| self.error("a copy to the device", error))
    }

    /// Copies words from the device, in order, from byte `at` on.
    pub(super) fn read(&self, from: &DeviceMemory, at: u64, words: usize) -> Result<Vec<u32>, Error> {
        let mut into = vec![0u32; words];
        from.read(&self.stream, at, bytemuck::cast_slice_mut(&mut into))
            .map_err(|error| self.error("a copy from the device", error))?;
        Ok(into)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device(index: usize, name: &str, capability: u32) -> DeviceSummary {
        let properties = Properties {
            name: name.to_owned(),
            capability,
            total_memory: 1 << 30,
            multiprocessors: 10,
            shared_opt_in: 99 << 10,
            cooperative: true,
        };
        summary(index, 12080, &properties)
    }

    #[test]
    fn a_device_is_found_by_index_or_name_and_must_have_kernels() {
        let devices = [device(0, "Quadro Old", 75), device(1, "RTX New", 89), device(2, "H100", 90)];
        let choose = |wanted: Option<&str>, devices| {
            let choice = DeviceChoice { device: wanted.map(str::to_owned), ..DeviceChoice::default() };
            choose(&choice, devices).map(|device| device.index)
        };
        assert_eq!(choose(None, &devices), Ok(1));
        assert_eq!(choose(Some("2"), &devices), Ok(2));
        assert_eq!(choose(Some("rtx"), &devices), Ok(1));
        let error = choose(Some("quadro"), &devices).unwrap_err();
        assert!(error.contains("sm_75") && error.contains("sm_80"), "{error}");
        let error = choose(Some("Titan"), &devices).unwrap_err();
        assert!(error.contains("Titan") && error.contains("RTX New"), "{error}");
        assert!(choose(None, &devices[..1]).unwrap_err().contains("sm_75"));
        assert!(devices.iter().all(|device| !device.simulated));
        assert!(device(0, "ptxsim (no GPU)", 89).simulated);
    }

    #[test]
    fn every_absence_says_which() {
        let sentence = |kind: Absent| absent(kind).to_string();
        assert!(sentence(Absent::NoDriver).contains("libcuda.so"));
        assert!(sentence(Absent::NoDevice).contains("no device"));
        let old = sentence(Absent::TooOld(11040));
        assert!(old.contains("11.4") && old.contains("11.8"), "{old}");
    }
}
