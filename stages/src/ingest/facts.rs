//! Files of a source: what a store says of one, and what could be read of it.

use std::os::unix::fs::MetadataExt;

use bytes::Bytes;
use object_store::ObjectMeta;
use serde::{Deserialize, Serialize};

/// Metadata of a file. A file with other facts counts as another one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct FileFacts {
    size: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    e_tag: Option<String>,
    /// Microseconds since 1970.
    modified: i64,
}

/// Age in microseconds at which a file's facts are trusted: file systems may count in seconds.
const SETTLED_AFTER_US: i64 = 2_000_000;

impl FileFacts {
    pub(super) fn of(meta: &ObjectMeta) -> Self {
        Self { size: meta.size, e_tag: meta.e_tag.clone(), modified: meta.last_modified.timestamp_micros() }
    }

    /// Returns the facts of a file on this machine, from the system's metadata.
    pub(super) fn of_disk(meta: &std::fs::Metadata) -> Self {
        let modified = meta.mtime().saturating_mul(1_000_000).saturating_add(meta.mtime_nsec() / 1000);
        Self { size: meta.len(), e_tag: Some(format!("{:x}-{:x}-{:x}", meta.ino(), modified, meta.len())), modified }
    }

    pub(super) const fn size(&self) -> u64 {
        self.size
    }

    /// Checks whether the file is old enough that a further change would change its facts.
    pub(super) fn is_settled(&self) -> bool {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |since| since.as_micros() as i64);
        now - self.modified > SETTLED_AFTER_US
    }
}

/// Content of a file that a row names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum FileContent {
    Bytes(Bytes),
    /// No content: the file does not exist.
    Missing,
    /// No content, for this reason.
    Unreadable(String),
    /// Nothing: it has so many bytes.
    TooLarge(u64),
}
