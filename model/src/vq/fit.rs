//! Fits a VQGAN on pictures: what `cm3flow fit codebook` runs.
//!
//! The network first learns as a plain autoencoder; k-means on its latents then starts the codebook, and from there on the decoder
//! sees nearest codes only. The codebook follows the latents by running means, the encoder is drawn to the codebook by the
//! commitment loss and gets the decoder's gradient straight through. Weights are a function of the job and the numerics class.
//!
//! # Source
//! van den Oord et al. 2017, section 3.2 and appendix A.1, <https://arxiv.org/abs/1711.00937>; restarts: Dhariwal et al. 2020,
//! section 3.1, <https://arxiv.org/abs/2005.00341>.

mod codebook;
mod config;
mod crops;

use tch::{Device, Kind, Reduction, TchError, Tensor};

pub use config::VqFitConfig;

use crate::device::{self, DeviceChoice};
use crate::error::ModelError;
use crate::train::adamw::{AdamW, AdamWSettings};
use crate::train::schedule::Schedule;
use crate::vq::config::VqConfig;
use crate::vq::fit::codebook::RunningCodebook;
use crate::vq::fit::crops::Crops;
use crate::vq::network::{CODEBOOK, VqNetwork};
use crate::vq::quantizer::{grid_of, rows_of};
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
    /// Loss between picture and reconstruction, of values in -1 to 1.
    pub reconstruction_loss: f64,
    /// Mean squared distance of latents from their codes; 0 before the codebook starts.
    pub commitment_loss: f64,
    /// Codes used within the last `restart_after` steps; 0 before the codebook starts.
    pub codes_used: u32,
}

/// Fits a VQGAN. Returns its weights as safetensors of f32. They are a function of the job on one numerics class, whatever else runs in
/// the process.
///
/// # Errors
/// [`ModelError::Config`] for bad settings, [`ModelError::Pixels`] or [`ModelError::TooFewImages`] for the pictures,
/// [`ModelError::Diverged`] if the loss is no number any more, [`ModelError::Torch`] if the device fails.
pub fn fit(job: &FitJob<'_>, progress: &mut dyn FnMut(FitProgress)) -> Result<Vec<u8>, ModelError> {
    job.config.check()?;
    job.fit.check(job.config)?;
    let device = device::open(job.device)?;
    let mut fitting = Fitting::try_new(job, device)?;
    for step in 1..=job.fit.steps {
        progress(fitting.step(step)?);
    }
    to_safetensors(&fitting.network.parameters)
}

/// A fitting under way.
struct Fitting<'a> {
    job: &'a FitJob<'a>,
    crops: Crops<'a>,
    network: VqNetwork,
    optimizer: AdamW,
    schedule: Schedule,
    codebook: Option<RunningCodebook>,
    device: Device,
}

/// Losses of one step, as tensors.
struct Losses {
    reconstruction: Tensor,
    commitment: Option<Tensor>,
}

impl<'a> Fitting<'a> {
    fn try_new(job: &'a FitJob<'a>, device: Device) -> Result<Self, ModelError> {
        let crops = Crops::try_new(job)?;
        let network = VqNetwork::drawn(job.config, job.seed, device)?;
        let mut trained = network
            .parameters
            .iter()
            .map(|(name, tensor)| (name.clone(), tensor.shallow_clone()))
            .collect::<crate::weights::NamedTensors>();
        trained.remove(CODEBOOK);
        let settings = AdamWSettings { beta1: 0.9, beta2: 0.95, epsilon: 1e-8, weight_decay: 0.0, clip_norm: 1.0 };
        let optimizer = AdamW::try_new(settings, &trained, |_, _| false).map_err(ModelError::torch("prepare the optimizer"))?;
        let schedule =
            Schedule { peak: job.fit.learning_rate, warm_up_steps: (job.fit.steps / 50).min(100), steps: job.fit.steps, final_share: 0.02 };
        Ok(Self { job, crops, network, optimizer, schedule, codebook: None, device })
    }

    fn step(&mut self, step: u64) -> Result<FitProgress, ModelError> {
        let fit = self.job.fit;
        if step > fit.warm_up_steps && self.codebook.is_none() {
            self.start_codebook().map_err(ModelError::torch("start the codebook"))?;
        }
        let batch = self.crops.batch(step, self.device).map_err(ModelError::torch("load pictures"))?;
        let losses = self.losses(&batch, step).map_err(ModelError::torch("compute the loss of a fit"))?;
        let value = |tensor: &Tensor| tensor.f_double_value(&[]).map_err(ModelError::torch("read a loss"));
        let reconstruction_loss = value(&losses.reconstruction)?;
        let commitment_loss = losses.commitment.as_ref().map_or(Ok(0.0), value)?;
        let norm = self.update(losses, step).map_err(ModelError::torch("fit"))?;
        if !(reconstruction_loss + commitment_loss + norm).is_finite() {
            return Err(ModelError::Diverged { step, loss: reconstruction_loss + commitment_loss, gradient_norm: norm });
        }
        let codes_used = self.codebook.as_ref().map_or(0, RunningCodebook::codes_used);
        Ok(FitProgress { step, steps: fit.steps, reconstruction_loss, commitment_loss, codes_used })
    }

    fn losses(&mut self, pixels: &Tensor, step: u64) -> Result<Losses, TchError> {
        let latents = self.network.encode(pixels)?;
        let (decoded, commitment) = match &mut self.codebook {
            None => (self.network.decode(&latents)?, None),
            Some(codebook) => {
                let (_, _, h, w) = latents.size4()?;
                let rows = codebook.project(&rows_of(&latents)?)?;
                let codes = codebook.assign(&rows, step)?;
                let commitment = rows.f_mse_loss(&codes, Reduction::Mean)?;
                // Straight through: the value is the code, the gradient is the latent's.
                let quantized = rows.f_add(&codes.f_sub(&rows.f_detach()?)?)?;
                (self.network.decode(&grid_of(&quantized, h, w)?)?, Some(commitment))
            }
        };
        let l2 = self.job.fit.l2_share;
        let absolute = decoded.f_l1_loss(pixels, Reduction::Mean)?.f_mul_scalar(1.0 - l2)?;
        let reconstruction = decoded.f_mse_loss(pixels, Reduction::Mean)?.f_mul_scalar(l2)?.f_add(&absolute)?;
        Ok(Losses { reconstruction, commitment })
    }

    /// Returns the gradient's norm.
    fn update(&mut self, losses: Losses, step: u64) -> Result<f64, TchError> {
        let loss = match losses.commitment {
            None => losses.reconstruction,
            Some(commitment) => losses.reconstruction.f_add(&commitment.f_mul_scalar(self.job.fit.commitment_weight)?)?,
        };
        let mut gradients = self.optimizer.gradients(&loss)?;
        let norm = AdamW::norm(&gradients)?;
        self.optimizer.step(&mut gradients, norm, self.schedule.rate(step))?;
        if let Some(codebook) = &self.codebook {
            let _no_grad = tch::no_grad_guard();
            self.network.embedding.f_copy_(codebook.vectors())?;
        }
        Ok(norm)
    }

    /// K-means on latents of crops that no step of the warm-up saw.
    fn start_codebook(&mut self) -> Result<(), TchError> {
        let _no_grad = tch::no_grad_guard();
        let mut rows = Vec::new();
        let wanted = codebook::LATENTS_PER_CODE * i64::from(self.job.config.codebook_size);
        let mut count = 0;
        while count < wanted {
            let batch = self.crops.batch(u64::MAX - rows.len() as u64, self.device)?;
            let latents = rows_of(&self.network.encode(&batch)?)?.f_to_kind(Kind::Float)?;
            count += latents.size2()?.0;
            rows.push(latents);
        }
        let latents = Tensor::f_cat(&rows, 0)?.f_narrow(0, 0, wanted)?;
        self.codebook = Some(RunningCodebook::start(self.job, &latents)?);
        Ok(())
    }
}

#[cfg(test)]
mod tests;
