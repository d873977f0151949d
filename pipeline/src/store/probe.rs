//! Probe of a store, by trial: atomic creates, ranges, listings, deletions, clock, and free space.

use chrono::{TimeDelta, Utc};
use futures::future::join_all;
use object_store::ObjectStoreExt;
use object_store::path::Path;
use serde::Serialize;

use super::{Created, Store};
use crate::error::{PipelineError, Result};

/// Concurrent creates of one object.
const RACERS: usize = 8;

/// Smaller differences of clocks do no harm: leases and grace periods last minutes.
const MAX_SKEW: TimeDelta = TimeDelta::seconds(30);

/// Free space below which the probe reports a lack.
const MIN_FREE_BYTES: u64 = 1 << 30;

/// Result of one check.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// Name of the check: `create`, `race`, `ranges`, `listing`, `delete`, `clock` or `space`.
    pub check: &'static str,
    /// `true` if the store passed.
    pub is_good: bool,
    /// Description of the result.
    pub found: String,
    /// Advice for the user; empty if the store passed.
    pub advice: &'static str,
}

/// Results of all checks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Probe {
    /// Address of the store for people.
    pub store: String,
    /// Results in the order of the checks.
    pub findings: Vec<Finding>,
}

impl Probe {
    /// Probes `store` in a new folder below `probes/`, and removes that folder afterwards.
    pub async fn of(store: &Store) -> Self {
        let folder = format!("probes/{:x}-{:x}", Utc::now().timestamp_micros(), fastrand::u64(..));
        let mut probe = Prober { store, folder: &folder, findings: Vec::new() };
        probe.create().await;
        probe.race().await;
        probe.ranges().await;
        probe.listing().await;
        probe.clock().await;
        probe.delete().await;
        probe.space();
        Self { store: store.address().to_owned(), findings: probe.findings }
    }
}

struct Prober<'a> {
    store: &'a Store,
    folder: &'a str,
    findings: Vec<Finding>,
}

impl Prober<'_> {
    fn path(&self, name: &str) -> String {
        format!("{}/{name}", self.folder)
    }

    /// Notes the result of a check: `Ok` if the store passed; `Err` adds the advice.
    fn note(&mut self, check: &'static str, found: Result<String, String>, advice: &'static str) {
        let is_good = found.is_ok();
        let (Ok(found) | Err(found)) = found;
        self.findings.push(Finding { check, is_good, found, advice: if is_good { "" } else { advice } });
    }

    async fn create(&mut self) {
        let path = self.path("create");
        let tried = async {
            let (first, second) = (self.store.create(&path, "first").await?, self.store.create(&path, "second").await?);
            Ok::<_, PipelineError>((first, second, self.store.get(&path).await?))
        };
        let found = match tried.await {
            Ok((Created::New, Created::Different, Some(stands))) if stands == "first" => Ok("a second create is refused".to_owned()),
            Ok((_, second, stands)) => Err(format!("a second create is not refused ({second:?}); {stands:?} stands there")),
            Err(error) => Err(with_causes(&error)),
        };
        self.note(
            "create",
            found,
            "nothing can be published safely here: use a store with conditional puts (If-None-Match: *), or let a newer release of it do them",
        );
    }

    async fn race(&mut self) {
        let path = self.path("race");
        let creates = (0..RACERS).map(|racer| self.store.create(&path, format!("racer {racer}")));
        let outcomes: Result<Vec<Created>> = join_all(creates).await.into_iter().collect();
        let found = match outcomes.map(|outcomes| outcomes.iter().filter(|outcome| **outcome == Created::New).count()) {
            Ok(1) => Ok(format!("of {RACERS} creates at once one wins")),
            Ok(winners) => Err(format!("of {RACERS} creates at once {winners} win")),
            Err(error) => Err(with_causes(&error)),
        };
        self.note("race", found, "run only one cm3flow on this store at a time, or use one whose conditional puts are atomic");
    }

    async fn ranges(&mut self) {
        let path = self.path("ranges");
        let read = async {
            self.store.create(&path, "0123456789").await?;
            self.store.objects().get_range(&Path::from(path.as_str()), 3..7).await.map_err(|source| PipelineError::Store {
                action: "read a range of",
                location: path.clone(),
                source,
            })
        };
        let found = match read.await {
            Ok(bytes) if bytes == "3456" => Ok("parts of objects are read".to_owned()),
            Ok(bytes) => Err(format!("bytes 3..7 are {bytes:?} instead of 3456")),
            Err(error) => Err(with_causes(&error)),
        };
        self.note("ranges", found, "readers need HTTP ranges: look for a proxy between here and the store that drops the Range header");
    }

    async fn listing(&mut self) {
        let names = async {
            self.store.create(&self.path("listed/one"), "1").await?;
            Ok::<_, PipelineError>((self.store.names(self.folder).await?, self.store.names(&self.path("listed")).await?))
        };
        let found = match names.await {
            Ok((above, below)) if above.iter().any(|name| name == "listed") && below == ["one"] => {
                Ok("what is written is listed at once".to_owned())
            }
            Ok((above, below)) => Err(format!("listings after a write show {above:?} and {below:?}, without listed/one")),
            Err(error) => Err(with_causes(&error)),
        };
        self.note("listing", found, "the latest version may be overlooked, and the run that does is refused in the end: let it list with the rights of a writer, without a cache between");
    }

    async fn clock(&mut self) {
        let path = self.path("clock");
        let modified = async {
            self.store.create(&path, "tick").await?;
            let failed = |source| PipelineError::Store { action: "look at", location: path.clone(), source };
            Ok::<_, PipelineError>(self.store.objects().head(&Path::from(path.as_str())).await.map_err(failed)?.last_modified)
        };
        let found = match modified.await.map(|modified| modified - Utc::now()) {
            Ok(skew) if skew.abs() < MAX_SKEW => Ok(format!("its clock is within {} s of ours", skew.abs().num_seconds() + 1)),
            Ok(skew) => Err(format!(
                "its clock is {} s {} ours",
                skew.abs().num_seconds(),
                if skew > TimeDelta::zero() { "ahead of" } else { "behind" }
            )),
            Err(error) => Err(with_causes(&error)),
        };
        self.note(
            "clock",
            found,
            "set the clocks by NTP: signatures are refused when they differ by minutes, and ages of leases and garbage are wrong",
        );
    }

    /// Removes the objects that the other checks wrote.
    async fn delete(&mut self) {
        let deleted = async {
            let names = self.store.names(self.folder).await?;
            // `listed` is a folder, which local stores keep when empty.
            let names = names.iter().filter(|name| *name != "listed").map(|name| self.path(name));
            let names: Vec<String> = names.chain([self.path("listed/one")]).collect();
            for path in &names {
                self.store.delete(path).await?;
            }
            self.store.names(self.folder).await
        };
        let left = deleted.await.map(|names| names.into_iter().filter(|name| name != "listed").collect::<Vec<_>>());
        let found = match left {
            Ok(names) if names.is_empty() => Ok("what is deleted is gone".to_owned()),
            Ok(names) => Err(format!("after deletions {names:?} are left in {}", self.folder)),
            Err(error) => Err(with_causes(&error)),
        };
        self.note("delete", found, "garbage cannot be collected: allow deletions (s3:DeleteObject), and delete the folder probes/ by hand");
        if let Some(root) = &self.store.folder {
            // Folders are empty by now; one that is not stays.
            for folder in [&self.path("listed"), self.folder, "probes"] {
                let _ = std::fs::remove_dir(root.join(folder));
            }
        }
    }

    fn space(&mut self) {
        let Some(folder) = &self.store.folder else { return };
        let found = match fs4::available_space(folder) {
            Ok(bytes) if bytes >= MIN_FREE_BYTES => Ok(format!("{} GiB are free", bytes >> 30)),
            Ok(bytes) => Err(format!("only {} MiB are free", bytes >> 20)),
            Err(error) => Err(error.to_string()),
        };
        self.note("space", found, "make room, or put dataset.store elsewhere; `cm3flow plan` says how much a run needs");
    }
}

fn with_causes(error: &PipelineError) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}
