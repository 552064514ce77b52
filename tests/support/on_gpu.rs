//! A model on a CUDA device, driven graph by graph.

use super::whole_model::OnDevice;
use aprgpu::backend::cuda::{CudaBackend, Gpu};
use aprgpu::plan::Numerics;
use std::path::Path;

pub(crate) type OnGpu = OnDevice<CudaBackend>;

impl OnGpu {
    pub(crate) fn new(gpu: &Gpu, file: &Path, numerics: Numerics) -> Self {
        Self::with_slots(gpu, file, numerics, 1)
    }

    pub(crate) fn with_slots(gpu: &Gpu, file: &Path, numerics: Numerics, slots: usize) -> Self {
        Self::open(file, numerics, slots, |parts| {
            let (plan, source, rope) = (&parts.plan, &parts.source, &parts.rope);
            CudaBackend::new(gpu, plan, source, parts.kv_layout, rope, &mut |_, _| {}).unwrap()
        })
    }
}
