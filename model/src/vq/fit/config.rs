//! How a VQGAN is fitted, as plain data.

use serde::{Deserialize, Serialize};

use crate::error::{ModelError, Problems};
use crate::vq::config::VqConfig;

/// How a VQGAN is fitted. The defaults are made for [`VqConfig::photos_tiny`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct VqFitConfig {
    /// Updates, 1 to 10,000,000, warm-up included.
    pub steps: u64,
    /// Crops of an update, 1 to 4096.
    pub batch_size: u32,
    /// Side of the crops in pixels: a multiple of the downsampling factor, up to the resolution.
    pub crop_px: u32,
    /// Highest learning rate, above 0, to 0.1.
    pub learning_rate: f64,
    /// Weight of the distance between latents and codes in the loss, 0 to 100.
    pub commitment_weight: f64,
    /// Share that the running means of the codebook keep at each update, 0 to 0.99999.
    pub ema_decay: f64,
    /// Updates without use after which a code starts anew at a latent of the batch, 1 or more.
    pub restart_after: u64,
    /// Share of squared differences in the reconstruction loss, 0 to 1; the rest are absolute differences.
    pub l2_share: f64,
    /// Updates without codebook at the start, 0 to `steps`.
    pub warm_up_steps: u64,
}

impl Default for VqFitConfig {
    fn default() -> Self {
        Self {
            steps: 500,
            batch_size: 8,
            crop_px: 64,
            learning_rate: 2e-3,
            commitment_weight: 0.25,
            ema_decay: 0.98,
            restart_after: 40,
            l2_share: 0.5,
            warm_up_steps: 100,
        }
    }
}

impl VqFitConfig {
    /// Checks every field.
    ///
    /// # Errors
    /// [`ModelError::Config`] with all problems.
    pub fn check(&self, config: &VqConfig) -> Result<(), ModelError> {
        let mut problems = Problems::default();
        problems.range("steps", self.steps, 1, 10_000_000);
        problems.range("batch_size", self.batch_size, 1, 4096);
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
        problems.finish("codebook fit configuration")
    }
}
