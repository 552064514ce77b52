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
        devices.extend(adapters_json());
        writeln!(out, "{}", json!(devices))?;
    } else {
        writeln!(out, "cpu   {cpu}")?;
        writeln!(out, "twin  the scalar specification, one thread: for comparison")?;
        for line in adapters() {
            writeln!(out, "wgpu  {line}")?;
        }
    }
    Ok(())
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
