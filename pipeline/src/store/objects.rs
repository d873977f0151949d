//! Objects of a store by path: read, created if they are absent, listed, deleted.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use cm3flow_schemas::Digest;
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{ObjectMeta, ObjectStore, ObjectStoreExt, PutMode, PutOptions};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::{PipelineError, Result};

/// Outcome of creating an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Created {
    /// The object was created.
    New,
    /// The object existed with the same bytes.
    Same,
    /// The object existed with other bytes, which stay.
    Different,
}

/// A store of objects by path.
#[derive(Clone)]
pub struct Store {
    objects: Arc<dyn ObjectStore>,
    address: String,
    /// Folder of a local store.
    pub(super) folder: Option<PathBuf>,
}

impl Store {
    /// Wraps `objects` as they are; `address` is the name for people. [`Self::open_with`] adds retries.
    #[must_use]
    pub fn new(objects: Arc<dyn ObjectStore>, address: &str) -> Self {
        Self { objects, address: address.to_owned(), folder: None }
    }

    /// The same store, which lies in the local `folder`.
    pub(super) fn with_folder(self, folder: PathBuf) -> Self {
        Self { folder: Some(folder), ..self }
    }

    /// Name for people.
    #[must_use]
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Returns the underlying object store.
    #[must_use]
    pub fn objects(&self) -> Arc<dyn ObjectStore> {
        Arc::clone(&self.objects)
    }

    /// Reads the bytes of `path`; `None` if there is no such object.
    ///
    /// # Errors
    /// [`PipelineError::Store`].
    pub async fn get(&self, path: &str) -> Result<Option<Bytes>> {
        let failed = |source| PipelineError::Store { action: "read", location: path.to_owned(), source };
        match self.objects.get(&Path::from(path)).await {
            Ok(found) => Ok(Some(found.bytes().await.map_err(failed)?)),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(failed(error)),
        }
    }

    /// Reads the bytes of `path`, which must exist and have `digest`.
    ///
    /// # Errors
    /// [`PipelineError::Store`] or [`PipelineError::Damaged`].
    pub async fn get_checked(&self, path: &str, digest: Digest) -> Result<Bytes> {
        let bytes = self.get(path).await?.ok_or_else(|| damaged(path, "it is missing"))?;
        if Digest::of(&bytes) == digest { Ok(bytes) } else { Err(damaged(path, "its bytes have another digest")) }
    }

    /// Reads the record at `path`; `None` if there is no such object. `expected` names its kind in errors.
    ///
    /// # Errors
    /// [`PipelineError::Store`] or [`PipelineError::Record`].
    pub async fn record<T: DeserializeOwned>(&self, path: &str, expected: &'static str) -> Result<Option<T>> {
        let Some(bytes) = self.get(path).await? else { return Ok(None) };
        let parsed = serde_json::from_slice(&bytes);
        parsed.map(Some).map_err(|source| PipelineError::Record { location: path.to_owned(), expected, source })
    }

    /// Creates `path` if it does not exist.
    ///
    /// # Errors
    /// [`PipelineError::Store`].
    pub async fn create(&self, path: &str, bytes: impl Into<Bytes>) -> Result<Created> {
        let bytes = bytes.into();
        let options = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
        match self.objects.put_opts(&Path::from(path), bytes.clone().into(), options).await {
            Ok(_) => Ok(Created::New),
            Err(object_store::Error::AlreadyExists { .. }) => {
                let found = self.get(path).await?;
                Ok(if found.is_some_and(|found| found == bytes) { Created::Same } else { Created::Different })
            }
            Err(source) => Err(PipelineError::Store { action: "create", location: path.to_owned(), source }),
        }
    }

    /// Creates an object whose path names its digest. An existing object must hold the same bytes.
    ///
    /// # Errors
    /// [`PipelineError::Store`], or [`PipelineError::Damaged`] if other bytes lie there.
    pub async fn create_content(&self, path: &str, bytes: impl Into<Bytes>) -> Result<()> {
        match self.create(path, bytes).await? {
            Created::New | Created::Same => Ok(()),
            Created::Different => Err(damaged(path, "its bytes are not those that its name says")),
        }
    }

    /// Creates the record `path` if it does not exist.
    ///
    /// # Errors
    /// [`PipelineError::Store`].
    ///
    /// # Panics
    /// If the record has no JSON form; all records have one.
    pub async fn create_record(&self, path: &str, record: &impl Serialize) -> Result<Created> {
        self.create(path, record_bytes(record)).await
    }

    /// Lists the names of files and folders directly below `folder`, sorted.
    ///
    /// # Errors
    /// [`PipelineError::Store`].
    pub async fn names(&self, folder: &str) -> Result<Vec<String>> {
        let failed = |source| PipelineError::Store { action: "list", location: folder.to_owned(), source };
        let listed = self.objects.list_with_delimiter(Some(&Path::from(folder))).await.map_err(failed)?;
        let paths = listed.objects.iter().map(|object| &object.location).chain(&listed.common_prefixes);
        let mut names: Vec<String> = paths.filter_map(Path::filename).map(str::to_owned).collect();
        names.sort_unstable();
        Ok(names)
    }

    /// Streams all objects below `folder`, at any depth, in no particular order.
    ///
    /// # Errors
    /// [`PipelineError::Store`], as items.
    #[must_use]
    pub fn entries(&self, folder: &str) -> BoxStream<'static, Result<ObjectMeta>> {
        let location = folder.to_owned();
        let failed = move |source| PipelineError::Store { action: "list", location: location.clone(), source };
        self.objects.list(Some(&Path::from(folder))).map_err(failed).boxed()
    }

    /// Deletes `path`. A missing object is no error.
    ///
    /// # Errors
    /// [`PipelineError::Store`].
    pub async fn delete(&self, path: &str) -> Result<()> {
        match self.objects.delete(&Path::from(path)).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(source) => Err(PipelineError::Store { action: "delete", location: path.to_owned(), source }),
        }
    }
}

impl fmt::Debug for Store {
    /// Leaves out the client, which holds keys.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store").field("address", &self.address).finish_non_exhaustive()
    }
}

/// Returns the bytes of a record's file: indented JSON that ends with a newline.
pub(crate) fn record_bytes(record: &impl Serialize) -> Vec<u8> {
    let mut bytes = serde_json::to_vec_pretty(record).expect("records serialize to JSON");
    bytes.push(b'\n');
    bytes
}

fn damaged(path: &str, problem: &str) -> PipelineError {
    PipelineError::Damaged { location: path.to_owned(), problem: problem.to_owned() }
}

#[cfg(test)]
mod tests {
    use std::path::Path as FilePath;

    use super::*;

    #[tokio::test]
    async fn creating_twice_tells_same_from_different() {
        let store = Store::open("memory://", FilePath::new("")).expect("memory");
        assert_eq!(store.create("a/b.json", "1").await.expect("memory"), Created::New);
        assert_eq!(store.create("a/b.json", "1").await.expect("memory"), Created::Same);
        assert_eq!(store.create("a/b.json", "2").await.expect("memory"), Created::Different);
        assert_eq!(store.get("a/b.json").await.expect("memory"), Some(Bytes::from("1")));
        assert!(matches!(store.create_content("a/b.json", "2").await, Err(PipelineError::Damaged { .. })));
    }

    #[tokio::test]
    async fn names_are_those_of_one_level() {
        let store = Store::open("memory://", FilePath::new("")).expect("memory");
        for path in ["v/1.json", "v/x/2.json", "w/3.json"] {
            store.create(path, "1").await.expect("memory");
        }
        assert_eq!(store.names("v").await.expect("memory"), ["1.json", "x"]);
    }
}
