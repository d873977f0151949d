//! State of a fit: networks, optimizers and steps.

use tch::{Device, Kind, Reduction, TchError, Tensor};

use crate::error::ModelError;
use crate::optimizer::{AdamW, AdamWSettings, Schedule};
use crate::vq::fit::codebook::{self, RunningCodebook};
use crate::vq::fit::crops::Crops;
use crate::vq::fit::discriminator::Discriminator;
use crate::vq::fit::perceptual::Perceptual;
use crate::vq::fit::{FitJob, FitProgress, linear_start};
use crate::vq::network::{CODEBOOK, VqNetwork};
use crate::vq::quantizer::{grid_of, rows_of};
use crate::weights::{NamedTensors, WeightsFile};

const SETTINGS: AdamWSettings = AdamWSettings { beta1: 0.9, beta2: 0.99, epsilon: 1e-8, weight_decay: 0.0, clip_norm: 1.0 };
/// Largest factor of the discriminator's weight by gradients.
const MAX_BALANCE: f64 = 1e4;
/// Name of the layer where gradients are balanced: the decoder's last.
const LAST_LAYER: &str = "decoder.conv_out.weight";

/// A fit in progress.
pub(super) struct Fitting<'a> {
    pub(super) job: &'a FitJob<'a>,
    crops: Crops<'a>,
    pub(super) network: VqNetwork,
    pub(super) optimizer: AdamW,
    pub(super) critic: Option<(Discriminator, AdamW)>,
    perceptual: Option<Perceptual>,
    schedule: Schedule,
    pub(super) codebook: Option<RunningCodebook>,
    pub(super) device: Device,
    /// Number of finished steps.
    pub(super) done: u64,
}

/// Result of one batch.
struct Pass {
    decoded: Tensor,
    reconstruction: Tensor,
    commitment: Option<Tensor>,
}

impl<'a> Fitting<'a> {
    /// Starts a fit before its first step.
    pub(super) fn try_new(job: &'a FitJob<'a>, device: Device) -> Result<Self, ModelError> {
        let network = VqNetwork::drawn(job.config, job.seed, device)?;
        let discriminator = if job.fit.discriminator_weight > 0.0 { Some(Discriminator::drawn(job.seed, device)?) } else { None };
        let fitting = Self::of(job, device, network, discriminator)?;
        if linear_start::is_possible(job.config) {
            let pixels = fitting.crops.sample(device);
            pixels
                .and_then(|pixels| linear_start::start(&fitting.network, job.config, &pixels))
                .map_err(ModelError::torch("start the network"))?;
        }
        Ok(fitting)
    }

    /// Starts a fit of given networks, with new optimizers and codebook.
    pub(super) fn of(job: &'a FitJob<'a>, device: Device, network: VqNetwork, critic: Option<Discriminator>) -> Result<Self, ModelError> {
        let crops = Crops::try_new(job)?;
        let mut trained: NamedTensors = network.parameters.iter().map(|(name, tensor)| (name.clone(), tensor.shallow_clone())).collect();
        trained.remove(CODEBOOK);
        let optimizer = optimizer_of(&trained)?;
        let critic = match critic {
            Some(critic) => {
                let optimizer = optimizer_of(&critic.parameters)?;
                Some((critic, optimizer))
            }
            None => None,
        };
        let (fit, steps) = (job.fit, job.fit.steps);
        let schedule = Schedule { peak: fit.learning_rate, warm_up_steps: (steps / 50).min(100), steps, final_share: 0.02 };
        let perceptual = perceptual(job, device)?;
        Ok(Self { job, crops, network, optimizer, critic, perceptual, schedule, codebook: None, device, done: 0 })
    }

    /// Returns all weights by name.
    pub(super) const fn weights(&self) -> &NamedTensors {
        &self.network.parameters
    }

    /// Updates everything once.
    pub(super) fn step(&mut self, step: u64) -> Result<FitProgress, ModelError> {
        let fit = self.job.fit;
        if step > fit.warm_up_steps && self.codebook.is_none() {
            self.start_codebook().map_err(ModelError::torch("start the codebook"))?;
        }
        let losses = self.update(step).map_err(ModelError::torch("fit"))?;
        let [reconstruction_loss, commitment_loss, gradient_norm] = losses;
        if !(reconstruction_loss + commitment_loss + gradient_norm).is_finite() {
            return Err(ModelError::Diverged { step, loss: reconstruction_loss + commitment_loss, gradient_norm });
        }
        self.done = step;
        let codes_used = self.codebook.as_ref().map_or(0, RunningCodebook::codes_used);
        Ok(FitProgress { step, steps: fit.steps, reconstruction_loss, commitment_loss, codes_used })
    }

    /// Updates the networks. Returns reconstruction loss, commitment loss and norm of the gradient.
    fn update(&mut self, step: u64) -> Result<[f64; 3], TchError> {
        let fit = self.job.fit;
        let share = 1.0 / f64::from(fit.accumulate);
        let (mut gradients, mut critic_gradients) = (Vec::new(), Vec::new());
        let (mut reconstruction, mut commitment) = (0.0, 0.0);
        for part in 0..fit.accumulate {
            let pixels = self.crops.batch((step - 1) * u64::from(fit.accumulate) + u64::from(part), self.device)?;
            let pass = self.pass(&pixels)?;
            let mut loss = pass.reconstruction.shallow_clone();
            if let Some(commitment) = &pass.commitment {
                loss = loss.f_add(&commitment.f_mul_scalar(fit.commitment_weight)?)?;
            }
            if let Some((critic, optimizer)) = &self.critic
                && step > fit.discriminator_start
            {
                loss = loss.f_add(&self.pleasing(critic, &pass)?)?;
                let own = critic.own_loss(&pixels, &pass.decoded)?.f_mul_scalar(share)?;
                add_up(&mut critic_gradients, optimizer.gradients(&own)?)?;
            }
            reconstruction += share * pass.reconstruction.f_double_value(&[])?;
            commitment += share * pass.commitment.as_ref().map_or(Ok(0.0), |commitment| commitment.f_double_value(&[]))?;
            add_up(&mut gradients, self.optimizer.gradients(&loss.f_mul_scalar(share)?)?)?;
        }
        let rate = self.schedule.rate(step);
        let norm = AdamW::norm(&gradients)?;
        self.optimizer.step(&mut gradients, norm, rate)?;
        if let Some((_, optimizer)) = &mut self.critic
            && !critic_gradients.is_empty()
        {
            let norm = AdamW::norm(&critic_gradients)?;
            optimizer.step(&mut critic_gradients, norm, rate)?;
        }
        if let Some(codebook) = &mut self.codebook {
            let _no_grad = tch::no_grad_guard();
            codebook.update(step)?;
            self.network.embedding.f_copy_(codebook.vectors())?;
        }
        Ok([reconstruction, commitment, norm])
    }

    /// Returns the decoder's loss by the discriminator, weighted so that its gradient at the last layer is as long as that of the
    /// reconstruction.
    fn pleasing(&self, critic: &Discriminator, pass: &Pass) -> Result<Tensor, TchError> {
        let loss = critic.generator_loss(&pass.decoded)?;
        let last = &self.network.parameters[LAST_LAYER];
        let length = |loss: &Tensor| Tensor::f_run_backward(&[loss], &[last], true, false)?[0].f_norm()?.f_double_value(&[]);
        let balance = (length(&pass.reconstruction)? / (length(&loss)? + 1e-4)).clamp(0.0, MAX_BALANCE);
        loss.f_mul_scalar(balance * self.job.fit.discriminator_weight)
    }

    fn pass(&mut self, pixels: &Tensor) -> Result<Pass, TchError> {
        let fit = self.job.fit;
        let kind = fit.precision.kind();
        let latents = self.network.encode(&pixels.f_to_kind(kind)?)?.f_to_kind(Kind::Float)?;
        let (quantized, commitment) = match &mut self.codebook {
            None => (latents, None),
            Some(codebook) => {
                let (_, _, h, w) = latents.size4()?;
                let rows = codebook.project(&rows_of(&latents)?)?;
                let codes = codebook.assign(&rows)?;
                let commitment = rows.f_mse_loss(&codes, Reduction::Mean)?;
                // Straight through: the value is that of the code, the gradient that of the latent.
                let quantized = rows.f_add(&codes.f_sub(&rows.f_detach()?)?)?;
                (grid_of(&quantized, h, w)?, Some(commitment))
            }
        };
        let decoded = self.network.decode(&quantized.f_to_kind(kind)?)?.f_to_kind(Kind::Float)?;
        let absolute = decoded.f_l1_loss(pixels, Reduction::Mean)?.f_mul_scalar(1.0 - fit.l2_share)?;
        let mut reconstruction = decoded.f_mse_loss(pixels, Reduction::Mean)?.f_mul_scalar(fit.l2_share)?.f_add(&absolute)?;
        if let Some(perceptual) = &self.perceptual {
            reconstruction = reconstruction.f_add(&perceptual.loss(&decoded, pixels)?.f_mul_scalar(fit.perceptual_weight)?)?;
        }
        Ok(Pass { decoded, reconstruction, commitment })
    }

    /// Starts the codebook by k-means on latents of crops that no step of the warm-up saw.
    fn start_codebook(&mut self) -> Result<(), TchError> {
        let _no_grad = tch::no_grad_guard();
        let mut rows = Vec::new();
        let wanted = codebook::LATENTS_PER_CODE * i64::from(self.job.config.codebook_size);
        let mut count = 0;
        while count < wanted {
            let batch = self.crops.batch(u64::MAX - rows.len() as u64, self.device)?;
            let latents = rows_of(&self.network.encode(&batch)?)?;
            count += latents.size2()?.0;
            rows.push(latents);
        }
        let latents = Tensor::f_cat(&rows, 0)?.f_narrow(0, 0, wanted)?;
        self.codebook = Some(RunningCodebook::start(self.job, &latents)?);
        Ok(())
    }
}

fn optimizer_of(parameters: &NamedTensors) -> Result<AdamW, ModelError> {
    AdamW::try_new(SETTINGS, parameters, |_, _| false).map_err(ModelError::torch("prepare the optimizer"))
}

fn perceptual(job: &FitJob<'_>, device: Device) -> Result<Option<Perceptual>, ModelError> {
    match job.perceptual {
        Some(files) if job.fit.perceptual_weight > 0.0 => {
            let mut tensors = NamedTensors::new();
            for file in files {
                let mut file = WeightsFile::open(file)?;
                for name in file.names() {
                    tensors.extend(file.tensor(&name)?.map(|tensor| (name, tensor)));
                }
            }
            Perceptual::try_new(tensors, device).map(Some)
        }
        _ if job.fit.perceptual_weight > 0.0 => Err(ModelError::Config {
            what: "codebook fit configuration",
            problems: vec!["perceptual_weight is above 0, but the files of the perceptual loss are not given".to_owned()],
        }),
        _ => Ok(None),
    }
}

/// Adds `gradients` to `sum`, which may be empty.
fn add_up(sum: &mut Vec<Tensor>, gradients: Vec<Tensor>) -> Result<(), TchError> {
    if sum.is_empty() {
        *sum = gradients;
        return Ok(());
    }
    for (sum, gradient) in sum.iter_mut().zip(gradients) {
        let _ = sum.f_add_(&gradient)?;
    }
    Ok(())
}
