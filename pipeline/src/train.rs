//! Training on the packs of a run or version, on a thread of its own, with checkpoints in the store.
//!
//! `checkpoints/<dataset>/<key>/<step>/` holds a checkpoint with the losses of the steps up to it; `complete.json`, written last,
//! makes it visible. The key names model, settings and packs, so that the same training is never done twice.

pub mod evaluate;
pub mod follow;
mod observer;

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use cm3flow_model::train::{TrainConfig, Trainer};
use cm3flow_schemas::canonical::digest_of;
use cm3flow_schemas::sample::Split;
use cm3flow_schemas::{Digest, columns};
use cm3flow_stages::read::{PackOrder, PackReader};
use tokio::runtime::Handle;
use tokio::sync::oneshot;

use observer::Watcher;

use crate::artefact::Artefacts;
use crate::catalog::checkpoints::{Checkpoints, TrainOutcome};
use crate::config::Config;
use crate::error::{PipelineError, Result};
use crate::events::progress::Progress;
use crate::store::Store;
use crate::train::evaluate::Evaluator;
use crate::train::follow::Feed;

/// What a training needs.
pub(crate) struct Training {
    pub config: Arc<Config>,
    pub train: TrainConfig,
    pub store: Store,
    pub artefacts: Arc<Artefacts>,
    /// Key of the training, see [`key`].
    pub key: Digest,
    pub feed: Feed,
    pub progress: Progress,
    /// Set from outside to end with a checkpoint.
    pub stop: Arc<AtomicBool>,
}

/// Key of the training that `config` asks for on the packs whose units have the keys `packs`: of what its weights depend on.
pub(crate) fn key(config: &Config, train: &TrainConfig, artefacts: &Artefacts, packs: &[Digest]) -> Digest {
    let weights = TrainConfig { checkpoint_every: 0, evaluate_every: 0, log_every: 0, ..train.clone() };
    digest_of("training", &(&config.model, weights, &artefacts.vocabulary, config.pack.seq_len, config.dataset.seed, packs))
}

/// Starts the thread.
pub(crate) fn start(training: Training) -> Result<oneshot::Receiver<Result<TrainOutcome>>> {
    let (send, receive) = oneshot::channel();
    let runtime = Handle::current();
    let work = move || {
        let progress = training.progress.clone();
        let result = training.run(&runtime);
        if let Err(error) = &result
            && !matches!(error, PipelineError::Interrupted)
        {
            progress.say(&format!("training ended: {error}"));
        }
        // The receiver is only gone when nobody waits any more.
        drop(send.send(result));
    };
    std::thread::Builder::new()
        .name("train".into())
        .spawn(work)
        .map_err(|source| PipelineError::File { path: "the training thread".into(), source })?;
    Ok(receive)
}

impl Training {
    fn run(self, runtime: &Handle) -> Result<TrainOutcome> {
        let (config, vocabulary) = (&self.config, &self.artefacts.vocabulary);
        let seq_len = config.pack.seq_len;
        let decoder = config.model.decoder(vocabulary.size, seq_len).expect("presets are checked with the configuration");
        let seed = config.dataset.seed;
        let schema = columns::pack(seq_len as usize, vocabulary.width());
        let order = PackOrder { split: Split::Train, seed, seq_len: seq_len as usize };
        let mut packs = PackReader::new(self.store.objects(), Box::new(self.feed.clone()), Arc::clone(&schema), order, runtime.clone());
        let checkpoints =
            Checkpoints::new(self.store.clone(), &config.dataset.name, self.key, runtime.clone()).with_progress(&self.progress);
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
