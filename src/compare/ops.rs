//! The table of cases that every backend's ops are held to: random weights of true shapes, each op run alone on the
//! backend and on its twin from the same inputs.

use super::metric::Difference;
use super::{Error, Random};
use crate::backend::cpu::twin::Twin;
use crate::backend::{Backend, GraphId, KeysAndValues};
use crate::model::{Architecture, ModelConfig, Role, RopeConfig, RopePairing, RopeScaling};
use crate::plan::{
    Activations, Decoder, KvLayout, KvType, Numerics, OpKind, Plan, RopeTable, Row, Rows, Step, Weight,
    WeightId, WeightSource,
};
use crate::quant::{self, TensorType};
use std::sync::Arc;

/// Positions before the rows under test and with them: attention crosses a split of 256.
const POSITIONS: usize = 300;

/// A model of one layer.
#[derive(Clone, Debug)]
pub struct Case {
    /// What is special about it.
    pub name: &'static str,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Width of the feed-forward layer.
    pub intermediate_size: usize,
    /// Query heads, key and value heads, width of a head.
    pub heads: (usize, usize, usize),
    /// Rows of the head.
    pub vocab_size: usize,
    /// Which dimensions RoPE rotates together.
    pub pairing: RopePairing,
    /// RMSNorm on the heads of q and k.
    pub qk_norm: bool,
    /// Biases on every matrix of the layer.
    pub bias: bool,
    /// The head is the embedding.
    pub tied: bool,
    /// Positions that attention sees.
    pub sliding_window: Option<usize>,
    /// Types of q, k, v, attention output, gate, up, down, embedding and head.
    pub types: [TensorType; 8],
}

/// Shapes of real models, narrowed in rows, and the awkward ones: odd row counts, widths of 896, 1536 and 4864.
pub fn cases() -> Vec<Case> {
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
        types: [Q4_K, Q4_K, Q6_K, Q4_K, Q4_K, Q4_K, Q6_K, Q6_K],
    };
    vec![
        base.clone(),
        Case {
            name: "0.5B width: rows of 896 and 4864",
            hidden_size: 896,
            intermediate_size: 4864,
            heads: (14, 2, 64),
            types: [Q5_0, Q5_0, Q8_0, Q5_0, Q5_0, Q5_0, Q4_K, Q8_0],
            ..base.clone()
        },
        Case {
            name: "1.5B width: rows of 1536, heads of 128, gate and up of two types",
            hidden_size: 1536,
            intermediate_size: 768,
            heads: (12, 2, 128),
            types: [Q4_K, Q5_K, Q6_K, Q5_K, Q4_K, Q6_K, Q5_K, Q6_K],
            ..base.clone()
        },
        Case {
            name: "qwen3: head norms, heads wider than hidden, untied",
            hidden_size: 512,
            heads: (6, 2, 128),
            qk_norm: true,
            bias: false,
            tied: false,
            types: [Q5_1, Q5_1, Q8_0, Q5_1, Q5_1, Q5_1, Q8_0, Q5_1],
            ..base.clone()
        },
        Case {
            name: "llama: NORM rotation, every head its own keys",
            heads: (4, 4, 64),
            pairing: RopePairing::Norm,
            bias: false,
            tied: false,
            types: [Q4_0, Q4_1, Q4_0, Q4_1, Q4_1, Q4_0, Q4_1, Q4_0],
            ..base.clone()
        },
        Case {
            name: "float weights, odd rows, a window",
            hidden_size: 160,
            intermediate_size: 97,
            heads: (5, 1, 32),
            vocab_size: 33,
            sliding_window: Some(20),
            types: [F16, BF16, F32, F16, BF16, BF16, F32, F16],
            ..base.clone()
        },
        Case {
            name: "quantized and float matrices in one step",
            hidden_size: 288,
            intermediate_size: 320,
            heads: (3, 1, 96),
            types: [Q8_0, F16, Q4_0, F32, Q5_0, Q8_0, Q5_1, Q8_0],
            ..base
        },
    ]
}

/// Weights in memory.
#[derive(Clone, Debug)]
pub struct RandomWeights {
    rows: Vec<Vec<Vec<u8>>>,
}

impl RandomWeights {
    /// A row's bytes, to plant a fault in them.
    pub fn row_mut(&mut self, id: WeightId, row: usize) -> Option<&mut Vec<u8>> {
        self.rows.get_mut(id.0 as usize)?.get_mut(row)
    }
}

impl WeightSource for RandomWeights {
    fn row(&self, id: WeightId, row: usize) -> &[u8] {
        self.rows.get(id.0 as usize).and_then(|rows| rows.get(row)).map_or(&[], Vec::as_slice)
    }

    fn release(&self, _: WeightId) {}
}

impl Case {
    /// The decoder of this case, of one layer, with random weights.
    ///
    /// # Errors
    /// A shape that no plan can be made for.
    pub fn decoder(&self, seed: u64) -> Result<(Decoder, Arc<RandomWeights>), Error> {
        self.decoder_of(1, seed)
    }

    /// The same with `num_layers` layers.
    ///
    /// # Errors
    /// A shape that no plan can be made for.
    pub fn decoder_of(&self, num_layers: usize, seed: u64) -> Result<(Decoder, Arc<RandomWeights>), Error> {
        let (num_heads, num_kv_heads, head_dim) = self.heads;
        let config = ModelConfig {
            architecture: Architecture::Qwen2,
            hidden_size: self.hidden_size,
            intermediate_size: self.intermediate_size,
            num_layers,
            num_heads,
            num_kv_heads,
            head_dim,
            vocab_size: self.vocab_size,
            context_length: 1024,
            rms_norm_eps: 1e-6,
            rope: self.rope(),
            sliding_window: self.sliding_window,
            tied_embeddings: self.tied,
            qkv_bias: self.bias,
            output_bias: self.bias,
            mlp_bias: self.bias,
            qk_norm: self.qk_norm,
        };
        let decoder = Decoder::new(&config, &|role, _| Some(self.weight(role)))?;
        let mut random = Random::new(seed);
        let mut encode = |weight: &Weight| -> Result<Vec<Vec<u8>>, Error> {
            let row = |_| {
                let mut values = random.values(weight.cols);
                if weight.is_vector() {
                    values.iter_mut().for_each(|value| *value = 1.0 + 0.1 * *value);
                }
                let mut bytes = vec![0; weight.tensor_type.row_bytes(weight.cols).unwrap_or(0)];
                quant::encode_row(weight.tensor_type, &values, None, &mut bytes)?;
                Ok(bytes)
            };
            (0..weight.rows).map(row).collect()
        };
        let rows = decoder.weights().iter().map(&mut encode).collect::<Result<_, Error>>()?;
        Ok((decoder, Arc::new(RandomWeights { rows })))
    }

    /// RoPE of this case.
    pub fn rope(&self) -> RopeConfig {
        let (_, _, dim) = self.heads;
        RopeConfig { theta: 1e6, dim, pairing: self.pairing, scaling: RopeScaling::None }
    }

    fn weight(&self, role: Role) -> Weight {
        let (num_heads, num_kv_heads, head_dim) = self.heads;
        let (query, kv) = (num_heads * head_dim, num_kv_heads * head_dim);
        let (hidden, ffn) = (self.hidden_size, self.intermediate_size);
        let [q, k, v, attn_out, gate, up, down, embedding] = self.types;
        let (tensor_type, rows, cols) = match role {
            Role::TokenEmbedding | Role::Output => (embedding, self.vocab_size, hidden),
            Role::AttnQ => (q, query, hidden),
            Role::AttnK => (k, kv, hidden),
            Role::AttnV => (v, kv, hidden),
            Role::AttnOutput => (attn_out, hidden, query),
            Role::FfnGate => (gate, ffn, hidden),
            Role::FfnUp => (up, ffn, hidden),
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
            position: (POSITIONS.saturating_sub(m) + i) as u32,
            logits: i + 1 == m || i.is_multiple_of(3),
        };
        (0..m).map(row).collect()
    }
}

/// Sets up a backend for a case.
pub type Make<'a> =
    dyn Fn(&Decoder, Arc<RandomWeights>, KvLayout, RopeTable) -> Result<Box<dyn Backend>, Error> + 'a;

/// An op run alone.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The case's name.
    pub case: &'static str,
    /// The op.
    pub op: OpKind,
    /// How activations met weights.
    pub activations: Activations,
    /// Rows of the run.
    pub rows: usize,
    /// What it wrote, against the twin.
    pub difference: Difference,
}

/// The NMSE that an op of any backend may have from its twin given the same inputs: 1e-9, or 1e-6 where it quantizes
/// activations itself (one value that is rounded the other way shows).
pub fn limit(op: OpKind, activations: Activations) -> f64 {
    match op {
        OpKind::Embed | OpKind::Attention | OpKind::Sample => 1e-9,
        _ if activations == Activations::F32 => 1e-9,
        _ => 1e-6,
    }
}

/// Runs every op alone for `cases`, every kind of activations and the numbers of rows in `batches` (up to 256), on the
/// twin and on the backend that `make` sets up. With `f32` activations the cache is float32 as well. Otherwise it is
/// float16, and where the backend's differs from the twin's (each has filled its own, and a key that lies between two
/// float16 may have become either), attention is held to float64 arithmetic over the backend's.
///
/// # Errors
/// A backend that cannot be set up or fails.
pub fn run_every_op(cases: &[Case], make: &Make<'_>, batches: &[usize]) -> Result<Vec<Outcome>, Error> {
    let mut outcomes = Vec::new();
    for (index, case) in cases.iter().enumerate() {
        let (decoder, source) = case.decoder(index as u64 + 1)?;
        for activations in Activations::ALL {
            for &m in batches {
                let kv = if activations == Activations::F32 { KvType::F32 } else { KvType::F16 };
                let numerics = Numerics { activations, kv };
                run_case(case, (&decoder, &source), numerics, m, make, &mut outcomes)?;
            }
        }
    }
    Ok(outcomes)
}

fn run_case(
    case: &Case,
    (decoder, source): (&Decoder, &Arc<RandomWeights>),
    mut numerics: Numerics,
    m: usize,
    make: &Make<'_>,
    outcomes: &mut Vec<Outcome>,
) -> Result<(), Error> {
    let rope = RopeTable::new(&case.rope(), POSITIONS + 20);
    let layout = |kv| decoder.kv_layout(2, POSITIONS + 20, kv);
    let mut backend = make(decoder, source.clone(), layout(numerics.kv), rope.clone())?;
    if numerics.kv == KvType::F16 && backend.cached(0, 0, 0)?.is_none() {
        // A cache that cannot be asked must be the same on both sides.
        numerics.kv = KvType::F32;
        backend = make(decoder, source.clone(), layout(numerics.kv), rope.clone())?;
    }
    let twin = Twin::new(decoder.weights(), source.clone(), layout(numerics.kv), rope)?;
    let mut backends: [Box<dyn Backend>; 2] = [Box::new(twin), backend];
    let mut random = Random::new(m as u64 + 100);

    // Fill the cache up to the rows under test, the same on both: keys and values come from the twin's residual.
    let earlier = POSITIONS.saturating_sub(m);
    let rows = Rows { rows: earlier, logit_rows: 0, sample: false };
    let fill = decoder.plan(rows, Numerics { activations: Activations::F32, ..numerics });
    let rows: Vec<Row> =
        (0..earlier).map(|i| Row { token: 0, slot: 1, position: i as u32, logits: false }).collect();
    let residual = random.values(earlier * case.hidden_size);
    for backend in &mut backends {
        let graph = backend.compile(&fill)?;
        backend.set_buffer(graph, Plan::RESIDUAL, &residual)?;
        backend.run_steps(graph, &rows, 1..2)?;
    }

    let plan = decoder.plan(Rows { rows: m, logit_rows: m, sample: false }, numerics);
    let rows = case.rows(m);
    let graphs = [backends[0].compile(&plan)?, backends[1].compile(&plan)?];
    for (index, step) in plan.steps.iter().enumerate() {
        let width = |id: usize| plan.buffers.get(id).map_or(0, |buffer| buffer.width);
        let inputs: Vec<_> =
            step.reads.iter().map(|&id| (id, random.values(m * width(id.0 as usize)))).collect();
        let [twin, backend] = &mut backends;
        let mut truth = run_step(&mut **twin, graphs[0], (&plan, index, step), &rows, &inputs)?;
        if step.op.kind() == OpKind::Attention
            && numerics.kv == KvType::F16
            && let Some((_, query)) = inputs.first()
        {
            let cached = whole_cache(&mut **backend, &rows)?;
            if cached != whole_cache(&mut **twin, &rows)? {
                truth = attention_over(&cached, &plan, &rows, query);
            }
        }
        let found = run_step(&mut **backend, graphs[1], (&plan, index, step), &rows, &inputs)?;
        if !truth.is_empty() {
            let (op, activations) = (step.op.kind(), numerics.activations);
            let difference = Difference::of(&found, &truth);
            outcomes.push(Outcome { case: case.name, op, activations, rows: m, difference });
        }
    }
    Ok(())
}

/// One step from the given inputs; what it writes is filled with NaN before.
fn run_step(
    backend: &mut dyn Backend,
    graph: GraphId,
    (plan, index, step): (&Plan, usize, &Step),
    rows: &[Row],
    inputs: &[(crate::plan::BufferId, Vec<f32>)],
) -> Result<Vec<f32>, Error> {
    for (id, values) in inputs {
        backend.set_buffer(graph, *id, values)?;
    }
    for &id in step.writes.iter().filter(|id| !step.reads.contains(id)) {
        if let Some(buffer) = plan.buffers.get(id.0 as usize) {
            backend.set_buffer(graph, id, &vec![f32::NAN; buffer.rows * buffer.width])?;
        }
    }
    backend.run_steps(graph, rows, index..index + 1)?;
    let mut written = Vec::new();
    for &id in &step.writes {
        written.extend(backend.buffer(graph, id)?);
    }
    Ok(written)
}

/// Keys and values of the rows' slot, 1, up to the last row.
fn whole_cache(backend: &mut dyn Backend, rows: &[Row]) -> Result<Vec<KeysAndValues>, Error> {
    let end = rows.iter().map(|row| row.position + 1).max().unwrap_or(0);
    let mut cached = Vec::new();
    for position in 0..end {
        cached.extend(backend.cached(0, 1, position)?);
    }
    Ok(cached)
}

/// Attention in float64 over what a cache holds.
fn attention_over(cached: &[KeysAndValues], plan: &Plan, rows: &[Row], query: &[f32]) -> Vec<f32> {
    let shape = &plan.shape;
    let (dim, group) = (shape.head_dim, shape.num_heads / shape.num_kv_heads.max(1));
    let head = |of: &[f32], h: usize| of.get(h * dim..(h + 1) * dim).unwrap_or_default().to_vec();
    let mut attention = Vec::new();
    for (row, query) in rows.iter().zip(query.chunks_exact(shape.num_heads * dim)) {
        let end = row.position as usize + 1;
        let start = shape.sliding_window.map_or(0, |window| end.saturating_sub(window));
        let seen = cached.get(start..end).unwrap_or_default();
        for h in 0..shape.num_heads {
            let query = head(query, h);
            let score = |keys: &[f32]| -> f64 {
                let products =
                    head(keys, h / group).into_iter().zip(&query).map(|(k, &q)| f64::from(k) * f64::from(q));
                products.sum::<f64>() / (dim as f64).sqrt()
            };
            let scores: Vec<f64> = seen.iter().map(|(keys, _)| score(keys)).collect();
            let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let (mut sum, mut values) = (0.0, vec![0.0f64; dim]);
            for (score, (_, v)) in scores.iter().zip(seen) {
                let weight = (score - max).exp();
                sum += weight;
                for (value, v) in values.iter_mut().zip(head(v, h / group)) {
                    *value += weight * f64::from(v);
                }
            }
            attention.extend(values.iter().map(|value| (value / sum) as f32));
        }
    }
    attention
}
