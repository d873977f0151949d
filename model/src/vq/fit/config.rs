//! Configuration of a VQGAN's fit, as plain data.

use std::ops::{Bound, RangeFrom, RangeInclusive};

use cm3flow_schemas::limits::within;
use schemars::{JsonSchema, Schema};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::error::{ModelError, Problems};
use crate::vq::config::{Precision, VqConfig};

const STEPS: RangeInclusive<u64> = 1..=10_000_000;
const BATCH_SIZE: RangeInclusive<u32> = 1..=4096;
const ACCUMULATE: RangeInclusive<u32> = 1..=1024;
const LEARNING_RATE: (Bound<f64>, Bound<f64>) = (Bound::Excluded(0.0), Bound::Included(0.1));
const COMMITMENT_WEIGHT: RangeInclusive<f64> = 0.0..=100.0;
const EMA_DECAY: RangeInclusive<f64> = 0.0..=0.99999;
const RESTART_AFTER: RangeFrom<u64> = 1..;
const L2_SHARE: RangeInclusive<f64> = 0.0..=1.0;
const PERCEPTUAL_WEIGHT: RangeInclusive<f64> = 0.0..=100.0;
const DISCRIMINATOR_WEIGHT: RangeInclusive<f64> = 0.0..=100.0;
const CHECKPOINT_EVERY: RangeFrom<u64> = 1..;

/// `[fit.codebook]`: the fit of an image tokenizer of `kind = "vq"` without given weights. An update is a step of the optimizer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(transform = with_defaults_of_presets)]
pub struct VqFitConfig {
    /// Number of updates, warm-up included.
    #[schemars(transform = within(STEPS))]
    pub steps: u64,
    /// Number of crops computed together.
    #[schemars(transform = within(BATCH_SIZE))]
    pub batch_size: u32,
    /// Number of batches whose gradients are added up for an update.
    #[schemars(transform = within(ACCUMULATE))]
    pub accumulate: u32,
    /// Side of the crops in pixels: a multiple of the pixels of a code, up to the side of the square that is encoded.
    pub crop_px: u32,
    /// Precision of encoder and decoder.
    pub precision: Precision,
    /// Peak learning rate.
    #[schemars(transform = within(LEARNING_RATE))]
    pub learning_rate: f64,
    /// Weight of the distance between latents and codes in the loss.
    #[schemars(transform = within(COMMITMENT_WEIGHT))]
    pub commitment_weight: f64,
    /// Share that the codebook's running means keep at each update.
    #[schemars(transform = within(EMA_DECAY))]
    pub ema_decay: f64,
    /// Number of updates without use after which a code restarts at a latent of the batch.
    #[schemars(transform = within(RESTART_AFTER))]
    pub restart_after: u64,
    /// Share of squared differences in the reconstruction loss; the rest are absolute differences.
    #[schemars(transform = within(L2_SHARE))]
    pub l2_share: f64,
    /// Number of initial updates without codebook, at most `steps`.
    pub warm_up_steps: u64,
    /// Weight of the perceptual loss, whose files `[fit.perceptual]` names; 0 for none.
    #[schemars(transform = within(PERCEPTUAL_WEIGHT))]
    pub perceptual_weight: f64,
    /// Weight of the discriminator's loss once gradients are balanced; 0 for no discriminator.
    #[schemars(transform = within(DISCRIMINATOR_WEIGHT))]
    pub discriminator_weight: f64,
    /// Number of updates before the discriminator counts and learns.
    pub discriminator_start: u64,
    /// Number of updates between checkpoints.
    #[schemars(transform = within(CHECKPOINT_EVERY))]
    pub checkpoint_every: u64,
}

/// Adds the defaults of the presets that have their own: `x-presets`, an object of values by preset.
fn with_defaults_of_presets(schema: &mut Schema) {
    const PRESET: &str = "f8-8192";
    let fields = |config: VqFitConfig| serde_json::to_value(config).expect("plain fields make an object");
    let (usual, own) = (fields(VqFitConfig::default()), fields(VqFitConfig::preset(PRESET)));
    let Some(Value::Object(properties)) = schema.ensure_object().get_mut("properties") else { return };
    for (name, property) in properties {
        if own[name] != usual[name] {
            property["x-presets"] = json!({ PRESET: own[name] });
        }
    }
}

impl Default for VqFitConfig {
    fn default() -> Self {
        Self {
            steps: 1000,
            batch_size: 8,
            accumulate: 1,
            crop_px: 64,
            precision: Precision::Float32,
            learning_rate: 4e-4,
            commitment_weight: 0.03,
            ema_decay: 0.98,
            restart_after: 40,
            l2_share: 1.0,
            warm_up_steps: 10,
            perceptual_weight: 0.0,
            discriminator_weight: 0.0,
            discriminator_start: 0,
            checkpoint_every: 500,
        }
    }
}

impl VqFitConfig {
    /// Returns the settings for the network of that name: [`Self::f8_8192`] for `f8-8192`, the defaults for others.
    #[must_use]
    pub fn preset(name: &str) -> Self {
        if name == "f8-8192" { Self::f8_8192() } else { Self::default() }
    }

    /// Returns the settings for [`VqConfig::f8_8192`] on a GPU: bf16, crops of the whole square, perceptual loss if its files are given,
    /// and later the discriminator.
    ///
    /// # Source
    /// Order and weights of the losses: Esser et al. 2021, <https://arxiv.org/abs/2012.09841>; length and rate: LlamaGen's tokenizer,
    /// <https://arxiv.org/abs/2406.06525>.
    #[must_use]
    pub fn f8_8192() -> Self {
        Self {
            steps: 100_000,
            batch_size: 32,
            crop_px: 256,
            precision: Precision::Bfloat16,
            learning_rate: 1e-4,
            commitment_weight: 0.25,
            ema_decay: 0.99,
            restart_after: 200,
            l2_share: 0.0,
            warm_up_steps: 2000,
            discriminator_weight: 0.5,
            discriminator_start: 20_000,
            checkpoint_every: 2000,
            ..Self::default()
        }
    }

    /// Returns the problems of all fields for a network of the sizes `config`, each with the field's path, the rule and the value.
    #[must_use]
    pub fn problems(&self, config: &VqConfig) -> Vec<String> {
        let mut problems = Problems::default();
        problems.within("steps", self.steps, &STEPS);
        problems.within("batch_size", self.batch_size, &BATCH_SIZE);
        problems.within("accumulate", self.accumulate, &ACCUMULATE);
        let (factor, crop_px) = (config.factor(), self.crop_px);
        problems.within("crop_px", crop_px, &(factor..=config.resolution));
        problems.require(crop_px.is_multiple_of(factor), || {
            format!("crop_px must be a multiple of the downsampling factor {factor}, got {crop_px}")
        });
        problems.within("learning_rate", self.learning_rate, &LEARNING_RATE);
        problems.within("commitment_weight", self.commitment_weight, &COMMITMENT_WEIGHT);
        problems.within("ema_decay", self.ema_decay, &EMA_DECAY);
        problems.within("restart_after", self.restart_after, &RESTART_AFTER);
        problems.within("l2_share", self.l2_share, &L2_SHARE);
        problems.within("warm_up_steps", self.warm_up_steps, &(0..=self.steps));
        problems.within("perceptual_weight", self.perceptual_weight, &PERCEPTUAL_WEIGHT);
        problems.within("discriminator_weight", self.discriminator_weight, &DISCRIMINATOR_WEIGHT);
        problems.within("checkpoint_every", self.checkpoint_every, &CHECKPOINT_EVERY);
        problems.into_list()
    }

    /// Checks every field.
    ///
    /// # Errors
    /// [`ModelError::Config`] with all problems.
    pub fn check(&self, config: &VqConfig) -> Result<(), ModelError> {
        match self.problems(config) {
            problems if problems.is_empty() => Ok(()),
            problems => Err(ModelError::Config { what: "codebook fit configuration", problems }),
        }
    }
}
