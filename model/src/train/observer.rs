//! Observer of a training, and the summary at its end.

use cm3flow_schemas::DynError;
use cm3flow_schemas::traits::{LanguageModel, ReaderState, StepReport};

/// Observer of a training: receives progress, evaluates, and may request a stop.
pub trait TrainObserver {
    /// Receives the report of a step, and the position of the source of packs behind it. Called for every step, before its checkpoint. A
    /// resumed training reports the steps behind its checkpoint again.
    ///
    /// # Errors
    /// The implementor's error, which ends the training without a checkpoint.
    fn step(&mut self, report: &StepReport, reader: &ReaderState) -> Result<(), DynError>;

    /// Evaluates the model behind `step`. Called behind that step's checkpoint. A training that resumes from this checkpoint calls it
    /// again, since the evaluation may not have finished.
    ///
    /// # Errors
    /// The implementor's error, which ends the training.
    fn evaluate(&mut self, step: u64, model: &mut dyn LanguageModel) -> Result<(), DynError>;

    /// Returns `true` to request a stop; called between steps. The training then writes a checkpoint and ends.
    fn stop_requested(&self) -> bool;
}

/// Summary of a training.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct TrainSummary {
    /// Step of the checkpoint that it resumed from; `None` if it began at the start.
    pub resumed_from: Option<u64>,
    /// Total number of finished steps, those before the checkpoint included.
    pub steps: u64,
    /// `true` if it was stopped before its last step.
    pub stopped: bool,
    /// Report of the last step; `None` if there was no step to do.
    pub last: Option<StepReport>,
}
