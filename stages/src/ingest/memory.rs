//! The memory of scans: what one found, the next one need not read again.

use cm3flow_schemas::Digest;
use cm3flow_schemas::canonical::digest_of;
use cm3flow_schemas::window::SourceUnit;
use futures::future::BoxFuture;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::REVISION;
use super::config::{ReadOptions, SourceConfig};
use super::location::Location;

/// What earlier scans found, by a key that says of what. Entries may be lost, or be nonsense.
pub trait ScanMemory: Send + Sync {
    /// The entry under `key`, if there is one.
    fn recall(&self, key: Digest) -> BoxFuture<'_, Option<Vec<u8>>>;

    /// Keeps `entry` under `key`, if it can.
    fn remember(&self, key: Digest, entry: Vec<u8>) -> BoxFuture<'_, ()>;
}

/// Remembers nothing.
#[derive(Debug, Clone, Copy)]
pub struct NoMemory;

impl ScanMemory for NoMemory {
    fn recall(&self, _: Digest) -> BoxFuture<'_, Option<Vec<u8>>> {
        Box::pin(std::future::ready(None))
    }

    fn remember(&self, _: Digest, _: Vec<u8>) -> BoxFuture<'_, ()> {
        Box::pin(std::future::ready(()))
    }
}

/// What a scan is asked for beyond its source.
#[derive(Clone, Copy)]
pub struct ScanOptions<'a> {
    /// Takes at most so many samples.
    pub limit: Option<u64>,
    /// Units of the version before, of any source, oldest first: where they still are, units are cut as they were.
    pub before: &'a [SourceUnit],
    /// The source's address in full, which tells apart what the memory keeps.
    pub address: &'a str,
    /// What earlier scans found.
    pub memory: &'a dyn ScanMemory,
    /// How the source's rows are read.
    pub reading: &'a ReadOptions,
}

/// An entry of the memory: what was found, with a digest that tells whether it is whole.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry<T> {
    found: T,
    check: Digest,
}

/// A scan of one source.
pub(super) struct Scanning<'a> {
    pub(super) config: &'a SourceConfig,
    pub(super) location: &'a Location,
    pub(super) options: ScanOptions<'a>,
}

impl Scanning<'_> {
    /// Key of what is remembered: what another revision of this stage found, or another way of reading, is something else.
    pub(super) fn key(&self, domain: &str, what: &impl Serialize) -> Digest {
        let ReadOptions { by_image, max_member_bytes, .. } = self.options.reading;
        digest_of(domain, &(REVISION, by_image, max_member_bytes, self.options.address, what))
    }

    pub(super) async fn recall<T: Serialize + DeserializeOwned>(&self, key: Digest) -> Option<T> {
        let entry: Entry<T> = serde_json::from_slice(&self.options.memory.recall(key).await?).ok()?;
        (entry.check == check(key, &entry.found)).then_some(entry.found)
    }

    pub(super) async fn remember(&self, key: Digest, found: &impl Serialize) {
        let entry = serde_json::to_vec(&Entry { found, check: check(key, found) }).expect("what a scan finds serializes to JSON");
        self.options.memory.remember(key, entry).await;
    }
}

fn check(key: Digest, found: &impl Serialize) -> Digest {
    digest_of("what a scan found", &(key, found))
}
