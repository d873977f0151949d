//! Tasks of a run that another process leads, by key.

use std::collections::HashMap;
use std::sync::Arc;

use cm3flow_schemas::Digest;
use cm3flow_schemas::unit::UnitRecord;

use crate::artefact::Artefacts;
use crate::config::Job;
use crate::error::{PipelineError, Result};
use crate::plan::RunPlan;
use crate::segment::{KeyMaker, UnitTask, Worker};

/// Finds tasks by key in the run's plan, and makes their units.
pub(crate) struct Tasks {
    job: Job,
    worker: Worker,
    run: String,
    known: HashMap<Digest, UnitTask>,
}

impl Tasks {
    /// Makes the tasks of the run in the folder `run`.
    ///
    /// # Errors
    /// As [`Worker::try_new`].
    pub(crate) fn try_new(job: Job, artefacts: Artefacts, run: String) -> Result<Self> {
        let worker = Worker::try_new(&job, Arc::new(artefacts))?;
        Ok(Self { job, worker, run, known: HashMap::new() })
    }

    /// Makes the unit of `key`, unless it exists.
    ///
    /// # Errors
    /// [`PipelineError::UnknownUnit`], [`PipelineError::Mismatch`] if the run has another configuration, or those of the unit.
    pub(crate) async fn work(&mut self, key: Digest) -> Result<UnitRecord> {
        if !self.known.contains_key(&key) {
            // The run may have amended its plan since the last reading.
            let maker = KeyMaker { config: &self.job.config, artefacts: self.worker.artefacts() };
            self.known = RunPlan::latest(&self.job.store, &self.run).await?.tasks(maker)?;
        }
        let task = self.known.get(&key).ok_or_else(|| PipelineError::UnknownUnit { run: self.run.clone(), key: key.to_string() })?;
        self.worker.work(task).await
    }
}
