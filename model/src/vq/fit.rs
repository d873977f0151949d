//! Fit of a VQGAN on pictures, for `cm3flow fit codebook`.
//!
//! The network first learns as a plain autoencoder, from a linear start where its sizes allow one. K-means on its latents then starts the
//! codebook, and from there on the decoder sees only nearest codes. The codebook follows the latents by running means. The commitment loss
//! draws the encoder to the codebook, and the decoder's gradient reaches it straight through. The weights are a function of the job and the
//! numerics class, even if the fit is interrupted and resumed.
//!
//! # Source
//! van den Oord et al. 2017, section 3.2 and appendix A.1, <https://arxiv.org/abs/1711.00937>; restarts: Dhariwal et al. 2020,
//! section 3.1, <https://arxiv.org/abs/2005.00341>.

mod codebook;
mod config;
mod crops;
mod discriminator;
mod fitting;
mod linear_start;
mod perceptual;
mod state;

use std::ops::ControlFlow;

use cm3flow_schemas::traits::CheckpointStore;

pub use config::VqFitConfig;

use crate::device::{self, DeviceChoice};
use crate::error::ModelError;
use crate::vq::config::VqConfig;
use crate::vq::fit::fitting::Fitting;
use crate::weights::to_safetensors;

/// Input of a fit.
#[derive(Debug, Clone, Copy)]
pub struct FitJob<'a> {
    /// Sizes of the network.
    pub config: &'a VqConfig,
    /// Settings of the fit.
    pub fit: &'a VqFitConfig,
    /// Pictures of `config.resolution` squared, RGB, row-major, interleaved, one after another.
    pub images: &'a [u8],
    /// Files of the perceptual loss: a VGG-16 with torchvision's names of tensors, and LPIPS' linear layers. Required if
    /// `fit.perceptual_weight` is above 0.
    pub perceptual: Option<[&'a [u8]; 2]>,
    /// Seed of every draw.
    pub seed: u64,
    /// Device to compute on.
    pub device: DeviceChoice,
}

/// Progress of a fit, reported for each step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct FitProgress {
    /// Number of finished steps, from 1.
    pub step: u64,
    /// Total number of steps.
    pub steps: u64,
    /// Loss between picture and reconstruction, over values in -1 to 1, the perceptual loss included.
    pub reconstruction_loss: f64,
    /// Mean squared distance of latents from their codes; 0 before the codebook starts.
    pub commitment_loss: f64,
    /// Number of codes used within the last `restart_after` steps; 0 before the codebook starts.
    pub codes_used: u32,
}

/// Fits a VQGAN, from the latest of `checkpoints` if there is one. Returns its weights as safetensors of f32. They are a function of the
/// job on one numerics class, whatever else runs in the process.
///
/// # Errors
/// [`ModelError::Config`] for bad settings, [`ModelError::Input`] or [`ModelError::TooFewImages`] for the pictures,
/// [`ModelError::Diverged`] if the loss is no number any more, [`ModelError::Store`] if a checkpoint cannot be kept or read, the errors
/// about tensors for weights of another network, [`ModelError::Torch`] if the device fails, [`ModelError::Stopped`] if `progress` breaks off:
/// then the last step is the latest of `checkpoints`.
pub fn fit(
    job: &FitJob<'_>,
    checkpoints: Option<&dyn CheckpointStore>,
    progress: &mut dyn FnMut(FitProgress) -> ControlFlow<()>,
) -> Result<Vec<u8>, ModelError> {
    job.config.check()?;
    job.fit.check(job.config)?;
    let device = device::open(job.device)?;
    let latest = checkpoints.map(CheckpointStore::latest).transpose().map_err(|source| ModelError::Store { step: 0, source })?.flatten();
    let (mut fitting, done) = match latest {
        Some((step, files)) => (Fitting::resumed(job, device, &files)?, step),
        None => (Fitting::try_new(job, device)?, 0),
    };
    for step in done + 1..=job.fit.steps {
        let is_last = step == job.fit.steps;
        let stops = progress(fitting.step(step)?).is_break() && !is_last;
        if let Some(checkpoints) = checkpoints
            && (stops || step.is_multiple_of(job.fit.checkpoint_every))
            && !is_last
        {
            checkpoints.put(step, &fitting.checkpoint()?).map_err(|source| ModelError::Store { step, source })?;
        }
        if stops {
            return Err(ModelError::Stopped { step });
        }
    }
    to_safetensors(fitting.weights())
}

#[cfg(test)]
mod tests;
