//! A model, opened, checked and set up on a backend.

use super::{Device, Error};
use crate::backend::cpu::Cpu;
use crate::backend::cpu::twin::Twin;
#[cfg(feature = "wgpu")]
use crate::backend::wgpu::{AdapterChoice, Gpu, Options, WgpuBackend};
use crate::backend::{self, Backend};
use crate::model::{Model, Role, WeightTensor};
#[cfg(feature = "wgpu")]
use crate::plan::Rows;
use crate::plan::{
    Activations, Decoder, KvLayout, KvType, Numerics, RopeTable, Weight, WeightId, WeightSource,
};
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

impl BackendChoice {
    /// The names that `--backend` takes.
    #[cfg(feature = "wgpu")]
    pub const NAMES: &[&str] = &["auto", "cpu", "twin", "wgpu"];
    /// The names that `--backend` takes.
    #[cfg(not(feature = "wgpu"))]
    pub const NAMES: &[&str] = &["auto", "cpu", "twin"];

    /// The choice of this name. `wgpu:ADAPTER` names a part of an adapter's name, or its index.
    ///
    /// # Errors
    /// The backend is not built into this program, or there is none of this name.
    pub fn from_name(name: &str) -> Result<Self, Error> {
        Ok(match name {
            "auto" => Self::Auto,
            "cpu" => Self::Cpu,
            "twin" => Self::Twin,
            #[cfg(feature = "wgpu")]
            "wgpu" => Self::Wgpu(AdapterChoice::default()),
            _ => {
                #[cfg(feature = "wgpu")]
                if let Some(adapter) = name.strip_prefix("wgpu:") {
                    let adapter = Some(adapter.to_owned());
                    return Ok(Self::Wgpu(AdapterChoice { adapter, ..AdapterChoice::default() }));
                }
                let built_in = Self::NAMES.join(", ");
                let what = format!("`{name}` is not built into this program; there are {built_in}");
                return Err(backend::Error::Unavailable { backend: "unknown", reason: what }.into());
            }
        })
    }
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

impl Settings {
    /// Positions per sequence for a model that was trained for `trained`.
    pub fn context(&self, trained: usize) -> usize {
        self.context.unwrap_or(trained.min(DEFAULT_CONTEXT))
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

/// The weights of a model, by the ids of its decoder.
pub fn weight_source(model: &Arc<Model>, decoder: &Decoder) -> Arc<dyn WeightSource + Send + Sync> {
    let ids = 0..decoder.weights().len() as u32;
    let roles = ids.filter_map(|id| decoder.role(WeightId(id))).collect();
    Arc::new(ModelWeights { model: Arc::clone(model), roles })
}

/// Sets a model up on a backend. `progress` gets bytes of weights done and in all.
pub fn load(
    model: &Arc<Model>,
    settings: &Settings,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<(Device, LoadReport), Error> {
    let decoder = decoder(model)?;
    let source = weight_source(model, &decoder);
    let trained = model.config.context_length;
    let rope = RopeTable::new(&model.config.rope, settings.context(trained));
    start(decoder, source, (rope, trained), settings, progress)
}

/// Sets a decoder up on a backend, wherever its weights come from. `rope` has as many positions as the settings ask for
/// of a model that was trained for `trained`.
pub fn start(
    decoder: Decoder,
    source: Arc<dyn WeightSource + Send + Sync>,
    (rope, trained): (RopeTable, usize),
    settings: &Settings,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<(Device, LoadReport), Error> {
    let context = settings.context(trained);
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
    let parts = (&decoder, source, kv_layout, rope);
    let (backend, notes) = set_up(&settings.backend, parts, settings.threads, progress)?;
    report.notes.extend(notes);
    report.backend = format!("{}: {}", backend.name(), backend.describe());
    if settings.backend == BackendChoice::Auto {
        report.reason = Some("chosen by `auto`: a GPU is taken only with --backend".to_owned());
    }
    let device =
        Device::new(backend, decoder, settings.numerics, (context, trained), settings.slots, settings.chunk);
    Ok((device, report))
}

/// Sets up a backend, with notes for its user. The only place that names them all.
pub fn set_up(
    choice: &BackendChoice,
    (decoder, source, kv_layout, rope): (&Decoder, Arc<dyn WeightSource + Send + Sync>, KvLayout, RopeTable),
    threads: Option<usize>,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<(Box<dyn Backend>, Vec<String>), Error> {
    Ok(match choice {
        BackendChoice::Twin => (Box::new(Twin::new(decoder.weights(), source, kv_layout, rope)?), Vec::new()),
        BackendChoice::Auto | BackendChoice::Cpu => {
            let cpu = Cpu::new(decoder, source, (kv_layout, rope), threads, None, progress)?;
            let packed = cpu.packed_bytes() as f64 / 1e6;
            let copy = "weights repacked for the CPU; the mapped file's pages were given back";
            (Box::new(cpu), vec![format!("{packed:.1} MB of {copy}")])
        }
        #[cfg(feature = "wgpu")]
        BackendChoice::Wgpu(choice) => {
            let gpu = Gpu::shared(choice)?;
            let mut notes = Vec::new();
            if gpu.summary().software {
                let name = &gpu.summary().name;
                notes
                    .push(format!("{name} is a CPU that plays GPU: a check of the shaders, not a fast path"));
            }
            let numerics = Numerics { activations: Activations::Q8, kv: kv_layout.kv_type };
            let plan = decoder.plan(Rows { rows: 1, logit_rows: 1, sample: false }, numerics);
            let wgpu = WgpuBackend::new(gpu, &plan, &source, kv_layout, &rope, Options::default(), progress)?;
            notes.push(format!("{:.1} MB on the device", wgpu.device_bytes() as f64 / 1e6));
            (Box::new(wgpu), notes)
        }
    })
}
