//! Checkpoints in the store, each with the losses of the steps that led to it.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::sync::{Arc, Mutex, PoisonError};

use cm3flow_schemas::traits::{CheckpointFiles, CheckpointStore, StepReport};
use cm3flow_schemas::{Digest, DynError, layout};
use tokio::runtime::Handle;

use crate::error::{Mismatch, PipelineError, Result};
use crate::events::Event;
use crate::events::progress::Progress;
use crate::store::{Store, record_bytes};

/// File that lists the others with their digests. It is written last and makes the checkpoint complete.
const COMPLETE: &str = "complete.json";
/// File of the losses since the previous checkpoint.
const STEPS: &str = "steps.json";

/// Result of a training: its last checkpoint and loss curve.
#[derive(Debug, Clone)]
pub struct TrainOutcome {
    /// Key of the training.
    pub key: Digest,
    /// Folder of the last checkpoint in the store.
    pub checkpoint: String,
    /// Step of the last checkpoint.
    pub step: u64,
    /// Losses of all steps, from the first on.
    pub curve: Vec<StepReport>,
}

/// A training in the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredTraining {
    /// Key of the training.
    pub key: Digest,
    /// Steps of its complete checkpoints, ascending.
    pub steps: Vec<u64>,
}

/// A complete checkpoint in the store.
#[derive(Debug)]
pub struct StoredCheckpoint {
    /// Key of the training.
    pub training: Digest,
    /// Number of steps.
    pub step: u64,
    checkpoints: Checkpoints,
}

impl StoredCheckpoint {
    /// Reads its files `names`, those that it has.
    ///
    /// # Errors
    /// [`PipelineError::Damaged`], or those of the store.
    pub async fn files(&self, names: &[&str]) -> Result<CheckpointFiles> {
        self.checkpoints.read(self.step, |name| names.contains(&name)).await
    }
}

/// Name of a checkpoint: `KEY@STEP`. Without a key the only training is meant, or that of the configuration; without a step its last one. `latest`
/// leaves out both.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CheckpointRef {
    /// First digits of the key.
    key: Option<String>,
    step: Option<u64>,
}

/// Text for the last checkpoint of the only training.
const LATEST: &str = "latest";

impl CheckpointRef {
    /// Returns the same step of the training `key`; `None` if a key is named already.
    #[must_use]
    pub fn of_training(&self, key: Digest) -> Option<Self> {
        self.key.is_none().then(|| Self { key: Some(key.to_string()), step: self.step })
    }
}

impl fmt::Display for CheckpointRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.key, self.step) {
            (None, None) => f.write_str(LATEST),
            (None, Some(step)) => write!(f, "@{step}"),
            (Some(key), None) => f.write_str(key),
            (Some(key), Some(step)) => write!(f, "{key}@{step}"),
        }
    }
}

impl FromStr for CheckpointRef {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let problem = || format!("{text:?} names no checkpoint: expected KEY@STEP, KEY, @STEP or {LATEST}");
        if text == LATEST {
            return Ok(Self::default());
        }
        let (key, step) = text.split_once('@').map_or((text, None), |(key, step)| (key, Some(step)));
        let step = step.map(|step| step.parse().map_err(|_| problem())).transpose()?;
        let is_key = key.len() <= 64 && key.bytes().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f'));
        if !is_key || (key.is_empty() && step.is_none()) {
            return Err(problem());
        }
        Ok(Self { key: (!key.is_empty()).then(|| key.to_owned()), step })
    }
}

/// Lists the trainings of `dataset` that have a checkpoint, by key.
///
/// # Errors
/// Those of the store.
pub async fn trainings(store: &Store, dataset: &str) -> Result<Vec<StoredTraining>> {
    let mut trainings = Vec::new();
    for name in store.names(&layout::trainings(dataset)).await? {
        let Ok(key) = name.parse() else { continue };
        let steps = Checkpoints::new(store.clone(), dataset, key, Handle::current()).steps().await?;
        if !steps.is_empty() {
            trainings.push(StoredTraining { key, steps });
        }
    }
    trainings.sort_unstable_by_key(|training| training.key);
    Ok(trainings)
}

/// Finds the checkpoint of `dataset` that `wanted` names.
///
/// # Errors
/// [`PipelineError::Mismatch`] if there is none, or more than one; those of the store.
pub async fn find(store: &Store, dataset: &str, wanted: &CheckpointRef) -> Result<StoredCheckpoint> {
    let all = trainings(store, dataset).await?;
    let is_meant = |training: &&StoredTraining| {
        let has_key = wanted.key.as_ref().is_none_or(|key| training.key.to_string().starts_with(key));
        has_key && wanted.step.is_none_or(|step| training.steps.contains(&step))
    };
    let meant: Vec<&StoredTraining> = all.iter().filter(is_meant).collect();
    let [training] = meant.as_slice() else {
        let listed = if meant.is_empty() { all.iter().collect() } else { meant };
        let one = |training: &&StoredTraining| {
            let steps: Vec<String> = training.steps.iter().map(u64::to_string).collect();
            format!("{} at {}", training.key.short(), steps.join(", "))
        };
        let there = listed.iter().map(one).collect::<Vec<_>>().join("; ");
        return Err(Mismatch::NoCheckpoint { dataset: dataset.to_owned(), wanted: wanted.to_string(), there }.into());
    };
    let step = wanted.step.or(training.steps.last().copied()).unwrap_or_default();
    let checkpoints = Checkpoints::new(store.clone(), dataset, training.key, Handle::current());
    Ok(StoredCheckpoint { training: training.key, step, checkpoints })
}

/// Steps at either end of the curve that the first and the last loss average over.
const ENDS: usize = 5;

impl TrainOutcome {
    /// Returns the mean losses, in nats per token, of the first five and the last five steps; `None` without steps.
    #[must_use]
    pub fn first_and_last_loss(&self) -> Option<(f64, f64)> {
        let mean = |steps: &[StepReport]| {
            let losses: Vec<f64> = steps.iter().filter_map(|step| step.losses.mean_of_all()).collect();
            (!losses.is_empty()).then(|| losses.iter().sum::<f64>() / losses.len() as f64)
        };
        let ends = ENDS.min(self.curve.len());
        Some((mean(&self.curve[..ends])?, mean(&self.curve[self.curve.len() - ends..])?))
    }
}

/// Checkpoints of one training. Cloning shares them.
#[derive(Debug, Clone)]
pub struct Checkpoints {
    store: Store,
    key: Digest,
    folder: String,
    runtime: Handle,
    /// Steps since the last checkpoint.
    pending: Arc<Mutex<Vec<StepReport>>>,
    /// Receiver of events about checkpoints.
    progress: Option<Progress>,
}

impl Checkpoints {
    /// Makes the checkpoints of the training `key` of `dataset`. The methods of [`CheckpointStore`] block on `runtime`: call them
    /// outside of it.
    #[must_use]
    pub fn new(store: Store, dataset: &str, key: Digest, runtime: Handle) -> Self {
        Self { store, key, folder: layout::checkpoints(dataset, key), runtime, pending: Arc::default(), progress: None }
    }

    /// Announces each checkpoint to `progress`.
    #[must_use]
    pub fn with_progress(self, progress: &Progress) -> Self {
        Self { progress: Some(progress.clone()), ..self }
    }

    /// Returns the folder of the training in the store.
    #[must_use]
    pub fn folder(&self) -> &str {
        &self.folder
    }

    /// Keeps the report of a step for the next checkpoint.
    pub(crate) fn record(&self, step: StepReport) {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner).push(step);
    }

    /// Lists the steps of all complete checkpoints, ascending.
    async fn steps(&self) -> Result<Vec<u64>> {
        let mut steps = Vec::new();
        for name in self.store.names(&self.folder).await? {
            if let Ok(step) = name.parse()
                && self.files(step).await?.is_some()
            {
                steps.push(step);
            }
        }
        steps.sort_unstable();
        Ok(steps)
    }

    async fn files(&self, step: u64) -> Result<Option<BTreeMap<String, Digest>>> {
        self.store.record(&format!("{}/{step}/{COMPLETE}", self.folder), "list of a checkpoint's files").await
    }

    /// Names carry the digest, so that files of different attempts do not collide.
    fn path(&self, step: u64, name: &str, digest: Digest) -> String {
        format!("{}/{step}/{}-{name}", self.folder, digest.short())
    }

    async fn write(&self, step: u64, files: &CheckpointFiles, curve: &[StepReport]) -> Result<()> {
        let mut digests = BTreeMap::new();
        let steps = record_bytes(&curve);
        for (name, bytes) in files.iter().map(|(name, bytes)| (name.as_str(), bytes)).chain([(STEPS, &steps)]) {
            let digest = Digest::of(bytes);
            self.store.create_content(&self.path(step, name, digest), bytes.clone()).await?;
            digests.insert(name.to_owned(), digest);
        }
        // An interrupted attempt may have left files with other bytes: the first complete list counts.
        self.store.create_record(&format!("{}/{step}/{COMPLETE}", self.folder), &digests).await?;
        if let Some(progress) = &self.progress {
            progress.tell(Event::CheckpointWritten { step, path: format!("{}/{step}", self.folder) });
        }
        Ok(())
    }

    /// Reads the files whose names are wanted.
    async fn read(&self, step: u64, is_wanted: impl Fn(&str) -> bool) -> Result<CheckpointFiles> {
        let mut files = CheckpointFiles::new();
        for (name, digest) in self.files(step).await?.unwrap_or_default() {
            if is_wanted(&name) {
                let bytes = self.store.get_checked(&self.path(step, &name, digest), digest).await?;
                files.insert(name, bytes.to_vec());
            }
        }
        Ok(files)
    }

    /// Returns the result of the training so far; `None` without checkpoint.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn outcome(&self) -> Result<Option<TrainOutcome>> {
        let steps = self.steps().await?;
        let Some(&step) = steps.last() else { return Ok(None) };
        let mut curve = Vec::new();
        for step in steps {
            if let Some(digest) = self.files(step).await?.unwrap_or_default().get(STEPS) {
                let path = self.path(step, STEPS, *digest);
                curve.extend(self.store.record::<Vec<StepReport>>(&path, "list of steps").await?.unwrap_or_default());
            }
        }
        Ok(Some(TrainOutcome { key: self.key, checkpoint: format!("{}/{step}", self.folder), step, curve }))
    }
}

impl CheckpointStore for Checkpoints {
    fn put(&self, step: u64, files: &CheckpointFiles) -> Result<(), DynError> {
        let curve = std::mem::take(&mut *self.pending.lock().unwrap_or_else(PoisonError::into_inner));
        Ok(self.runtime.block_on(self.write(step, files, &curve))?)
    }

    fn latest(&self) -> Result<Option<(u64, CheckpointFiles)>, DynError> {
        let latest = self.runtime.block_on(async {
            let Some(&step) = self.steps().await?.last() else { return Ok::<_, PipelineError>(None) };
            Ok(Some((step, self.read(step, |name| name != STEPS).await?)))
        });
        Ok(latest?)
    }
}

#[cfg(test)]
mod tests {
    use cm3flow_schemas::traits::ModalityLosses;

    use super::*;

    fn step(step: u64) -> StepReport {
        let losses = ModalityLosses { text_sum: 8.0 / step as f64, text_tokens: 1, ..ModalityLosses::default() };
        StepReport { step, losses, gradient_norm: 1.0, learning_rate: 0.1 }
    }

    #[test]
    fn the_curve_goes_over_all_checkpoints() {
        let runtime = tokio::runtime::Runtime::new().expect("runtime");
        let store = Store::open("memory://", std::path::Path::new("")).expect("memory");
        let checkpoints = Checkpoints::new(store.clone(), "d", Digest::of(b"key"), runtime.handle().clone());
        let files = CheckpointFiles::from([("state.json".to_owned(), b"{}".to_vec())]);
        for number in 1..=4 {
            checkpoints.record(step(number));
            if number % 2 == 0 {
                checkpoints.put(number, &files).expect("memory");
            }
        }
        // A checkpoint without complete.json does not count.
        runtime.block_on(store.create(&format!("{}/6/state.json", checkpoints.folder()), "{}")).expect("memory");
        assert_eq!(checkpoints.latest().expect("memory"), Some((4, files)));
        let outcome = runtime.block_on(checkpoints.outcome()).expect("memory").expect("two checkpoints");
        assert_eq!(outcome.curve.iter().map(|step| step.step).collect::<Vec<_>>(), [1, 2, 3, 4]);
        assert_eq!(outcome.step, 4);
    }
}
