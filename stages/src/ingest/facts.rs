//! Files of a source: what a store says of one, and what could be read of it.

use std::os::unix::fs::MetadataExt;

use bytes::Bytes;
use object_store::ObjectMeta;
use serde::{Deserialize, Serialize};

/// What a store says of a file without reading it: a file with other facts is another one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct FileFacts {
    size: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    e_tag: Option<String>,
    /// Microseconds since 1970.
    modified: i64,
}

/// Time that a file must have been left alone for its facts to be trusted: file systems may count in seconds.
const SETTLED_AFTER_US: i64 = 2_000_000;

impl FileFacts {
    pub(super) fn of(meta: &ObjectMeta) -> Self {
        Self { size: meta.size, e_tag: meta.e_tag.clone(), modified: meta.last_modified.timestamp_micros() }
    }

    /// Facts of a file of this machine, by what the system says of it.
    pub(super) fn of_disk(meta: &std::fs::Metadata) -> Self {
        let modified = meta.mtime().saturating_mul(1_000_000).saturating_add(meta.mtime_nsec() / 1000);
        Self { size: meta.len(), e_tag: Some(format!("{:x}-{:x}-{:x}", meta.ino(), modified, meta.len())), modified }
    }

    pub(super) const fn size(&self) -> u64 {
        self.size
    }

    /// Whether the file can no longer be changed without its facts changing, too.
    pub(super) fn is_settled(&self) -> bool {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |since| since.as_micros() as i64);
        now - self.modified > SETTLED_AFTER_US
    }
}

/// What could be read of a file that a row names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum FileContent {
    Bytes(Bytes),
    /// Nothing: there is no such file.
    Missing,
    /// Nothing, for this reason.
    Unreadable(String),
    /// Nothing: it has so many bytes.
    TooLarge(u64),
}
