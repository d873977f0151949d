//! Keyed permutations without tables.

use cm3flow_schemas::digest::PartHasher;

/// Number of rounds of the Feistel network.
const ROUNDS: usize = 6;

/// A keyed permutation of `0..len`, evaluated in constant memory.
///
/// # Source
/// A balanced Feistel network over the next power of four, walked until the image is in range: Black and Rogaway 2002, "Ciphers with
/// arbitrary finite domains".
#[derive(Debug, Clone)]
pub struct Permutation {
    len: u64,
    half_bits: u32,
    keys: [u64; ROUNDS],
}

impl Permutation {
    /// Returns the permutation of `len` items for the parts of `key`.
    #[must_use]
    pub fn new(len: u64, key: &[&[u8]]) -> Self {
        let mut hasher = PartHasher::new("permutation");
        for part in key {
            hasher.part(part);
        }
        let digest = hasher.digest().0;
        let round_key = |round: usize| {
            let hash = blake3::keyed_hash(&digest, &[round as u8]);
            u64::from_le_bytes(hash.as_bytes()[..8].try_into().expect("a slice of eight bytes"))
        };
        let bits = u64::BITS - len.saturating_sub(1).leading_zeros();
        Self { len, half_bits: bits.div_ceil(2).max(1), keys: std::array::from_fn(round_key) }
    }

    /// Returns the item at `position`.
    ///
    /// # Panics
    /// If `position` is not below the length.
    #[must_use]
    pub fn at(&self, position: u64) -> u64 {
        assert!(position < self.len, "position {position} is outside a permutation of {}", self.len);
        let mut value = position;
        loop {
            value = self.encrypt(value);
            if value < self.len {
                return value;
            }
        }
    }

    fn encrypt(&self, value: u64) -> u64 {
        let mask = (1_u64 << self.half_bits) - 1;
        let (mut left, mut right) = (value >> self.half_bits, value & mask);
        for key in self.keys {
            (left, right) = (right, left ^ (mix(right ^ key) & mask));
        }
        left << self.half_bits | right
    }
}

/// Applies the finalizer of splitmix64.
///
/// # Source
/// Steele, Lea, Flood 2014, "Fast splittable pseudorandom number generators".
fn mix(mut value: u64) -> u64 {
    value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_item_comes_once() {
        for len in [1, 2, 3, 5, 16, 17, 100, 1000] {
            let permutation = Permutation::new(len, &[b"seed", &[1]]);
            let mut items: Vec<u64> = (0..len).map(|position| permutation.at(position)).collect();
            items.sort_unstable();
            assert_eq!(items, (0..len).collect::<Vec<_>>());
        }
    }

    #[test]
    fn other_keys_give_other_orders() {
        let order = |key: u8| (0..50).map(|position| Permutation::new(50, &[&[key]]).at(position)).collect::<Vec<_>>();
        assert_ne!(order(0), order(1));
        assert_ne!(order(0), (0..50).collect::<Vec<_>>());
    }
}
