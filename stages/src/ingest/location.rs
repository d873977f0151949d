//! Files of a source: a store and the paths in it that an address means.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{GetOptions, GetRange, ObjectMeta, ObjectStore, ObjectStoreExt};

use super::planned::FileFacts;
use crate::error::{Result, StageError};

/// An address within a store: a folder, and a file name in it that may be a pattern.
#[derive(Debug, Clone)]
pub struct Location {
    /// Store that holds the files.
    pub store: Arc<dyn ObjectStore>,
    /// Path of the file or folder; the last part may hold `*` and `?`.
    pub path: Path,
}

impl Location {
    /// Folder that the files are in.
    #[must_use]
    pub fn folder(&self) -> Path {
        let parts: Vec<_> = self.path.parts().collect();
        Path::from_iter(parts[..parts.len().saturating_sub(1)].iter().cloned())
    }

    /// Files that match the last part, sorted by name.
    ///
    /// # Errors
    /// [`StageError::Source`] if there are none or the pattern is broken; [`StageError::Store`].
    pub async fn matching_files(&self, source: &str) -> Result<Vec<ObjectMeta>> {
        let refused = |problem: String| StageError::Source { name: source.to_owned(), problem };
        let name = self.path.filename().unwrap_or_default();
        let pattern = glob::Pattern::new(name).map_err(|error| refused(format!("the pattern {name:?} is broken: {error}")))?;
        let folder = self.folder();
        let mut files = self.children(&folder).await?;
        files.retain(|file| file.location.filename().is_some_and(|name| pattern.matches(name)));
        if files.is_empty() {
            return Err(refused(format!("no file matches {}; check the source's url", self.path)));
        }
        Ok(files)
    }

    /// All files below the address itself, sorted by path.
    ///
    /// # Errors
    /// [`StageError::Store`].
    pub async fn files_below(&self) -> Result<Vec<ObjectMeta>> {
        let listed: Result<Vec<_>, _> = self.store.list(Some(&self.path)).try_collect().await;
        let mut files = listed.map_err(|source| StageError::Store { location: self.path.to_string(), source })?;
        files.sort_by(|a, b| a.location.cmp(&b.location));
        Ok(files)
    }

    /// Path of the file `name` in the source's folder.
    pub(super) fn file(&self, name: &str) -> Result<Path> {
        joined(&self.folder(), name)
    }

    /// Path of the file `name` below the address itself.
    pub(super) fn below(&self, name: &str) -> Result<Path> {
        joined(&self.path, name)
    }

    /// Facts of a file; `None` if there is none.
    pub(super) async fn facts(&self, path: &Path) -> Result<Option<FileFacts>> {
        match self.store.head(path).await {
            Ok(meta) => Ok(Some(FileFacts::of(&meta))),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(source) => Err(StageError::Store { location: path.to_string(), source }),
        }
    }

    /// Bytes of a file, or of a range of it, as they come, with the file's facts.
    pub(super) async fn stream(&self, path: &Path, range: Option<Range<u64>>) -> Result<(BoxStream<'static, Result<Bytes>>, FileFacts)> {
        let location = path.to_string();
        let failed = move |source| StageError::Store { location: location.clone(), source };
        let options = GetOptions { range: range.map(GetRange::Bounded), ..GetOptions::default() };
        let found = self.store.get_opts(path, options).await.map_err(&failed)?;
        let facts = FileFacts::of(&found.meta);
        Ok((found.into_stream().map_err(failed).boxed(), facts))
    }

    /// Name of a file for people and outputs: from the source's folder on, so that it does not tell where the source lies.
    #[must_use]
    pub fn relative(&self, path: &Path) -> String {
        let below = path.prefix_match(&self.folder()).map(|parts| parts.map(|part| part.as_ref().to_owned()).collect::<Vec<_>>().join("/"));
        below.filter(|below| !below.is_empty()).unwrap_or_else(|| path.filename().unwrap_or_default().to_owned())
    }

    /// Bytes of a file; `None` if there is none.
    ///
    /// # Errors
    /// [`StageError::Store`].
    pub async fn read_if_there(&self, path: &Path) -> Result<Option<Bytes>> {
        match self.read(path).await {
            Err(StageError::Store { source: object_store::Error::NotFound { .. }, .. }) => Ok(None),
            read => read.map(Some),
        }
    }

    /// Bytes of a file.
    ///
    /// # Errors
    /// [`StageError::Store`].
    pub async fn read(&self, path: &Path) -> Result<Bytes> {
        let failed = |source| StageError::Store { location: path.to_string(), source };
        self.store.get(path).await.map_err(failed)?.bytes().await.map_err(failed)
    }

    async fn children(&self, folder: &Path) -> Result<Vec<ObjectMeta>> {
        let listed = self.store.list_with_delimiter(Some(folder)).await;
        let mut files = listed.map_err(|source| StageError::Store { location: folder.to_string(), source })?.objects;
        files.sort_by(|a, b| a.location.cmp(&b.location));
        Ok(files)
    }
}

fn joined(folder: &Path, name: &str) -> Result<Path> {
    let refused = |error| StageError::Source { name: name.to_owned(), problem: format!("it is no path: {error}") };
    Path::parse(format!("{folder}/{name}")).map_err(refused)
}
