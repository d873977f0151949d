//! Windows: runs of units that are checked and committed as a whole; from then on a follower may read their shards.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::ledger::{DocumentLedger, SampleLedger};
use crate::pack::{PackStatistics, ShardEntry};

/// A source unit: consecutive samples of one file.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SourceUnit {
    /// Name of the source in the configuration.
    pub source: String,
    /// Name of the file, for people: a unit is what it is by what it was read from, not by where that lay.
    pub file: String,
    /// Digest of what the unit is read from: the tar, the row list with the images that it names.
    pub digest: Digest,
    /// First sample of the file that belongs to the unit.
    pub first_row: u64,
    /// Number of samples.
    pub rows: u64,
    /// Rows of the file that the unit consists of, ascending, if they are not `rows` consecutive ones from `first_row` on: refused rows that are
    /// tried once more.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub only: Vec<u64>,
}

/// A unit that could not be worked on: its samples are counted, and nothing else is made of them. A later run tries it again.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct QuarantinedUnit {
    /// The unit.
    pub unit: SourceUnit,
    /// What went wrong, for people.
    pub problem: String,
}

/// A committed window.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WindowRecord {
    /// Version of this format, 1.
    pub format_version: u32,
    /// Number of the window, from 0.
    pub window: u32,
    /// Source units that it was made of.
    pub units: Vec<SourceUnit>,
    /// Keys of the units of each segment, in order.
    pub keys: BTreeMap<String, Vec<Digest>>,
    /// Units of the window beside those that could not be worked on.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub quarantined: Vec<QuarantinedUnit>,
    /// Digest of the table of blocked ids that was in force when the window was made, if there was one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub blocklist: Option<Digest>,
    /// Its shards.
    pub shards: Vec<ShardEntry>,
    /// Samples.
    pub samples: SampleLedger,
    /// Documents.
    pub documents: DocumentLedger,
    /// Packs of each split, by the split's name.
    pub statistics: BTreeMap<String, PackStatistics>,
    /// Licences of the kept samples with their numbers.
    pub licenses: BTreeMap<String, u64>,
}
