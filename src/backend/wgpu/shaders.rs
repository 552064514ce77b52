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
    /// Its buffers.
    pub(crate) bindings: &'static [Binding],
}

include!(concat!(env!("OUT_DIR"), "/shaders.rs"));

/// The variant with this key.
pub(crate) fn find(key: &str) -> Option<&'static Variant> {
    VARIANTS.iter().find(|variant| variant.key == key)
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
    fn every_op_has_its_shader() {
        for op in crate::plan::OpKind::ALL {
            let of_op = |variant: &&Variant| variant.key.split(' ').next() == Some(op.name());
            assert!(VARIANTS.iter().any(|variant| of_op(&variant)), "no shader for {}", op.name());
        }
    }
}
