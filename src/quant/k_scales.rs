//! The eight 6-bit scales and eight 6-bit minimums that Q4_K and Q5_K super-blocks pack into 12 bytes.
//!
//! | bytes | low six (or four) bits | the rest |
//! |---|---|---|
//! | 0..4 | scale 0..4 | bits 4 and 5 of scale 4..8 |
//! | 4..8 | minimum 0..4 | bits 4 and 5 of minimum 4..8 |
//! | 8..12 | bits 0..4 of scale 4..8 | bits 0..4 of minimum 4..8 |

/// The scales and minimums, each 0..=63, from their 12 bytes.
#[inline]
pub(crate) fn unpack(packed: &[u8; 12]) -> ([u8; 8], [u8; 8]) {
    let (mut scales, mut minimums) = ([0; 8], [0; 8]);
    for j in 0..4 {
        scales[j] = packed[j] & 63;
        minimums[j] = packed[j + 4] & 63;
        scales[j + 4] = (packed[j + 8] & 15) | ((packed[j] >> 6) << 4);
        minimums[j + 4] = (packed[j + 8] >> 4) | ((packed[j + 4] >> 6) << 4);
    }
    (scales, minimums)
}
