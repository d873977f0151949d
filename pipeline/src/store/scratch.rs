//! Scratch store: reads see another store with parts of it hidden, writes go to a temporary folder. So a version can be made again and
//! compared without a change to the store that holds it.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, ObjectStoreExt, PutMode,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};
use tempfile::TempDir;

use crate::error::PipelineError;
use crate::store::Store;

/// Decides whether a path is hidden.
pub(crate) type Hidden = Arc<dyn Fn(&str) -> bool + Send + Sync>;

/// A scratch store. Its files are deleted with it.
pub(crate) struct Scratch {
    /// Store to work on: base and written objects.
    pub(crate) store: Store,
    /// Written objects alone.
    pub(crate) written: Store,
    _folder: TempDir,
}

impl Scratch {
    /// Makes a scratch store over `base` that hides the paths of `hidden`.
    ///
    /// # Errors
    /// [`PipelineError::Write`] or [`PipelineError::Store`] if the temporary folder cannot be made.
    pub(crate) fn over(base: &Store, hidden: Hidden) -> crate::error::Result<Self> {
        let failed = |source| PipelineError::Write { path: std::env::temp_dir(), source };
        let folder = tempfile::Builder::new().prefix("cm3flow-").tempdir().map_err(failed)?;
        let local = LocalFileSystem::new_with_prefix(folder.path()).map_err(|source| PipelineError::Store {
            action: "open",
            location: folder.path().display().to_string(),
            source,
        })?;
        let written: Arc<dyn ObjectStore> = Arc::new(local);
        let address = folder.path().display().to_string();
        let overlay = Overlay { base: base.objects(), written: Arc::clone(&written), hidden };
        Ok(Self { store: Store::new(Arc::new(overlay), &address), written: Store::new(written, &address), _folder: folder })
    }
}

/// Visible objects of `base`, below the written ones.
struct Overlay {
    base: Arc<dyn ObjectStore>,
    written: Arc<dyn ObjectStore>,
    hidden: Hidden,
}

impl fmt::Debug for Overlay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Overlay").field("base", &self.base).field("written", &self.written).finish_non_exhaustive()
    }
}

impl fmt::Display for Overlay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "scratch over {}", self.base)
    }
}

impl Overlay {
    fn hides(&self, path: &Path) -> bool {
        (self.hidden)(path.as_ref())
    }

    /// Returns the store that shows `path`.
    async fn holder(&self, path: &Path) -> Result<&Arc<dyn ObjectStore>> {
        if self.hides(path) {
            return Ok(&self.written);
        }
        match self.written.head(path).await {
            Ok(_) => Ok(&self.written),
            Err(Error::NotFound { .. }) => Ok(&self.base),
            Err(error) => Err(error),
        }
    }

    fn unable<T>(&self, operation: &str) -> Result<T> {
        Err(Error::NotImplemented { operation: operation.to_owned(), implementer: self.to_string() })
    }
}

#[async_trait]
impl ObjectStore for Overlay {
    async fn put_opts(&self, location: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        if options.mode == PutMode::Create && !self.hides(location) {
            match self.base.head(location).await {
                Ok(_) => return Err(Error::AlreadyExists { path: location.to_string(), source: "it is in the store below".into() }),
                Err(Error::NotFound { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        self.written.put_opts(location, payload, options).await
    }

    async fn put_multipart_opts(&self, location: &Path, options: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        self.written.put_multipart_opts(location, options).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.holder(location).await?.get_opts(location, options).await
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        self.holder(location).await?.get_ranges(location, ranges).await
    }

    /// Deletes written objects only, never those of the base.
    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.written.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let hidden = Arc::clone(&self.hidden);
        let below = self.base.list(prefix).try_filter(move |found| futures::future::ready(!hidden(found.location.as_ref())));
        self.written.list(prefix).chain(below).boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        let mut found = self.written.list_with_delimiter(prefix).await?;
        let mut below = self.base.list_with_delimiter(prefix).await?;
        below.objects.retain(|object| !self.hides(&object.location));
        found.objects.extend(below.objects);
        // A folder with hidden objects only is still listed: nobody asks for empty folders.
        let new = below.common_prefixes.into_iter().filter(|folder| !found.common_prefixes.contains(folder));
        let new: Vec<Path> = new.collect();
        found.common_prefixes.extend(new);
        Ok(found)
    }

    async fn copy_opts(&self, _: &Path, _: &Path, _: CopyOptions) -> Result<()> {
        self.unable("copy")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Created;

    #[tokio::test]
    async fn hidden_objects_can_be_made_again_and_the_store_below_stays_as_it_was() {
        let base = Store::open("memory://", std::path::Path::new("")).expect("memory");
        for (path, bytes) in [("a/1", "one"), ("a/2", "two"), ("b/3", "three")] {
            base.create(path, bytes).await.expect("memory");
        }
        let scratch = Scratch::over(&base, Arc::new(|path: &str| path == "a/1")).expect("a temporary folder");
        let store = &scratch.store;
        assert_eq!(store.get("a/1").await.expect("readable"), None);
        assert_eq!(store.get("a/2").await.expect("readable"), Some(Bytes::from("two")));
        assert_eq!(store.names("a").await.expect("readable"), ["2"]);
        assert_eq!(store.create("a/1", "anew").await.expect("writable"), Created::New);
        assert_eq!(store.create("a/2", "other").await.expect("writable"), Created::Different);
        assert_eq!(store.get("a/1").await.expect("readable"), Some(Bytes::from("anew")));
        assert_eq!(store.names("a").await.expect("readable"), ["1", "2"]);
        store.delete("a/2").await.expect("nothing of ours");
        let listed: Vec<_> = store.entries("").try_collect().await.expect("readable");
        assert_eq!(listed.len(), 3);
        assert_eq!(base.get("a/1").await.expect("memory"), Some(Bytes::from("one")), "the store below is changed");
        assert_eq!(scratch.written.get("a/1").await.expect("readable"), Some(Bytes::from("anew")));
    }
}
