//! Training on the packs of a run or version, on a separate thread, with checkpoints in the store.
//!
//! `checkpoints/<dataset>/<key>/<step>/` holds a checkpoint with the losses of the steps before it; `complete.json`, written last, makes it
//! visible. The key covers model, settings and packs, so that no training is done twice.

pub mod bundle;
pub mod evaluate;
pub mod follow;
mod observer;

use std::sync::Arc;

use cm3flow_model::train::{TrainConfig, Trainer};
use cm3flow_schemas::canonical::digest_of;
use cm3flow_schemas::sample::Split;
use cm3flow_schemas::window::WindowRecord;
use cm3flow_schemas::{Digest, columns};
use cm3flow_stages::read::{PackOrder, PackReader};
use tokio::runtime::Handle;
use tokio::sync::oneshot;

use observer::Watcher;

use crate::artefact::{self, Artefacts};
use crate::catalog::checkpoints::{Checkpoints, TrainOutcome};
use crate::catalog::{Published, VersionRef};
use crate::config::{Config, Job};
use crate::error::{Mismatch, PipelineError, Result};
use crate::events::{RunEnd, RunScope};
use crate::train::evaluate::Evaluator;
use crate::train::follow::{Feed, Followed};

/// Inputs of a training.
pub(crate) struct Training {
    pub job: Job,
    pub train: TrainConfig,
    pub artefacts: Arc<Artefacts>,
    /// Key of the training, see [`key`].
    pub key: Digest,
    pub feed: Feed,
}

/// Returns the key of the training of `config` on the packs of the pack units `packs`. It covers everything that the weights depend on.
pub(crate) fn key(config: &Config, train: &TrainConfig, artefacts: &Artefacts, packs: &[Digest]) -> Digest {
    let weights = TrainConfig { seed: None, checkpoint_every: 0, evaluate_every: 0, log_every: 0, ..train.clone() };
    digest_of("training", &(&config.model, weights, &artefacts.vocabulary, config.pack.seq_len, seed(config, train), packs))
}

/// Returns the seed of the first weights and of the order of reading.
fn seed(config: &Config, train: &TrainConfig) -> u64 {
    train.seed.unwrap_or(config.dataset.seed)
}

/// Returns the packs of `windows`, as keys of trainings name them.
pub(crate) fn pack_keys(windows: &[WindowRecord]) -> Vec<Digest> {
    windows.iter().flat_map(packs_of).collect()
}

/// Returns the packs of a window: the keys of its pack units. A window with holes has lost samples since these units, so it names its
/// shards instead: a training on the rest is a different one.
pub(crate) fn packs_of(window: &WindowRecord) -> Vec<Digest> {
    if window.documents.withdrawn > 0 {
        return window.shards.iter().map(|shard| shard.digest).collect();
    }
    window.keys.pack.to_vec()
}

/// Trains on a published version as the configuration says; continues from the last checkpoint.
///
/// # Errors
/// [`PipelineError::NoVersion`], [`PipelineError::Mismatch`] if vocabulary or `seq_len` of the configuration differ from the version's,
/// or those of the store and the model.
pub async fn train_version(job: &Job, version: Option<&VersionRef>) -> Result<TrainOutcome> {
    let config = &job.config;
    let train = config.training().ok_or(Mismatch::NoTrainSection)?;
    let Published { manifest, windows, .. } = Published::open(&job.catalog(), version).await?;
    let artefacts = artefact::pinned_of(job, &manifest).await?;
    if config.pack.seq_len != manifest.seq_len {
        let (ours, theirs, version) = (config.pack.seq_len, manifest.seq_len, manifest.version);
        return Err(Mismatch::OtherSeqLen { ours, theirs, version }.into());
    }
    let key = key(config, &train, &artefacts, &pack_keys(&windows));
    let training = Training { job: job.clone(), train, artefacts: Arc::new(artefacts), key, feed: Followed::published(&windows).feed() };
    let scope = RunScope::begin(&job.store, &job.progress, job.dataset());
    let version = Some(manifest.version);
    let end = |outcome: &TrainOutcome| RunEnd { version, checkpoint: Some(outcome.checkpoint.clone()), ..RunEnd::default() };
    scope.record(job.until_stopped(async { start(training)?.outcome().await }), end).await
}

/// Returns the key of the training of `job` on the latest version; `None` if nothing is to be trained, or nothing is published.
///
/// # Errors
/// [`PipelineError::Mismatch`] if the configuration has other artefacts than the version; those of the store.
pub(crate) async fn own_key(job: &Job) -> Result<Option<Digest>> {
    let Some(train) = &job.config.training() else { return Ok(None) };
    if job.catalog().latest_version().await?.is_none() {
        return Ok(None);
    }
    let Published { manifest, windows, .. } = Published::open(&job.catalog(), None).await?;
    let artefacts = artefact::pinned_of(job, &manifest).await?;
    Ok(Some(key(&job.config, train, &artefacts, &pack_keys(&windows))))
}

/// A training that runs on its thread.
pub(crate) struct Started(oneshot::Receiver<Result<TrainOutcome>>);

impl Started {
    /// Waits for the end of the training.
    pub(crate) async fn outcome(self) -> Result<TrainOutcome> {
        self.0.await.map_err(|_| PipelineError::Lost { what: "the training thread" })?
    }
}

/// Starts the training on a new thread.
pub(crate) fn start(training: Training) -> Result<Started> {
    let (send, receive) = oneshot::channel();
    let runtime = Handle::current();
    let work = move || {
        let progress = training.job.progress.clone();
        let result = training.run(&runtime);
        if let Err(error) = &result
            && !matches!(error, PipelineError::Interrupted)
        {
            progress.say(&format!("training ended: {error}"));
        }
        // The receiver is gone only if nobody waits any more.
        drop(send.send(result));
    };
    std::thread::Builder::new()
        .name("train".into())
        .spawn(work)
        .map_err(|source| PipelineError::System { what: "start the training thread", source })?;
    Ok(Started(receive))
}

impl Training {
    fn run(self, runtime: &Handle) -> Result<TrainOutcome> {
        let (Job { config, store, progress, .. }, vocabulary) = (&self.job, &self.artefacts.vocabulary);
        let seq_len = config.pack.seq_len;
        let decoder = config.model.decoder(vocabulary.size, seq_len).expect("presets are checked with the configuration");
        let seed = seed(config, &self.train);
        let schema = columns::pack(seq_len as usize, vocabulary.width());
        let order = PackOrder { split: Split::Train, seed, seq_len: seq_len as usize };
        let mut packs = PackReader::new(store.objects(), Box::new(self.feed.clone()), Arc::clone(&schema), order, runtime.clone());
        let checkpoints = Checkpoints::new(store.clone(), self.job.dataset(), self.key, runtime.clone()).with_progress(progress);
        let mut trainer = Trainer::try_new(decoder, self.train.clone(), vocabulary.clone(), seed, config.runtime.device)?;
        let evaluator = Evaluator::new(&self, schema, checkpoints.folder().to_owned(), runtime.clone());
        let mut watcher = Watcher::new(&self, checkpoints.clone(), evaluator);
        let summary = trainer.train(&mut packs, &checkpoints, &mut watcher)?;
        drop(watcher);
        if summary.stopped {
            return Err(PipelineError::Interrupted);
        }
        runtime.block_on(checkpoints.outcome()).transpose().unwrap_or(Err(PipelineError::Lost { what: "training" }))
    }
}
