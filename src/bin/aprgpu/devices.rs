//! `aprgpu devices`: what models can run on here.

use crate::args::DevicesArgs;
use crate::failure::Failure;
use aprgpu::backend::cpu;
use serde_json::json;
use std::io::Write;

pub(crate) fn devices(args: &DevicesArgs) -> Result<(), Failure> {
    let cpu = cpu::probe();
    let mut out = std::io::stdout().lock();
    if args.json {
        let paths: Vec<_> = cpu.paths.iter().map(ToString::to_string).collect();
        let device = json!({
            "backend": "cpu", "name": cpu.name, "threads": cpu.threads, "paths": paths, "memory_bytes": cpu.memory_bytes,
        });
        let mut devices = vec![device];
        devices.extend(cuda_json());
        devices.extend(adapters_json());
        writeln!(out, "{}", json!(devices))?;
    } else {
        writeln!(out, "cpu   {cpu}")?;
        writeln!(out, "twin  the scalar specification, one thread: for comparison")?;
        for line in cuda() {
            writeln!(out, "cuda  {line}")?;
        }
        for line in adapters() {
            writeln!(out, "wgpu  {line}")?;
        }
    }
    Ok(())
}

#[cfg(feature = "cuda")]
fn cuda() -> Vec<String> {
    match aprgpu::backend::cuda::list_devices() {
        Ok(devices) => devices.iter().map(ToString::to_string).collect(),
        Err(aprgpu::backend::Error::Unavailable { reason, .. }) => vec![format!("none: {reason}")],
        Err(error) => vec![format!("none: {error}")],
    }
}

#[cfg(not(feature = "cuda"))]
fn cuda() -> Vec<String> {
    vec!["not built in".to_owned()]
}

/// The CUDA devices, or one entry that says why there is none.
#[cfg(feature = "cuda")]
fn cuda_json() -> Vec<serde_json::Value> {
    let described = |d: aprgpu::backend::cuda::DeviceSummary| {
        json!({
            "backend": "cuda", "index": d.index, "name": d.name, "compute_capability": d.capability,
            "memory_bytes": d.memory_bytes, "multiprocessors": d.multiprocessors,
            "driver": format!("{}.{}", d.driver.0, d.driver.1), "simulated": d.simulated, "variants": d.variants,
        })
    };
    match aprgpu::backend::cuda::list_devices() {
        Ok(devices) => devices.into_iter().map(described).collect(),
        Err(error) => vec![json!({ "backend": "cuda", "unavailable": error.to_string() })],
    }
}

#[cfg(not(feature = "cuda"))]
fn cuda_json() -> Vec<serde_json::Value> {
    Vec::new()
}

#[cfg(feature = "wgpu")]
fn adapters() -> Vec<String> {
    let adapters = aprgpu::backend::wgpu::list_adapters();
    if adapters.is_empty() {
        return vec!["no Vulkan, Metal or DX12 adapter: install a driver".to_owned()];
    }
    adapters.iter().map(ToString::to_string).collect()
}

#[cfg(not(feature = "wgpu"))]
fn adapters() -> Vec<String> {
    vec!["not built in".to_owned()]
}

#[cfg(feature = "wgpu")]
fn adapters_json() -> Vec<serde_json::Value> {
    let described = |a: aprgpu::backend::wgpu::AdapterSummary| {
        json!({
            "backend": "wgpu", "index": a.index, "name": a.name, "api": a.api, "driver": a.driver,
            "software": a.software, "subgroup_sizes": [a.subgroup_sizes.0, a.subgroup_sizes.1],
            "max_binding_bytes": a.max_binding, "max_invocations": a.max_invocations,
            "workgroup_memory_bytes": a.workgroup_memory, "storage_buffers": a.storage_buffers,
            "features": a.features, "variants": a.variants,
        })
    };
    aprgpu::backend::wgpu::list_adapters().into_iter().map(described).collect()
}

#[cfg(not(feature = "wgpu"))]
fn adapters_json() -> Vec<serde_json::Value> {
    Vec::new()
}
