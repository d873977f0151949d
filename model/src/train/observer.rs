//! Who watches a training, and what is left of it at the end.

use cm3flow_schemas::DynError;
use cm3flow_schemas::traits::{LanguageModel, ReaderState, StepReport};

/// Watches a training: progress, evaluation, the wish to stop.
pub trait TrainObserver {
    /// Hears of a step and of where the source of packs stands behind it. Called for every step, before its checkpoint. A training that
    /// goes on from a checkpoint reports the steps behind it again.
    ///
    /// # Errors
    /// The implementor's; it ends the training without a checkpoint.
    fn step(&mut self, report: &StepReport, reader: &ReaderState) -> Result<(), DynError>;

    /// Evaluates the model as it is behind `step`. Called behind that step's checkpoint, and once more when a training goes on from
    /// just there, since nobody knows whether the evaluation had come to its end.
    ///
    /// # Errors
    /// The implementor's; it ends the training.
    fn evaluate(&mut self, step: u64, model: &mut dyn LanguageModel) -> Result<(), DynError>;

    /// Whether to stop; asked between steps. The training then writes a checkpoint and ends.
    fn stop_requested(&self) -> bool;
}

/// What a training did.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct TrainSummary {
    /// Step of the checkpoint from which it went on; none if it began at the start.
    pub resumed_from: Option<u64>,
    /// Steps done in all, those before the checkpoint included.
    pub steps: u64,
    /// Whether it was stopped before its last step.
    pub stopped: bool,
    /// Report of the last step; none if no step was left to do.
    pub last: Option<StepReport>,
}
