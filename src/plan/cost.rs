//! What a step costs, so that a time can be turned into GB/s and a share of the hardware's limit.

/// Bytes moved and operations done by one run of a step over all rows of its plan, the cache excluded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cost {
    /// Weights read, in the file's layout.
    pub weight_bytes: u64,
    /// Activations read and written.
    pub activation_bytes: u64,
    /// Bytes of cache read per row and position seen.
    pub kv_bytes_per_position: u64,
    /// Multiplications and additions, two per weight and row.
    pub flops: u64,
    /// Multiplications and additions of attention, per position seen.
    pub flops_per_position: u64,
}
