//! Windows: runs of units that are checked and committed as a whole. After the commit a follower may read their shards.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::ledger::{DocumentLedger, SampleLedger};
use crate::pack::{PackStatistics, ShardEntry};
use crate::sample::Split;
use crate::unit::SegmentName;

/// A source unit: consecutive samples of one file.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SourceUnit {
    /// Name of the source in the configuration.
    pub source: String,
    /// Name of the file, for people: the identity of a unit is its content, not its address.
    pub file: String,
    /// Digest of the unit's input: the tar, or the row list with the images that it names.
    pub digest: Digest,
    /// Index in the file of the unit's first sample.
    pub first_row: u64,
    /// Number of samples.
    pub rows: u64,
    /// Rows of the file that make up the unit, ascending; empty if they are the `rows` consecutive ones from `first_row` on. Retried
    /// refused rows are such units.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub only: Vec<u64>,
}

/// A unit that failed repeatedly. Its samples are counted, and nothing else is made of them. A later run tries it again.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct QuarantinedUnit {
    /// Place of the unit in its source.
    pub unit: SourceUnit,
    /// Error message, for people.
    pub problem: String,
}

/// Keys of all units that are made of a window. Records list segments by their names, in the order of the alphabet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WindowKeys {
    /// One for each source unit.
    pub compose: Vec<Digest>,
    /// One for each split, in the order of [`Split::ALL`].
    pub pack: [Digest; Split::ALL.len()],
    /// One for each source unit.
    pub prepare: Vec<Digest>,
    /// One for the window.
    pub settle: [Digest; 1],
}

impl WindowKeys {
    /// Returns the keys of the units of `segment`, in order.
    #[must_use]
    pub fn of(&self, segment: SegmentName) -> &[Digest] {
        match segment {
            SegmentName::Prepare => &self.prepare,
            SegmentName::Settle => &self.settle,
            SegmentName::Compose => &self.compose,
            SegmentName::Pack => &self.pack,
        }
    }

    /// Returns the key of the decisions about the window's samples.
    #[must_use]
    pub const fn settle(&self) -> Digest {
        self.settle[0]
    }

    /// Returns the key of the packs of `split`.
    #[must_use]
    pub fn pack_of(&self, split: Split) -> Digest {
        let place = Split::ALL.iter().position(|found| *found == split).expect("a split is one of all");
        self.pack[place]
    }
}

/// A committed window.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WindowRecord {
    /// Version of this format, 1.
    pub format_version: u32,
    /// Number of the window, from 0.
    pub window: u32,
    /// Source units of the window.
    pub units: Vec<SourceUnit>,
    /// Keys of the units that were made of it.
    pub keys: WindowKeys,
    /// Units of the window that failed, beside those of `units`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub quarantined: Vec<QuarantinedUnit>,
    /// Digest of the blocklist in force when the window was made, if there was one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub blocklist: Option<Digest>,
    /// Shards of the window.
    pub shards: Vec<ShardEntry>,
    /// Counts of samples.
    pub samples: SampleLedger,
    /// Counts of documents.
    pub documents: DocumentLedger,
    /// Packs of each split, by the split's name.
    pub statistics: BTreeMap<String, PackStatistics>,
    /// Number of kept samples for each licence.
    pub licenses: BTreeMap<String, u64>,
}
