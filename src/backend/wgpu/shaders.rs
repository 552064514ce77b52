//! The table of shader variants that the build script made: what each is called, binds and needs.

/// How a shader uses a buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum BindingKind {
    Uniform,
    Read,
    Write,
}

/// A buffer that a shader binds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Binding {
    pub(crate) index: u32,
    pub(crate) name: &'static str,
    pub(crate) kind: BindingKind,
}

/// A shader that naga has parsed and validated.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Variant {
    /// Its op, then its defines in the order of their names: `down A=q4_k X=q8`.
    pub(crate) key: &'static str,
    /// The composed text.
    pub(crate) text: &'static str,
    /// The entry point.
    pub(crate) entry: &'static str,
    /// Workgroup memory.
    pub(crate) shared_bytes: u32,
    /// Whether it needs subgroups.
    pub(crate) subgroups: bool,
    /// Its buffers.
    pub(crate) bindings: &'static [Binding],
}

include!(concat!(env!("OUT_DIR"), "/shaders.rs"));

/// A shader, for the list of kernels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShaderSummary {
    /// Its op, then its defines in the order of their names.
    pub variant: &'static str,
    /// The text as it goes to the driver.
    pub text: &'static str,
    /// Workgroup memory, bytes.
    pub shared_bytes: u32,
    /// Storage buffers that it binds.
    pub buffers: usize,
}

/// Every shader that exists.
pub fn list_shaders() -> Vec<ShaderSummary> {
    let summary = |variant: &Variant| {
        let storage = variant.bindings.iter().filter(|binding| binding.kind != BindingKind::Uniform);
        ShaderSummary {
            variant: variant.key,
            text: variant.text,
            shared_bytes: variant.shared_bytes,
            buffers: storage.count(),
        }
    };
    VARIANTS.iter().map(summary).collect()
}

/// The variant with this key.
pub(crate) fn find(key: &str) -> Option<&'static Variant> {
    VARIANTS.iter().find(|variant| variant.key == key)
}

/// The variant with this key that uses subgroups, where that is asked for and there is one; else the one that does not.
pub(crate) fn find_with(key: &str, subgroups: bool) -> Option<&'static Variant> {
    let with = subgroups.then(|| format!("{key} SUBGROUPS=1"));
    with.and_then(|key| find(&key)).or_else(|| find(key))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a device must have if it has no more than WebGPU asks for.
    #[test]
    fn every_variant_fits_the_smallest_device() {
        for variant in VARIANTS {
            assert!(variant.shared_bytes <= 16384, "{}: {} bytes", variant.key, variant.shared_bytes);
            let storage = variant.bindings.iter().filter(|binding| binding.kind != BindingKind::Uniform);
            assert!(storage.count() <= 8, "{} binds more than 8 storage buffers", variant.key);
        }
    }

    #[test]
    fn subgroups_are_used_where_asked_for() {
        let key = |key: &str, subgroups| find_with(key, subgroups).map(|v| (v.key, v.subgroups));
        assert_eq!(key("attention", false), Some(("attention", false)));
        assert_eq!(key("attention", true), Some(("attention SUBGROUPS=1", true)));
        assert_eq!(key("attention KV=f32", true), Some(("attention KV=f32 SUBGROUPS=1", true)));
        assert_eq!(key("down A=q4_k X=q8", true), Some(("down A=q4_k X=q8", false)));
        assert_eq!(key("no such op", true), None);
    }

    #[test]
    fn every_op_has_its_shader() {
        for op in crate::plan::OpKind::ALL {
            let of_op = |variant: &&Variant| variant.key.split(' ').next() == Some(op.name());
            assert!(VARIANTS.iter().any(|variant| of_op(&variant)), "no shader for {}", op.name());
        }
    }
}
