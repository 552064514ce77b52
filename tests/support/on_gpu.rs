//! A model on a CUDA device, driven graph by graph.

use aprgpu::backend::Backend;
use aprgpu::backend::cuda::{CudaBackend, Gpu};
use aprgpu::engine;
use aprgpu::model::Model;
use aprgpu::plan::{Decoder, Numerics, Plan, RopeTable, Row, Rows, WeightId, WeightSource};
use std::path::Path;
use std::sync::Arc;

/// A model's weights by the ids of its decoder.
struct ModelWeights {
    model: Model,
    decoder: Decoder,
}

impl WeightSource for ModelWeights {
    fn row(&self, id: WeightId, row: usize) -> &[u8] {
        let (role, layer) = self.decoder.role(id).unwrap();
        self.model.weights.get(layer, role).unwrap().row(row)
    }

    fn release(&self, _: WeightId) {}
}

/// A model on the device, one slot of 1024 positions.
pub(crate) struct OnGpu {
    pub(crate) backend: CudaBackend,
    decoder: Decoder,
    numerics: Numerics,
}

impl OnGpu {
    pub(crate) fn new(gpu: &Arc<Gpu>, file: &Path, numerics: Numerics) -> Self {
        Self::with_slots(gpu, file, numerics, 1)
    }

    pub(crate) fn with_slots(gpu: &Arc<Gpu>, file: &Path, numerics: Numerics, slots: usize) -> Self {
        let model = Model::open(file).unwrap();
        let decoder = engine::decoder(&model).unwrap();
        let kv_layout = decoder.kv_layout(slots, 1024, numerics.kv);
        let rope = RopeTable::new(&model.config.rope, 1024);
        let plan = decoder.plan(Rows { rows: 1, logit_rows: 1, sample: false }, numerics);
        let source: Arc<dyn WeightSource + Send + Sync> =
            Arc::new(ModelWeights { model, decoder: decoder.clone() });
        let backend = CudaBackend::new(gpu, &plan, &source, kv_layout, &rope, &mut |_, _| {}).unwrap();
        Self { backend, decoder, numerics }
    }

    pub(crate) fn plan(&self, rows: usize, logit_rows: usize, sample: bool) -> Plan {
        self.decoder.plan(Rows { rows, logit_rows, sample }, self.numerics)
    }

    /// Logits at the last position of `tokens`, which enter `chunk` at a time.
    pub(crate) fn logits(&mut self, tokens: &[u32], chunk: usize) -> Vec<f32> {
        let graph = self.backend.compile(&self.plan(chunk, 1, false)).unwrap();
        for (index, tile) in tokens.chunks(chunk).enumerate() {
            let row = |(i, &token): (usize, &u32)| {
                let position = index * chunk + i;
                Row { token, slot: 0, position: position as u32, logits: position + 1 == tokens.len() }
            };
            let rows: Vec<Row> = tile.iter().enumerate().map(row).collect();
            self.backend.run(graph, &rows).unwrap();
        }
        self.backend.buffer(graph, Plan::LOGITS).unwrap()
    }
}
