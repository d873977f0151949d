//! Worker: makes units. A run in this process, `cm3flow work` and any launcher share this one code path.
//!
//! A unit is a function of its task, configuration, artefacts and the units that it names as inputs. The worker does not make existing
//! units again, and results do not depend on the maker.

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use cm3flow_schemas::unit::{SegmentName, UnitRecord};
use cm3flow_schemas::{Digest, layout};
use cm3flow_stages::ChannelLimits;
use cm3flow_stages::index::{Bank, BoundedBank};
use cm3flow_stages::instruct::InstructContext;
use cm3flow_stages::stage::Chain;
use tokio::sync::Mutex;
use tracing::Instrument;

use super::task::{UnitTask, WindowTask};
use crate::artefact::Artefacts;
use crate::catalog::blocklist::Blocklist;
use crate::catalog::units::UnitStore;
use crate::config::{Config, Job};
use crate::error::{PipelineError, Result};
use crate::events::Event;
use crate::events::progress::Progress;

/// Makes units; holds the state that they share.
pub(crate) struct Worker {
    pub(super) config: Arc<Config>,
    pub(super) units: UnitStore,
    pub(super) artefacts: Arc<Artefacts>,
    pub(super) instruct: Arc<InstructContext>,
    pub(crate) progress: Progress,
    pub(super) limits: ChannelLimits,
    /// Bank of the window that is being composed.
    pub(super) bank: Mutex<Option<WindowBank>>,
}

/// Bank of a window, with the rows from which the next window's bank grows.
pub(super) struct WindowBank {
    pub(super) settle: Digest,
    pub(super) blocklist: Option<Digest>,
    pub(super) rows: BoundedBank,
    pub(super) bank: Arc<Bank>,
}

impl Worker {
    /// Makes a worker for the units of `job`.
    ///
    /// # Errors
    /// [`PipelineError::Stage`] for templates that do not compile; those of a checked configuration do.
    pub(crate) fn try_new(job: &Job, artefacts: Arc<Artefacts>) -> Result<Self> {
        let Job { config, store, progress, .. } = job.clone();
        let instruct = InstructContext {
            config: config.instruct.clone(),
            templates: config.instruct.templates()?,
            mask: config.mask.clone(),
            seq_len: config.pack.seq_len as usize,
            vocabulary: artefacts.vocabulary.clone(),
            tokenizer: artefacts.text.clone(),
            seed: config.dataset.seed,
        };
        let limits = config.runtime.channel_limits();
        Ok(Self { config, units: UnitStore::new(store), artefacts, instruct: Arc::new(instruct), progress, limits, bank: Mutex::default() })
    }

    /// Returns the artefacts that it computes with.
    pub(crate) fn artefacts(&self) -> &Artefacts {
        &self.artefacts
    }

    /// Returns the record of the unit of `task`; makes the unit if it does not exist.
    pub(crate) async fn work(&self, task: &UnitTask) -> Result<UnitRecord> {
        match self.find(task).await? {
            Some(record) => Ok(record),
            None => self.make(task).await,
        }
    }

    /// Makes the unit of `task`, which does not exist yet.
    pub(crate) async fn make(&self, task: &UnitTask) -> Result<UnitRecord> {
        let making = async {
            match task {
                UnitTask::Found { segment, key } => self.input(*segment, *key).await,
                UnitTask::Prepare { key, source } => self.prepare(source, *key).await,
                UnitTask::Settle(window) => self.settle(window).await,
                UnitTask::Compose { window, place } => self.compose(window, *place).await,
                UnitTask::Pack { window, split } => self.pack(window, *split).await,
            }
        };
        making.instrument(tracing::error_span!("unit", segment = task.segment().name(), key = %task.key())).await
    }

    /// Runs a chain; returns the schema and batches that it sends.
    pub(super) async fn collect(&self, chain: Chain) -> Result<(SchemaRef, Vec<RecordBatch>)> {
        let schema = chain.output_schema()?;
        let mut batches = Vec::new();
        let collect = |batch| {
            batches.push(batch);
            Ok(())
        };
        chain.run(&self.limits, self.progress.meters(), collect).await?;
        Ok((schema, batches))
    }

    /// Makes a unit visible. If another attempt was first, its record stays; an event tells if the two differ.
    pub(super) async fn commit(&self, record: UnitRecord) -> Result<UnitRecord> {
        let kept = self.units.commit(record.clone()).await?;
        if kept != record {
            self.progress.tell(Event::UnitDiscarded { segment: record.segment, key: record.key });
        }
        Ok(kept)
    }

    /// Reads the record of the unit of `task`; `None` if the unit does not exist.
    pub(crate) async fn find(&self, task: &UnitTask) -> Result<Option<UnitRecord>> {
        self.units.find(task.segment(), task.key()).await
    }

    /// Checks whether a unit exists.
    pub(crate) async fn is_there(&self, segment: SegmentName, key: Digest) -> Result<bool> {
        Ok(self.units.find(segment, key).await?.is_some())
    }

    /// Reads the record of a unit that another unit needs as input.
    pub(super) async fn input(&self, segment: SegmentName, key: Digest) -> Result<UnitRecord> {
        let missing = || PipelineError::Damaged { location: layout::unit(segment, key), problem: "it is missing".into() };
        self.units.find(segment, key).await?.ok_or_else(missing)
    }

    /// Reads the blocked ids for `window`.
    pub(super) async fn blocklist(&self, window: &WindowTask) -> Result<Blocklist> {
        Blocklist::read(self.units.store(), &self.config.dataset.name, window.blocklist).await
    }
}
