//! Configuration of a training, as plain data.

use std::ops::{Bound, RangeInclusive};

use cm3flow_schemas::limits::within;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::decoder::DecoderPreset;
use crate::error::{ModelError, Problems};

const STEPS: RangeInclusive<u64> = 1..=1_000_000_000;
const BATCH_PACKS: RangeInclusive<u32> = 1..=65_536;
const LEARNING_RATE: (Bound<f64>, Bound<f64>) = (Bound::Excluded(0.0), Bound::Included(1.0));
const WEIGHT_DECAY: RangeInclusive<f64> = 0.0..=10.0;
const CLIP_NORM: (Bound<f64>, Bound<f64>) = (Bound::Excluded(0.0), Bound::Unbounded);

/// `[train]`: the training of the decoder. Without this section nothing is trained. The defaults are meant for the preset `tiny` on two CPU cores; other presets have a learning rate
/// and a warm-up of their own.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct TrainConfig {
    /// Seed of the first weights and of the order of reading. The version does not depend on it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-default" = "`dataset.seed`"))]
    pub seed: Option<u64>,
    /// Total number of steps.
    #[schemars(transform = within(STEPS))]
    pub steps: u64,
    /// Number of packs in a step.
    #[schemars(transform = within(BATCH_PACKS))]
    pub batch_packs: u32,
    /// Number of packs computed together, with their gradients added up; 0 for all packs of a step. Fewer take less memory.
    pub packs_at_once: u32,
    /// Peak learning rate; it falls to a tenth at the last step.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(transform = within(LEARNING_RATE), extend("x-default" = "that of `model.preset`: 3e-3 for `tiny`; 6e-4, 5e-4, 1.2e-4 for CM3Leon's"))]
    pub learning_rate: Option<f64>,
    /// Number of steps in which the learning rate rises, at most `steps`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-default" = "that of `model.preset`: 20 for `tiny`, 1,500 for CM3Leon's; at most `steps`"))]
    pub warm_up_steps: Option<u64>,
    /// Decay of weights, times the learning rate.
    #[schemars(transform = within(WEIGHT_DECAY))]
    pub weight_decay: f64,
    /// Largest norm of the gradient; a longer one is scaled down.
    #[schemars(transform = within(CLIP_NORM))]
    pub clip_norm: f64,
    /// Number of steps between checkpoints; 0 for one behind the last step only.
    pub checkpoint_every: u64,
    /// Number of steps between evaluations; 0 for one behind the last step only.
    pub evaluate_every: u64,
    /// Number of steps between log lines; 0 for none.
    pub log_every: u64,
}

impl Default for TrainConfig {
    fn default() -> Self {
        Self {
            seed: None,
            steps: 200,
            batch_packs: 4,
            packs_at_once: 0,
            learning_rate: None,
            warm_up_steps: None,
            weight_decay: 0.1,
            clip_norm: 1.0,
            checkpoint_every: 100,
            evaluate_every: 100,
            log_every: 10,
        }
    }
}

impl TrainConfig {
    /// Returns the problems of all fields, each with the field's path, the rule and the value.
    #[must_use]
    pub fn problems(&self) -> Vec<String> {
        let mut problems = Problems::default();
        problems.within("steps", self.steps, &STEPS);
        problems.within("batch_packs", self.batch_packs, &BATCH_PACKS);
        if let Some(rate) = self.learning_rate {
            problems.within("learning_rate", rate, &LEARNING_RATE);
        }
        if let Some(steps) = self.warm_up_steps {
            problems.within("warm_up_steps", steps, &(0..=self.steps));
        }
        problems.within("weight_decay", self.weight_decay, &WEIGHT_DECAY);
        problems.within("clip_norm", self.clip_norm, &CLIP_NORM);
        problems.require(self.clip_norm < f64::INFINITY, || "clip_norm must be finite".to_owned());
        problems.into_list()
    }

    /// Returns the settings with what they leave out filled in from the recipe of `preset`.
    #[must_use]
    pub fn with_recipe(&self, preset: DecoderPreset) -> Self {
        Self {
            learning_rate: Some(self.learning_rate.unwrap_or(preset.learning_rate())),
            warm_up_steps: Some(self.warm_up_steps.unwrap_or(preset.warm_up_steps().min(self.steps))),
            ..self.clone()
        }
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

    /// Checks whether an action with the interval `every` is due behind `step`.
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
        let config = TrainConfig {
            steps: 10,
            batch_packs: 0,
            learning_rate: Some(0.0),
            warm_up_steps: Some(20),
            clip_norm: f64::INFINITY,
            ..TrainConfig::default()
        };
        assert_eq!(
            config.problems(),
            [
                "batch_packs must be in 1..=65536, got 0",
                "learning_rate must be above 0 and at most 1, got 0",
                "warm_up_steps must be in 0..=10, got 20",
                "clip_norm must be finite",
            ]
        );
    }

    #[test]
    fn a_recipe_fills_in_what_is_left_out() {
        let of = |config: &TrainConfig, preset| {
            let filled = config.with_recipe(preset);
            (filled.learning_rate, filled.warm_up_steps)
        };
        let short = TrainConfig { steps: 600, ..TrainConfig::default() };
        assert_eq!(of(&short, DecoderPreset::Tiny), (Some(3e-3), Some(20)));
        assert_eq!(of(&short, DecoderPreset::Cm3leon7b), (Some(1.2e-4), Some(600)));
        let long = TrainConfig { steps: 100_000, learning_rate: Some(1e-3), ..short };
        assert_eq!(of(&long, DecoderPreset::Cm3leon350m), (Some(1e-3), Some(1500)));
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
