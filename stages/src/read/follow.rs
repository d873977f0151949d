//! Follower of a run in another process: it reads windows as the run commits them, until the version is published.
//!
//! The dataset's lease identifies the run, and heartbeats show that it is alive. No clocks are compared: a run without a new heartbeat for
//! [`FollowTimes::silence`] is dead. Windows are named by their digests. If an abandoned run left another record of a window, only the
//! manifest tells which one counts.

use std::time::Duration;

use arrow::datatypes::SchemaRef;
use cm3flow_schemas::sample::Split;
use cm3flow_schemas::version::VersionManifest;
use cm3flow_schemas::{Digest, layout};
use futures::FutureExt;
use futures::future::BoxFuture;
use serde::Deserialize;
use tokio::time::{Instant, sleep};

use super::location::{Location, VersionName};
use super::source::WindowFeed;
use super::version::Records;
use super::window::WindowShards;
use crate::error::{Result, StageError};

/// Intervals of a follower.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FollowTimes {
    /// Time between two polls. Default 1 s.
    pub look: Duration,
    /// Time without a heartbeat after which a run is dead. Default 20 s, four times the interval of heartbeats.
    pub silence: Duration,
}

impl Default for FollowTimes {
    fn default() -> Self {
        Self { look: Duration::from_secs(1), silence: Duration::from_secs(20) }
    }
}

/// Fields of `leases/<dataset>/<k>.json` that a follower needs.
#[derive(Deserialize)]
struct Lease {
    run: String,
    released: bool,
}

/// Last observed state of the run that holds the lease.
#[derive(PartialEq, Eq)]
struct Pulse {
    lease: Option<u64>,
    heartbeat: Option<u64>,
}

/// [`WindowFeed`] of a version in the making.
pub struct FollowFeed {
    records: Records,
    version: u32,
    times: FollowTimes,
    /// Digests of the windows handed out.
    read: Vec<Digest>,
    /// Manifest of the version, once it is published.
    manifest: Option<VersionManifest>,
    pulse: Option<(Pulse, Instant)>,
}

impl FollowFeed {
    /// Follows the run that makes the version of `location`, or the one after the highest if none is named.
    ///
    /// # Errors
    /// [`StageError::NoVersion`] for a tag without version, or those of the store.
    pub async fn open(location: &Location, times: FollowTimes) -> Result<Self> {
        let records = Records::new(location);
        let version = match (&location.version, records.number_of(&location.version).await?) {
            (VersionName::Latest, number) => number.unwrap_or_default() + 1,
            (_, Some(number)) => number,
            (tag, None) => return Err(StageError::NoVersion { dataset: location.dataset.clone(), version: tag.to_string() }),
        };
        Ok(Self { records, version, times, read: Vec::new(), manifest: None, pulse: None })
    }

    /// Returns the number of the followed version.
    #[must_use]
    pub const fn version(&self) -> u32 {
        self.version
    }

    /// Returns the schema of the packs, from the first shard, because the manifest does not exist yet. Waits for that shard.
    ///
    /// # Errors
    /// [`StageError::Record`] if the file is no shard of packs, [`StageError::NoPacks`] if the version has none, or those of reading a
    /// window.
    pub async fn schema(&mut self, split: Split) -> Result<SchemaRef> {
        for index in 0.. {
            match self.next(index).await? {
                Some(shards) => match shards.first() {
                    Some(shard) => return self.records.shard_schema(shard).await,
                    None => continue,
                },
                None => break,
            }
        }
        Err(StageError::NoPacks { split: split.name() })
    }

    async fn next(&mut self, index: usize) -> Result<Option<WindowShards>> {
        self.pulse = None;
        loop {
            // The manifest is read before the windows, so a published version has all of them.
            if self.manifest.is_none() {
                self.manifest = self.records.manifest(self.version).await?;
                self.check_published()?;
            }
            let digest = match &self.manifest {
                Some(manifest) => match manifest.windows.get(index) {
                    Some(digest) => Some(*digest),
                    None => return Ok(None),
                },
                None => self.committed(index).await?,
            };
            if let Some(digest) = digest {
                let record = self.records.window(self.version, index, digest).await?;
                self.read.truncate(index);
                self.read.push(digest);
                return Ok(Some(record.shards));
            }
            self.check_alive(index).await?;
            sleep(self.times.look).await;
        }
    }

    /// Returns the digest of window `index` if there is exactly one record of it.
    async fn committed(&self, index: usize) -> Result<Option<Digest>> {
        let folder = layout::window_records(&self.records.dataset, self.version, index as u32);
        let names = self.records.names(&folder).await?;
        let mut digests = names.iter().filter_map(|name| layout::number_of(name));
        Ok(digests.next().filter(|_| digests.next().is_none()))
    }

    /// Checks that the published windows are those that were read.
    fn check_published(&self) -> Result<()> {
        let Some(manifest) = &self.manifest else { return Ok(()) };
        match self.read.iter().zip(&manifest.windows).position(|(read, published)| read != published) {
            None if self.read.len() <= manifest.windows.len() => Ok(()),
            differs => Err(StageError::RunChanged {
                dataset: self.records.dataset.clone(),
                version: self.version,
                window: differs.unwrap_or(manifest.windows.len()),
            }),
        }
    }

    async fn check_alive(&mut self, windows: usize) -> Result<()> {
        let folder = layout::leases(&self.records.dataset);
        let number = layout::highest(&self.records.names(&folder).await?);
        let lease: Option<Lease> = match number {
            Some(number) => self.records.record(&layout::numbered(&folder, number)).await?,
            None => None,
        };
        let heartbeat = match &lease {
            Some(lease) if !lease.released => layout::highest(&self.records.names(&layout::heartbeats(&lease.run)).await?),
            _ => None,
        };
        let pulse = Pulse { lease: number, heartbeat };
        match &self.pulse {
            Some((last, seen)) if *last == pulse => {
                if seen.elapsed() >= self.times.silence {
                    return Err(StageError::RunStopped { windows });
                }
            }
            _ => self.pulse = Some((pulse, Instant::now())),
        }
        Ok(())
    }
}

impl WindowFeed for FollowFeed {
    fn window(&mut self, index: usize) -> BoxFuture<'_, Result<Option<WindowShards>>> {
        self.next(index).boxed()
    }

    fn has(&self, index: usize) -> bool {
        self.manifest.as_ref().is_some_and(|manifest| index <= manifest.windows.len())
    }
}
