//! Use of a codebook: counts, share and perplexity.

use serde::Serialize;

/// Use of the codes of an image tokenizer.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct CodeUsage {
    /// Size of the codebook.
    pub codes: usize,
    /// Number of image tokens counted.
    pub tokens: u64,
    /// Number of codes that occur.
    pub used: usize,
    /// Share of the codes that occur, 0 to 1.
    pub share: f64,
    /// Number of equally frequent codes with the same entropy: 1 to `codes`; 0 without tokens.
    pub perplexity: f64,
    /// Codes that do not occur, ascending.
    pub dead_codes: Vec<usize>,
    /// Occurrences of each code.
    pub counts: Vec<u64>,
}

impl CodeUsage {
    /// Summarises the occurrences `counts` of each code.
    ///
    /// # Source
    /// Perplexity of codes, exp of their entropy: van den Oord et al. 2017, the authors' code, <https://arxiv.org/abs/1711.00937>.
    #[must_use]
    pub fn of(counts: Vec<u64>) -> Self {
        let tokens: u64 = counts.iter().sum();
        let share_of = |count: u64| count as f64 / tokens as f64;
        let entropy: f64 = counts.iter().filter(|count| **count > 0).map(|&count| -share_of(count) * share_of(count).ln()).sum();
        let dead_codes: Vec<usize> = (0..counts.len()).filter(|&code| counts[code] == 0).collect();
        let used = counts.len() - dead_codes.len();
        Self {
            codes: counts.len(),
            tokens,
            used,
            share: used as f64 / counts.len().max(1) as f64,
            perplexity: if tokens == 0 { 0.0 } else { entropy.exp() },
            dead_codes,
            counts,
        }
    }

    /// Returns the codes that occur with their counts, most frequent first; equally frequent ones ascend.
    #[must_use]
    pub fn ranked(&self) -> Vec<(usize, u64)> {
        let mut ranked: Vec<(usize, u64)> = self.counts.iter().copied().enumerate().filter(|(_, count)| *count > 0).collect();
        ranked.sort_by_key(|&(code, count)| (std::cmp::Reverse(count), code));
        ranked
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn even_use_has_the_perplexity_of_the_used_codes() {
        let usage = CodeUsage::of(vec![5, 0, 5, 5, 5, 0]);
        assert!((usage.perplexity - 4.0).abs() < 1e-12);
        assert_eq!((usage.codes, usage.tokens, usage.used, usage.dead_codes), (6, 20, 4, vec![1, 5]));
        assert!((usage.share - 4.0 / 6.0).abs() < 1e-12);
    }

    #[test]
    fn uneven_use_lies_between_one_and_the_used_codes() {
        let usage = CodeUsage::of(vec![1, 7, 0, 7, 1]);
        // 2 * (1/16 ln 16 + 7/16 ln 16/7) nats.
        let entropy = 2.0 * (16.0_f64.ln() / 16.0 + 7.0 / 16.0 * (16.0_f64 / 7.0).ln());
        assert!((usage.perplexity - entropy.exp()).abs() < 1e-12);
        assert_eq!(usage.ranked(), [(1, 7), (3, 7), (0, 1), (4, 1)]);
    }

    #[test]
    fn nothing_counted_has_no_perplexity() {
        let usage = CodeUsage::of(vec![0, 0]);
        assert_eq!((usage.perplexity, usage.used, usage.share), (0.0, 0, 0.0));
    }
}
