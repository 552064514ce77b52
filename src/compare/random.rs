//! A small generator of numbers, so that no result depends on a library's stream.

/// Xorshift: Marsaglia, "Xorshift RNGs" (2003), with the shifts 13, 7, 17.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// A generator; equal seeds give equal numbers.
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    /// The next 64 bits.
    pub fn bits(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// A number below `limit`, which must not be 0.
    pub fn below(&mut self, limit: usize) -> usize {
        ((self.bits() >> 32).wrapping_mul(limit as u64) >> 32) as usize
    }

    /// Roughly normal, by the sum of four uniform numbers.
    pub fn value(&mut self) -> f32 {
        let mut uniform = || (self.bits() >> 40) as f32 / (1u64 << 24) as f32 - 0.5;
        (uniform() + uniform() + uniform() + uniform()) * 1.7
    }

    /// `count` of them.
    pub fn values(&mut self, count: usize) -> Vec<f32> {
        (0..count).map(|_| self.value()).collect()
    }
}
