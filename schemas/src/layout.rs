//! Where everything lies in a store, and the version of the formats there.
//!
//! Paths are relative to the store. `dataset` and `tag` are checked names; a `run` is the folder of a run, as [`run`] returns it.

use std::fmt::Display;
use std::str::FromStr;

use crate::digest::Digest;
use crate::unit::SegmentName;

/// Version of the formats of all records.
pub const FORMAT_VERSION: u32 = 1;

/// Folder of all units.
pub const UNITS: &str = "units";
/// Folder of all shards.
pub const SHARDS: &str = "shards";
/// Folder of all window records.
pub const WINDOWS: &str = "windows";
/// Folder of all manifests and their tables.
pub const VERSIONS: &str = "versions";
/// Folder of all tags.
pub const TAGS: &str = "tags";
/// Folder of all fitted artefacts and pins.
pub const ARTEFACTS: &str = "artefacts";
/// Folder of all checkpoints.
pub const CHECKPOINTS: &str = "checkpoints";
/// Folder of all runs.
pub const RUNS: &str = "runs";
/// Folder of the leases of all datasets.
pub const LEASES: &str = "leases";
/// Folder of the results of all scans.
pub const SCANS: &str = "scans";
/// Folder of the pins of all datasets.
pub const PINS: &str = "artefacts/pins";

/// Folder of a unit.
#[must_use]
pub fn unit(segment: SegmentName, key: Digest) -> String {
    let key = key.to_string();
    format!("{UNITS}/{}/{}/{key}", segment.name(), &key[..2])
}

/// The record that makes a unit visible.
#[must_use]
pub fn unit_record(segment: SegmentName, key: Digest) -> String {
    format!("{}/unit.json", unit(segment, key))
}

/// A file of a unit.
#[must_use]
pub fn unit_file(segment: SegmentName, key: Digest, digest: Digest) -> String {
    format!("{}/{digest}.parquet", unit(segment, key))
}

/// A shard.
#[must_use]
pub fn shard(digest: Digest) -> String {
    format!("{SHARDS}/{digest}.arrow")
}

/// Folder of the window records of a version.
#[must_use]
pub fn windows(dataset: &str, version: u32) -> String {
    format!("{WINDOWS}/{dataset}/{version}")
}

/// Folder of the records of one window: each is named by its digest, so a run that was given up leaves nothing in the way.
#[must_use]
pub fn window_records(dataset: &str, version: u32, window: u32) -> String {
    format!("{}/{window}", windows(dataset, version))
}

/// A window record.
#[must_use]
pub fn window(dataset: &str, version: u32, window: u32, digest: Digest) -> String {
    numbered(&window_records(dataset, version, window), digest)
}

/// Folder of the manifests of a dataset.
#[must_use]
pub fn versions(dataset: &str) -> String {
    format!("{VERSIONS}/{dataset}")
}

/// A manifest.
#[must_use]
pub fn manifest(dataset: &str, version: u32) -> String {
    numbered(&versions(dataset), version)
}

/// The recorded digest of a manifest.
#[must_use]
pub fn manifest_digest(dataset: &str, version: u32) -> String {
    format!("{}/{version}.digest", versions(dataset))
}

/// Folder of the tables that manifests name.
#[must_use]
pub fn tables(dataset: &str) -> String {
    format!("{}/tables", versions(dataset))
}

/// A table that manifests name.
#[must_use]
pub fn table(dataset: &str, digest: Digest) -> String {
    format!("{}/{digest}.parquet", tables(dataset))
}

/// Folder of the tags of a dataset.
#[must_use]
pub fn tags(dataset: &str) -> String {
    format!("{TAGS}/{dataset}")
}

/// Folder of the numbered records of a tag.
#[must_use]
pub fn tag(dataset: &str, tag: impl Display) -> String {
    format!("{}/{tag}", tags(dataset))
}

/// Folder of a fitted artefact.
#[must_use]
pub fn artefact(digest: Digest) -> String {
    format!("{ARTEFACTS}/{digest}")
}

/// Folder of the numbered pins of a dataset.
#[must_use]
pub fn pins(dataset: &str) -> String {
    format!("{PINS}/{dataset}")
}

/// Folder of the trainings of a dataset, each in a folder named by its key.
#[must_use]
pub fn trainings(dataset: &str) -> String {
    format!("{CHECKPOINTS}/{dataset}")
}

/// Folder of the checkpoints of a training or fit.
#[must_use]
pub fn checkpoints(dataset: &str, key: impl Display) -> String {
    format!("{}/{key}", trainings(dataset))
}

/// Folder of a run.
#[must_use]
pub fn run(name: &str) -> String {
    format!("{RUNS}/{name}")
}

/// Folder of the numbered plans of a run.
#[must_use]
pub fn plans(run: &str) -> String {
    format!("{run}/plan")
}

/// Folder of the events of a run.
#[must_use]
pub fn events(run: &str) -> String {
    format!("{run}/events")
}

/// Folder of the numbered heartbeats of a run.
#[must_use]
pub fn heartbeats(run: &str) -> String {
    format!("{run}/heartbeat")
}

/// The report of a run.
#[must_use]
pub fn report(run: &str) -> String {
    format!("{run}/report.html")
}

/// Folder of the numbered leases of a dataset.
#[must_use]
pub fn leases(dataset: &str) -> String {
    format!("{LEASES}/{dataset}")
}

/// The result of a scan.
#[must_use]
pub fn scan(key: Digest) -> String {
    numbered(SCANS, key)
}

/// The record of `folder` with this number or digest.
#[must_use]
pub fn numbered(folder: &str, number: impl Display) -> String {
    format!("{folder}/{number}.json")
}

/// Returns the number or digest of a record by its file name; `None` for other files.
#[must_use]
pub fn number_of<N: FromStr>(name: &str) -> Option<N> {
    name.strip_suffix(".json")?.parse().ok()
}

/// Returns the highest number among the records with these file names: that record holds.
#[must_use]
pub fn highest<N: FromStr + Ord>(names: &[String]) -> Option<N> {
    names.iter().filter_map(|name| number_of(name)).max()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_highest_number_holds_and_other_files_do_not_count() {
        let names = ["9.json", "10.json", "11.digest", "tables", "x.json"].map(String::from);
        assert_eq!((highest::<u32>(&names), highest::<u32>(&names[2..])), (Some(10), None));
    }
}
