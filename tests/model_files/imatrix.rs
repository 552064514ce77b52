//! Importance matrices in llama.cpp's format of before mid 2025.

/// A file that holds these entries, each a name, calls and values, made in 5 chunks of `calibration.txt`.
pub(crate) fn imatrix(entries: &[(&str, i32, &[f32])]) -> Vec<u8> {
    let mut bytes = (entries.len() as i32).to_le_bytes().to_vec();
    for (name, calls, values) in entries {
        bytes.extend((name.len() as i32).to_le_bytes());
        bytes.extend(name.as_bytes());
        bytes.extend(calls.to_le_bytes());
        bytes.extend((values.len() as i32).to_le_bytes());
        bytes.extend(values.iter().flat_map(|value| value.to_le_bytes()));
    }
    let text = "calibration.txt";
    bytes.extend(5_i32.to_le_bytes());
    bytes.extend((text.len() as i32).to_le_bytes());
    bytes.extend(text.as_bytes());
    bytes
}
