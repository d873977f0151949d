//! Windows: runs of units that are checked and committed as a whole; from then on a follower may read their shards.

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
    /// Source units that it was made of.
    pub units: Vec<SourceUnit>,
    /// Keys of the units that were made of it.
    pub keys: WindowKeys,
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
