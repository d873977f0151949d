//! Executes a plan on this machine, window by window: while one window is settled, composed and packed, the next is prepared.
//!
//! Units that are there already are not made again. Results do not depend on the number of workers: every unit is a function of its
//! key, and windows are committed in order.

mod budget;
mod compose;
mod history;
mod pack;
mod prepare;
mod settle;
mod tell;
mod unit;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use cm3flow_schemas::Digest;
use cm3flow_schemas::ledger::{DocumentLedger, SampleLedger};
use cm3flow_schemas::sample::Split;
use cm3flow_schemas::unit::{SegmentName, UnitRecord};
use cm3flow_schemas::window::WindowRecord;
use cm3flow_stages::ChannelLimits;
use cm3flow_stages::instruct::InstructContext;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tracing::Instrument;

pub(crate) use prepare::derived_batches;
pub(crate) use unit::{DOCUMENT_COLUMNS, Table, UnitPlace, UnitStore, WindowTables};

use crate::artefact::Artefacts;
use crate::catalog::{Catalog, window_record};
use crate::config::Config;
use crate::error::{PipelineError, Result};
use crate::events::Event;
use crate::execute::budget::RefusalBudget;
use crate::execute::history::History;
use crate::follow::Followed;
use crate::plan::{Plan, WindowPlan};
use crate::progress::Progress;
use crate::store::Store;

/// Windows that are prepared ahead, the present one included.
const WINDOWS_AHEAD: usize = 2;

/// What all units of a run share.
pub(crate) struct Executor {
    config: Arc<Config>,
    units: UnitStore,
    artefacts: Arc<Artefacts>,
    instruct: Arc<InstructContext>,
    progress: Progress,
    limits: ChannelLimits,
    budget: RefusalBudget,
    /// Places for units that are prepared, and for units that are composed: a window must not wait for what is prepared ahead.
    preparing: Arc<Semaphore>,
    composing: Arc<Semaphore>,
    /// Set from outside: nothing new is begun.
    stop: Arc<AtomicBool>,
}

impl Executor {
    pub(crate) fn new(config: Arc<Config>, store: Store, artefacts: Arc<Artefacts>, progress: Progress, stop: Arc<AtomicBool>) -> Self {
        let instruct = InstructContext {
            config: config.instruct.clone(),
            mask: config.mask.clone(),
            seq_len: config.pack.seq_len as usize,
            vocabulary: artefacts.vocabulary.clone(),
            tokenizer: artefacts.text.clone(),
            seed: config.dataset.seed,
        };
        let budget = RefusalBudget::new(&config.runtime);
        let places = || Arc::new(Semaphore::new(config.runtime.workers as usize));
        let (preparing, composing) = (places(), places());
        Self {
            config,
            units: UnitStore::new(store),
            artefacts,
            instruct: Arc::new(instruct),
            progress,
            limits: ChannelLimits::default(),
            budget,
            preparing,
            composing,
            stop,
        }
    }

    /// Makes and commits all windows of `plan`, in order; each is announced to `followed`.
    pub(crate) async fn run(self: &Arc<Self>, plan: &Plan, catalog: &Catalog, followed: &Followed) -> Result<Vec<WindowRecord>> {
        let to_prepare: u64 = plan.windows.iter().flat_map(|window| &window.sources).map(|source| source.unit.rows).sum();
        self.progress.expect_samples(to_prepare);
        let _watch = self.progress.watch_stages();
        let mut history = History::new(self.units.clone());
        let mut records = Vec::with_capacity(plan.windows.len());
        let mut upcoming = plan.windows.iter();
        let mut begun = VecDeque::with_capacity(WINDOWS_AHEAD);
        for (index, window) in plan.windows.iter().enumerate() {
            begun.extend(upcoming.by_ref().take(WINDOWS_AHEAD - begun.len()).map(|window| self.begin_preparing(window)));
            let prepared = in_order(begun.pop_front().unwrap_or_default(), "preparing a unit").await?;
            let record = match &window.committed {
                Some(record) => WindowRecord { window: index as u32, ..record.clone() },
                None => {
                    let finishing = self.finish_window(index as u32, window, &prepared, &mut history);
                    finishing.instrument(tracing::error_span!("window", window = index)).await?
                }
            };
            history.push(window.keys.settle);
            let record = catalog.commit_window(plan, record).await?;
            followed.commit(record.shards.clone());
            self.progress.tell(Event::window_committed(&record, plan.windows.len(), window.committed.is_some()));
            records.push(record);
        }
        Ok(records)
    }

    /// Begins to prepare the units of a window, as many at once as there are places. They go on by themselves until the set is dropped.
    fn begin_preparing(self: &Arc<Self>, window: &WindowPlan) -> JoinSet<Result<(usize, UnitRecord)>> {
        let mut tasks = JoinSet::new();
        for (index, source) in window.sources.iter().enumerate() {
            let (executor, source, key) = (Arc::clone(self), source.clone(), window.keys.prepare[index]);
            tasks.spawn(
                async move {
                    let _place = executor.place(&executor.preparing).await?;
                    let unit = source.unit.clone();
                    let record = executor.prepare(source, key).await?;
                    executor.budget.count(&unit, &record, &executor.progress)?;
                    Ok((index, record))
                }
                .in_current_span(),
            );
        }
        tasks
    }

    async fn finish_window(
        self: &Arc<Self>,
        index: u32,
        window: &WindowPlan,
        prepared: &[UnitRecord],
        history: &mut History,
    ) -> Result<WindowRecord> {
        let settled = self.settle(window.keys.settle, prepared, history).await?;
        let composed = self.compose_window(window, prepared, &settled, history).await?;
        let mut packed = Vec::with_capacity(Split::ALL.len());
        for (split, key) in Split::ALL.into_iter().zip(&window.keys.pack) {
            packed.push(self.pack(split, *key, &composed).await?);
        }

        let mut record = window_record(index);
        record.units = window.units.clone();
        record.keys = window.keys.by_segment();
        record.blocklist = window.blocklist;
        record.samples = self.samples_of(prepared, &settled);
        record.licenses = settled.licenses.clone();
        for unit in &composed {
            record.documents.add(unit.documents.as_ref().unwrap_or(&DocumentLedger::default()));
        }
        record.documents.packed = 0;
        for (split, unit) in Split::ALL.into_iter().zip(packed) {
            let statistics = unit.statistics.unwrap_or_default();
            record.documents.packed += statistics.tasks.values().map(|task| task.documents).sum::<u64>();
            record.statistics.insert(split.name().to_owned(), statistics);
            record.shards.extend(unit.shards);
        }
        Ok(record)
    }

    /// `prepare` says what came in and was refused, `settle` what of the rest is a duplicate.
    fn samples_of(&self, prepared: &[UnitRecord], settled: &UnitRecord) -> SampleLedger {
        let mut samples = SampleLedger::default();
        for unit in prepared {
            samples.add(unit.samples.as_ref().unwrap_or(&SampleLedger::default()));
        }
        samples.kept = settled.samples.as_ref().map_or(0, |settled| settled.kept);
        samples.duplicate = settled.samples.as_ref().map_or(0, |settled| settled.duplicate);
        samples
    }

    async fn compose_window(
        self: &Arc<Self>,
        window: &WindowPlan,
        prepared: &[UnitRecord],
        settled: &UnitRecord,
        history: &mut History,
    ) -> Result<Vec<UnitRecord>> {
        let mut there = BTreeMap::new();
        for (index, key) in window.keys.compose.iter().enumerate() {
            if let Some(record) = self.units.find(SegmentName::Compose, *key).await? {
                there.insert(index, record);
            }
        }
        let mut tasks = JoinSet::new();
        if there.len() < prepared.len() {
            let bank = Arc::new(history.bank(settled, &self.config).await?);
            let settled = Arc::new(settled.clone());
            for (index, unit) in prepared.iter().enumerate().filter(|(index, _)| !there.contains_key(index)) {
                let (executor, bank, settled) = (Arc::clone(self), Arc::clone(&bank), Arc::clone(&settled));
                let (unit, key) = (unit.clone(), window.keys.compose[index]);
                tasks.spawn(
                    async move {
                        let _place = executor.place(&executor.composing).await?;
                        let composing = executor.compose(key, (index as u32, &unit), &settled, bank);
                        Ok((index, executor.make((SegmentName::Compose, key), composing).await?))
                    }
                    .in_current_span(),
                );
            }
        }
        for (index, record) in there {
            let record = self.found(record);
            tasks.spawn(async move { Ok((index, record)) });
        }
        in_order(tasks, "composing a unit").await
    }

    /// Waits for a place; none is given after a signal.
    async fn place(&self, among: &Arc<Semaphore>) -> Result<OwnedSemaphorePermit> {
        let place = Arc::clone(among).acquire_owned().await.map_err(|_| PipelineError::Lost { what: "the workers' semaphore" })?;
        if self.stop.load(Ordering::Relaxed) { Err(PipelineError::Interrupted) } else { Ok(place) }
    }
}

/// Waits for all tasks and puts their results in the order of the index that each returns. The first error ends the others.
async fn in_order(mut tasks: JoinSet<Result<(usize, UnitRecord)>>, what: &'static str) -> Result<Vec<UnitRecord>> {
    let mut results = BTreeMap::new();
    while let Some(ended) = tasks.join_next().await {
        let (index, record) = ended.map_err(|_| PipelineError::Lost { what })??;
        results.insert(index, record);
    }
    Ok(results.into_values().collect())
}

/// Folder of a unit in the store.
pub(crate) fn unit_path(segment: SegmentName, key: Digest) -> String {
    let key = key.to_string();
    format!("units/{}/{}/{key}", segment.name(), &key[..2])
}
