//! The table of cases that every backend's ops are held to: random weights of true shapes, each op run alone on the
//! backend and on its twin from the same inputs.

use super::nmse;
use aprgpu::backend::Backend;
use aprgpu::backend::cpu::twin::Twin;
use aprgpu::model::{Architecture, ModelConfig, Role, RopeConfig, RopePairing, RopeScaling};
use aprgpu::plan::{
    Activations, Decoder, KvLayout, KvType, Numerics, OpKind, Plan, RopeTable, Row, Rows, Weight, WeightId,
    WeightSource,
};
use aprgpu::quant::{self, TensorType};
use std::sync::Arc;

/// A model of one layer.
#[derive(Clone, Debug)]
pub(crate) struct Case {
    pub(crate) name: &'static str,
    pub(crate) hidden_size: usize,
    pub(crate) intermediate_size: usize,
    /// Query heads, key and value heads, width of a head.
    pub(crate) heads: (usize, usize, usize),
    pub(crate) vocab_size: usize,
    pub(crate) pairing: RopePairing,
    pub(crate) qk_norm: bool,
    pub(crate) bias: bool,
    pub(crate) tied: bool,
    pub(crate) sliding_window: Option<usize>,
    /// Types of q, k, v, attention output, gate and up, down, embedding and head.
    pub(crate) types: [TensorType; 7],
}

/// Shapes of real models, narrowed in rows, and the awkward ones: odd row counts, widths of 896, 1536 and 4864.
pub(crate) fn cases() -> Vec<Case> {
    use TensorType::{BF16, F16, F32, Q4_0, Q4_1, Q4_K, Q5_0, Q5_1, Q5_K, Q6_K, Q8_0};
    let base = Case {
        name: "qwen2, Q4_K_M, V in Q6_K",
        hidden_size: 256,
        intermediate_size: 512,
        heads: (4, 2, 64),
        vocab_size: 301,
        pairing: RopePairing::Neox,
        qk_norm: false,
        bias: true,
        tied: true,
        sliding_window: None,
        types: [Q4_K, Q4_K, Q6_K, Q4_K, Q4_K, Q6_K, Q6_K],
    };
    vec![
        base.clone(),
        Case {
            name: "0.5B width: rows of 896 and 4864",
            hidden_size: 896,
            intermediate_size: 4864,
            heads: (14, 2, 64),
            types: [Q5_0, Q5_0, Q8_0, Q5_0, Q5_0, Q4_K, Q8_0],
            ..base.clone()
        },
        Case {
            name: "1.5B width: rows of 1536, heads of 128",
            hidden_size: 1536,
            intermediate_size: 768,
            heads: (12, 2, 128),
            types: [Q4_K, Q5_K, Q6_K, Q5_K, Q4_K, Q5_K, Q6_K],
            ..base.clone()
        },
        Case {
            name: "qwen3: head norms, heads wider than hidden, untied",
            hidden_size: 512,
            heads: (6, 2, 128),
            qk_norm: true,
            bias: false,
            tied: false,
            types: [Q5_1, Q5_1, Q8_0, Q5_1, Q5_1, Q8_0, Q5_1],
            ..base.clone()
        },
        Case {
            name: "llama: NORM rotation, every head its own keys",
            heads: (4, 4, 64),
            pairing: RopePairing::Norm,
            bias: false,
            tied: false,
            types: [Q4_0, Q4_1, Q4_0, Q4_1, Q4_0, Q4_1, Q4_0],
            ..base.clone()
        },
        Case {
            name: "float weights, odd rows, a window",
            hidden_size: 160,
            intermediate_size: 97,
            heads: (5, 1, 32),
            vocab_size: 33,
            sliding_window: Some(20),
            types: [F16, BF16, F32, F16, BF16, F32, F16],
            ..base.clone()
        },
        Case {
            name: "quantized and float matrices in one step",
            hidden_size: 288,
            intermediate_size: 320,
            heads: (3, 1, 96),
            types: [Q8_0, F16, Q4_0, F32, Q5_0, Q5_1, Q8_0],
            ..base
        },
    ]
}

/// Weights in memory.
pub(crate) struct RandomWeights {
    rows: Vec<Vec<Vec<u8>>>,
}

impl WeightSource for RandomWeights {
    fn row(&self, id: WeightId, row: usize) -> &[u8] {
        &self.rows[id.0 as usize][row]
    }

    fn release(&self, _: WeightId) {}
}

/// A small generator: tests must not depend on a library's stream of numbers.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    /// Roughly normal, by the sum of four uniform numbers.
    pub(crate) fn value(&mut self) -> f32 {
        let uniform = |state: &mut u64| {
            *state ^= *state << 13;
            *state ^= *state >> 7;
            *state ^= *state << 17;
            (*state >> 40) as f32 / (1u64 << 24) as f32 - 0.5
        };
        (0..4).map(|_| uniform(&mut self.0)).sum::<f32>() * 1.7
    }

    pub(crate) fn values(&mut self, count: usize) -> Vec<f32> {
        (0..count).map(|_| self.value()).collect()
    }
}

impl Case {
    /// The decoder of this case with random weights.
    pub(crate) fn decoder(&self, seed: u64) -> (Decoder, Arc<RandomWeights>) {
        let (num_heads, num_kv_heads, head_dim) = self.heads;
        let config = ModelConfig {
            architecture: Architecture::Qwen2,
            hidden_size: self.hidden_size,
            intermediate_size: self.intermediate_size,
            num_layers: 1,
            num_heads,
            num_kv_heads,
            head_dim,
            vocab_size: self.vocab_size,
            context_length: 1024,
            rms_norm_eps: 1e-6,
            rope: RopeConfig { theta: 1e6, dim: head_dim, pairing: self.pairing, scaling: RopeScaling::None },
            sliding_window: self.sliding_window,
            tied_embeddings: self.tied,
            qkv_bias: self.bias,
            output_bias: self.bias,
            mlp_bias: self.bias,
            qk_norm: self.qk_norm,
        };
        let decoder = Decoder::new(&config, &|role, _| Some(self.weight(role))).unwrap();
        let mut random = Random::new(seed);
        let encode = |weight: &Weight| -> Vec<Vec<u8>> {
            let row = |_| {
                let mut values = random.values(weight.cols);
                if weight.is_vector() {
                    values.iter_mut().for_each(|value| *value = 1.0 + 0.1 * *value);
                }
                let mut bytes = vec![0; weight.tensor_type.row_bytes(weight.cols).unwrap()];
                quant::encode_row(weight.tensor_type, &values, None, &mut bytes).unwrap();
                bytes
            };
            (0..weight.rows).map(row).collect()
        };
        let rows = decoder.weights().iter().map(encode).collect();
        (decoder, Arc::new(RandomWeights { rows }))
    }

    fn weight(&self, role: Role) -> Weight {
        let (num_heads, num_kv_heads, head_dim) = self.heads;
        let (query, kv) = (num_heads * head_dim, num_kv_heads * head_dim);
        let (hidden, ffn) = (self.hidden_size, self.intermediate_size);
        let [q, k, v, attn_out, gate_up, down, embedding] = self.types;
        let (tensor_type, rows, cols) = match role {
            Role::TokenEmbedding | Role::Output => (embedding, self.vocab_size, hidden),
            Role::AttnQ => (q, query, hidden),
            Role::AttnK => (k, kv, hidden),
            Role::AttnV => (v, kv, hidden),
            Role::AttnOutput => (attn_out, hidden, query),
            Role::FfnGate | Role::FfnUp => (gate_up, ffn, hidden),
            Role::FfnDown => (down, hidden, ffn),
            Role::AttnQBias => (TensorType::F32, 1, query),
            Role::AttnKBias | Role::AttnVBias => (TensorType::F32, 1, kv),
            Role::FfnGateBias | Role::FfnUpBias => (TensorType::F32, 1, ffn),
            Role::AttnQNorm | Role::AttnKNorm => (TensorType::F32, 1, head_dim),
            _ => (TensorType::F32, 1, hidden),
        };
        Weight { name: format!("{role:?}"), tensor_type, rows, cols }
    }

    /// Rows at positions that cross a split of attention: the last `m` of 300 in slot 1.
    fn rows(&self, m: usize) -> Vec<Row> {
        let row = |i: usize| Row {
            token: (i * 7 % self.vocab_size) as u32,
            slot: 1,
            position: (300 - m + i) as u32,
            logits: i + 1 == m || i.is_multiple_of(3),
        };
        (0..m).map(row).collect()
    }
}

/// Sets up a backend for a case.
pub(crate) type Make<'a> = dyn Fn(&Decoder, Arc<RandomWeights>, KvLayout, RopeTable) -> Box<dyn Backend> + 'a;

/// Runs every op alone for every case, kind of activations and number of rows in `batches`. `limit` is the NMSE allowed
/// for an op: 1e-9 where its inputs are the same, 1e-6 where it quantizes them itself.
pub(crate) fn check_every_op(make: &Make<'_>, batches: &[usize], limit: &dyn Fn(OpKind, Activations) -> f64) {
    for (index, case) in cases().iter().enumerate() {
        let (decoder, source) = case.decoder(index as u64 + 1);
        for activations in [Activations::F32, Activations::Q8, Activations::Q8K] {
            for &m in batches {
                let numerics = Numerics { activations, kv: KvType::F16 };
                check_case(case, (&decoder, &source), numerics, m, make, limit);
            }
        }
    }
}

fn check_case(
    case: &Case,
    (decoder, source): (&Decoder, &Arc<RandomWeights>),
    numerics: Numerics,
    m: usize,
    make: &Make<'_>,
    limit: &dyn Fn(OpKind, Activations) -> f64,
) {
    let kv_layout = decoder.kv_layout(2, 320, numerics.kv);
    let (_, _, head_dim) = case.heads;
    let rope = RopeConfig { theta: 1e6, dim: head_dim, pairing: case.pairing, scaling: RopeScaling::None };
    let rope = RopeTable::new(&rope, 320);
    let twin = Twin::new(decoder.weights(), source.clone(), kv_layout.clone(), rope.clone()).unwrap();
    let mut backends: [Box<dyn Backend>; 2] =
        [Box::new(twin), make(decoder, source.clone(), kv_layout, rope)];
    let mut random = Random::new(m as u64 + 100);

    // Fill the cache up to the rows under test, the same on both: keys and values come from the twin's residual.
    let fill = decoder.plan(
        Rows { rows: 300 - m, logit_rows: 0, sample: false },
        Numerics { activations: Activations::F32, ..numerics },
    );
    let earlier: Vec<Row> =
        (0..300 - m).map(|i| Row { token: 0, slot: 1, position: i as u32, logits: false }).collect();
    let residual = random.values((300 - m) * case.hidden_size);
    for backend in &mut backends {
        let graph = backend.compile(&fill).unwrap();
        backend.set_buffer(graph, Plan::RESIDUAL, &residual).unwrap();
        backend.run_steps(graph, &earlier, 1..2).unwrap();
    }

    let plan = decoder.plan(Rows { rows: m, logit_rows: m, sample: false }, numerics);
    let rows = case.rows(m);
    let graphs = [backends[0].compile(&plan).unwrap(), backends[1].compile(&plan).unwrap()];
    for (index, step) in plan.steps.iter().enumerate() {
        let kind = step.op.kind();
        let inputs: Vec<_> =
            step.reads.iter().map(|&id| (id, random.values(m * plan.buffers[id.0 as usize].width))).collect();
        let mut outputs = Vec::new();
        for (backend, graph) in backends.iter_mut().zip(graphs) {
            for (id, values) in &inputs {
                backend.set_buffer(graph, *id, values).unwrap();
            }
            for &id in step.writes.iter().filter(|id| !step.reads.contains(id)) {
                let buffer = &plan.buffers[id.0 as usize];
                backend.set_buffer(graph, id, &vec![f32::NAN; buffer.rows * buffer.width]).unwrap();
            }
            backend.run_steps(graph, &rows, index..index + 1).unwrap();
            let written: Vec<_> = step.writes.iter().map(|&id| backend.buffer(graph, id).unwrap()).collect();
            outputs.push(written.concat());
        }
        if outputs[0].is_empty() {
            continue;
        }
        let error = nmse(&outputs[1], &outputs[0]);
        let limit = limit(kind, numerics.activations);
        let place =
            format!("{}: {} with {:?} activations, {m} rows", case.name, kind.name(), numerics.activations);
        assert!(error <= limit, "{place}: NMSE {error:e} from the twin, the limit is {limit:e}");
    }
}
