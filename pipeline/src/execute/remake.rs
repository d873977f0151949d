//! Windows of a published version made again from their records, for repairs and comparisons.

use std::collections::HashMap;
use std::sync::Arc;

use cm3flow_schemas::Digest;
use cm3flow_schemas::sample::Split;
use cm3flow_schemas::unit::{NumericsClass, SegmentName, UnitRecord};
use cm3flow_schemas::version::VersionManifest;
use cm3flow_schemas::window::{SourceUnit, WindowRecord};
use cm3flow_stages::ingest::PlannedUnit;
use futures::{FutureExt, StreamExt, TryStreamExt};
use tokio::sync::OnceCell;

use super::{WindowUnits, counted};
use crate::artefact::Artefacts;
use crate::config::Job;
use crate::error::{PipelineError, Result};
use crate::plan::{Plan, WindowPlan};
use crate::segment::{UnitTask, WindowTask, Worker};
use crate::source::scan::scan_as;

/// The present content of the sources, scanned when the first unit is requested.
pub(crate) struct Sources {
    job: Job,
    /// Units of the version: the scan cuts rows as the version did.
    before: Vec<SourceUnit>,
    /// Units by all but their file's name, or the reason why the sources cannot be scanned.
    units: OnceCell<Result<HashMap<SourceUnit, PlannedUnit>, String>>,
}

fn nameless(unit: &SourceUnit) -> SourceUnit {
    SourceUnit { file: String::new(), ..unit.clone() }
}

impl Sources {
    /// Makes sources of `job`, to be cut as the units `before`; the job's store remembers the results of scans.
    pub(crate) fn new(job: Job, before: Vec<SourceUnit>) -> Self {
        Self { job, before, units: OnceCell::new() }
    }

    /// Finds the place where `unit` can be read.
    ///
    /// # Errors
    /// [`PipelineError::Gone`] if the sources no longer hold it.
    pub(crate) async fn unit(&self, unit: &SourceUnit) -> Result<PlannedUnit> {
        let scan = || async {
            let scan = scan_as(&self.job, &self.before, None).await.map_err(|error| format!("the sources cannot be scanned: {error}"))?;
            Ok(scan.units.into_iter().map(|planned| (nameless(&planned.unit), planned)).collect())
        };
        let gone = |problem: &str| PipelineError::Gone { name: unit.source.clone(), file: unit.file.clone(), problem: problem.to_owned() };
        let units = self.units.get_or_init(scan).await.as_ref().map_err(|problem| gone(problem))?;
        let (first, rows) = (unit.first_row, unit.rows);
        let missing = || gone(&format!("it no longer holds the {rows} samples from {first} on as they were"));
        if unit.only.is_empty() {
            return units.get(&nameless(unit)).cloned().ok_or_else(missing);
        }
        // Some rows of a unit that the sources hold as a whole.
        let has_rows = |whole: &&PlannedUnit| {
            let whole = &whole.unit;
            let end = whole.first_row + whole.rows;
            (&whole.source, whole.digest, whole.first_row) == (&unit.source, unit.digest, unit.first_row)
                && unit.only.iter().all(|row| (whole.first_row..end).contains(row))
        };
        Ok(units.values().find(has_rows).ok_or_else(missing)?.only(&unit.only)?)
    }
}

/// Makes the windows of a version again, in order.
pub(crate) struct Again {
    /// Job over the scratch store.
    job: Job,
    worker: Worker,
    plan: Plan,
    /// Numerics class that made the units.
    numerics: NumericsClass,
    sources: Sources,
    /// Settle keys of the windows before the next one, in order.
    earlier: Vec<Digest>,
}

impl Again {
    /// Prepares to make the windows of `plan` and to commit them in the store of `job`.
    ///
    /// # Errors
    /// As [`Worker::try_new`].
    pub(crate) fn try_new(job: Job, artefacts: Artefacts, plan: Plan, numerics: NumericsClass, sources: Sources) -> Result<Self> {
        let worker = Worker::try_new(&job, Arc::new(artefacts))?;
        Ok(Self { job, worker, plan, numerics, sources, earlier: Vec::new() })
    }

    /// Returns the manifest that `windows` make.
    ///
    /// # Errors
    /// [`PipelineError::Ledger`] if the counts do not add up.
    pub(crate) fn manifest(&self, windows: &[WindowRecord]) -> Result<VersionManifest> {
        Ok(self.job.catalog().manifest_of(&self.job.config, self.worker.artefacts(), &self.plan, windows)?.0)
    }

    /// Skips the next window: makes none of its units.
    pub(crate) fn skip(&mut self) {
        self.earlier.push(self.plan.windows[self.earlier.len()].keys.settle());
    }

    /// Makes those units of the next window that the store lacks, and commits the window.
    ///
    /// # Errors
    /// [`PipelineError::Gone`] or [`PipelineError::Numerics`] if a unit cannot be prepared again, after all others have been; those of a
    /// stage or the store.
    pub(crate) async fn window(&mut self) -> Result<WindowRecord> {
        let index = self.earlier.len();
        let made = self.make(index).await;
        self.skip();
        let record = made?;
        self.job.catalog().commit_window(self.plan.version, &record).await?;
        Ok(record)
    }

    async fn make(&self, index: usize) -> Result<WindowRecord> {
        let plan = &self.plan.windows[index];
        let prepared = self.prepared(plan).await?;
        let window = Arc::new(WindowTask { keys: plan.keys.clone(), earlier: self.earlier.clone(), blocklist: plan.blocklist });
        let settled = self.worker.work(&UnitTask::Settle(Arc::clone(&window))).await?;
        let compose = (0..plan.units.len()).map(|place| UnitTask::Compose { window: Arc::clone(&window), place });
        let composed = self.all(compose.collect()).await?;
        let packed = self.all(Split::ALL.map(|split| UnitTask::Pack { window: Arc::clone(&window), split }).to_vec()).await?;
        let made = WindowUnits { prepared: &prepared, settled: &settled, composed: &composed, packed: &packed };
        Ok(counted(index as u32, plan, &made))
    }

    async fn prepared(&self, window: &WindowPlan) -> Result<Vec<UnitRecord>> {
        let (mut tasks, mut failed) = (Vec::new(), None);
        for (unit, key) in window.units.iter().zip(&window.keys.prepare) {
            match self.task_of(unit, *key).await {
                Ok(task) => tasks.push(task),
                Err(error) => failed = failed.or(Some(error)),
            }
        }
        let prepared = self.all(tasks).await?;
        failed.map_or(Ok(prepared), Err)
    }

    /// Makes the units of `tasks`, as many at once as there are workers; returns their records in order.
    async fn all(&self, tasks: Vec<UnitTask>) -> Result<Vec<UnitRecord>> {
        let made: Vec<_> = tasks.iter().map(|task| self.worker.work(task).boxed()).collect();
        futures::stream::iter(made).buffered(self.job.config.runtime.workers as usize).try_collect().await
    }

    /// Returns the task that prepares a unit. Asks the sources only if the unit does not exist.
    async fn task_of(&self, unit: &SourceUnit, key: Digest) -> Result<UnitTask> {
        if self.worker.is_there(SegmentName::Prepare, key).await? {
            return Ok(UnitTask::Found { segment: SegmentName::Prepare, key });
        }
        let ours = &self.worker.artefacts().numerics;
        if *ours != self.numerics {
            return Err(PipelineError::Numerics { theirs: Box::new(self.numerics.clone()), ours: Box::new(ours.clone()) });
        }
        Ok(UnitTask::Prepare { key, source: Arc::new(self.sources.unit(unit).await?) })
    }
}
