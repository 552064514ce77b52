//! Every tensor type that a model file may hold, with the sizes of its blocks.

use std::fmt;

/// Declares the types once: variant, name, ggml's code, values per block, bytes per block.
macro_rules! tensor_types {
    ($($variant:ident $name:literal $ggml:expr, $block_len:literal, $block_bytes:literal;)*) => {
        /// The type of a tensor's elements.
        ///
        /// Sizes and codes of the ggml types: `ggml/include/ggml.h` and `ggml/src/ggml-common.h` of ggml 0.25.
        /// `AprQ4` and `AprQ8` exist in APR files only, `LatticeQ4` in lattice's `.q4` files.
        #[expect(non_camel_case_types, reason = "the field's own names: Q4_K, not Q4K")]
        #[expect(missing_docs, reason = "each variant is named after the layout it stands for")]
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum TensorType { $($variant),* }

        impl TensorType {
            /// All types, in the order of ggml's codes.
            pub const ALL: &[Self] = &[$(Self::$variant),*];

            /// The name that ggml prints, for example `Q4_K`.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name),* }
            }

            /// The type's code in a GGUF file, if it has one.
            pub const fn ggml_code(self) -> Option<u32> {
                match self { $(Self::$variant => $ggml),* }
            }

            /// Values in one block.
            pub const fn block_len(self) -> usize {
                match self { $(Self::$variant => $block_len),* }
            }

            /// Bytes of one block.
            pub const fn block_bytes(self) -> usize {
                match self { $(Self::$variant => $block_bytes),* }
            }
        }
    };
}

tensor_types! {
    F32     "F32"     Some(0),  1, 4;
    F16     "F16"     Some(1),  1, 2;
    Q4_0    "Q4_0"    Some(2),  32, 18;
    Q4_1    "Q4_1"    Some(3),  32, 20;
    Q5_0    "Q5_0"    Some(6),  32, 22;
    Q5_1    "Q5_1"    Some(7),  32, 24;
    Q8_0    "Q8_0"    Some(8),  32, 34;
    Q8_1    "Q8_1"    Some(9),  32, 36;
    Q2_K    "Q2_K"    Some(10), 256, 84;
    Q3_K    "Q3_K"    Some(11), 256, 110;
    Q4_K    "Q4_K"    Some(12), 256, 144;
    Q5_K    "Q5_K"    Some(13), 256, 176;
    Q6_K    "Q6_K"    Some(14), 256, 210;
    Q8_K    "Q8_K"    Some(15), 256, 292;
    IQ2_XXS "IQ2_XXS" Some(16), 256, 66;
    IQ2_XS  "IQ2_XS"  Some(17), 256, 74;
    IQ3_XXS "IQ3_XXS" Some(18), 256, 98;
    IQ1_S   "IQ1_S"   Some(19), 256, 50;
    IQ4_NL  "IQ4_NL"  Some(20), 32, 18;
    IQ3_S   "IQ3_S"   Some(21), 256, 110;
    IQ2_S   "IQ2_S"   Some(22), 256, 82;
    IQ4_XS  "IQ4_XS"  Some(23), 256, 136;
    I8      "I8"      Some(24), 1, 1;
    I16     "I16"     Some(25), 1, 2;
    I32     "I32"     Some(26), 1, 4;
    I64     "I64"     Some(27), 1, 8;
    F64     "F64"     Some(28), 1, 8;
    IQ1_M   "IQ1_M"   Some(29), 256, 56;
    BF16    "BF16"    Some(30), 1, 2;
    TQ1_0   "TQ1_0"   Some(34), 256, 54;
    TQ2_0   "TQ2_0"   Some(35), 256, 66;
    MXFP4   "MXFP4"   Some(39), 32, 17;
    AprQ4   "AprQ4"   None,     32, 18;
    AprQ8   "AprQ8"   None,     1, 1;
    LatticeQ4 "LatticeQ4" None, 32, 20;
}

impl TensorType {
    /// The type with this code in a GGUF file.
    pub fn from_ggml_code(code: u32) -> Option<Self> {
        Self::ALL.iter().copied().find(|t| t.ggml_code() == Some(code))
    }

    /// The type with this name, whatever its case.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|t| t.name().eq_ignore_ascii_case(name))
    }

    /// Bytes of a row of `cols` values; `None` where the block does not divide the row or the product overflows.
    pub const fn row_bytes(self, cols: usize) -> Option<usize> {
        if !cols.is_multiple_of(self.block_len()) {
            return None;
        }
        (cols / self.block_len()).checked_mul(self.block_bytes())
    }

    /// Whether kernels exist for weights of this type.
    pub const fn is_weight_type(self) -> bool {
        matches!(
            self,
            Self::F32
                | Self::F16
                | Self::BF16
                | Self::Q4_0
                | Self::Q4_1
                | Self::Q5_0
                | Self::Q5_1
                | Self::Q8_0
                | Self::Q4_K
                | Self::Q5_K
                | Self::Q6_K
        )
    }

    /// Whether blocks run over the whole tensor rather than over each row: the ends of rows may lie inside of blocks.
    pub const fn ignores_rows(self) -> bool {
        matches!(self, Self::AprQ4 | Self::LatticeQ4)
    }

    /// Whether weights of this type are multiplied with float32 activations whatever was asked for.
    pub const fn is_float(self) -> bool {
        matches!(self, Self::F32 | Self::F16 | Self::BF16)
    }
}

impl fmt::Display for TensorType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
