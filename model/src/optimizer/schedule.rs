//! Learning rate of each step: linear warm-up, then linear decay to a share of the peak.

/// A learning-rate schedule. Steps count from 1.
///
/// # Source
/// metaseq's `polynomial_decay` with power 1, <https://github.com/facebookresearch/metaseq>; OPT paper, section 2.2,
/// <https://arxiv.org/abs/2205.01068>.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Schedule {
    /// Peak rate, at the last step of the warm-up.
    pub(crate) peak: f64,
    /// Number of steps in the warm-up.
    pub(crate) warm_up_steps: u64,
    /// Total number of steps.
    pub(crate) steps: u64,
    /// Rate of the last step as a share of the peak.
    pub(crate) final_share: f64,
}

impl Schedule {
    /// Returns the rate of `step`, which counts from 1; behind the last step, that of the last one.
    pub(crate) fn rate(&self, step: u64) -> f64 {
        if step <= self.warm_up_steps {
            return self.peak * step as f64 / self.warm_up_steps as f64;
        }
        let decaying = self.steps.saturating_sub(self.warm_up_steps).max(1);
        let done = (step - self.warm_up_steps).min(decaying) as f64 / decaying as f64;
        self.peak * (1.0 - (1.0 - self.final_share) * done)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rate_rises_to_its_peak_and_falls_to_its_share() {
        let schedule = Schedule { peak: 1.0, warm_up_steps: 4, steps: 14, final_share: 0.1 };
        let rates: Vec<String> = [1, 2, 4, 5, 9, 14, 20].iter().map(|step| format!("{:.3}", schedule.rate(*step))).collect();
        assert_eq!(rates, ["0.250", "0.500", "1.000", "0.910", "0.550", "0.100", "0.100"]);
    }

    #[test]
    fn without_warm_up_the_first_step_is_just_below_the_peak() {
        let schedule = Schedule { peak: 2.0, warm_up_steps: 0, steps: 10, final_share: 0.0 };
        assert_eq!((schedule.rate(1), schedule.rate(10)), (1.8, 0.0));
    }
}
