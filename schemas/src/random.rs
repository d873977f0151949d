//! Random draws that depend on nothing but the decision at hand: a counter-based generator keyed by seed, purpose and id.
//!
//! The stream is BLAKE3 in its extendable-output mode. That hash's specification fixes it, so no crate's release can change it.

use crate::digest::PartHasher;

/// A stream of draws for one decision about one sample or document.
///
/// # Source
/// Extendable output: BLAKE3 paper, section 2.6, <https://github.com/BLAKE3-team/BLAKE3-specs>.
#[derive(Debug)]
pub struct Draws {
    key: [u8; 32],
    block: [u8; 64],
    block_number: u64,
    used: usize,
}

impl Draws {
    /// Opens the stream of `purpose`, such as a stage's name, for the item with `id`.
    #[must_use]
    pub fn new(seed: u64, purpose: &str, id: &[u8]) -> Self {
        let key = PartHasher::new("draws").part(&seed.to_le_bytes()).part(purpose.as_bytes()).part(id).digest().0;
        Self { key, block: [0; 64], block_number: 0, used: 64 }
    }

    /// Draws a uniform 64-bit number.
    pub fn next_u64(&mut self) -> u64 {
        if self.used == self.block.len() {
            let mut hasher = blake3::Hasher::new_keyed(&self.key);
            hasher.update(&self.block_number.to_le_bytes());
            hasher.finalize_xof().fill(&mut self.block);
            self.block_number += 1;
            self.used = 0;
        }
        let bytes = self.block[self.used..self.used + 8].try_into().expect("a slice of eight bytes");
        self.used += 8;
        u64::from_le_bytes(bytes)
    }

    /// Draws a uniform number in `0..bound`, without modulo bias.
    ///
    /// # Panics
    /// If `bound` is 0.
    ///
    /// # Source
    /// Lemire 2019, <https://arxiv.org/abs/1805.10941>.
    pub fn below(&mut self, bound: u64) -> u64 {
        assert!(bound > 0, "cannot draw from an empty range");
        let rejected_below = bound.wrapping_neg() % bound;
        loop {
            let product = u128::from(self.next_u64()) * u128::from(bound);
            if product as u64 >= rejected_below {
                return (product >> 64) as u64;
            }
        }
    }

    /// Draws a uniform index into a slice of `len` items. Panics as [`Self::below`].
    pub fn index(&mut self, len: usize) -> usize {
        self.below(len as u64) as usize
    }

    /// Draws a uniform float in `0.0..1.0` with 53 random bits.
    pub fn unit(&mut self) -> f64 {
        (self.next_u64() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// Draws a Poisson variate of mean `mean`, by multiplication of uniforms; meant for small means.
    ///
    /// # Source
    /// Knuth, The Art of Computer Programming, vol. 2, section 3.4.1.
    pub fn poisson(&mut self, mean: f64) -> u32 {
        let limit = (-mean).exp();
        let mut product = self.unit();
        let mut count = 0;
        while product > limit {
            product *= self.unit();
            count += 1;
        }
        count
    }

    /// Shuffles `items` uniformly (Fisher-Yates).
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            items.swap(last, self.index(last + 1));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stream_is_pinned() {
        let mut draws = Draws::new(7, "mask", b"id");
        let first: Vec<u64> = (0..10).map(|_| draws.next_u64()).collect();
        insta::assert_debug_snapshot!(first);
    }

    #[test]
    fn streams_of_other_keys_differ() {
        let first = Draws::new(7, "mask", b"id").next_u64();
        for mut other in [Draws::new(8, "mask", b"id"), Draws::new(7, "pack", b"id"), Draws::new(7, "mask", b"ie")] {
            assert_ne!(other.next_u64(), first);
        }
    }

    #[test]
    fn poisson_of_one_leaves_a_third_at_zero() {
        let draws = 100_000;
        let zeros = (0..draws).filter(|n: &u32| Draws::new(1, "t", &n.to_le_bytes()).poisson(1.0) == 0).count();
        let share = zeros as f64 / f64::from(draws);
        assert!((share - (-1.0_f64).exp()).abs() < 0.01, "{share}");
    }

    #[test]
    fn bounded_draws_cover_their_range_evenly() {
        let mut counts = [0_u32; 7];
        let mut draws = Draws::new(1, "t", b"");
        (0..70_000).for_each(|_| counts[draws.index(7)] += 1);
        assert!(counts.iter().all(|count| (9_500..10_500).contains(count)), "{counts:?}");
    }
}
