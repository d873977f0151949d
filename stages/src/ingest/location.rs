//! Location of a source: a store, and the paths in it that an address covers.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{GetOptions, GetRange, ObjectMeta, ObjectStore, ObjectStoreExt};

use super::disk::{self, FolderListing, ListedFile};
use super::facts::{FileContent, FileFacts};
use super::names;
use crate::error::{Result, StageError};

/// Address within a store: a folder, and a file name in it that may be a pattern.
#[derive(Debug, Clone)]
pub struct Location {
    /// Store that holds the files.
    pub store: Arc<dyn ObjectStore>,
    /// Path of the file or folder; the last part may contain `*`, `?`, `[…]` and `{0..9}`.
    pub path: Path,
    /// `true` if paths of the store are those of this machine's disks, from their root on.
    pub is_disk: bool,
}

impl Location {
    /// Returns the folder of the files.
    #[must_use]
    pub fn folder(&self) -> Path {
        let parts: Vec<_> = self.path.parts().collect();
        Path::from_iter(parts[..parts.len().saturating_sub(1)].iter().cloned())
    }

    /// Returns the files that the last part covers, sorted by name: the file of that name if it exists, or else all that match it as a
    /// pattern. A name without pattern, and a range of numbers, need no listing.
    ///
    /// # Errors
    /// [`StageError::Source`] if there are none or the pattern is broken; [`StageError::Store`] if the store fails.
    pub async fn matching_files(&self, source: &str) -> Result<Vec<ObjectMeta>> {
        let refused = |problem: String| StageError::Source { name: source.to_owned(), problem };
        if let Some(file) = self.found(&self.path).await? {
            return Ok(vec![file]);
        }
        let name = self.path.filename().unwrap_or_default();
        let mut files = Vec::new();
        for name in names::expanded(name).map_err(refused)? {
            if names::is_pattern(&name) {
                files.extend(self.matching(&name).await.map_err(|error| self.unlisted(source, error))??);
                continue;
            }
            let path = self.file(&name)?;
            let missing =
                || refused(format!("there is no file {}; check the source's url{}", self.relative(&path), names::known_patterns(&name)));
            files.push(self.found(&path).await?.ok_or_else(missing)?);
        }
        if files.is_empty() {
            return Err(refused(format!("no file matches {}; check the source's url{}", self.path, names::known_patterns(name))));
        }
        files.sort_by(|a, b| a.location.cmp(&b.location));
        files.dedup_by(|a, b| a.location == b.location);
        Ok(files)
    }

    /// Lists all files below the address, sorted by path, with hidden entries counted and faults named.
    ///
    /// # Errors
    /// [`StageError::Source`] for a listing with an unreadable key; [`StageError::Store`] if the store fails.
    pub(super) async fn files_below(&self, source: &str) -> Result<FolderListing> {
        let mut listing = if self.is_disk {
            disk::files_below(self.path.clone()).await?
        } else {
            let listed: Result<Vec<_>, _> = self.store.list(Some(&self.path)).try_collect().await;
            let files = listed.map_err(|error| self.unlisted(source, error))?.into_iter();
            let is_hidden = |file: &ObjectMeta| {
                file.location.prefix_match(&self.path).is_some_and(|mut parts| parts.any(|part| part.as_ref().starts_with('.')))
            };
            let (hidden, files): (Vec<_>, Vec<_>) = files.partition(is_hidden);
            let files = files.into_iter().map(|meta| ListedFile { facts: FileFacts::of(&meta), path: meta.location }).collect();
            FolderListing { files, hidden: hidden.len() as u64, faults: Vec::new() }
        };
        listing.files.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(listing)
    }

    /// Returns the path of the file `name` in the source's folder.
    pub(super) fn file(&self, name: &str) -> Result<Path> {
        joined(&self.folder(), name)
    }

    /// Returns the path of the file `name` below the address itself.
    pub(super) fn below(&self, name: &str) -> Result<Path> {
        joined(&self.path, name)
    }

    /// Returns the facts of a file; `None` if no readable file exists.
    pub(super) async fn facts(&self, path: &Path) -> Result<Option<FileFacts>> {
        Ok(self.found(path).await?.map(|meta| FileFacts::of(&meta)))
    }

    /// Returns the store's metadata of a file; `None` if no readable file exists.
    async fn found(&self, path: &Path) -> Result<Option<ObjectMeta>> {
        // Opening a named pipe would wait for its writer.
        if self.is_disk && disk::size_of(path).await.is_err() {
            return Ok(None);
        }
        match self.store.head(path).await {
            Ok(meta) => Ok(Some(meta)),
            Err(source) if file_fault(&source).is_some() => Ok(None),
            Err(source) => Err(StageError::Store { location: path.to_string(), source }),
        }
    }

    /// Streams the bytes of a file, or of a range of it, and returns the file's facts.
    pub(super) async fn stream(&self, path: &Path, range: Option<Range<u64>>) -> Result<(BoxStream<'static, Result<Bytes>>, FileFacts)> {
        let location = path.to_string();
        let failed = move |source| StageError::Store { location: location.clone(), source };
        let options = GetOptions { range: range.map(GetRange::Bounded), ..GetOptions::default() };
        let found = self.store.get_opts(path, options).await.map_err(&failed)?;
        let facts = FileFacts::of(&found.meta);
        Ok((found.into_stream().map_err(failed).boxed(), facts))
    }

    /// Returns the name of a file for people and outputs. It begins at the source's folder, so it does not tell where the source lies.
    #[must_use]
    pub fn relative(&self, path: &Path) -> String {
        let below = path.prefix_match(&self.folder()).map(|parts| parts.map(|part| part.as_ref().to_owned()).collect::<Vec<_>>().join("/"));
        below.filter(|below| !below.is_empty()).unwrap_or_else(|| path.filename().unwrap_or_default().to_owned())
    }

    /// Reads a file that a row names, if it has at most `max_bytes`. A fault of the file alone is no error.
    pub(super) async fn content(&self, path: &Path, max_bytes: u64) -> Result<FileContent> {
        self.content_of(path, None, max_bytes).await
    }

    /// Reads the first `bytes` of a file, or all of a shorter one.
    pub(super) async fn head(&self, path: &Path, bytes: u64) -> Result<FileContent> {
        self.content_of(path, Some(GetRange::Bounded(0..bytes)), u64::MAX).await
    }

    async fn content_of(&self, path: &Path, range: Option<GetRange>, max_bytes: u64) -> Result<FileContent> {
        if self.is_disk {
            match disk::size_of(path).await {
                Ok(0) => return Ok(FileContent::Bytes(Bytes::new())),
                Ok(_) => {}
                Err(content) => return Ok(content),
            }
        }
        let failed = |source| match file_fault(&source) {
            Some(content) => Ok(content),
            None => Err(StageError::Store { location: path.to_string(), source }),
        };
        let found = match self.store.get_opts(path, GetOptions { range, ..GetOptions::default() }).await {
            Ok(found) => found,
            Err(source) => return failed(source),
        };
        if found.meta.size > max_bytes {
            return Ok(FileContent::TooLarge(found.meta.size));
        }
        found.bytes().await.map_or_else(failed, |bytes| Ok(FileContent::Bytes(bytes)))
    }

    /// Lists the files of the folder that match a pattern.
    async fn matching(&self, pattern: &str) -> Result<Result<Vec<ObjectMeta>>, object_store::Error> {
        let broken = |problem| StageError::Source { name: pattern.to_owned(), problem };
        let matcher = match glob::Pattern::new(pattern) {
            Ok(matcher) => matcher,
            Err(error) => return Ok(Err(broken(format!("the pattern is broken: {error}{}", names::known_patterns(pattern))))),
        };
        let folder = self.folder();
        if self.is_disk {
            let unnamed = disk::faults_in(folder.clone()).await.into_iter().find(|fault| matcher.matches(&fault.name));
            if let Some(fault) = unnamed {
                return Ok(Err(broken(format!("{} matches and cannot be read: {}", fault.name, fault.detail))));
            }
        }
        let mut files = self.store.list_with_delimiter(Some(&folder)).await?.objects;
        files.retain(|file| file.location.filename().is_some_and(|name| matcher.matches(name)));
        Ok(Ok(files))
    }

    /// Converts the error of a failed listing. A key that the path type cannot hold is a problem for the user, who can avoid it.
    fn unlisted(&self, source: &str, error: object_store::Error) -> StageError {
        if !matches!(error, object_store::Error::InvalidPath { .. }) {
            return StageError::Store { location: self.path.to_string(), source: error };
        }
        let problem = format!(
            "the listing of {}/ holds a key that cannot be read: {}; name a narrower prefix, single files, a range such as {{000..127}}, or a list",
            self.path,
            chain_of(&error)
        );
        StageError::Source { name: source.to_owned(), problem }
    }
}

/// Returns an error with its causes in one line.
fn chain_of(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = error.to_string();
        if !text.contains(&next) {
            text.push_str(": ");
            text.push_str(&next);
        }
        cause = error.source();
    }
    text
}

/// Returns the content that stands for an error of one file alone; `None` if the error concerns the store.
fn file_fault(error: &object_store::Error) -> Option<FileContent> {
    use object_store::Error;
    match error {
        Error::NotFound { .. } => Some(FileContent::Missing),
        Error::PermissionDenied { .. } | Error::InvalidPath { .. } => Some(FileContent::Unreadable(chain_of(error))),
        _ => disk::fault_of(error).map(FileContent::Unreadable),
    }
}

fn joined(folder: &Path, name: &str) -> Result<Path> {
    names::joined(folder, name).map_err(|problem| StageError::Source { name: name.to_owned(), problem })
}
