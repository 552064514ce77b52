//! The type of every tensor is the one that llama.cpp chooses.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod model_files;

use aprgpu::convert::mix::{Choice, Mix, MixModel, MixOptions, MixTensor, choose};
use aprgpu::format::gguf::Gguf;
use aprgpu::quant::TensorType;
use serde_json::Value;

/// Models of many depths and widths that `llama_model_quantize` of llama.cpp has chosen types for, with every mix:
/// `tests/golden/mix/README.md`.
#[test]
fn types_are_those_of_llama_cpp() {
    let golden: Value = serde_json::from_str(include_str!("golden/mix/types.json")).unwrap();
    let mut compared = 0;
    for model in golden.as_array().unwrap() {
        let number = |key: &str| model[key].as_u64().unwrap() as usize;
        let (layers, heads, kv, hidden, ffn) =
            (number("layers"), number("heads"), number("kv_heads"), number("hidden"), number("ffn"));
        let head_dim = hidden / heads;
        let mut tensors: Vec<(String, Vec<usize>)> = vec![
            ("token_embd.weight".to_owned(), vec![32, hidden]),
            ("output_norm.weight".to_owned(), vec![hidden]),
        ];
        if model["tied"] == false {
            tensors.push(("output.weight".to_owned(), vec![32, hidden]));
        }
        // Backwards, so that only the layer's number can have led to the order of counting.
        for layer in (0..layers).rev() {
            for (name, shape) in [
                ("attn_norm.weight", vec![hidden]),
                ("attn_q.weight", vec![heads * head_dim, hidden]),
                ("attn_k.weight", vec![kv * head_dim, hidden]),
                ("attn_v.weight", vec![kv * head_dim, hidden]),
                ("attn_v.bias", vec![kv * head_dim]),
                ("attn_output.weight", vec![hidden, heads * head_dim]),
                ("ffn_gate.weight", vec![ffn, hidden]),
                ("ffn_up.weight", vec![ffn, hidden]),
                ("ffn_down.weight", vec![hidden, ffn]),
            ] {
                tensors.push((format!("blk.{layer}.{name}"), shape));
            }
        }
        let list: Vec<MixTensor<'_>> =
            tensors.iter().map(|(name, shape)| MixTensor { name, shape, stored: TensorType::F32 }).collect();
        let architecture = model["architecture"].as_str().unwrap();
        let shape = MixModel { architecture, num_layers: layers, num_heads: heads, num_kv_heads: kv };
        for (title, expected) in model["types"].as_object().unwrap() {
            let (mix, pure) = title.strip_suffix(" pure").map_or((title.as_str(), false), |mix| (mix, true));
            let options = MixOptions { pure, ..MixOptions::new(Mix::from_name(mix).unwrap()) };
            for (tensor, choice) in list.iter().zip(choose(&shape, &list, &options)) {
                let (key, layer) = match tensor.name.strip_prefix("blk.") {
                    Some(rest) => {
                        let (layer, key) = rest.split_once('.').unwrap();
                        (key, layer.parse::<usize>().unwrap())
                    }
                    None => (tensor.name, 0),
                };
                // All layers have the type, or each its own; types that are not listed are F32.
                let types: Vec<&str> = expected[key].as_str().unwrap_or("F32").split(' ').collect();
                let expected = if types.len() == 1 { types[0] } else { types[layer] };
                let at = format!("{architecture} {layers} {hidden} {title} {}", tensor.name);
                assert_eq!(choice.tensor_type.name(), expected, "{at}");
                assert_eq!(choice.kept, expected == "F32", "{at}");
                compared += 1;
            }
        }
    }
    assert!(compared > 40_000, "{compared}");
}

#[test]
fn types_are_those_of_the_fixtures() {
    let Some(folder) = model_files::fixtures() else { return };
    let mut files = 0;
    for path in model_files::files(&folder, "gguf") {
        let gguf = Gguf::open(&path).unwrap();
        let name = path.file_stem().unwrap().to_str().unwrap();
        let (model, mix) = name.rsplit_once('-').unwrap();
        let index = std::fs::read(path.with_file_name(format!("{model}.json"))).unwrap();
        let index: Value = serde_json::from_slice(&index).unwrap();
        let types = index["files"][mix]["tensor_types"].as_object().unwrap();
        let architecture = gguf.string("general.architecture").unwrap().unwrap();
        let number = |key: &str| gguf.usize(&format!("{architecture}.{key}")).unwrap().unwrap();
        let model = MixModel {
            architecture,
            num_layers: number("block_count"),
            num_heads: number("attention.head_count"),
            num_kv_heads: number("attention.head_count_kv"),
        };
        let tensors: Vec<MixTensor<'_>> = gguf
            .tensors()
            .iter()
            .map(|tensor| MixTensor { name: &tensor.name, shape: &tensor.shape, stored: TensorType::F32 })
            .collect();
        let choices = choose(&model, &tensors, &MixOptions::new(Mix::from_name(mix).unwrap()));
        assert_eq!(types.len(), tensors.len());
        for (tensor, choice) in tensors.iter().zip(choices) {
            assert_eq!(types[tensor.name], choice.tensor_type.name(), "{name}: {}", tensor.name);
        }
        files += 1;
    }
    assert_eq!(files, 16);
}

fn llama(layers: usize) -> MixModel<'static> {
    MixModel { architecture: "llama", num_layers: layers, num_heads: 4, num_kv_heads: 4 }
}

#[test]
fn a_tensor_with_a_type_of_its_own_is_not_counted() {
    let shape = [256, 256];
    let names: Vec<String> = (0..16).map(|layer| format!("blk.{layer}.attn_v.weight")).collect();
    let tensors: Vec<MixTensor<'_>> =
        names.iter().map(|name| MixTensor { name, shape: &shape, stored: TensorType::BF16 }).collect();
    let types = |overrides: &[(&str, TensorType)]| -> Vec<TensorType> {
        let overrides = overrides.iter().map(|&(p, t)| (regex::Regex::new(p).unwrap(), t)).collect();
        let options = MixOptions { overrides, ..MixOptions::new(Mix::Q4_K_M) };
        choose(&llama(16), &tensors, &options).iter().map(|choice| choice.tensor_type).collect()
    };
    let plain = types(&[]);
    assert_eq!(
        plain[..5],
        [TensorType::Q6_K, TensorType::Q6_K, TensorType::Q4_K, TensorType::Q4_K, TensorType::Q6_K]
    );
    // With layer 0 settled, layer 1 counts as the first, and so on.
    let settled = types(&[(r"blk\.0\.attn_v", TensorType::Q8_0), ("attn_v", TensorType::Q5_0)]);
    assert_eq!(settled[..2], [TensorType::Q8_0, TensorType::Q5_0]);
    let settled = types(&[(r"^blk\.0\.", TensorType::Q8_0)]);
    assert_eq!(settled[1..], plain[..15]);
}

#[test]
fn an_importance_matrix_guards_the_first_layers_of_q4_0() {
    let shape = [256, 256];
    let names: Vec<String> = (0..16).map(|layer| format!("blk.{layer}.ffn_down.weight")).collect();
    let tensors: Vec<MixTensor<'_>> =
        names.iter().map(|name| MixTensor { name, shape: &shape, stored: TensorType::F32 }).collect();
    for (mix, guard) in [(Mix::Q4_0, TensorType::Q4_1), (Mix::Q5_0, TensorType::Q5_1)] {
        let options = MixOptions { has_imatrix: true, ..MixOptions::new(mix) };
        let choices = choose(&llama(16), &tensors, &options);
        let guarded = choices.iter().filter(|choice| choice.tensor_type == guard).count();
        assert_eq!(guarded, 2);
        assert!(choices[..2].iter().all(|choice| choice.tensor_type == guard));
    }
}

#[test]
fn rows_that_no_block_divides_are_f16_and_say_so() {
    let tensor = MixTensor { name: "blk.0.ffn_up.weight", shape: &[8, 100], stored: TensorType::F32 };
    for mix in [Mix::Q4_K_M, Mix::Q4_0, Mix::Q8_0] {
        let choice = choose(&llama(1), &[tensor], &MixOptions::new(mix))[0];
        let wanted = Some(mix.tensor_type());
        assert_eq!(choice, Choice { tensor_type: TensorType::F16, instead_of: wanted, kept: false });
    }
}
