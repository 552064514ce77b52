//! Memory, counted before anything is allocated: a model that will not fit is refused with the numbers and with what
//! would fit.

use super::Cache;
use super::device::Gpu;
use super::driver::DriverError;
use super::upload;
use crate::backend::Error;
use crate::backend::gpu::sampling::SamplingWords;
use crate::backend::gpu::{MAX_M, POSITIONS_PER_TILE, RECORD_BYTES, RING, SPLIT, TILE};
use crate::plan::{KvLayout, KvType, Op, Plan};
use crate::quant::PANEL_ROWS;

/// Bytes that partial results of attention may take; more rows take turns.
const PARTIAL_BYTES: usize = 32 << 20;
/// Rows of a prompt's tile that memory is counted for before plans are known.
const USUAL_CHUNK: usize = 256;
/// Blocks of a grid beside its first dimension.
const MOST_BLOCKS: usize = 65_535;

/// Sizes of a graph's own buffers, bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct GraphSizes {
    /// By `BufferId`.
    pub(super) activations: Vec<usize>,
    pub(super) ring: usize,
    pub(super) best: usize,
    pub(super) marked: usize,
    /// Rows whose partial results of attention are kept at a time, and the bytes of all.
    pub(super) attention_rows: usize,
    pub(super) partial: usize,
    /// Heads before their norm, where they have one.
    pub(super) raw: Option<usize>,
    /// Records of one form, by `BufferId`.
    pub(super) records: Vec<usize>,
}

impl GraphSizes {
    /// Of `plan`, as if it had `rows` rows of which `logit_rows` ask.
    pub(super) fn new(plan: &Plan, rows: usize, logit_rows: usize, context: usize) -> Self {
        let shape = &plan.shape;
        let per_row = 4 * shape.num_heads * context.div_ceil(SPLIT) * (shape.head_dim + 2);
        let attention_rows = (PARTIAL_BYTES / per_row.max(1)).clamp(1, rows.max(1));
        let head_norm = plan.steps.iter().any(|step| matches!(step.op, Op::QkvRope { q_norm: Some(_), .. }));
        let raw_width = (shape.num_heads + shape.num_kv_heads) * shape.head_dim;
        // Prefill kernels read whole tiles.
        let record_rows = if rows > MAX_M { rows.next_multiple_of(TILE) } else { rows };
        let widths = plan.buffers.iter().map(|buffer| buffer.width);
        let buffer_rows = |id: usize| if id == Plan::LOGITS.0 as usize { logit_rows } else { rows };
        Self {
            activations: widths.clone().enumerate().map(|(id, width)| 4 * buffer_rows(id) * width).collect(),
            ring: 4 * RING * logit_rows,
            best: 8 * logit_rows * shape.vocab_size.div_ceil(PANEL_ROWS),
            marked: 4 * logit_rows * shape.vocab_size.div_ceil(32),
            attention_rows,
            partial: attention_rows * per_row,
            raw: head_norm.then_some(4 * rows * raw_width),
            records: widths.map(|width| record_rows * width.div_ceil(32) * RECORD_BYTES).collect(),
        }
    }

    /// All of them; logits have no records.
    pub(super) fn total(&self) -> u64 {
        let records = self.records.iter().take(Plan::LOGITS.0 as usize).sum::<usize>();
        let rest = self.ring + self.best + self.marked + self.partial + self.raw.unwrap_or(0);
        (self.activations.iter().sum::<usize>() + records + rest) as u64
    }
}

/// Bytes of the keys, or of the values, of one layer.
pub(super) fn cache_bytes(kv: &KvLayout, context: usize) -> Option<u64> {
    let size = match kv.kv_type {
        KvType::F16 => 2,
        KvType::F32 => 4,
    };
    let factors = [kv.slots, kv.num_kv_heads, context, kv.head_dim, size];
    factors.into_iter().try_fold(1u64, |product, n| product.checked_mul(n as u64))
}

/// Bytes that a model needs with a context of so many positions, without its weights.
fn needed(plan: &Plan, kv: &KvLayout, rope_pairs: usize, context: usize) -> [u64; 2] {
    let context = context.next_multiple_of(POSITIONS_PER_TILE);
    let layers = cache_bytes(kv, context).unwrap_or(u64::MAX).saturating_mul(2 * kv.num_layers as u64);
    let rope = 8 * rope_pairs as u64 * context as u64;
    let slots = kv.slots * (size_of::<SamplingWords>() + 4 * (context + 2));
    let decode = kv.slots.clamp(1, MAX_M);
    let graphs = GraphSizes::new(plan, decode, decode, context).total()
        + GraphSizes::new(plan, USUAL_CHUNK, 1, context).total();
    [layers.saturating_add(rope), slots as u64 + graphs]
}

/// Refuses a model that will not fit.
pub(super) fn check_model(gpu: &Gpu, plan: &Plan, kv: &KvLayout, rope_pairs: usize) -> Result<(), Error> {
    let weights = upload::bytes_needed(plan)?;
    let available = available(gpu)?;
    let [cache, buffers] = needed(plan, kv, rope_pairs, kv.context);
    let total = weights.saturating_add(cache).saturating_add(buffers);
    if total <= available {
        return Ok(());
    }
    let megabytes = |bytes: u64| format!("{:.1} MB", bytes as f64 / 1e6);
    let what = format!(
        "the model on {} (weights {}, cache of {} x {} positions {}, buffers {})",
        gpu.summary.name,
        megabytes(weights),
        kv.slots,
        kv.context,
        megabytes(cache),
        megabytes(buffers)
    );
    // The longest context that fits, in whole parts of attention.
    let fits = |context: usize| {
        let [cache, buffers] = needed(plan, kv, rope_pairs, context);
        weights.saturating_add(cache).saturating_add(buffers) <= available
    };
    let (mut low, mut high) = (0, kv.context / SPLIT);
    while low < high {
        let middle = low + (high - low).div_ceil(2);
        if fits(middle * SPLIT) { low = middle } else { high = middle - 1 }
    }
    let advice = match low {
        0 if weights > available => {
            "the weights alone do not fit: take a smaller or a more quantized model".to_owned()
        }
        0 => "use fewer sequences, --kv f16, or a more quantized model".to_owned(),
        parts => format!("--ctx {} would fit", parts * SPLIT),
    };
    Err(Error::OutOfMemory { what, needed: total, available, advice })
}

/// Rows that the kernels can take at a time: a row is a block of some grids, and how far into the records of a tile's rows
/// it lies is a number of 31 bits in others, to keep registers.
fn most_rows(widths: impl Iterator<Item = usize>) -> usize {
    let widest = widths.map(|width| width.div_ceil(32) * RECORD_BYTES).max().unwrap_or(0);
    MOST_BLOCKS.min(i32::MAX as usize / widest.max(1))
}

/// Refuses a graph of more rows than the kernels take, or whose buffers will not fit.
pub(super) fn check_graph(gpu: &Gpu, plan: &Plan, cache: &Cache) -> Result<GraphSizes, Error> {
    let most = most_rows(plan.buffers.iter().take(Plan::LOGITS.0 as usize).map(|buffer| buffer.width));
    if plan.rows > most {
        let what = format!("a plan of {} rows: the kernels take up to {most} of this model", plan.rows);
        return Err(Error::Misuse(format!("{what}; use a smaller --chunk")));
    }
    let sizes = GraphSizes::new(plan, plan.rows, plan.logit_rows, cache.context);
    let available = available(gpu)?;
    if sizes.total() <= available {
        return Ok(sizes);
    }
    Err(Error::OutOfMemory {
        what: format!("the buffers for {} rows on {}", plan.rows, gpu.summary.name),
        needed: sizes.total(),
        available,
        advice: "use a smaller --chunk or fewer sequences".to_owned(),
    })
}

/// Free memory, less what the driver and the code of the kernels will take.
fn available(gpu: &Gpu) -> Result<u64, Error> {
    let failed = |error: DriverError| gpu.error("the count of free memory", error);
    let (free, total) = gpu.context.memory().map_err(failed)?;
    Ok(free.saturating_sub(total / 64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_as_many_as_31_bits_and_a_grid_can_count() {
        // The widths of a model of 70B: the last row's records begin below 2^31, another row's would not.
        let most = most_rows([8192, 28_672].into_iter());
        assert_eq!(most, 13_617);
        assert!(most * 896 * RECORD_BYTES < 1 << 31 && (most + 1) * 896 * RECORD_BYTES > 1 << 31);
        assert_eq!(most_rows([64].into_iter()), 65_535);
    }
}
