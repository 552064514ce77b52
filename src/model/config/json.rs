//! Typed values of a JSON object, and the RoPE objects that Hugging Face's and APR's metadata have in common.

use super::fields::Stated;
use super::scaling::{Llama3, StatedScaling, YarnAttention};
use crate::model::error::Error;
use serde_json::{Map, Value};
use std::path::Path;

/// An object of a metadata file. A key that is null counts as absent.
#[derive(Clone, Copy)]
pub(super) struct Object<'a> {
    path: &'a Path,
    /// Where the object stands: `rope_scaling.`, or nothing at the top.
    prefix: &'static str,
    map: Option<&'a Map<String, Value>>,
}

impl<'a> Object<'a> {
    /// The object at the top of the file at `path`.
    pub(super) fn new(path: &'a Path, map: Option<&'a Map<String, Value>>) -> Self {
        Self { path, prefix: "", map }
    }

    /// The value of a key, unless it is null.
    pub(super) fn get(&self, key: &str) -> Option<&'a Value> {
        self.map?.get(key).filter(|value| !value.is_null())
    }

    /// Whether the key is there, be it null.
    pub(super) fn has(&self, key: &str) -> bool {
        self.map.is_some_and(|map| map.contains_key(key))
    }

    /// The key with its place, for messages.
    pub(super) fn key(&self, key: &str) -> String {
        format!("{}{key}", self.prefix)
    }

    /// An integer, however it is spelled (`1e6` is one).
    pub(super) fn usize(&self, key: &str) -> Result<Stated<usize>, Error> {
        self.typed(key, "an integer that is not negative", |value| {
            let whole = |v: f64| (v.fract() == 0.0 && (0.0..9e15).contains(&v)).then_some(v as u64);
            usize::try_from(value.as_u64().or_else(|| value.as_f64().and_then(whole))?).ok()
        })
    }

    /// A number.
    pub(super) fn f64(&self, key: &str) -> Result<Stated<f64>, Error> {
        self.typed(key, "a number", Value::as_f64)
    }

    /// A number, rounded to float32.
    pub(super) fn f32(&self, key: &str) -> Result<Stated<f32>, Error> {
        self.typed(key, "a number", |value| Some(value.as_f64()? as f32))
    }

    /// A truth value.
    pub(super) fn bool(&self, key: &str) -> Result<Stated<bool>, Error> {
        self.typed(key, "true or false", Value::as_bool)
    }

    /// A string.
    pub(super) fn string(&self, key: &str) -> Result<Stated<&'a str>, Error> {
        self.typed(key, "a string", Value::as_str)
    }

    /// A list of strings; none where the key is absent.
    pub(super) fn strings(&self, key: &str) -> Result<Stated<Vec<&'a str>>, Error> {
        self.typed(key, "a list of strings", |value| value.as_array()?.iter().map(Value::as_str).collect())
    }

    /// An object inside this one.
    pub(super) fn object(&self, key: &str, prefix: &'static str) -> Result<Option<Object<'a>>, Error> {
        let found = self.typed(key, "an object", Value::as_object)?.value;
        Ok(found.map(|map| Object { path: self.path, prefix, map: Some(map) }))
    }

    fn typed<T>(
        &self,
        key: &str,
        expected: &str,
        convert: impl FnOnce(&'a Value) -> Option<T>,
    ) -> Result<Stated<T>, Error> {
        let full = self.key(key);
        let Some(value) = self.get(key) else { return Ok(Stated::new(full, None)) };
        match convert(value) {
            Some(converted) => Ok(Stated::new(full, Some(converted))),
            None => {
                let found: String = value.to_string().chars().take(60).collect();
                Err(Error::invalid(self.path, full, format!("expected {expected}, found {found}")))
            }
        }
    }
}

/// What the RoPE keys of an object state.
pub(super) struct Rope {
    pub(super) theta: Stated<f32>,
    /// Part of each head that is rotated.
    pub(super) fraction: Option<f64>,
    /// What comes before the names of the scaling's parameters.
    pub(super) scaling_prefix: String,
    pub(super) scaling: StatedScaling,
}

impl<'a> Object<'a> {
    /// The RoPE keys in both spellings: `rope_theta` and `rope_scaling` at the top, as almost all published models have
    /// them, and `rope_parameters` with all in one object, as transformers 5 writes it.
    pub(super) fn rope(&self) -> Result<Rope, Error> {
        let mut parameters = self.object("rope_parameters", "rope_parameters.")?;
        let scaling = self.object("rope_scaling", "rope_scaling.")?;
        if let Some(object) = parameters {
            // One object per kind of layer: only models with one kind are computed here.
            if object.has("full_attention") || object.has("sliding_attention") {
                if object.get("sliding_attention").is_some() {
                    let what = "layers with RoPE of their own are not computed here";
                    return Err(Error::unsupported(self.path, object.key("sliding_attention"), what));
                }
                parameters = object.object("full_attention", "rope_parameters.full_attention.")?;
            }
        }
        if let (Some(_), Some(_)) = (parameters, scaling) {
            let what = "stands beside rope_parameters; expected one of the two";
            return Err(Error::invalid(self.path, self.key("rope_scaling"), what));
        }
        let nested = parameters.or(scaling);
        let theta = self.once(parameters, |object| object.f32("rope_theta"))?;
        let fraction = self.once(parameters, |object| object.f64("partial_rotary_factor"))?;
        let scaling_prefix = nested.unwrap_or(*self).prefix.to_owned();
        let scaling = match nested {
            Some(nested) => nested.scaling(self)?,
            None => StatedScaling::None,
        };
        Ok(Rope { theta, fraction: fraction.value, scaling_prefix, scaling })
    }

    /// A value that may stand here or in `nested`, but not twice with different values.
    fn once<T: PartialEq + std::fmt::Display>(
        &self,
        nested: Option<Object<'a>>,
        get: impl Fn(&Object<'a>) -> Result<Stated<T>, Error>,
    ) -> Result<Stated<T>, Error> {
        let here = get(self)?;
        let Some(nested) = nested else { return Ok(here) };
        let inner = get(&nested)?;
        match (&here.value, &inner.value) {
            (Some(a), Some(b)) if a != b => {
                Err(Error::invalid(self.path, here.key, format!("{a}, but {} is {b}", inner.key)))
            }
            (Some(_), None) => Ok(here),
            _ => Ok(inner),
        }
    }

    /// The scaling that this RoPE object states; `top` is the object around it.
    fn scaling(&self, top: &Object<'a>) -> Result<StatedScaling, Error> {
        let (modern, old) = (self.string("rope_type")?, self.string("type")?);
        if let (Some(a), Some(b)) = (modern.value, old.value)
            && a != b
        {
            return Err(Error::invalid(self.path, modern.key, format!("{a}, but {} is {b}", old.key)));
        }
        let required = |stated: Stated<f32>| match stated.value {
            Some(value) => Ok(value),
            None => Err(Error::invalid(self.path, stated.key, "missing; this RoPE scaling needs it")),
        };
        let original = || -> Result<Stated<usize>, Error> {
            let key = "original_max_position_embeddings";
            let inner = self.usize(key)?;
            Ok(if inner.value.is_some() { inner } else { Stated::new(inner.key, top.usize(key)?.value) })
        };
        match modern.value.or(old.value) {
            None if self.has("factor") => {
                Err(Error::invalid(self.path, modern.key, "missing, although a factor is given"))
            }
            None | Some("default" | "none") => Ok(StatedScaling::None),
            Some("linear") => Ok(StatedScaling::Linear { factor: required(self.f32("factor")?)? }),
            Some("llama3") => {
                let original = original()?;
                let Some(original_context_length) = original.value else {
                    return Err(Error::invalid(self.path, original.key, "missing; llama3 scaling needs it"));
                };
                Ok(StatedScaling::Llama3(Llama3 {
                    factor: required(self.f32("factor")?)?,
                    low_freq_factor: required(self.f32("low_freq_factor")?)?,
                    high_freq_factor: required(self.f32("high_freq_factor")?)?,
                    original_context_length,
                }))
            }
            Some("yarn") => {
                if self.bool("truncate")?.value == Some(false) {
                    let what =
                        "yarn scaling whose ramp does not end at whole dimensions is not computed here";
                    return Err(Error::unsupported(self.path, self.key("truncate"), what));
                }
                let attention = (
                    self.f32("attention_factor")?.value,
                    self.f32("mscale")?.value,
                    self.f32("mscale_all_dim")?.value,
                );
                Ok(StatedScaling::Yarn {
                    factor: required(self.f32("factor")?)?,
                    original_context_length: original()?,
                    beta_fast: self.f32("beta_fast")?,
                    beta_slow: self.f32("beta_slow")?,
                    attention: match attention {
                        (Some(total), ..) => YarnAttention::Total(total),
                        (None, Some(mscale), Some(all_dim)) if mscale != 0.0 && all_dim != 0.0 => {
                            YarnAttention::Ratio(mscale, all_dim)
                        }
                        _ => YarnAttention::Relative(1.0),
                    },
                })
            }
            Some(other) => {
                let what = format!("unknown RoPE scaling `{other}`; known are default, linear, llama3, yarn");
                Err(Error::unsupported(self.path, modern.key, what))
            }
        }
    }
}
