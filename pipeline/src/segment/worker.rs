//! Makes units: the one code path behind a run in this process, `cm3flow work`, and any launcher.
//!
//! A unit is a function of its task, configuration, artefacts and the units that it names as inputs. What is there already is not made
//! again, and results do not depend on who makes them.

use std::sync::Arc;

use cm3flow_schemas::Digest;
use cm3flow_schemas::unit::{SegmentName, UnitRecord};
use cm3flow_stages::ChannelLimits;
use cm3flow_stages::index::{Bank, BoundedBank};
use cm3flow_stages::instruct::InstructContext;
use tokio::sync::Mutex;
use tracing::Instrument;

use super::task::{UnitTask, WindowTask};
use crate::artefact::Artefacts;
use crate::catalog::blocklist::Blocklist;
use crate::catalog::units::{UnitStore, unit_path};
use crate::config::Config;
use crate::error::{PipelineError, Result};
use crate::events::Event;
use crate::events::progress::Progress;
use crate::store::Store;

/// What the units of a run share.
pub(crate) struct Worker {
    pub(super) config: Arc<Config>,
    pub(super) units: UnitStore,
    pub(super) artefacts: Arc<Artefacts>,
    pub(super) instruct: Arc<InstructContext>,
    pub(crate) progress: Progress,
    pub(super) limits: ChannelLimits,
    /// The bank of the window that is composed.
    pub(super) bank: Mutex<Option<WindowBank>>,
}

/// The bank of a window, and what that of the next one grows from.
pub(super) struct WindowBank {
    pub(super) settle: Digest,
    pub(super) blocklist: Option<Digest>,
    pub(super) rows: BoundedBank,
    pub(super) bank: Arc<Bank>,
}

impl Worker {
    /// Works by `config`.
    ///
    /// # Errors
    /// [`PipelineError::Stage`] for templates that cannot be compiled; a configuration that was read has none.
    pub(crate) fn try_new(config: Arc<Config>, store: Store, artefacts: Arc<Artefacts>, progress: Progress) -> Result<Self> {
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

    /// What it computes with.
    pub(crate) fn artefacts(&self) -> &Artefacts {
        &self.artefacts
    }

    /// The record of the unit of `task`, which is made if it is not there.
    pub(crate) async fn work(&self, task: &UnitTask) -> Result<UnitRecord> {
        match self.find(task).await? {
            Some(record) => Ok(record),
            None => self.make(task).await,
        }
    }

    /// Makes the unit of `task`, which is not there.
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

    /// Makes a unit visible. If another attempt made it first, that one stays, and it is told if it is not the same.
    pub(super) async fn commit(&self, record: UnitRecord) -> Result<UnitRecord> {
        let kept = self.units.commit(record.clone()).await?;
        if kept != record {
            self.progress.tell(Event::UnitDiscarded { segment: record.segment, key: record.key });
        }
        Ok(kept)
    }

    /// The record of the unit of `task` if it is there.
    pub(crate) async fn find(&self, task: &UnitTask) -> Result<Option<UnitRecord>> {
        self.units.find(task.segment(), task.key()).await
    }

    /// Whether a unit is there.
    pub(crate) async fn is_there(&self, segment: SegmentName, key: Digest) -> Result<bool> {
        Ok(self.units.find(segment, key).await?.is_some())
    }

    /// The record of a unit that another one is made of.
    pub(super) async fn input(&self, segment: SegmentName, key: Digest) -> Result<UnitRecord> {
        let missing = || PipelineError::Damaged { location: unit_path(segment, key), problem: "it is missing".into() };
        self.units.find(segment, key).await?.ok_or_else(missing)
    }

    /// What is blocked for `window`.
    pub(super) async fn blocklist(&self, window: &WindowTask) -> Result<Blocklist> {
        Blocklist::read(self.units.store(), &self.config.dataset.name, window.blocklist).await
    }
}
