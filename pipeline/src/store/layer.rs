//! A layer that tests put between a store and its retries.

use std::fmt;
use std::sync::Arc;

use object_store::ObjectStore;

type Wrap = dyn Fn(Arc<dyn ObjectStore>) -> Arc<dyn ObjectStore> + Send + Sync;

/// What is put between opened stores and their retries, so that tests can make requests fail.
#[derive(Clone)]
pub struct Layer(pub(super) Arc<Wrap>);

impl Layer {
    /// A layer that `wrap` puts on.
    pub fn new(wrap: impl Fn(Arc<dyn ObjectStore>) -> Arc<dyn ObjectStore> + Send + Sync + 'static) -> Self {
        Self(Arc::new(wrap))
    }
}

impl fmt::Debug for Layer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Layer").finish_non_exhaustive()
    }
}
