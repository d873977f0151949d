//! Codebook of a fit: started by k-means, moved by running means, with restarts of dead codes.
//!
//! Sums over latents are products with one-hot matrices. Scattered additions would depend on the order of threads.

use cm3flow_schemas::random::Draws;
use tch::{Device, Kind, TchError, Tensor};

use crate::error::ModelError;
use crate::parameters::{Init, Parameters};
use crate::vq::fit::FitJob;
use crate::vq::quantizer::Quantizer;
use crate::weights::NamedTensors;

/// Number of latents for each code in k-means.
pub(super) const LATENTS_PER_CODE: i64 = 32;
/// Names of a checkpoint's tensors.
const COUNTS: &str = "counts";
const SUMS: &str = "sums";
const VECTORS: &str = "vectors";
/// Number of k-means rounds; later ones change little.
const KMEANS_ROUNDS: u32 = 15;
/// Number of latents that are summed together, which bounds the rows of a one-hot matrix.
const TOTAL_ROWS: i64 = 4096;

/// Codebook that follows the latents.
pub(super) struct RunningCodebook {
    quantizer: Quantizer,
    /// Vectors to store, `[codes, dim]`.
    vectors: Tensor,
    /// Running mean of the number of latents of each code, `[codes]`.
    counts: Tensor,
    /// Running mean of the sum of latents of each code, `[codes, dim]`.
    sums: Tensor,
    /// Step of each code's last use by a latent.
    last_used: Vec<u64>,
    /// Step of each code's last use or restart.
    alive_at: Vec<u64>,
    step: u64,
    /// Latents since the last update, with the number and the sum for each code.
    pending: Option<Pending>,
    normalized: bool,
    decay: f64,
    restart_after: u64,
    seed: u64,
}

/// Latents since the last update.
struct Pending {
    /// Latents of the last batch, `[rows, dim]`.
    rows: Tensor,
    found: Tensor,
    sums: Tensor,
}

/// Ages of codes, as steps at which something happened to each.
pub(super) struct CodeAges {
    /// It was last chosen.
    pub(super) last_used: Vec<u64>,
    /// It was last chosen or started anew.
    pub(super) alive_at: Vec<u64>,
}

impl RunningCodebook {
    /// Starts at the centroids of `latents`, `[rows, dim]`.
    pub(super) fn start(job: &FitJob<'_>, latents: &Tensor) -> Result<Self, TchError> {
        let normalized = job.config.l2_normalized_codes;
        let codes = i64::from(job.config.codebook_size);
        let (rows, _) = latents.size2()?;
        let mut order: Vec<i64> = (0..rows).collect();
        Draws::new(job.seed, "fit centroids", b"").shuffle(&mut order);
        order.truncate(codes as usize);
        let first = latents.f_index_select(0, &Tensor::f_from_slice(&order)?.f_to_device(latents.device())?)?;
        let mut quantizer = Quantizer::try_new(&first, normalized)?;
        let latents = quantizer.project(latents)?;
        let mut vectors = quantizer.project(&first)?;
        let mut counts = vectors.f_new_ones([codes], (Kind::Float, vectors.device()))?;
        for _ in 0..KMEANS_ROUNDS {
            let (found, sums) = totals(&quantizer.nearest(&latents)?, &latents, codes)?;
            // A centroid without latents stays in place; a restart will move it.
            let empty = found.f_eq(0.0)?.f_unsqueeze(1)?;
            vectors = vectors.f_where_self(&empty, &sums.f_div(&found.f_clamp_min(1.0)?.f_unsqueeze(1)?)?)?;
            quantizer = Quantizer::try_new(&vectors, normalized)?;
            counts = found;
        }
        // The running means will be over the latents of one update, so the counts are scaled to that number.
        let per_update = f64::from(job.fit.batch_size * job.fit.accumulate) * f64::from(job.fit.crop_px / job.config.factor()).powi(2);
        let counts = counts.f_clamp_min(1.0)?.f_mul_scalar(per_update / rows as f64)?;
        let sums = vectors.f_mul(&counts.f_unsqueeze(1)?)?;
        let (decay, restart_after) = (job.fit.ema_decay, job.fit.restart_after);
        let step = job.fit.warm_up_steps;
        let (last_used, alive_at) = (vec![step; codes as usize], vec![step; codes as usize]);
        Ok(Self {
            quantizer,
            vectors,
            counts,
            sums,
            last_used,
            alive_at,
            step,
            pending: None,
            normalized,
            decay,
            restart_after,
            seed: job.seed,
        })
    }

    /// Projects latents to the space of comparison; keeps their gradient. In and out: `[rows, dim]`.
    pub(super) fn project(&self, rows: &Tensor) -> Result<Tensor, TchError> {
        self.quantizer.project(rows)
    }

    /// Returns the nearest vectors of projected latents, and records these for the next [`Self::update`]. In and out: `[rows, dim]`; no
    /// gradient.
    pub(super) fn assign(&mut self, rows: &Tensor) -> Result<Tensor, TchError> {
        let _no_grad = tch::no_grad_guard();
        let rows = rows.f_detach()?;
        let codes = self.quantizer.nearest(&rows)?;
        let nearest = self.quantizer.vectors_of(&codes)?;
        let (mut found, mut sums) = totals(&codes, &rows, self.counts.size1()?)?;
        if let Some(pending) = self.pending.take() {
            (found, sums) = (found.f_add(&pending.found)?, sums.f_add(&pending.sums)?);
        }
        self.pending = Some(Pending { rows, found, sums });
        Ok(nearest)
    }

    /// Moves the codebook towards the latents since the last update.
    pub(super) fn update(&mut self, step: u64) -> Result<(), TchError> {
        let Some(Pending { rows, found, sums }) = self.pending.take() else { return Ok(()) };
        self.step = step;
        let _ = self.counts.f_lerp_(&found, 1.0 - self.decay)?;
        let _ = self.sums.f_lerp_(&sums, 1.0 - self.decay)?;
        self.restart(&rows, &found)?;
        self.vectors = self.sums.f_div(&self.counts.f_clamp_min(1e-6)?.f_unsqueeze(1)?)?;
        self.quantizer = Quantizer::try_new(&self.vectors, self.normalized)?;
        Ok(())
    }

    /// Returns the tensors of a checkpoint.
    pub(super) fn tensors(&self) -> NamedTensors {
        let named = [(COUNTS, &self.counts), (SUMS, &self.sums), (VECTORS, &self.vectors)];
        named.map(|(name, tensor)| (name.to_owned(), tensor.shallow_clone())).into()
    }

    /// Ages of its codes.
    pub(super) fn ages(&self) -> CodeAges {
        CodeAges { last_used: self.last_used.clone(), alive_at: self.alive_at.clone() }
    }

    /// Restores the codebook after `step` from these tensors and ages.
    pub(super) fn restored(job: &FitJob<'_>, tensors: NamedTensors, ages: CodeAges, step: u64, device: Device) -> Result<Self, ModelError> {
        let (codes, dim) = (i64::from(job.config.codebook_size), i64::from(job.config.embedding_dim));
        let mut parameters = Parameters::loaded(tensors, device);
        let counts = parameters.root().tensor(COUNTS, &[codes], Init::Zeros)?;
        let sums = parameters.root().tensor(SUMS, &[codes, dim], Init::Zeros)?;
        let vectors = parameters.root().tensor(VECTORS, &[codes, dim], Init::Zeros)?;
        parameters.finish()?;
        let normalized = job.config.l2_normalized_codes;
        let quantizer = Quantizer::try_new(&vectors, normalized).map_err(ModelError::torch("restore the codebook"))?;
        let (decay, restart_after, seed) = (job.fit.ema_decay, job.fit.restart_after, job.seed);
        let CodeAges { last_used, alive_at } = ages;
        Ok(Self { quantizer, vectors, counts, sums, last_used, alive_at, step, pending: None, normalized, decay, restart_after, seed })
    }

    /// Moves codes without recent use to latents of the batch.
    fn restart(&mut self, rows: &Tensor, found: &Tensor) -> Result<(), TchError> {
        let found = Vec::<f32>::try_from(found.f_to_device(tch::Device::Cpu)?)?;
        let mut draws = Draws::new(self.seed, "fit restarts", &self.step.to_le_bytes());
        let mut dead = Vec::new();
        for (code, count) in found.iter().enumerate() {
            if *count > 0.0 {
                self.last_used[code] = self.step;
                self.alive_at[code] = self.step;
            } else if self.step - self.alive_at[code] >= self.restart_after {
                self.alive_at[code] = self.step;
                dead.push(code as i64);
            }
        }
        if dead.is_empty() {
            return Ok(());
        }
        let (count, _) = rows.size2()?;
        let chosen: Vec<i64> = dead.iter().map(|_| draws.index(count as usize) as i64).collect();
        let index = |values: &[i64]| Tensor::f_from_slice(values)?.f_to_device(rows.device());
        let (dead, chosen) = (index(&dead)?, index(&chosen)?);
        let latents = rows.f_index_select(0, &chosen)?;
        let _ = self.sums.f_index_copy_(0, &dead, &latents)?;
        let _ = self.counts.f_index_fill_(0, &dead, 1.0)?;
        Ok(())
    }

    /// Returns the vectors to store, `[codes, dim]`.
    pub(super) const fn vectors(&self) -> &Tensor {
        &self.vectors
    }

    /// Returns the number of codes used within the last `restart_after` steps.
    pub(super) fn codes_used(&self) -> u32 {
        self.last_used.iter().filter(|last| self.step - **last < self.restart_after).count() as u32
    }
}

/// Returns number and sum of the rows of each code: `[codes]` and `[codes, dim]`.
fn totals(chosen: &Tensor, rows: &Tensor, codes: i64) -> Result<(Tensor, Tensor), TchError> {
    let all = Tensor::f_arange(codes, (Kind::Int64, rows.device()))?.f_unsqueeze(1)?;
    let (_, dim) = rows.size2()?;
    let mut counts = Tensor::f_zeros([codes], (Kind::Float, rows.device()))?;
    let mut sums = Tensor::f_zeros([codes, dim], (Kind::Float, rows.device()))?;
    for (chosen, rows) in chosen.f_split(TOTAL_ROWS, 0)?.iter().zip(rows.f_split(TOTAL_ROWS, 0)?) {
        let one_hot = chosen.f_unsqueeze(0)?.f_eq_tensor(&all)?.f_to_kind(Kind::Float)?;
        let _ = counts.f_add_(&one_hot.f_sum_dim_intlist(1, false, Kind::Float)?)?;
        let _ = sums.f_addmm_(&one_hot, &rows)?;
    }
    Ok((counts, sums))
}
