//! Following a run of another process: its windows are read as it commits them, until its version is published.
//!
//! The run is known by the lease of the dataset, and that it is alive by its heartbeats. No clocks are compared: a run whose heartbeats do not
//! go on for [`FollowTimes::silence`] is dead. Windows are named by their digests; where a run that was given up left another record of a
//! window, it takes the manifest to say which one counts.

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

/// How often a run is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FollowTimes {
    /// Time between two looks. Default 1 s.
    pub look: Duration,
    /// A run that leaves no heartbeat for so long is dead. Default 20 s, four times what lies between two heartbeats.
    pub silence: Duration,
}

impl Default for FollowTimes {
    fn default() -> Self {
        Self { look: Duration::from_secs(1), silence: Duration::from_secs(20) }
    }
}

/// What a follower has to know of `leases/<dataset>/<k>.json`.
#[derive(Deserialize)]
struct Lease {
    run: String,
    released: bool,
}

/// What was last seen of the run that holds the lease.
#[derive(PartialEq, Eq)]
struct Pulse {
    lease: Option<u64>,
    heartbeat: Option<u64>,
}

/// [`WindowFeed`] of a version that is still being made.
pub struct FollowFeed {
    records: Records,
    version: u32,
    times: FollowTimes,
    /// Digests of the windows that were handed out.
    read: Vec<Digest>,
    /// The manifest, once it is published.
    manifest: Option<VersionManifest>,
    pulse: Option<(Pulse, Instant)>,
}

impl FollowFeed {
    /// Follows the run that makes the version that `location` means; the one behind the highest, if it names none.
    ///
    /// # Errors
    /// [`StageError::NoVersion`] for a tag that names none, or what the store says.
    pub async fn open(location: &Location, times: FollowTimes) -> Result<Self> {
        let records = Records::new(location);
        let version = match (&location.version, records.number_of(&location.version).await?) {
            (VersionName::Latest, number) => number.unwrap_or_default() + 1,
            (_, Some(number)) => number,
            (tag, None) => return Err(StageError::NoVersion { dataset: location.dataset.clone(), version: tag.to_string() }),
        };
        Ok(Self { records, version, times, read: Vec::new(), manifest: None, pulse: None })
    }

    /// Number of the version that is followed.
    #[must_use]
    pub const fn version(&self) -> u32 {
        self.version
    }

    /// Schema of the packs, as the first shard says: the manifest that says it too is not there yet. Waits for that shard.
    ///
    /// # Errors
    /// [`StageError::Record`] if it is no shard of packs, [`StageError::NoPacks`] if the version has none, or as a window.
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
            // Looked at before the windows: what is published then has all of them.
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

    /// The one record of window `index` that is there.
    async fn committed(&self, index: usize) -> Result<Option<Digest>> {
        let folder = layout::window_records(&self.records.dataset, self.version, index as u32);
        let names = self.records.names(&folder).await?;
        let mut digests = names.iter().filter_map(|name| layout::number_of(name));
        Ok(digests.next().filter(|_| digests.next().is_none()))
    }

    /// Checks that what is published is what was read while it was made.
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
