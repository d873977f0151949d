//! Windows of a published version made again, from what their records say: for repairs and comparisons.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use cm3flow_schemas::unit::{NumericsClass, SegmentName, UnitRecord};
use cm3flow_schemas::version::VersionManifest;
use cm3flow_schemas::window::{SourceUnit, WindowRecord};
use cm3flow_stages::ingest::PlannedUnit;
use tokio::sync::OnceCell;
use tokio::task::JoinSet;

use super::history::History;
use super::{Executor, in_order};
use crate::catalog::Catalog;
use crate::config::Config;
use crate::error::{PipelineError, Result};
use crate::plan::{Plan, WindowPlan, scan_sources};

/// What the sources hold now. They are scanned only when a unit is asked for.
pub(crate) struct Sources {
    config: Arc<Config>,
    /// By what they are, whatever their files are called; or why they cannot be scanned.
    units: OnceCell<Result<HashMap<SourceUnit, PlannedUnit>, String>>,
}

fn nameless(unit: &SourceUnit) -> SourceUnit {
    SourceUnit { file: String::new(), ..unit.clone() }
}

impl Sources {
    pub(crate) fn new(config: Arc<Config>) -> Self {
        Self { config, units: OnceCell::new() }
    }

    /// Where `unit` can be read.
    ///
    /// # Errors
    /// [`PipelineError::Gone`] if it cannot.
    pub(crate) async fn unit(&self, unit: &SourceUnit) -> Result<PlannedUnit> {
        let scan = || async {
            let scan = scan_sources(&self.config, None).await.map_err(|error| format!("the sources cannot be scanned: {error}"))?;
            Ok(scan.units.into_iter().map(|planned| (nameless(&planned.unit), planned)).collect())
        };
        let gone = |problem: &str| PipelineError::Gone { name: unit.source.clone(), file: unit.file.clone(), problem: problem.to_owned() };
        let units = self.units.get_or_init(scan).await.as_ref().map_err(|problem| gone(problem))?;
        let (first, rows) = (unit.first_row, unit.rows);
        let missing = || gone(&format!("it no longer holds the {rows} samples from {first} on as they were"));
        units.get(&nameless(unit)).cloned().ok_or_else(missing)
    }
}

/// Makes the windows of a version again, in order.
pub(crate) struct Again {
    executor: Arc<Executor>,
    catalog: Catalog,
    plan: Plan,
    /// Numerics class that the units are to be made in.
    numerics: NumericsClass,
    sources: Arc<Sources>,
    history: History,
    /// Number of the next window.
    next: usize,
}

impl Again {
    /// Goes through the windows of `plan`; commits them in `catalog`, which is over the store of `executor`.
    pub(crate) fn new(executor: Executor, catalog: Catalog, plan: Plan, numerics: NumericsClass, sources: Arc<Sources>) -> Self {
        let history = History::new(executor.units.clone());
        Self { executor: Arc::new(executor), catalog, plan, numerics, sources, history, next: 0 }
    }

    /// The manifest that `windows` make.
    ///
    /// # Errors
    /// [`PipelineError::Ledger`] if the numbers do not add up.
    pub(crate) fn manifest(&self, windows: &[WindowRecord]) -> Result<VersionManifest> {
        Ok(self.catalog.manifest_of(&self.executor.config, &self.executor.artefacts, &self.plan, windows)?.0)
    }

    /// Passes the next window by: none of its units is made.
    pub(crate) fn skip(&mut self) {
        self.history.push(self.plan.windows[self.next].keys.settle);
        self.next += 1;
    }

    /// Makes what the store lacks of the next window, and commits it.
    ///
    /// # Errors
    /// [`PipelineError::Gone`] or [`PipelineError::Numerics`] if a unit cannot be prepared again, after all others have been; what a
    /// stage or the store says.
    pub(crate) async fn window(&mut self) -> Result<WindowRecord> {
        let index = self.next;
        let window = &self.plan.windows[index];
        let made = match self.prepared(window).await {
            Ok(prepared) => self.executor.finish_window(index as u32, window, &prepared, &mut self.history).await,
            Err(error) => Err(error),
        };
        self.skip();
        self.catalog.commit_window(&self.plan, made?).await
    }

    async fn prepared(&self, window: &WindowPlan) -> Result<Vec<UnitRecord>> {
        let (mut there, mut tasks, mut failed) = (BTreeMap::new(), JoinSet::new(), None);
        for (index, (unit, key)) in window.units.iter().zip(&window.keys.prepare).enumerate() {
            if let Some(record) = self.executor.units.find(SegmentName::Prepare, *key).await? {
                there.insert(index, record);
                continue;
            }
            match self.source_of(unit).await {
                Ok(source) => {
                    let (executor, key) = (Arc::clone(&self.executor), *key);
                    tasks.spawn(async move {
                        let _place = executor.place(&executor.preparing).await?;
                        Ok((index, executor.prepare(source, key).await?))
                    });
                }
                Err(error) => failed = failed.or(Some(error)),
            }
        }
        for (index, record) in there {
            tasks.spawn(async move { Ok((index, record)) });
        }
        let prepared = in_order(tasks, "preparing a unit").await?;
        failed.map_or(Ok(prepared), Err)
    }

    async fn source_of(&self, unit: &SourceUnit) -> Result<PlannedUnit> {
        let ours = &self.executor.artefacts.image_spec.numerics;
        if *ours != self.numerics {
            return Err(PipelineError::Numerics { theirs: Box::new(self.numerics.clone()), ours: Box::new(ours.clone()) });
        }
        self.sources.unit(unit).await
    }
}
