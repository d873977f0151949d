//! Training loop. On one numerics class of the CPU, losses and weights are a function of configuration, seed and packs, however often it is
//! interrupted.

use cm3flow_schemas::DynError;
use cm3flow_schemas::pack::PackBatch;
use cm3flow_schemas::traits::{
    CheckpointFiles, CheckpointStore, Continuation, LanguageModel, ModalityLosses, PackSource, Prompt, ReaderState, Sampling, StepReport,
};
use cm3flow_schemas::vocabulary::Vocabulary;
use tch::Tensor;

use crate::checkpoint::{self, CheckpointState, FORMAT_VERSION};
use crate::decoder::{DecoderConfig, DecoderPreset, ParsedPacks, loss_gradients};
use crate::device::DeviceChoice;
use crate::error::ModelError;
use crate::hyperparameters::TrainConfig;
use crate::language::TokenModel;
use crate::optimizer::{AdamW, AdamWSettings, Schedule};
use crate::train::observer::{TrainObserver, TrainSummary};
use crate::weights::{NamedTensors, left_in};

/// Share of the peak learning rate at the last step.
const FINAL_SHARE: f64 = 0.1;

/// A model with its optimizer.
pub struct Trainer {
    model: TokenModel,
    config: TrainConfig,
    optimizer: AdamW,
    schedule: Schedule,
    seed: u64,
    step: u64,
}

impl Trainer {
    /// Creates a model with weights drawn from `seed`, and its optimizer.
    ///
    /// [`DecoderPreset::Tiny`] fills in what `config` leaves out; [`TrainConfig::with_recipe`] takes the recipe of another preset. Betas and epsilon of the
    /// optimizer and the linear decay are OPT's. All parameters decay, since there are no biases or norms.
    ///
    /// # Errors
    /// [`ModelError::Config`] for bad settings, or a size other than the vocabulary's; [`ModelError::Vocabulary`] for a vocabulary that
    /// contradicts itself; [`ModelError::CudaUnavailable`]; [`ModelError::Torch`] if memory is short.
    ///
    /// # Source
    /// OPT paper, section 2.2, <https://arxiv.org/abs/2205.01068>.
    pub fn try_new(
        decoder: DecoderConfig,
        config: TrainConfig,
        vocabulary: Vocabulary,
        seed: u64,
        device: DeviceChoice,
    ) -> Result<Self, ModelError> {
        config.check()?;
        let TrainConfig { learning_rate: Some(peak), warm_up_steps: Some(warm_up_steps), .. } = config.with_recipe(DecoderPreset::Tiny)
        else {
            unreachable!("the recipe fills both in")
        };
        let model = TokenModel::drawn(&decoder, vocabulary, seed, device)?;
        let settings =
            AdamWSettings { beta1: 0.9, beta2: 0.95, epsilon: 1e-8, weight_decay: config.weight_decay, clip_norm: config.clip_norm };
        let optimizer =
            AdamW::try_new(settings, &model.decoder.parameters, |_, _| true).map_err(ModelError::torch("prepare the optimizer"))?;
        let schedule = Schedule { peak, warm_up_steps, steps: config.steps, final_share: FINAL_SHARE };
        Ok(Self { model, config, optimizer, schedule, seed, step: 0 })
    }

    /// Returns the present model.
    #[must_use]
    pub const fn model(&self) -> &TokenModel {
        &self.model
    }

    /// Returns the number of finished steps.
    #[must_use]
    pub const fn steps_done(&self) -> u64 {
        self.step
    }

    /// Trains until the last step, or until the observer requests a stop. If `store` has a checkpoint, training resumes from the newest
    /// one, with its weights, moments and step, and with `source` at its position. Losses and weights are then those of an uninterrupted
    /// training. Otherwise it begins at the present position of `source`.
    ///
    /// By the contract of [`PackSource`] packs never end, so a source that returns fewer than requested is an error. A diverging step is
    /// not applied: the newest checkpoint is the last good state.
    ///
    /// # Errors
    /// [`ModelError::CheckpointDiffers`], [`ModelError::Vocabulary`] or the errors about tensors if the checkpoint belongs to another
    /// training; [`ModelError::CheckpointFile`], [`ModelError::CheckpointState`] or [`ModelError::Safetensors`] if it is damaged;
    /// [`ModelError::Source`], [`ModelError::Store`] or [`ModelError::Observer`] with the cause; [`ModelError::PacksEnded`];
    /// [`ModelError::PackShape`], [`ModelError::TokenOutOfRange`] or [`ModelError::Segment`] for invalid packs; [`ModelError::Diverged`]
    /// for a loss or gradient that is not finite; [`ModelError::Torch`] if the device fails.
    pub fn train(
        &mut self,
        source: &mut dyn PackSource,
        store: &dyn CheckpointStore,
        observer: &mut dyn TrainObserver,
    ) -> Result<TrainSummary, ModelError> {
        let resumed_from = self.resume(source, store)?;
        let mut saved_at = resumed_from;
        if resumed_from.is_some_and(|step| self.config.due(self.config.evaluate_every, step)) {
            self.evaluate(observer)?;
        }
        let mut last = None;
        while self.step < self.config.steps && !observer.stop_requested() {
            let reader = source.state();
            let report = match self.take_step(source) {
                // The weights are still those before the step, so a checkpoint keeps the work done before the source failed.
                Err(error @ ModelError::Source { .. }) if self.step > 0 && saved_at != Some(self.step) => {
                    self.save(reader, store)?;
                    return Err(error);
                }
                report => report?,
            };
            last = Some(report);
            self.log(&report);
            let step = self.step;
            observer.step(&report, &source.state()).map_err(|cause| ModelError::Observer { step, source: cause })?;
            if self.config.due(self.config.checkpoint_every, step) {
                self.save(source.state(), store)?;
                saved_at = Some(step);
            }
            if self.config.due(self.config.evaluate_every, step) {
                self.evaluate(observer)?;
            }
        }
        if saved_at != Some(self.step) {
            self.save(source.state(), store)?;
        }
        Ok(TrainSummary { resumed_from, steps: self.step, stopped: self.step < self.config.steps, last })
    }

    /// Reads packs, and updates the weights once.
    fn take_step(&mut self, source: &mut dyn PackSource) -> Result<StepReport, ModelError> {
        let (step, asked) = (self.step + 1, self.config.batch_packs as usize);
        let batch = source.next_batch(asked).map_err(|cause| ModelError::Source { step, source: cause })?;
        let packs = ParsedPacks::try_new(&batch, &self.model.decoder.config)?.with_shapes(self.model.vocabulary.shapes.as_ref());
        if packs.rows() != asked {
            return Err(ModelError::PacksEnded { step, asked, found: packs.rows() });
        }
        let at_once = if self.config.packs_at_once == 0 { asked } else { self.config.packs_at_once as usize };
        let (losses, loss, mut gradients) =
            loss_gradients(&self.model.decoder, &self.optimizer, &packs, at_once).map_err(ModelError::torch("compute the gradient"))?;
        let gradient_norm = AdamW::norm(&gradients).map_err(ModelError::torch("compute the gradient's norm"))?;
        if !(loss.is_finite() && gradient_norm.is_finite()) {
            return Err(ModelError::Diverged { step, loss, gradient_norm });
        }
        let learning_rate = self.schedule.rate(step);
        self.optimizer.step(&mut gradients, gradient_norm, learning_rate).map_err(ModelError::torch("update weights"))?;
        self.step = step;
        Ok(StepReport { step, losses, gradient_norm, learning_rate })
    }

    fn log(&self, report: &StepReport) {
        if self.config.log_every > 0 && self.config.due(self.config.log_every, report.step) {
            let StepReport { step, losses, gradient_norm, learning_rate } = report;
            tracing::info!(step, loss = losses.mean_of_all(), gradient_norm, learning_rate, "trained");
        }
    }

    fn evaluate(&mut self, observer: &mut dyn TrainObserver) -> Result<(), ModelError> {
        let step = self.step;
        observer.evaluate(step, &mut self.model).map_err(|source| ModelError::Observer { step, source })
    }

    fn save(&self, reader: ReaderState, store: &dyn CheckpointStore) -> Result<(), ModelError> {
        let files = self.checkpoint(reader)?;
        store.put(self.step, &files).map_err(|source| ModelError::Store { step: self.step, source })
    }

    /// Returns the files of a checkpoint of the present state, with `reader` as the position of the packs.
    ///
    /// # Errors
    /// [`ModelError::Torch`] if weights cannot be copied; [`ModelError::Safetensors`] or [`ModelError::CheckpointState`] if they cannot be
    /// written.
    pub fn checkpoint(&self, reader: ReaderState) -> Result<CheckpointFiles, ModelError> {
        let state = CheckpointState {
            format_version: FORMAT_VERSION,
            step: self.step,
            seed: self.seed,
            decoder: self.model.decoder.config.clone(),
            vocabulary: self.model.vocabulary.clone(),
            train: self.config.clone(),
            reader,
        };
        checkpoint::write(&self.model.decoder.parameters, &self.optimizer, &state)
    }

    /// Returns to the newest checkpoint, if there is one, and returns its step.
    fn resume(&mut self, source: &mut dyn PackSource, store: &dyn CheckpointStore) -> Result<Option<u64>, ModelError> {
        let latest = store.latest().map_err(|source| ModelError::Store { step: self.step, source })?;
        let Some((_, files)) = latest else { return Ok(None) };
        let reader = self.restore(&files)?;
        source.restore(reader);
        tracing::info!(step = self.step, position = reader.position, "goes on from a checkpoint");
        Ok(Some(self.step))
    }

    /// Restores weights, moments and step of a checkpoint. Returns its position of the packs.
    ///
    /// # Errors
    /// As for [`Self::train`], for a checkpoint that is damaged or does not match.
    pub fn restore(&mut self, files: &CheckpointFiles) -> Result<ReaderState, ModelError> {
        let state = checkpoint::state(files)?;
        state.check_fits(&self.model.decoder.config, &self.model.vocabulary, self.seed)?;
        put_back(&self.model.decoder.parameters, checkpoint::weights(files)?)?;
        self.optimizer.restore(checkpoint::moments(files)?, state.step)?;
        self.step = state.step;
        Ok(state.reader)
    }
}

/// Copies `weights` over `parameters`, tensor by tensor, after all of them have been checked.
fn put_back(parameters: &NamedTensors, mut weights: NamedTensors) -> Result<(), ModelError> {
    let mut pairs: Vec<(Tensor, Tensor)> = Vec::with_capacity(parameters.len());
    for (name, parameter) in parameters {
        match weights.remove(name) {
            None => {
                let left = left_in(&weights);
                return Err(ModelError::TensorMissing { name: name.clone(), shape: parameter.size(), left });
            }
            Some(found) if found.size() != parameter.size() => {
                return Err(ModelError::TensorShape { name: name.clone(), expected: parameter.size(), found: found.size() });
            }
            Some(found) => pairs.push((parameter.shallow_clone(), found)),
        }
    }
    if let Some(name) = weights.keys().next() {
        return Err(ModelError::TensorExtra { name: name.clone(), others: weights.len() - 1 });
    }
    let _no_grad = tch::no_grad_guard();
    pairs.iter_mut().try_for_each(|(parameter, found)| parameter.f_copy_(found)).map_err(ModelError::torch("restore weights"))
}

impl LanguageModel for Trainer {
    fn losses(&mut self, batch: &PackBatch) -> Result<ModalityLosses, DynError> {
        self.model.losses(batch)
    }

    fn generate(&mut self, prompts: &[Prompt], continuation: Continuation, sampling: &Sampling) -> Result<Vec<Vec<u32>>, DynError> {
        self.model.generate(prompts, continuation, sampling)
    }
}
