//! What a token costs the CPU on the wgpu backend, for the shape of Qwen2.5-1.5B in Q4_K_M: dispatches, and microseconds
//! to record and submit. All layers share one layer's random weights, so it needs little memory; the device's own time
//! is not the subject, so any adapter will do: `cargo bench --bench wgpu_record`.

use aprgpu::backend::Backend;
use aprgpu::backend::wgpu::{AdapterChoice, Gpu, Options, WgpuBackend};
use aprgpu::model::{Architecture, ModelConfig, Role, RopeConfig, RopePairing, RopeScaling};
use aprgpu::plan::{
    Activations, Decoder, KvType, Numerics, RopeTable, Row, Rows, Weight, WeightId, WeightSource,
};
use aprgpu::quant::TensorType;
use std::error::Error;
use std::sync::Arc;

const LAYERS: usize = 28;
const TOKENS: u32 = 4;

/// Zeros of any length: a row of zeros is a valid row of every type.
struct Zeros {
    row: Vec<u8>,
    bytes: Vec<usize>,
}

impl WeightSource for Zeros {
    fn row(&self, id: WeightId, _: usize) -> &[u8] {
        &self.row[..self.bytes[id.0 as usize]]
    }

    fn release(&self, _: WeightId) {}
}

fn weight(role: Role) -> Weight {
    use TensorType::{F32, Q4_K, Q6_K};
    let (tensor_type, rows, cols) = match role {
        // A tenth of the vocabulary: the head's dispatch costs the CPU the same.
        Role::TokenEmbedding => (Q6_K, 15_194, 1536),
        Role::AttnQ | Role::AttnOutput => (Q4_K, 1536, 1536),
        Role::AttnK => (Q4_K, 256, 1536),
        Role::AttnV => (Q6_K, 256, 1536),
        Role::FfnGate | Role::FfnUp => (Q4_K, 8960, 1536),
        Role::FfnDown => (Q6_K, 1536, 8960),
        Role::AttnQBias => (F32, 1, 1536),
        Role::AttnKBias | Role::AttnVBias => (F32, 1, 256),
        _ => (F32, 1, 1536),
    };
    Weight { name: format!("{role:?}"), tensor_type, rows, cols }
}

fn main() -> Result<(), Box<dyn Error>> {
    let gpu = Arc::new(Gpu::open(&AdapterChoice { allow_software: true, ..AdapterChoice::default() })?);
    println!("on {}", gpu.summary());
    let config = ModelConfig {
        architecture: Architecture::Qwen2,
        hidden_size: 1536,
        intermediate_size: 8960,
        num_layers: 1,
        num_heads: 12,
        num_kv_heads: 2,
        head_dim: 128,
        vocab_size: 15_194,
        context_length: 1024,
        rms_norm_eps: 1e-6,
        rope: RopeConfig { theta: 1e6, dim: 128, pairing: RopePairing::Neox, scaling: RopeScaling::None },
        sliding_window: None,
        tied_embeddings: true,
        qkv_bias: true,
        output_bias: false,
        mlp_bias: false,
        qk_norm: false,
    };
    let decoder = Decoder::new(&config, &|role, _| Some(weight(role)))?;
    let bytes: Vec<usize> =
        decoder.weights().iter().map(|w| w.tensor_type.row_bytes(w.cols).unwrap_or(0)).collect();
    let row = vec![0; bytes.iter().copied().max().unwrap_or(0)];
    let source: Arc<dyn WeightSource + Send + Sync> = Arc::new(Zeros { row, bytes });
    let numerics = Numerics { activations: Activations::Q8, kv: KvType::F16 };
    let mut plan = decoder.plan(Rows { rows: 1, logit_rows: 1, sample: true }, numerics);
    let layer: Vec<_> = plan.steps[1..6].to_vec();
    let repeated = (1..LAYERS).flat_map(|index| {
        layer.iter().cloned().map(move |mut step| {
            step.layer = Some(index);
            step
        })
    });
    let repeated: Vec<_> = repeated.collect();
    plan.steps.splice(6..6, repeated);
    plan.shape.num_layers = LAYERS;
    let mut kv_layout = decoder.kv_layout(1, 1024, KvType::F16);
    kv_layout.num_layers = LAYERS;
    let rope = RopeTable::new(&config.rope, 1024);
    let mut backend =
        WgpuBackend::new(gpu, &plan, &source, kv_layout, &rope, Options::default(), &mut |_, _| {})?;
    let graph = backend.compile(&plan)?;
    backend.run(graph, &[Row { token: 1, slot: 0, position: 100, logits: true }])?;
    backend.sampled(graph)?;
    for queued in [1, TOKENS] {
        let before = backend.counters();
        for _ in 0..TOKENS / queued {
            backend.replay(graph, queued)?;
            backend.sampled(graph)?;
        }
        let after = backend.counters();
        let per = |total: u64| total as f64 / f64::from(TOKENS);
        println!(
            "{queued} tokens a submit: {} dispatches a token ({} a layer), {:.0} us of CPU a token, {} bytes mapped a token",
            per(after.launches - before.launches),
            (backend.dispatches(graph) - 3) / LAYERS,
            per(after.host_nanoseconds - before.host_nanoseconds) / 1e3,
            per(after.mapped_bytes - before.mapped_bytes),
        );
    }
    Ok(())
}
