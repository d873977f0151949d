//! Work between the steps of a training: curve, progress bar, evaluations.

use cm3flow_model::train::{TrainConfig, TrainObserver};
use cm3flow_schemas::DynError;
use cm3flow_schemas::traits::{LanguageModel, ReaderState, StepReport};
use tokio_util::sync::CancellationToken;

use super::Training;
use crate::catalog::checkpoints::Checkpoints;
use crate::events::Event;
use crate::events::progress::{Activity, Progress};
use crate::train::evaluate::Evaluator;
use crate::train::follow::Feed;

/// Observer of one training.
pub(super) struct Watcher {
    checkpoints: Checkpoints,
    evaluator: Evaluator,
    activity: Activity,
    progress: Progress,
    steps: u64,
    log_every: u64,
    stop: CancellationToken,
    feed: Feed,
}

impl Watcher {
    pub(super) fn new(training: &Training, checkpoints: Checkpoints, evaluator: Evaluator) -> Self {
        let activity = training.job.progress.activity("train", training.train.steps);
        let (progress, TrainConfig { steps, log_every, .. }) = (training.job.progress.clone(), &training.train);
        let (steps, log_every) = (*steps, *log_every);
        Self { checkpoints, evaluator, activity, progress, steps, log_every, stop: training.job.stop.clone(), feed: training.feed.clone() }
    }
}

impl TrainObserver for Watcher {
    fn step(&mut self, report: &StepReport, _reader: &ReaderState) -> Result<(), DynError> {
        self.checkpoints.record(*report);
        let (StepReport { step, gradient_norm, .. }, loss, steps) = (*report, report.losses.mean_of_all(), self.steps);
        self.activity.set(step, &format!("loss {:.3}", loss.unwrap_or(f64::NAN)));
        // Not every step: a training of a million steps would fill the events file.
        if step == steps || (self.log_every > 0 && step.is_multiple_of(self.log_every)) {
            self.progress.tell(Event::TrainingStep { step, steps, loss, gradient_norm });
        }
        Ok(())
    }

    fn evaluate(&mut self, step: u64, model: &mut dyn LanguageModel) -> Result<(), DynError> {
        Ok(self.evaluator.evaluate(step, model)?)
    }

    fn stop_requested(&self) -> bool {
        self.stop.is_cancelled() || self.feed.has_stopped()
    }
}
