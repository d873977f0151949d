//! Attempts at a unit: looks it up, makes it as often as allowed, and announces the outcome.

use std::time::{Duration, Instant};

use cm3flow_schemas::unit::UnitRecord;
use cm3flow_schemas::window::SourceUnit;

use super::executor::{Executor, GivenUp, Outcome};
use crate::error::{PipelineError, Result};
use crate::events::Event;
use crate::segment::UnitTask;

impl Executor {
    /// Returns the record of a unit that concerns a whole window; this process makes the unit if it does not exist.
    pub(super) async fn find_or_make(&self, task: &UnitTask) -> Result<UnitRecord> {
        self.found_or(task, self.unit_maker.worker().make(task)).await
    }

    /// Makes the unit of `task` from `unit`. Gives the unit up after as many failed attempts as the configuration allows.
    pub(super) async fn attempt(&self, task: &UnitTask, unit: &SourceUnit) -> Result<Outcome> {
        let attempts = self.job.config.runtime.unit_attempts;
        let (segment, key) = (task.segment(), task.key());
        let mut attempt = 1;
        loop {
            let error = match self.found_or(task, self.unit_maker.make(task)).await {
                Ok(record) => return Ok(Ok(record)),
                Err(error) if !error.is_of_the_unit() || self.job.stop.is_cancelled() => return Err(error),
                Err(error) => error,
            };
            let problem = error.with_causes();
            tracing::warn!(segment = segment.name(), %key, attempt, of = attempts, problem, "a unit failed");
            if attempt == attempts {
                let (source, file, rows) = (unit.source.clone(), unit.file.clone(), unit.rows);
                self.job.progress.tell(Event::UnitQuarantined { segment, key, source, file, rows, problem: problem.clone() });
                return Ok(Err(GivenUp { problem }));
            }
            attempt += 1;
            self.job.progress.tell(Event::UnitRetried { segment, key, attempt });
        }
    }

    /// Returns the record of the unit of `task`, which `making` makes if it does not exist. Announces the outcome.
    async fn found_or(&self, task: &UnitTask, making: impl Future<Output = Result<UnitRecord>>) -> Result<UnitRecord> {
        if let Some(record) = self.unit_maker.worker().find(task).await? {
            self.job.progress.tell(Event::unit_done(&record, true, Duration::ZERO));
            return Ok(record);
        }
        let begun = Instant::now();
        let made = making.await;
        match &made {
            Ok(record) => self.job.progress.tell(Event::unit_done(record, false, begun.elapsed())),
            // An interruption is no fault of the unit.
            Err(PipelineError::Interrupted) => {}
            Err(error) => {
                self.job.progress.tell(Event::UnitFailed { segment: task.segment(), key: task.key(), problem: error.with_causes() });
            }
        }
        made
    }
}
