//! Plan of a run in the store, `runs/<run>/plan/<k>.json`. Worker processes need it beside configuration and store, and gc keeps
//! the objects that it names while the run works. Plans are numbered: a quarantined unit changes the keys of all that follows.

use std::collections::HashMap;
use std::sync::Arc;

use cm3flow_schemas::sample::Split;
use cm3flow_schemas::window::{SourceUnit, WindowKeys};
use cm3flow_schemas::{Digest, layout};
use cm3flow_stages::ingest::PlannedUnit;
use serde::{Deserialize, Serialize};

use super::Plan;
use crate::error::{PipelineError, Result};
use crate::segment::{KeyMaker, UnitTask, WindowTask};
use crate::store::{Created, Store};

/// A window of a run.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct RunWindow {
    units: Vec<SourceUnit>,
    /// Places that the units are read from; empty for a window of the base version.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    sources: Vec<PlannedUnit>,
    keys: WindowKeys,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    blocklist: Option<Digest>,
}

/// The plan of a run, as far as workers and gc need it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct RunPlan {
    pub(crate) dataset: String,
    pub(crate) version: u32,
    pub(crate) base: Option<u32>,
    windows: Vec<RunWindow>,
}

impl RunPlan {
    pub(crate) fn new(dataset: &str, plan: &Plan) -> Self {
        let window = |window: &super::WindowPlan| RunWindow {
            units: window.units.clone(),
            sources: window.sources.clone(),
            keys: window.keys.clone(),
            blocklist: window.blocklist,
        };
        Self { dataset: dataset.to_owned(), version: plan.version, base: plan.base, windows: plan.windows.iter().map(window).collect() }
    }

    /// Reduces window `index` to `units`, and makes new keys for it and the windows after it.
    pub(crate) fn amend(&mut self, maker: KeyMaker<'_>, index: usize, units: Vec<SourceUnit>) {
        let sources = std::mem::take(&mut self.windows[index].sources);
        self.windows[index].sources = sources.into_iter().filter(|source| units.contains(&source.unit)).collect();
        self.windows[index].units = units;
        let mut settled_before = index.checked_sub(1).and_then(|before| self.windows.get(before)).map(|before| before.keys.settle());
        for window in &mut self.windows[index..] {
            let keys = maker.window(settled_before, &window.units, window.blocklist);
            settled_before = Some(keys.settle());
            window.keys = keys;
        }
    }

    /// Returns the latest plan of the run in the folder `run`, if it has one.
    ///
    /// # Errors
    /// Those of the store.
    pub(crate) async fn find(store: &Store, run: &str) -> Result<Option<Self>> {
        let folder = layout::plans(run);
        match layout::highest::<u32>(&store.names(&folder).await?) {
            Some(number) => store.record(&layout::numbered(&folder, number), "plan of a run").await,
            None => Ok(None),
        }
    }

    /// Returns the latest plan of the run, as [`Self::find`].
    ///
    /// # Errors
    /// [`PipelineError::NoRun`] if there is none, or those of the store.
    pub(crate) async fn latest(store: &Store, run: &str) -> Result<Self> {
        Self::find(store, run).await?.ok_or_else(|| PipelineError::NoRun { run: run.to_owned() })
    }

    /// Returns the keys of the plan's windows, in order.
    pub(crate) fn keys(&self) -> impl Iterator<Item = &WindowKeys> {
        self.windows.iter().map(|window| &window.keys)
    }

    /// Returns the tasks of all units to be made, by their keys.
    ///
    /// # Errors
    /// [`PipelineError::Mismatch`] if the configuration of `maker` gives other keys.
    pub(crate) fn tasks(&self, maker: KeyMaker<'_>) -> Result<HashMap<Digest, UnitTask>> {
        let mut tasks = HashMap::new();
        let mut earlier: Vec<Digest> = Vec::new();
        for window in &self.windows {
            if window.sources.is_empty() {
                earlier.push(window.keys.settle());
                continue;
            }
            let keys = maker.window(earlier.last().copied(), &window.units, window.blocklist);
            if keys != window.keys {
                let problem = "the configuration, or what this machine computes with, gives other keys than the plan of the run has; workers need the very \
                               configuration of the run and machines of its numerics class";
                return Err(PipelineError::Mismatch { problem: problem.into() });
            }
            add_tasks(&mut tasks, &window.sources, WindowTask { keys, earlier: earlier.clone(), blocklist: window.blocklist });
            earlier.push(window.keys.settle());
        }
        Ok(tasks)
    }
}

fn add_tasks(tasks: &mut HashMap<Digest, UnitTask>, sources: &[PlannedUnit], window: WindowTask) {
    let prepare =
        window.keys.prepare.iter().zip(sources).map(|(key, source)| UnitTask::Prepare { key: *key, source: Arc::new(source.clone()) });
    let mut all: Vec<UnitTask> = prepare.collect();
    let window = Arc::new(window);
    all.push(UnitTask::Settle(Arc::clone(&window)));
    all.extend((0..sources.len()).map(|place| UnitTask::Compose { window: Arc::clone(&window), place }));
    all.extend(Split::ALL.map(|split| UnitTask::Pack { window: Arc::clone(&window), split }));
    tasks.extend(all.into_iter().map(|task| (task.key(), task)));
}

/// The plan that the leader of a run keeps up to date in the store.
pub(crate) struct KeptPlan {
    store: Store,
    run: String,
    plan: RunPlan,
    next: u32,
}

impl KeptPlan {
    /// Writes the first plan of the run in the folder `run`, or the next one if the run was overtaken and plans again.
    ///
    /// # Errors
    /// Those of the store.
    pub(crate) async fn begin(store: Store, run: String, plan: RunPlan) -> Result<Self> {
        let mut kept = Self { store, run, plan, next: 0 };
        kept.write().await?;
        Ok(kept)
    }

    /// Amends the plan as [`RunPlan::amend`] does; does not write it.
    pub(crate) fn amend(&mut self, maker: KeyMaker<'_>, index: usize, units: Vec<SourceUnit>) {
        self.plan.amend(maker, index, units);
    }

    /// Writes the plan as the run's next one.
    ///
    /// # Errors
    /// Those of the store.
    pub(crate) async fn write(&mut self) -> Result<()> {
        loop {
            let path = layout::numbered(&layout::plans(&self.run), self.next);
            self.next += 1;
            if self.store.create_record(&path, &self.plan).await? != Created::Different {
                return Ok(());
            }
        }
    }
}
