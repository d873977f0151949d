//! Sampler that draws one of the allowed ids by its logit: temperature, then top-p, then a draw.

use cm3flow_schemas::random::Draws;
use cm3flow_schemas::traits::Sampling;

use crate::error::{ModelError, Problems};

/// Checks every field.
pub(super) fn check(sampling: &Sampling) -> Result<(), ModelError> {
    let Sampling { temperature, top_p, guidance, seed: _ } = *sampling;
    let mut problems = Problems::default();
    problems.require(temperature >= 0.0 && temperature.is_finite(), || format!("temperature must be 0 or more, got {temperature}"));
    problems.range("top_p", top_p, 0.0, 1.0);
    problems.require(guidance.is_finite(), || format!("guidance must be finite, got {guidance}"));
    problems.finish("sampling")
}

/// Returns the index of the drawn logit; there is at least one. Temperature 0 takes the first of the largest.
///
/// # Source
/// Top-p: Holtzman et al. 2020, section 3.1, <https://arxiv.org/abs/1904.09751>.
pub(super) fn choose(logits: &[f32], sampling: &Sampling, draws: &mut Draws) -> usize {
    let largest = (1..logits.len()).fold(0, |best, index| if logits[index] > logits[best] { index } else { best });
    if sampling.temperature == 0.0 {
        return largest;
    }
    let share = |logit: &f32| ((f64::from(*logit) - f64::from(logits[largest])) / sampling.temperature).exp();
    let mut shares: Vec<(usize, f64)> = logits.iter().map(share).enumerate().collect();
    if sampling.top_p < 1.0 {
        keep_top(&mut shares, sampling.top_p);
    }
    let mut left = draws.unit() * shares.iter().map(|(_, share)| share).sum::<f64>();
    let chosen = shares.iter().find(|(_, share)| {
        left -= share;
        left < 0.0
    });
    // By rounding, the draw may lie behind the last share.
    chosen.or(shares.last()).map_or(largest, |(index, _)| *index)
}

/// Keeps the smallest number of largest shares that together reach `top_p` of all, at least one.
fn keep_top(shares: &mut Vec<(usize, f64)>, top_p: f64) {
    shares.sort_by(|(first, one), (second, other)| other.total_cmp(one).then(first.cmp(second)));
    let wanted = top_p * shares.iter().map(|(_, share)| share).sum::<f64>();
    let mut mass = 0.0;
    let kept = shares.iter().take_while(|(_, share)| {
        let more = mass < wanted;
        mass += share;
        more
    });
    let kept = kept.count().max(1);
    shares.truncate(kept);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sampling(temperature: f64, top_p: f64) -> Sampling {
        Sampling { temperature, top_p, guidance: 1.0, seed: 1 }
    }

    fn counts(logits: &[f32], sampling: &Sampling) -> Vec<usize> {
        let mut draws = Draws::new(1, "test", b"");
        let mut counts = vec![0; logits.len()];
        (0..10_000).for_each(|_| counts[choose(logits, sampling, &mut draws)] += 1);
        counts
    }

    #[test]
    fn without_temperature_the_first_of_the_largest_is_taken() {
        assert_eq!(counts(&[0.0, 2.0, 2.0, 1.0], &sampling(0.0, 1.0)), [0, 10_000, 0, 0]);
    }

    #[test]
    fn draws_follow_the_softmax_of_logits_over_temperature() {
        let logits = [0.2_f32.ln(), 0.5_f32.ln(), 0.3_f32.ln()];
        let near = |counts: Vec<usize>, expected: [f64; 3]| {
            assert!(counts.iter().zip(expected).all(|(count, share)| (*count as f64 / 1e4 - share).abs() < 0.02), "{counts:?}");
        };
        near(counts(&logits, &sampling(1.0, 1.0)), [0.2, 0.5, 0.3]);
        near(counts(&logits, &sampling(0.5, 1.0)), [0.04 / 0.38, 0.25 / 0.38, 0.09 / 0.38]);
        near(counts(&logits, &sampling(1.0, 0.6)), [0.0, 0.625, 0.375]);
    }

    #[test]
    fn top_p_of_zero_leaves_the_likeliest() {
        assert_eq!(counts(&[0.0, 1.0, 0.5], &sampling(1.0, 0.0)), [0, 10_000, 0]);
    }

    #[test]
    fn bad_settings_are_all_reported() {
        let error = check(&Sampling { temperature: -1.0, top_p: 1.5, guidance: f64::NAN, seed: 1 }).expect_err("three are bad");
        let expected =
            "sampling is invalid: temperature must be 0 or more, got -1; top_p must be in 0..=1, got 1.5; guidance must be finite, got NaN";
        assert_eq!(error.to_string(), expected);
    }
}
