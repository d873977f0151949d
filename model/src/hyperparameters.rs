//! How a decoder is trained, as plain data.

use serde::{Deserialize, Serialize};

use crate::error::{ModelError, Problems};

/// How a decoder is trained. The defaults are made for [`crate::decoder::DecoderPreset::Tiny`] on two CPU cores.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TrainConfig {
    /// Steps in all, 1 to 1,000,000,000. Default: 200.
    pub steps: u64,
    /// Packs of a step, 1 to 65,536. Default: 4.
    pub batch_packs: u32,
    /// Packs that are computed together, their gradients summed up: 0 for all of a step, else 1 or more. Bounds memory. Default: 0.
    pub packs_at_once: u32,
    /// Highest learning rate, above 0, to 1; it falls to a tenth at the last step. Default: 0.003.
    pub learning_rate: f64,
    /// Steps in which the learning rate rises, 0 to `steps`. Default: 20.
    pub warm_up_steps: u64,
    /// Decay of weights per unit of learning rate, 0 to 10. Default: 0.1.
    pub weight_decay: f64,
    /// Largest norm of the gradient, above 0; longer ones are scaled down. Default: 1.
    pub clip_norm: f64,
    /// Steps between checkpoints; 0 for one behind the last step only. Default: 100.
    pub checkpoint_every: u64,
    /// Steps between evaluations; 0 for one behind the last step only. Default: 100.
    pub evaluate_every: u64,
    /// Steps between lines in the log; 0 for none. The observer hears of every step. Default: 10.
    pub log_every: u64,
}

impl Default for TrainConfig {
    fn default() -> Self {
        Self {
            steps: 200,
            batch_packs: 4,
            packs_at_once: 0,
            learning_rate: 3e-3,
            warm_up_steps: 20,
            weight_decay: 0.1,
            clip_norm: 1.0,
            checkpoint_every: 100,
            evaluate_every: 100,
            log_every: 10,
        }
    }
}

impl TrainConfig {
    /// Every bad field, by its path, with the rule and the value; empty if there is none.
    #[must_use]
    pub fn problems(&self) -> Vec<String> {
        let mut problems = Problems::default();
        problems.range("steps", self.steps, 1, 1_000_000_000);
        problems.range("batch_packs", self.batch_packs, 1, 65_536);
        let rate = self.learning_rate;
        problems.require(rate > 0.0 && rate <= 1.0, || format!("learning_rate must be above 0 and at most 1, got {rate}"));
        problems.range("warm_up_steps", self.warm_up_steps, 0, self.steps);
        problems.range("weight_decay", self.weight_decay, 0.0, 10.0);
        let norm = self.clip_norm;
        problems.require(norm > 0.0 && norm.is_finite(), || format!("clip_norm must be above 0, got {norm}"));
        problems.into_list()
    }

    /// Checks every field.
    ///
    /// # Errors
    /// [`ModelError::Config`] with all problems.
    pub fn check(&self) -> Result<(), ModelError> {
        match self.problems() {
            problems if problems.is_empty() => Ok(()),
            problems => Err(ModelError::Config { what: "training configuration", problems }),
        }
    }

    /// Whether what is done `every` so many steps is due behind `step`.
    pub(crate) const fn due(&self, every: u64, step: u64) -> bool {
        step == self.steps || (every > 0 && step > 0 && step.is_multiple_of(every))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_bad_field_is_reported() {
        assert!(TrainConfig::default().problems().is_empty());
        let config = TrainConfig { steps: 10, batch_packs: 0, learning_rate: 0.0, clip_norm: f64::INFINITY, ..TrainConfig::default() };
        assert_eq!(
            config.problems(),
            [
                "batch_packs must be in 1..=65536, got 0",
                "learning_rate must be above 0 and at most 1, got 0",
                "warm_up_steps must be in 0..=10, got 20",
                "clip_norm must be above 0, got inf",
            ]
        );
    }

    #[test]
    fn the_last_step_is_always_due() {
        let config = TrainConfig { steps: 7, ..TrainConfig::default() };
        let due = |every| (0..=7).filter(|step| config.due(every, *step)).collect::<Vec<_>>();
        assert_eq!((due(3), due(0)), (vec![3, 6, 7], vec![7]));
    }

    #[test]
    fn defaults_fill_in_and_unknown_fields_are_refused() {
        assert_eq!(serde_json::from_str::<TrainConfig>("{}").expect("all have defaults"), TrainConfig::default());
        assert!(serde_json::from_str::<TrainConfig>(r#"{"epochs":1}"#).is_err());
    }
}
