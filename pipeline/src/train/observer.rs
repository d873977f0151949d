//! What is done between the steps of a training: the curve, the bar, evaluations.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use cm3flow_model::train::TrainObserver;
use cm3flow_schemas::DynError;
use cm3flow_schemas::traits::{LanguageModel, ReaderState, StepReport};

use super::{Checkpoints, Training};
use crate::evaluate::Evaluator;
use crate::follow::Feed;
use crate::progress::Activity;

/// Watches one training.
pub(super) struct Watcher {
    checkpoints: Checkpoints,
    evaluator: Evaluator,
    activity: Activity,
    stop: Arc<AtomicBool>,
    feed: Feed,
}

impl Watcher {
    pub(super) fn new(training: &Training, checkpoints: Checkpoints, evaluator: Evaluator) -> Self {
        let activity = training.progress.activity("train", training.train.steps);
        Self { checkpoints, evaluator, activity, stop: Arc::clone(&training.stop), feed: training.feed.clone() }
    }
}

impl TrainObserver for Watcher {
    fn step(&mut self, report: &StepReport, _reader: &ReaderState) -> Result<(), DynError> {
        self.checkpoints.record(*report);
        let loss = report.losses.mean_of_all().unwrap_or(f64::NAN);
        self.activity.set(report.step, &format!("loss {loss:.3}"));
        Ok(())
    }

    fn evaluate(&mut self, step: u64, model: &mut dyn LanguageModel) -> Result<(), DynError> {
        Ok(self.evaluator.evaluate(step, model)?)
    }

    fn stop_requested(&self) -> bool {
        self.stop.load(Ordering::Relaxed) || self.feed.has_stopped()
    }
}
