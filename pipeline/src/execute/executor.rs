//! The windows of a plan, in order: when each begins, and how the run goes on without units that cannot be made.

use std::collections::VecDeque;
use std::sync::Arc;

use cm3flow_schemas::Digest;
use cm3flow_schemas::unit::UnitRecord;
use cm3flow_schemas::window::{QuarantinedUnit, SourceUnit, WindowRecord};
use tokio::sync::{Mutex, OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tracing::Instrument;

use super::budget::RefusalBudget;
use super::{UnitMaker, WindowUnits, counted};
use crate::catalog::Catalog;
use crate::config::Job;
use crate::error::{PipelineError, Result};
use crate::events::Event;
use crate::plan::{Plan, StoredPlan, WindowPlan};
use crate::segment::{KeyMaker, UnitTask, WindowTask};
use crate::train::follow::Followed;

/// Windows that are prepared at once, the current one included.
const WINDOWS_AHEAD: usize = 2;

/// Makes and commits the windows of a plan.
pub(crate) struct Executor {
    pub(super) job: Job,
    pub(super) unit_maker: UnitMaker,
    /// The plan in the store, which worker processes read.
    plan: Mutex<StoredPlan>,
    budget: RefusalBudget,
    /// Separate places for `prepare` and `compose`: a window must not wait for units that are prepared ahead.
    preparing: Arc<Semaphore>,
    composing: Arc<Semaphore>,
}

/// Outcome of a unit: its record, or the reason for giving it up.
pub(super) type Outcome = Result<UnitRecord, GivenUp>;

/// A unit without attempts left.
#[derive(Debug)]
pub(super) struct GivenUp {
    pub(super) problem: String,
}

/// Units of a window in preparation, by their index in its plan.
type Prepared = JoinSet<Result<(usize, Outcome)>>;

impl Executor {
    pub(crate) fn new(job: &Job, unit_maker: UnitMaker, plan: StoredPlan) -> Self {
        let places = match &unit_maker {
            UnitMaker::InProcess(_) => job.config.runtime.workers,
            UnitMaker::Processes(..) => job.config.runtime.processes,
        };
        let places = || Arc::new(Semaphore::new(places as usize));
        let (preparing, composing) = (places(), places());
        let budget = RefusalBudget::new(&job.config.runtime);
        Self { job: job.clone(), unit_maker, plan: Mutex::new(plan), budget, preparing, composing }
    }

    /// Makes and commits all windows of `plan`, in order, and announces each to `followed`.
    pub(crate) async fn run(self: &Arc<Self>, plan: &Plan, catalog: &Catalog, followed: &Followed) -> Result<Vec<WindowRecord>> {
        let to_prepare: u64 = plan.windows.iter().flat_map(|window| &window.sources).map(|source| source.unit.rows).sum();
        self.job.progress.expect_samples(to_prepare);
        let _watch = self.job.progress.watch_stages();
        let mut earlier: Vec<Digest> = Vec::with_capacity(plan.windows.len());
        let mut records: Vec<WindowRecord> = Vec::with_capacity(plan.windows.len());
        let mut upcoming = plan.windows.iter();
        let mut begun = VecDeque::with_capacity(WINDOWS_AHEAD);
        for (index, window) in plan.windows.iter().enumerate() {
            begun.extend(upcoming.by_ref().take(WINDOWS_AHEAD - begun.len()).map(|window| self.begin_preparing(window)));
            let prepared = in_order(begun.pop_front().unwrap_or_default()).await?;
            let record = match &window.committed {
                Some(record) => WindowRecord { window: index as u32, ..record.clone() },
                None => {
                    let finishing = self.finish_window(index as u32, window, prepared, &earlier);
                    finishing.instrument(tracing::error_span!("window", window = index)).await?
                }
            };
            earlier.push(record.keys.settle());
            if !record.quarantined.is_empty() {
                // Packs of the plan name the training, and from here on the packs are different ones.
                followed.give_up();
            }
            catalog.commit_window(plan.version, &record).await?;
            followed.commit(record.shards.clone());
            self.job.progress.tell(Event::window_committed(&record, plan.windows.len(), window.committed.is_some()));
            records.push(record);
        }
        Ok(records)
    }

    /// Begins to prepare the units of a window, as many at once as there are places. They continue until the set is dropped.
    fn begin_preparing(self: &Arc<Self>, window: &WindowPlan) -> Prepared {
        let mut tasks = JoinSet::new();
        for (index, (source, key)) in window.sources.iter().zip(&window.keys.prepare).enumerate() {
            let (executor, task) = (Arc::clone(self), UnitTask::Prepare { key: *key, source: Arc::new(source.clone()) });
            let unit = source.unit.clone();
            let preparing = async move {
                let _place = executor.place(&executor.preparing).await?;
                let outcome = executor.attempt(&task, &unit).await?;
                if let Ok(record) = &outcome {
                    executor.budget.count(&unit, record, &executor.job.progress)?;
                }
                executor.job.progress.finish_samples(unit.rows);
                Ok((index, outcome))
            };
            tasks.spawn(preparing.in_current_span());
        }
        tasks
    }

    /// Makes a window of those units that can be made.
    async fn finish_window(
        self: &Arc<Self>,
        index: u32,
        plan: &WindowPlan,
        prepared: Vec<Outcome>,
        earlier: &[Digest],
    ) -> Result<WindowRecord> {
        let mut sound = Vec::with_capacity(prepared.len());
        let mut quarantined = Vec::new();
        for (unit, outcome) in plan.units.iter().zip(prepared) {
            match outcome {
                Ok(record) => sound.push((unit.clone(), record)),
                Err(GivenUp { problem }) => quarantined.push(QuarantinedUnit { unit: unit.clone(), problem }),
            }
        }
        loop {
            let (units, prepared): (Vec<SourceUnit>, Vec<UnitRecord>) = sound.iter().cloned().unzip();
            let maker = KeyMaker { config: &self.job.config, artefacts: self.unit_maker.worker().artefacts() };
            let keys = maker.window(earlier.last().copied(), &units, plan.blocklist);
            if !quarantined.is_empty() {
                self.amend(index as usize, units.clone()).await?;
            }
            let window = Arc::new(WindowTask { keys, earlier: earlier.to_vec(), blocklist: plan.blocklist });
            let settled = self.find_or_make(&UnitTask::Settle(Arc::clone(&window))).await?;
            let composed = self.compose(&window, &units).await?;
            if composed.iter().all(Result::is_ok) {
                let composed: Vec<UnitRecord> = composed.into_iter().flatten().collect();
                let packed = self.pack(&window).await?;
                let made = WindowUnits { prepared: &prepared, settled: &settled, composed: &composed, packed: &packed };
                let (keys, blocklist) = (window.keys.clone(), plan.blocklist);
                let plan = WindowPlan { units, sources: Vec::new(), keys, blocklist, quarantined, committed: None };
                return Ok(counted(index, &plan, &made));
            }

            let mut kept = Vec::with_capacity(sound.len());
            for ((unit, record), outcome) in sound.into_iter().zip(composed) {
                match outcome {
                    Ok(_) => kept.push((unit, record)),
                    Err(GivenUp { problem }) => quarantined.push(QuarantinedUnit { unit, problem }),
                }
            }
            sound = kept;
        }
    }

    /// Tells worker processes that window `index` consists of `units` alone.
    async fn amend(&self, index: usize, units: Vec<SourceUnit>) -> Result<()> {
        let mut plan = self.plan.lock().await;
        plan.amend(KeyMaker { config: &self.job.config, artefacts: self.unit_maker.worker().artefacts() }, index, units);
        plan.write().await
    }

    async fn compose(self: &Arc<Self>, window: &Arc<WindowTask>, units: &[SourceUnit]) -> Result<Vec<Outcome>> {
        let mut tasks = JoinSet::new();
        for (place, unit) in units.iter().cloned().enumerate() {
            let (executor, task) = (Arc::clone(self), UnitTask::Compose { window: Arc::clone(window), place });
            let composing = async move {
                let _place = executor.place(&executor.composing).await?;
                Ok((place, executor.attempt(&task, &unit).await?))
            };
            tasks.spawn(composing.in_current_span());
        }
        in_order(tasks).await
    }

    async fn pack(&self, window: &Arc<WindowTask>) -> Result<Vec<UnitRecord>> {
        let mut packed = Vec::new();
        for split in cm3flow_schemas::sample::Split::ALL {
            packed.push(self.find_or_make(&UnitTask::Pack { window: Arc::clone(window), split }).await?);
        }
        Ok(packed)
    }

    /// Waits for a place; fails after a signal.
    async fn place(&self, among: &Arc<Semaphore>) -> Result<OwnedSemaphorePermit> {
        let place = Arc::clone(among).acquire_owned().await.map_err(|_| PipelineError::Lost { what: "the workers' semaphore" })?;
        if self.job.stop.is_cancelled() { Err(PipelineError::Interrupted) } else { Ok(place) }
    }
}

/// Waits for all tasks and orders their results by the index that each returns. The first error ends the others.
async fn in_order(mut tasks: Prepared) -> Result<Vec<Outcome>> {
    let mut results = std::collections::BTreeMap::new();
    while let Some(ended) = tasks.join_next().await {
        let (index, outcome) = ended.map_err(|_| PipelineError::Lost { what: "the task of a unit" })??;
        results.insert(index, outcome);
    }
    Ok(results.into_values().collect())
}
