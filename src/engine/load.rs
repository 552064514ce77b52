//! A model, opened, checked and set up on a backend.

use super::{Device, Error};
use crate::backend::Backend;
use crate::backend::cpu::Cpu;
use crate::backend::cpu::twin::Twin;
#[cfg(feature = "wgpu")]
use crate::backend::wgpu::{AdapterChoice, Gpu, Options, WgpuBackend};
use crate::model::{Model, Role, WeightTensor};
#[cfg(feature = "wgpu")]
use crate::plan::Rows;
use crate::plan::{Activations, Decoder, KvType, Numerics, RopeTable, Weight, WeightId, WeightSource};
use std::fmt;
use std::sync::Arc;

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
    /// WGSL on Vulkan, Metal or DX12.
    #[cfg(feature = "wgpu")]
    Wgpu(AdapterChoice),
}

/// How to run a model.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Which backend.
    pub backend: BackendChoice,
    /// CPU threads; `None` takes one per physical core.
    pub threads: Option<usize>,
    /// Activation and cache types.
    pub numerics: Numerics,
    /// Positions per sequence; `None` takes the model's own, but no more than 4096.
    pub context: Option<usize>,
    /// Sequences at a time.
    pub slots: usize,
    /// Tokens of a prompt that run together.
    pub chunk: usize,
}

/// Positions per sequence where neither the user nor the model says less.
const DEFAULT_CONTEXT: usize = 4096;

impl Default for Settings {
    fn default() -> Self {
        Self {
            backend: BackendChoice::Auto,
            threads: None,
            numerics: Numerics { activations: Activations::Q8, kv: KvType::F16 },
            context: None,
            slots: 1,
            chunk: 256,
        }
    }
}

/// What was chosen and done while loading, for people.
#[derive(Clone, Debug, Default)]
pub struct LoadReport {
    /// The backend's name and its description.
    pub backend: String,
    /// Why it was chosen, where it was not asked for by name.
    pub reason: Option<String>,
    /// Things a user should know: defaults taken, weights expanded, copies made.
    pub notes: Vec<String>,
}

impl fmt::Display for LoadReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.backend)?;
        if let Some(reason) = &self.reason {
            write!(f, " ({reason})")?;
        }
        self.notes.iter().try_for_each(|note| write!(f, "\nnote: {note}"))
    }
}

/// The model's weights by the ids of its decoder.
struct ModelWeights {
    model: Arc<Model>,
    roles: Vec<(Role, Option<usize>)>,
}

impl ModelWeights {
    fn tensor(&self, id: WeightId) -> Option<&WeightTensor> {
        let &(role, layer) = self.roles.get(id.0 as usize)?;
        self.model.weights.get(layer, role)
    }
}

impl WeightSource for ModelWeights {
    fn row(&self, id: WeightId, row: usize) -> &[u8] {
        self.tensor(id).map_or(&[], |tensor| tensor.row(row))
    }

    fn release(&self, id: WeightId) {
        if let Some(tensor) = self.tensor(id) {
            tensor.release();
        }
    }
}

/// The decoder of a model: its sizes and the types of its weights.
pub fn decoder(model: &Model) -> Result<Decoder, Error> {
    let lookup = |role: Role, layer: Option<usize>| {
        let tensor = model.weights.get(layer, role)?;
        let (rows, cols) = (tensor.rows, tensor.cols);
        Some(Weight { name: tensor.name.clone(), tensor_type: tensor.tensor_type, rows, cols })
    };
    Ok(Decoder::new(&model.config, &lookup)?)
}

/// Sets a model up on a backend. `progress` gets bytes of weights done and in all.
pub fn load(
    model: &Arc<Model>,
    settings: &Settings,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<(Device, LoadReport), Error> {
    let decoder = decoder(model)?;
    let trained = model.config.context_length;
    let context = settings.context.unwrap_or(trained.min(DEFAULT_CONTEXT));
    if context == 0 || settings.slots == 0 {
        return Err(Error::Usage("a context of 0 positions holds nothing".to_owned()));
    }
    let mut report = LoadReport::default();
    if context > trained {
        let stretch = format!(
            "the context of {context} positions is longer than the {trained} the model was trained for"
        );
        report.notes.push(stretch);
    }
    let kv_layout = decoder.kv_layout(settings.slots, context, settings.numerics.kv);
    let rope = RopeTable::new(&model.config.rope, context);
    let ids = 0..decoder.weights().len() as u32;
    let roles = ids.filter_map(|id| decoder.role(WeightId(id))).collect();
    let source = Arc::new(ModelWeights { model: Arc::clone(model), roles });
    let backend: Box<dyn Backend> = match &settings.backend {
        BackendChoice::Twin => Box::new(Twin::new(decoder.weights(), source, kv_layout, rope)?),
        BackendChoice::Auto | BackendChoice::Cpu => {
            let cpu = Cpu::new(&decoder, source, (kv_layout, rope), settings.threads, None, progress)?;
            let packed = cpu.packed_bytes() as f64 / 1e6;
            let copy = "weights repacked for the CPU; the mapped file's pages were given back";
            report.notes.push(format!("{packed:.1} MB of {copy}"));
            Box::new(cpu)
        }
        #[cfg(feature = "wgpu")]
        BackendChoice::Wgpu(choice) => {
            let gpu = Arc::new(Gpu::open(choice)?);
            if gpu.summary().software {
                let name = &gpu.summary().name;
                report
                    .notes
                    .push(format!("{name} is a CPU that plays GPU: a check of the shaders, not a fast path"));
            }
            let plan = decoder.plan(Rows { rows: 1, logit_rows: 1, sample: false }, settings.numerics);
            let source: Arc<dyn WeightSource + Send + Sync> = source;
            let wgpu = WgpuBackend::new(gpu, &plan, &source, kv_layout, &rope, Options::default(), progress)?;
            report.notes.push(format!("{:.1} MB on the device", wgpu.device_bytes() as f64 / 1e6));
            Box::new(wgpu)
        }
    };
    report.backend = format!("{}: {}", backend.name(), backend.describe());
    if settings.backend == BackendChoice::Auto {
        report.reason = Some("chosen by `auto`: a GPU is taken only with --backend".to_owned());
    }
    let device =
        Device::new(backend, decoder, settings.numerics, (context, trained), settings.slots, settings.chunk);
    Ok((device, report))
}
