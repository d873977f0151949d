//! Small run for tests of faults: 12 samples of the corpus, one worker at a time, over a store with faulty requests.

use std::path::Path;
use std::sync::Arc;

use cm3flow::store::StoreLayer;
use cm3flow::store::config::StoreConfig;
use cm3flow::{Result, Store};
use object_store::ObjectStore;

use crate::fault::Faults;
use crate::trial::{SMALL, Trial, corpus_source};

/// Number of samples in the run.
pub const SAMPLES: u64 = 12;

/// Largest number of requests of an undisturbed run, so that tests can try all of them.
pub const MAX_REQUESTS: u64 = 150;

/// Returns the sections of the configuration except `[dataset]`, with `store` as those of `[store]`.
#[must_use]
pub fn sections(store: &str) -> String {
    format!("{}{store}\n{}", SMALL.replace("workers = 2", "workers = 1"), corpus_source(6))
}

/// The run, with its store in `objects` and `faults` over it and over its sources; `store` holds lines of `[store]`.
///
/// # Errors
/// As [`Trial::try_new`].
pub fn trial(objects: &Arc<dyn ObjectStore>, faults: &Faults, store: &str) -> Result<Trial> {
    let mut trial = Trial::try_new(&sections(&format!("[store]\n{store}")), "")?;
    trial.options.limit = Some(SAMPLES);
    trial.store = store_over(objects, faults, trial.config.store.clone())?;
    let faults = faults.clone();
    trial.config.store.layer = Some(StoreLayer::new(move |objects| faults.over(objects)));
    Ok(trial)
}

/// Returns a store in `objects` with `faults` over it, and with the retries of `config` above those.
///
/// # Errors
/// As for [`Store::open_with`].
pub fn store_over(objects: &Arc<dyn ObjectStore>, faults: &Faults, mut config: StoreConfig) -> Result<Store> {
    let (objects, faults) = (Arc::clone(objects), faults.clone());
    config.layer = Some(StoreLayer::new(move |_| faults.over(Arc::clone(&objects))));
    Store::open_with("memory://", Path::new(""), &config)
}
