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

/// Results of earlier scans, by a key over their inputs. Entries may be lost or damaged.
pub trait ScanMemory: Send + Sync {
    /// Returns the entry under `key`, if there is one.
    fn recall(&self, key: Digest) -> BoxFuture<'_, Option<Vec<u8>>>;

    /// Keeps `entry` under `key`, if possible.
    fn remember(&self, key: Digest, entry: Vec<u8>) -> BoxFuture<'_, ()>;
}

/// Memory that keeps nothing.
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

/// Options of a scan beside its source.
#[derive(Clone, Copy)]
pub struct ScanOptions<'a> {
    /// Takes at most so many samples.
    pub limit: Option<u64>,
    /// Units of the version before, of any source, oldest first. Their cuts are kept where they still apply.
    pub before: &'a [SourceUnit],
    /// Full address of the source, which separates its entries in the memory.
    pub address: &'a str,
    /// Results of earlier scans.
    pub memory: &'a dyn ScanMemory,
    /// Settings for reading the source's rows.
    pub reading: &'a ReadOptions,
}

/// An entry of the memory, with a digest that detects damage.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry<T> {
    found: T,
    check: Digest,
}

/// Scan of one source.
pub(super) struct Scanning<'a> {
    pub(super) config: &'a SourceConfig,
    pub(super) location: &'a Location,
    pub(super) options: ScanOptions<'a>,
}

impl Scanning<'_> {
    /// Returns the key of an entry. It covers the revision of this stage and the settings of reading, since both change results.
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
