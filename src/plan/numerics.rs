//! The names of what changes numbers, as command lines and records have them.

use super::{Activations, KvType};

impl Activations {
    /// Every kind.
    pub const ALL: [Self; 3] = [Self::F32, Self::Q8, Self::Q8K];

    /// The kind of this name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|activations| activations.name() == name)
    }
}

impl KvType {
    /// The name on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::F16 => "f16",
            Self::F32 => "f32",
        }
    }

    /// The type of this name.
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::F16, Self::F32].into_iter().find(|kv| kv.name() == name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_found_again() {
        for activations in Activations::ALL {
            assert_eq!(Activations::from_name(activations.name()), Some(activations));
        }
        assert_eq!(
            (KvType::from_name("f16"), KvType::from_name("f32")),
            (Some(KvType::F16), Some(KvType::F32))
        );
        assert_eq!((Activations::from_name("q9"), KvType::from_name("")), (None, None));
    }
}
