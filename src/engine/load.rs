//! A model, opened, checked and set up on a backend.

use super::choice::automatic;
use super::{BackendChoice, Device, Error};
use crate::backend::cpu::twin::Twin;
use crate::backend::cpu::{Cpu, probe};
#[cfg(feature = "cuda")]
use crate::backend::cuda::{self, CudaBackend};
#[cfg(feature = "wgpu")]
use crate::backend::wgpu::{self, Options, WgpuBackend};
use crate::backend::{self, Backend};
use crate::model::{Model, Role, RopeConfig, WeightTensor};
use crate::plan::{
    Activations, Decoder, KvLayout, KvType, Numerics, RopeTable, Weight, WeightId, WeightSource,
};
#[cfg(any(feature = "cuda", feature = "wgpu"))]
use crate::plan::{Plan, Rows};
use std::fmt;
use std::sync::Arc;

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
    let rope = rope_table(&model.config.rope, settings.context(trained))?;
    start(decoder, source, (rope, trained), settings, progress)
}

/// The rotations of `context` positions. The table is the first thing that grows with the context, and computing it takes a
/// while: one that memory cannot hold is refused before.
///
/// # Errors
/// [`backend::Error::OutOfMemory`].
pub fn rope_table(rope: &RopeConfig, context: usize) -> Result<RopeTable, Error> {
    let needed = (context as u64).saturating_mul(RopeTable::bytes_per_position(rope) as u64);
    match probe().memory_bytes {
        Some(available) if needed > available => Err(Error::Backend(backend::Error::OutOfMemory {
            what: format!("a table of rotations for {context} positions"),
            needed,
            available,
            advice: "use a smaller --ctx".to_owned(),
        })),
        _ => Ok(RopeTable::new(rope, context)),
    }
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
    let (backend, notes) = if settings.backend == BackendChoice::Auto {
        let (set_up, reason) = set_up_automatic(parts, settings.threads, progress)?;
        report.reason = Some(reason);
        set_up
    } else {
        set_up(&settings.backend, parts, settings.threads, progress)?
    };
    report.notes.extend(notes);
    report.backend = format!("{}: {}", backend.name(), backend.describe());
    let device =
        Device::new(backend, decoder, settings.numerics, (context, trained), settings.slots, settings.chunk);
    Ok((device, report))
}

/// What a backend is set up with: the model's shape, its weights, its cache, its angles.
type Parts<'a> = (&'a Decoder, Arc<dyn WeightSource + Send + Sync>, KvLayout, RopeTable);

/// A backend, with notes for its user.
pub type SetUp = (Box<dyn Backend>, Vec<String>);

/// Sets up what `auto` takes, with the reason for it and notes. A GPU that cannot run the model gives way to the CPU, and
/// the reason says so.
fn set_up_automatic(
    parts: Parts<'_>,
    threads: Option<usize>,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<(SetUp, String), Error> {
    let (choice, mut reason) = automatic();
    if choice != BackendChoice::Cpu {
        match set_up(&choice, parts.clone(), threads, progress) {
            Ok(set_up) => return Ok((set_up, reason)),
            Err(error) => reason = format!("{reason}, but cannot run this: {error}"),
        }
    }
    Ok((set_up(&BackendChoice::Cpu, parts, threads, progress)?, reason))
}

/// Sets up a backend, with notes for its user. The only place that names them all.
pub fn set_up(
    choice: &BackendChoice,
    (decoder, source, kv_layout, rope): Parts<'_>,
    threads: Option<usize>,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<SetUp, Error> {
    Ok(match choice {
        BackendChoice::Auto => {
            let parts = (decoder, source, kv_layout, rope);
            let ((backend, mut notes), reason) = set_up_automatic(parts, threads, progress)?;
            notes.insert(0, reason);
            (backend, notes)
        }
        BackendChoice::Twin => (Box::new(Twin::new(decoder.weights(), source, kv_layout, rope)?), Vec::new()),
        BackendChoice::Cpu => {
            let cpu = Cpu::new(decoder, source, (kv_layout, rope), threads, None, progress)?;
            let packed = cpu.packed_bytes() as f64 / 1e6;
            let copy = "weights repacked for the CPU; the mapped file's pages were given back";
            (Box::new(cpu), vec![format!("{packed:.1} MB of {copy}")])
        }
        #[cfg(feature = "cuda")]
        BackendChoice::Cuda(choice) => {
            let gpu = cuda::Gpu::shared(choice)?;
            let mut notes = Vec::new();
            if gpu.summary().simulated {
                let name = &gpu.summary().name;
                notes.push(format!("{name} is a simulator: a check of the kernels, not a fast path"));
            }
            let plan = one_row(decoder, &kv_layout);
            let mut cuda = CudaBackend::new(&gpu, &plan, &source, kv_layout, &rope, progress)?;
            cuda.set_pass(choice.pass)?;
            notes.push(format!("{:.1} MB on the device", cuda.device_bytes() as f64 / 1e6));
            (Box::new(cuda), notes)
        }
        #[cfg(feature = "wgpu")]
        BackendChoice::Wgpu(choice) => {
            let gpu = wgpu::Gpu::shared(choice)?;
            let mut notes = gpu.take_notes();
            if gpu.summary().software {
                let name = &gpu.summary().name;
                notes
                    .push(format!("{name} is a CPU that plays GPU: a check of the shaders, not a fast path"));
            }
            let plan = one_row(decoder, &kv_layout);
            let wgpu = WgpuBackend::new(gpu, &plan, &source, kv_layout, &rope, Options::default(), progress)?;
            notes.push(format!("{:.1} MB on the device", wgpu.device_bytes() as f64 / 1e6));
            (Box::new(wgpu), notes)
        }
    })
}

/// A plan that names every weight.
#[cfg(any(feature = "cuda", feature = "wgpu"))]
fn one_row(decoder: &Decoder, kv_layout: &KvLayout) -> Plan {
    let numerics = Numerics { activations: Activations::Q8, kv: kv_layout.kv_type };
    decoder.plan(Rows { rows: 1, logit_rows: 1, sample: false }, numerics)
}
