//! A layer that tests put between a store and its retries.

use std::fmt;
use std::sync::Arc;

use object_store::ObjectStore;

type Wrap = dyn Fn(Arc<dyn ObjectStore>) -> Arc<dyn ObjectStore> + Send + Sync;

/// Layer between opened stores and their retries, with which tests make requests fail.
#[derive(Clone)]
pub struct StoreLayer(pub(super) Arc<Wrap>);

impl StoreLayer {
    /// Makes a layer that applies `wrap`.
    pub fn new(wrap: impl Fn(Arc<dyn ObjectStore>) -> Arc<dyn ObjectStore> + Send + Sync + 'static) -> Self {
        Self(Arc::new(wrap))
    }
}

impl fmt::Debug for StoreLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("StoreLayer").finish_non_exhaustive()
    }
}
