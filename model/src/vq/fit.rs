//! Fits a VQGAN on pictures: what `cm3flow fit codebook` runs.
//!
//! The network first learns as a plain autoencoder, from a linear start where its sizes allow one; k-means on its latents then starts the
//! codebook, and from there on the decoder sees nearest codes only. The codebook follows the latents by running means, the encoder is
//! drawn to the codebook by the commitment loss and gets the decoder's gradient straight through. Weights are a function of the job and the
//! numerics class, whether or not the fit was broken off and taken up again on the way.
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

use cm3flow_schemas::traits::CheckpointStore;

pub use config::VqFitConfig;

use crate::device::{self, DeviceChoice};
use crate::error::ModelError;
use crate::vq::config::VqConfig;
use crate::vq::fit::fitting::Fitting;
use crate::weights::to_safetensors;

/// What is fitted on what.
#[derive(Debug, Clone, Copy)]
pub struct FitJob<'a> {
    /// Sizes of the network.
    pub config: &'a VqConfig,
    /// How to fit it.
    pub fit: &'a VqFitConfig,
    /// Pictures of `config.resolution` squared, RGB, row-major, interleaved, one after the other.
    pub images: &'a [u8],
    /// Files of the perceptual loss: a VGG-16 as torchvision names its tensors, and LPIPS' linear layers. Asked for if
    /// `fit.perceptual_weight` is above 0.
    pub perceptual: Option<[&'a [u8]; 2]>,
    /// Seed of every draw.
    pub seed: u64,
    /// Where to compute.
    pub device: DeviceChoice,
}

/// How far fitting has come; one for each step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct FitProgress {
    /// Steps done, from 1.
    pub step: u64,
    /// Steps in all.
    pub steps: u64,
    /// Loss between picture and reconstruction, of values in -1 to 1, the perceptual one included.
    pub reconstruction_loss: f64,
    /// Mean squared distance of latents from their codes; 0 before the codebook starts.
    pub commitment_loss: f64,
    /// Codes used within the last `restart_after` steps; 0 before the codebook starts.
    pub codes_used: u32,
}

/// Fits a VQGAN, from the latest of `checkpoints` if there is one. Returns its weights as safetensors of f32. They are a function of the
/// job on one numerics class, whatever else runs in the process.
///
/// # Errors
/// [`ModelError::Config`] for bad settings, [`ModelError::Input`] or [`ModelError::TooFewImages`] for the pictures,
/// [`ModelError::Diverged`] if the loss is no number any more, [`ModelError::Store`] if a checkpoint cannot be kept or read, the errors
/// about tensors for weights of another network, [`ModelError::Torch`] if the device fails.
pub fn fit(
    job: &FitJob<'_>,
    checkpoints: Option<&dyn CheckpointStore>,
    progress: &mut dyn FnMut(FitProgress),
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
        progress(fitting.step(step)?);
        if let Some(checkpoints) = checkpoints
            && step.is_multiple_of(job.fit.checkpoint_every)
            && step < job.fit.steps
        {
            checkpoints.put(step, &fitting.checkpoint()?).map_err(|source| ModelError::Store { step, source })?;
        }
    }
    to_safetensors(fitting.weights())
}

#[cfg(test)]
mod tests;
