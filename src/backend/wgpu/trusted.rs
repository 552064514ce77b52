//! The two calls of wgpu that it cannot check, fenced in: shaders without added guards, and a pipeline cache from disk.

/// A shader module without the guards that wgpu would add to loops: the shaders are this crate's own, checked by naga
/// while it was built, and every loop of theirs counts to a bound that is known before it begins. Bounds of buffers and
/// arrays stay guarded.
pub(super) fn shader_module(
    device: &wgpu::Device,
    description: wgpu::ShaderModuleDescriptor<'_>,
) -> wgpu::ShaderModule {
    let checks =
        wgpu::ShaderRuntimeChecks { force_loop_bounding: false, ..wgpu::ShaderRuntimeChecks::checked() };
    // SAFETY: all other checks are on, and no shader of `shaders/` has an endless loop: each steps an index or halves an
    // interval on every turn, towards a bound that does not change.
    unsafe { device.create_shader_module_trusted(description, checks) }
}

/// A pipeline cache that begins with `data`; where the driver cannot use it, with nothing.
pub(super) fn pipeline_cache(device: &wgpu::Device, data: Option<&[u8]>) -> wgpu::PipelineCache {
    let description = wgpu::PipelineCacheDescriptor { label: Some("aprgpu"), data, fallback: true };
    // SAFETY: `data` comes from `PipelineCache::get_data` by way of a file of this program's own in the user's folder, whose
    // length and checksum have been checked (`pipeline_cache.rs`); wgpu compares the adapter and driver in its header.
    unsafe { device.create_pipeline_cache(&description) }
}
