//! The type byte of an APR tensor.

use super::EXT_DTYPES_KEY;
use crate::format::Error;
use crate::quant::TensorType;
use serde_json::{Map, Value};
use std::path::Path;

/// The first code for types that APR has no interoperable code for: this plus ggml's code.
const FIRST_PRIVATE: u8 = 160;

/// The code to write for a type; `None` where its ggml code does not fit.
pub(super) fn code(tensor_type: TensorType) -> Option<u8> {
    Some(match tensor_type {
        TensorType::F32 => 0,
        TensorType::F16 => 1,
        TensorType::Q4_K => 12,
        TensorType::Q6_K => 14,
        TensorType::BF16 => 30,
        TensorType::AprQ4 => 128,
        TensorType::AprQ8 => 129,
        private => FIRST_PRIVATE.checked_add(u8::try_from(private.ggml_code()?).ok()?)?,
    })
}

/// Whether the published `apr` reads tensors of this type.
pub(super) fn is_interoperable(tensor_type: TensorType) -> bool {
    code(tensor_type).is_some_and(|code| code < FIRST_PRIVATE)
}

/// The private codes that a file declares.
#[derive(Debug, Default)]
pub(super) struct Declared(Vec<(u8, TensorType)>);

impl Declared {
    pub(super) fn read(path: &Path, metadata: &Map<String, Value>) -> Result<Self, Error> {
        let error = |what: String| Error::Key { path: path.to_owned(), key: EXT_DTYPES_KEY.to_owned(), what };
        let Some(value) = metadata.get(EXT_DTYPES_KEY) else { return Ok(Self::default()) };
        let Value::Object(object) = value else {
            return Err(error("expected an object from type code to type name".to_owned()));
        };
        let mut declared = Vec::new();
        for (code, name) in object {
            let number = code.parse().ok().filter(|&number: &u8| number >= FIRST_PRIVATE);
            let Some(number) = number else {
                return Err(error(format!("expected codes from {FIRST_PRIVATE} to 255, found {code:?}")));
            };
            let Some(tensor_type) = name.as_str().and_then(TensorType::from_name) else {
                return Err(error(format!("code {code}: expected the name of a tensor type, found {name}")));
            };
            declared.push((number, tensor_type));
        }
        Ok(Self(declared))
    }

    /// The type with this code, or what to tell the user.
    pub(super) fn tensor_type(&self, code: u8) -> Result<TensorType, String> {
        Ok(match code {
            0 => TensorType::F32,
            1 => TensorType::F16,
            // 8 and 9 are what early versions of the peer wrote for its own types; they are not ggml's Q8_0 and Q8_1.
            8 | 128 => TensorType::AprQ4,
            9 | 129 => TensorType::AprQ8,
            12 => TensorType::Q4_K,
            14 => TensorType::Q6_K,
            30 => TensorType::BF16,
            FIRST_PRIVATE.. => match self.0.iter().find(|(declared, _)| *declared == code) {
                Some(&(_, tensor_type)) => tensor_type,
                None => {
                    return Err(format!(
                        "type code {code} is private, and {EXT_DTYPES_KEY} does not declare it"
                    ));
                }
            },
            3..=7 => {
                return Err(format!(
                    "type code {code} means different types to different programs; convert the model anew"
                ));
            }
            _ => return Err(format!("type code {code} is not one that APR files may hold")),
        })
    }
}
