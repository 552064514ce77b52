//! The specification: every op as plain loops over the file's own bytes, one thread, no tricks.
//!
//! Each file is the twin of a shader and a PTX kernel of the same name, with the same bindings in the same order. The
//! fast paths, here and on GPUs, are checked against it op by op. It is a backend of its own (`--backend twin`), so any
//! result can be traced to it.

mod attention;
mod attn_out;
mod down;
mod embed;
mod exp;
mod gate_up;
mod head;
mod kv_cache;
mod matmul;
mod qkv_rope;
mod rms_norm;
mod sample;

pub use sample::{SampleScratch, argmax, philox, sample, sample_in, uniform};

use super::outside_of_cache;
use super::slots::{Sampled, Slots, advance, buffer_len, check_finite, check_rows};
use crate::backend::{Backend, Counters, Error, GraphId, KeysAndValues, Sampling};
use crate::plan::{
    BufferId, KvLayout, Linear, Op, Plan, RopeTable, Row, Step, Weight, WeightId, WeightSource,
};
use crate::quant;
use kv_cache::KvCache;
use matmul::{Affine, Matrix, Norm};
use std::ops::Range;
use std::sync::Arc;

/// The scalar backend.
pub struct Twin {
    source: Arc<dyn WeightSource + Send + Sync>,
    weights: Vec<Weight>,
    vectors: Vec<Vec<f32>>,
    rope: RopeTable,
    kv_cache: KvCache,
    kv_layout: KvLayout,
    slots: Slots,
    graphs: Vec<Graph>,
    counters: Counters,
}

/// A plan with its buffers.
struct Graph {
    plan: Plan,
    buffers: Vec<Vec<f32>>,
    rows: Vec<Row>,
    /// What the last pass sampled, for the next replay.
    last: Vec<u32>,
    /// What was sampled and not yet taken.
    sampled: Sampled,
}

impl Twin {
    /// Sets up weights and cache; rows of matrices are read from `source` as they are needed.
    pub fn new(
        weights: &[Weight],
        source: Arc<dyn WeightSource + Send + Sync>,
        kv_layout: KvLayout,
        rope: RopeTable,
    ) -> Result<Self, Error> {
        let len = super::cache_len(&kv_layout)?;
        let vectors = weights.iter().enumerate().map(|(id, weight)| {
            let mut values = vec![0.0; if weight.is_vector() { weight.cols } else { 0 }];
            if weight.is_vector() {
                let bytes = source.row(WeightId(id as u32), 0);
                quant::decode_row(weight.tensor_type, bytes, &mut values)
                    .map_err(|error| Error::Misuse(format!("{}: {error}", weight.name)))?;
            }
            Ok::<_, Error>(values)
        });
        let vectors = vectors.collect::<Result<_, _>>()?;
        Ok(Self {
            source,
            weights: weights.to_vec(),
            vectors,
            rope,
            kv_cache: KvCache::new(kv_layout.clone(), len),
            slots: Slots::new(kv_layout.slots),
            kv_layout,
            graphs: Vec::new(),
            counters: Counters::default(),
        })
    }

    fn pass(&mut self, graph: &mut Graph, steps: Range<usize>) -> Result<(), Error> {
        let Graph { plan, buffers, rows, last, sampled } = graph;
        for step in plan.steps.iter().take(steps.end).skip(steps.start) {
            if step.op == Op::Sample {
                let logits = &buffers[Plan::LOGITS.0 as usize];
                self.slots.sample(rows, logits, plan.shape.vocab_size, last);
                sampled.push(last);
            } else {
                self.step(plan, step, rows, buffers);
                check_finite(plan, step, rows, |id| &buffers[id.0 as usize])?;
            }
            self.counters.launches += 1;
        }
        self.counters.submits += 1;
        self.counters.rows += rows.len() as u64;
        Ok(())
    }

    fn step(&mut self, plan: &Plan, step: &Step, rows: &[Row], buffers: &mut [Vec<f32>]) {
        let (shape, numerics) = (&plan.shape, plan.numerics);
        let [residual, query, attention, gated, logits] = buffers else { return };
        let asked = rows.iter().filter(|row| row.logits).count();
        let residual = &mut residual[..rows.len() * shape.hidden_size];
        let query = &mut query[..rows.len() * shape.num_heads * shape.head_dim];
        let attention = &mut attention[..rows.len() * shape.num_heads * shape.head_dim];
        let gated = &mut gated[..rows.len() * shape.intermediate_size];
        let logits = &mut logits[..asked * shape.vocab_size];
        let layer = step.layer.unwrap_or(0);

        let source = &*self.source;
        let matrix = |id: WeightId| Matrix { weight: &self.weights[id.0 as usize], id, source };
        let vector = |id: WeightId| &self.vectors[id.0 as usize][..];
        let norm = |id: WeightId| Norm { weight: vector(id), eps: shape.rms_norm_eps };
        let affine = |linear: Linear| Affine {
            matrix: matrix(linear.weight),
            bias: linear.bias.map(vector),
            cut: plan.cut(&step.op, linear.weight),
            squares_cut: plan.squares_cut(&step.op, linear.weight),
        };
        match step.op {
            Op::Embed { table } => embed::embed(rows, matrix(table), residual),
            Op::QkvRope { norm: id, q, k, v, q_norm, k_norm } => {
                let weights = qkv_rope::Weights {
                    norm: norm(id),
                    q: affine(q),
                    k: affine(k),
                    v: affine(v),
                    q_norm: q_norm.map(vector),
                    k_norm: k_norm.map(vector),
                };
                let cache = (&mut self.kv_cache, layer);
                qkv_rope::qkv_rope(shape, numerics, &weights, &self.rope, rows, residual, query, cache);
            }
            Op::Attention => attention::attention(shape, rows, query, &self.kv_cache, layer, attention),
            Op::AttnOut { output } => attn_out::attn_out(numerics, affine(output), attention, residual),
            Op::GateUp { norm: id, gate, up } => {
                let weights = (affine(gate), affine(up));
                gate_up::gate_up(numerics, norm(id), weights, residual, gated);
            }
            Op::Down { down } => down::down(numerics, affine(down), gated, residual),
            Op::Head { norm: id, output } => {
                let output = affine(Linear { weight: output, bias: None });
                head::head(shape, numerics, (norm(id), output), rows, residual, logits);
            }
            // Run by `pass`, which holds the sequences.
            Op::Sample => {}
        }
    }

    fn with_graph(
        &mut self,
        id: GraphId,
        run: impl FnOnce(&mut Self, &mut Graph) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let index = id.index(self.graphs.len())?;
        let placeholder = Graph {
            plan: self.graphs[index].plan.clone(),
            buffers: vec![],
            rows: vec![],
            last: vec![],
            sampled: Sampled::default(),
        };
        let mut graph = std::mem::replace(&mut self.graphs[index], placeholder);
        let result = run(self, &mut graph);
        self.graphs[index] = graph;
        result
    }

    fn graph(&self, id: GraphId) -> Result<&Graph, Error> {
        Ok(&self.graphs[id.index(self.graphs.len())?])
    }
}

impl Backend for Twin {
    fn name(&self) -> &'static str {
        "twin"
    }

    fn describe(&self) -> String {
        "scalar twins on one CPU thread: the specification, not a fast path".to_owned()
    }

    fn compile(&mut self, plan: &Plan) -> Result<GraphId, Error> {
        let buffers = plan.buffers.iter().map(|buffer| vec![0.0; buffer.rows * buffer.width]).collect();
        self.graphs.push(Graph {
            plan: plan.clone(),
            buffers,
            rows: vec![],
            last: vec![],
            sampled: Sampled::default(),
        });
        Ok(GraphId(self.graphs.len() as u32 - 1))
    }

    fn set_sampling(&mut self, slot: u32, sampling: &Sampling, recent: &[u32]) -> Result<(), Error> {
        self.slots.set(slot, sampling, recent)
    }

    fn run_steps(&mut self, graph: GraphId, rows: &[Row], steps: Range<usize>) -> Result<(), Error> {
        self.with_graph(graph, |twin, graph| {
            check_rows(&graph.plan, &twin.kv_layout, rows)?;
            graph.rows = rows.to_vec();
            twin.pass(graph, steps)
        })
    }

    fn replay(&mut self, graph: GraphId, times: u32) -> Result<(), Error> {
        self.with_graph(graph, |twin, graph| {
            for _ in 0..times {
                advance(&mut graph.rows, &graph.last)?;
                check_rows(&graph.plan, &twin.kv_layout, &graph.rows)?;
                twin.pass(graph, 0..usize::MAX)?;
            }
            Ok(())
        })
    }

    fn sampled(&mut self, graph: GraphId) -> Result<Vec<Vec<u32>>, Error> {
        let mut taken = Vec::new();
        self.with_graph(graph, |_, graph| {
            taken = graph.sampled.take();
            Ok(())
        })?;
        Ok(taken)
    }

    fn buffer(&mut self, graph: GraphId, buffer: BufferId) -> Result<Vec<f32>, Error> {
        let graph = self.graph(graph)?;
        let len = buffer_len(&graph.plan, &graph.rows, buffer)?;
        Ok(graph.buffers[buffer.0 as usize][..len].to_vec())
    }

    fn set_buffer(&mut self, graph: GraphId, buffer: BufferId, values: &[f32]) -> Result<(), Error> {
        self.with_graph(graph, |_, graph| {
            let into = graph.buffers.get_mut(buffer.0 as usize).and_then(|b| b.get_mut(..values.len()));
            let too_long =
                || Error::Misuse(format!("buffer {} cannot take {} values", buffer.0, values.len()));
            into.ok_or_else(too_long)?.copy_from_slice(values);
            Ok(())
        })
    }

    fn cached(&mut self, layer: usize, slot: u32, position: u32) -> Result<Option<KeysAndValues>, Error> {
        let l = &self.kv_layout;
        let (slot, position) = (slot as usize, position as usize);
        if layer >= l.num_layers || slot >= l.slots || position >= l.context {
            return Err(outside_of_cache(layer, slot, position));
        }
        let mut keys = vec![0.0; l.num_kv_heads * l.head_dim];
        let mut values = keys.clone();
        let heads = keys.chunks_exact_mut(l.head_dim).zip(values.chunks_exact_mut(l.head_dim));
        for (head, (key, value)) in heads.enumerate() {
            self.kv_cache.key(layer, slot, head, position, key);
            self.kv_cache.value(layer, slot, head, position, value);
        }
        Ok(Some((keys, values)))
    }

    fn counters(&self) -> Counters {
        self.counters
    }
}
