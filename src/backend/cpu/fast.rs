//! The fast CPU backend: weights in panels, activations in tiles, one closure per pass that every thread runs from the
//! first phase to the last.

use super::phases::{Buffers, Pass, Weights};
use super::pool::{Pool, PoolError, SharedBuffer};
use super::simd::{Isa, KvCache, PanelMemory, PanelShape, Panels};
use super::slots::{Sampled, Slots, advance, buffer_len, check_rows};
use super::{outside_of_cache, physical_cores, probe};
use crate::backend::{Backend, Counters, Error, GraphId, KeysAndValues, Sampling};
use crate::plan::{BufferId, Decoder, KvLayout, Op, Plan, RopeTable, Row, Weight, WeightId, WeightSource};
use crate::quant;
use std::ops::Range;
use std::sync::Arc;

/// The CPU with a model on it.
pub struct Cpu {
    pool: Pool,
    isa: Isa,
    weights: Weights,
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
    buffers: Buffers,
    rows: Vec<Row>,
    /// Which of them asked for logits.
    asked: Vec<usize>,
    /// What the last pass sampled, for the next replay.
    last: Vec<u32>,
    /// What was sampled and not yet taken.
    sampled: Sampled,
}

impl Cpu {
    /// Repacks the weights, on `threads` threads (one per physical core by default), and sets up the cache.
    /// `progress` gets bytes done and in all.
    ///
    /// # Errors
    /// Weights whose scales are not finite, no memory, no threads.
    pub fn new(
        decoder: &Decoder,
        source: Arc<dyn WeightSource + Send + Sync>,
        (kv_layout, rope): (KvLayout, RopeTable),
        threads: Option<usize>,
        isa: Option<Isa>,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<Self, Error> {
        let pool = Pool::new(threads.unwrap_or_else(physical_cores)).map_err(failed)?;
        let kv_cache = KvCache::new(kv_layout.clone()).map_err(failed)?;
        let weights = pack(decoder, source, &pool, progress)?;
        Ok(Self {
            pool,
            isa: isa.unwrap_or_else(Isa::detect),
            weights,
            rope,
            kv_cache,
            slots: Slots::new(kv_layout.slots),
            kv_layout,
            graphs: Vec::new(),
            counters: Counters::default(),
        })
    }

    /// Bytes of weights that were repacked: memory beside the mapped file, whose pages were given back.
    pub fn packed_bytes(&self) -> u64 {
        self.weights.panels.iter().flatten().map(|panels| panels.bytes() as u64).sum()
    }

    fn pass(&mut self, id: GraphId, steps: Range<usize>) -> Result<(), Error> {
        let index = id.index(self.graphs.len())?;
        let graph = &mut self.graphs[index];
        let Graph { plan, buffers, rows, asked, last, sampled } = graph;
        let steps = plan.steps.get(steps.start.min(plan.steps.len())..steps.end.min(plan.steps.len()));
        let steps = steps.unwrap_or_default();
        asked.clear();
        asked.extend((0..rows.len()).filter(|&row| rows[row].logits));
        let (isa, weights, rope, kv_cache) = (self.isa, &self.weights, &self.rope, &self.kv_cache);
        let pass = Pass { isa, plan, weights, rope, kv_cache, buffers, rows, asked };
        pass.run(&self.pool, steps).map_err(failed)?;
        self.counters.submits += 1;
        self.counters.launches += steps.len() as u64;
        self.counters.rows += rows.len() as u64;
        // A value that is not finite spreads to all that follows, so only what was written last is looked at; on a hit the
        // pass is run again, step by step, to name the first.
        if let Some(last) = steps.iter().rev().find(|step| step.op != Op::Sample)
            && let Err(found) = pass.check_finite(last)
        {
            for step in steps {
                pass.run(&self.pool, std::slice::from_ref(step)).map_err(failed)?;
                pass.check_finite(step)?;
            }
            return Err(found);
        }
        if steps.last().is_some_and(|step| step.op == Op::Sample) {
            let logits = buffers.activations[Plan::LOGITS.0 as usize].as_mut_slice();
            self.slots.sample(rows, logits, plan.shape.vocab_size, last);
            sampled.push(last);
        }
        Ok(())
    }

    fn graph(&mut self, id: GraphId) -> Result<&mut Graph, Error> {
        let index = id.index(self.graphs.len())?;
        Ok(&mut self.graphs[index])
    }
}

/// Packs every matrix that is multiplied into one memory, and decodes every vector.
fn pack(
    decoder: &Decoder,
    source: Arc<dyn WeightSource + Send + Sync>,
    pool: &Pool,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Weights, Error> {
    let list = decoder.weights().to_vec();
    let mut places: Vec<Option<(PanelShape, usize)>> = Vec::new();
    let mut bytes = 0usize;
    for (index, weight) in list.iter().enumerate() {
        if weight.is_vector() || !decoder.is_multiplied(WeightId(index as u32)) {
            places.push(None);
            continue;
        }
        let shape = PanelShape::new(weight.tensor_type, weight.rows, weight.cols);
        let shape = shape.map_err(|error| bad(weight, error))?;
        places.push(Some((shape, bytes)));
        bytes = bytes.saturating_add(shape.bytes());
    }
    let mut memory = PanelMemory::new(bytes).map_err(|error| Error::OutOfMemory {
        what: format!("{error}: weights"),
        needed: bytes as u64,
        available: probe().memory_bytes.unwrap_or(0),
        advice: "use a smaller model".to_owned(),
    })?;
    let total: u64 = list.iter().map(|weight| weight.bytes()).sum();
    let (mut vectors, mut done) = (Vec::new(), 0);
    for (index, (weight, place)) in list.iter().zip(&places).enumerate() {
        let id = WeightId(index as u32);
        let mut vector = vec![];
        if weight.is_vector() {
            vector = vec![0.0; weight.cols];
            quant::decode_row(weight.tensor_type, source.row(id, 0), &mut vector)
                .map_err(|error| bad(weight, error))?;
            if let Some(at) = vector.iter().position(|value| !value.is_finite()) {
                return Err(bad(weight, format!("value {at} is not finite")));
            }
        } else if let Some((shape, start)) = place {
            let row = |row| source.row(id, row);
            shape.pack(row, pool, &mut memory, *start).map_err(|error| bad(weight, error))?;
            source.release(id);
        }
        vectors.push(vector);
        done += weight.bytes();
        progress(done, total);
    }
    let memory = Arc::new(memory);
    let panels = |(shape, start)| Panels::new(shape, start, Arc::clone(&memory));
    let panels = places.into_iter().map(|place| place.map(panels)).collect();
    Ok(Weights { list, panels, vectors, source })
}

fn bad(weight: &Weight, what: impl ToString) -> Error {
    Error::BadWeight { name: weight.name.clone(), what: what.to_string() }
}

fn failed(error: PoolError) -> Error {
    match error {
        PoolError::Memory { bytes, .. } => Error::OutOfMemory {
            what: "cache, activations or weights".to_owned(),
            needed: bytes as u64,
            available: probe().memory_bytes.unwrap_or(0),
            advice: "use a smaller --ctx, fewer sequences or a smaller model".to_owned(),
        },
        other => Error::Unavailable { backend: "cpu", reason: other.to_string() },
    }
}

impl Backend for Cpu {
    fn name(&self) -> &'static str {
        "cpu"
    }

    fn describe(&self) -> String {
        let threads = self.pool.threads();
        let plural = if threads == 1 { "" } else { "s" };
        format!("{}, {threads} thread{plural}", self.isa.name())
    }

    fn compile(&mut self, plan: &Plan) -> Result<GraphId, Error> {
        let buffers = Buffers::new(plan, self.kv_layout.context, self.pool.threads()).map_err(failed)?;
        self.graphs.push(Graph {
            plan: plan.clone(),
            buffers,
            rows: vec![],
            asked: vec![],
            last: vec![],
            sampled: Sampled::default(),
        });
        Ok(GraphId(self.graphs.len() as u32 - 1))
    }

    fn set_sampling(&mut self, slot: u32, sampling: &Sampling, recent: &[u32]) -> Result<(), Error> {
        self.slots.set(slot, sampling, recent)
    }

    fn run_steps(&mut self, id: GraphId, rows: &[Row], steps: Range<usize>) -> Result<(), Error> {
        let index = id.index(self.graphs.len())?;
        let graph = &mut self.graphs[index];
        check_rows(&graph.plan, &self.kv_layout, rows)?;
        graph.rows.clear();
        graph.rows.extend_from_slice(rows);
        self.pass(id, steps)
    }

    fn replay(&mut self, id: GraphId, times: u32) -> Result<(), Error> {
        let index = id.index(self.graphs.len())?;
        for _ in 0..times {
            let graph = &mut self.graphs[index];
            advance(&mut graph.rows, &graph.last)?;
            check_rows(&graph.plan, &self.kv_layout, &graph.rows)?;
            self.pass(id, 0..usize::MAX)?;
        }
        Ok(())
    }

    fn sampled(&mut self, id: GraphId) -> Result<Vec<Vec<u32>>, Error> {
        Ok(self.graph(id)?.sampled.take())
    }

    fn buffer(&mut self, id: GraphId, buffer: BufferId) -> Result<Vec<f32>, Error> {
        let graph = self.graph(id)?;
        let len = buffer_len(&graph.plan, &graph.rows, buffer)?;
        Ok(graph.buffers.activations[buffer.0 as usize].as_mut_slice()[..len].to_vec())
    }

    fn set_buffer(&mut self, id: GraphId, buffer: BufferId, values: &[f32]) -> Result<(), Error> {
        let buffers = &mut self.graph(id)?.buffers.activations;
        let into = buffers.get_mut(buffer.0 as usize).map(SharedBuffer::as_mut_slice);
        let into = into.and_then(|into| into.get_mut(..values.len()));
        let too_long = || Error::Misuse(format!("buffer {} cannot take {} values", buffer.0, values.len()));
        into.ok_or_else(too_long)?.copy_from_slice(values);
        Ok(())
    }

    fn cached(&mut self, layer: usize, slot: u32, position: u32) -> Result<Option<KeysAndValues>, Error> {
        let (slot, position) = (slot as usize, position as usize);
        let found = self.kv_cache.read(layer, slot, position);
        found.map(Some).ok_or_else(|| outside_of_cache(layer, slot, position))
    }

    fn counters(&self) -> Counters {
        self.counters
    }
}
