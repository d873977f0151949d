//! Configuration of a VQGAN's fit, as plain data.

use serde::{Deserialize, Serialize};

use crate::error::{ModelError, Problems};
use crate::vq::config::{Precision, VqConfig};

/// Settings of a fit. The defaults are meant for [`VqConfig::photos_tiny`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct VqFitConfig {
    /// Number of updates, 1 to 10,000,000, warm-up included.
    pub steps: u64,
    /// Number of crops computed together, 1 to 4096.
    pub batch_size: u32,
    /// Number of batches whose gradients are added up for an update, 1 to 1024.
    pub accumulate: u32,
    /// Side of the crops in pixels: a multiple of the downsampling factor, up to the resolution.
    pub crop_px: u32,
    /// Precision of encoder and decoder: `float32` or `bfloat16`.
    pub precision: Precision,
    /// Peak learning rate, above 0 and at most 0.1.
    pub learning_rate: f64,
    /// Weight of the distance between latents and codes in the loss, 0 to 100.
    pub commitment_weight: f64,
    /// Share that the codebook's running means keep at each update, 0 to 0.99999.
    pub ema_decay: f64,
    /// Number of updates without use after which a code restarts at a latent of the batch, 1 or more.
    pub restart_after: u64,
    /// Share of squared differences in the reconstruction loss, 0 to 1; the rest are absolute differences.
    pub l2_share: f64,
    /// Number of initial updates without codebook, 0 to `steps`.
    pub warm_up_steps: u64,
    /// Weight of the perceptual loss, 0 to 100; 0 for none.
    pub perceptual_weight: f64,
    /// Weight of the discriminator's loss once gradients are balanced, 0 to 100; 0 for no discriminator.
    pub discriminator_weight: f64,
    /// Number of updates before the discriminator counts and learns.
    pub discriminator_start: u64,
    /// Number of updates between checkpoints, 1 or more.
    pub checkpoint_every: u64,
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

    /// Checks every field.
    ///
    /// # Errors
    /// [`ModelError::Config`] with all problems.
    pub fn check(&self, config: &VqConfig) -> Result<(), ModelError> {
        let mut problems = Problems::default();
        problems.range("steps", self.steps, 1, 10_000_000);
        problems.range("batch_size", self.batch_size, 1, 4096);
        problems.range("accumulate", self.accumulate, 1, 1024);
        let (factor, crop_px) = (config.factor(), self.crop_px);
        problems.range("crop_px", crop_px, factor, config.resolution);
        problems.require(crop_px.is_multiple_of(factor), || {
            format!("crop_px must be a multiple of the downsampling factor {factor}, got {crop_px}")
        });
        let rate = self.learning_rate;
        problems.require(rate > 0.0 && rate <= 0.1, || format!("learning_rate must be above 0 and at most 0.1, got {rate}"));
        problems.range("commitment_weight", self.commitment_weight, 0.0, 100.0);
        problems.range("ema_decay", self.ema_decay, 0.0, 0.99999);
        problems.range("restart_after", self.restart_after, 1, u64::MAX);
        problems.range("l2_share", self.l2_share, 0.0, 1.0);
        problems.range("warm_up_steps", self.warm_up_steps, 0, self.steps);
        problems.range("perceptual_weight", self.perceptual_weight, 0.0, 100.0);
        problems.range("discriminator_weight", self.discriminator_weight, 0.0, 100.0);
        problems.range("checkpoint_every", self.checkpoint_every, 1, u64::MAX);
        problems.finish("codebook fit configuration")
    }
}
