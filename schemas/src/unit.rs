//! Units: the unit of work, resume and distribution, named by what it is made of.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::canonical;
use crate::digest::Digest;
use crate::ledger::{DocumentLedger, SampleLedger};
use crate::pack::{PackStatistics, ShardEntry};

/// A segment of the flow: consecutive stages that run in one process and commit together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SegmentName {
    /// `ingest` to `embed`, per unit.
    Prepare,
    /// `split`, `dedup`, `index`, per window.
    Settle,
    /// `retrieve` to `mask`, per unit.
    Compose,
    /// `shuffle` to `shard`, per bucket and split.
    Pack,
}

impl SegmentName {
    /// All segments, in order of the flow.
    pub const ALL: [Self; 4] = [Self::Prepare, Self::Settle, Self::Compose, Self::Pack];

    /// Name in paths, events and errors.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Prepare => "prepare",
            Self::Settle => "settle",
            Self::Compose => "compose",
            Self::Pack => "pack",
        }
    }
}

/// What makes floating-point results equal to the bit: machines that agree on all of it give the same codes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NumericsClass {
    /// `cpu`, or `cuda` with the name of the GPU.
    pub device: String,
    /// Element type of the computation, as PyTorch names it.
    pub dtype: String,
    /// Fixed number of images that are encoded together.
    pub batch_size: u32,
    /// libtorch's version.
    pub libtorch: String,
    /// Threads of one operation.
    pub threads: u32,
    /// Widest instruction set that libtorch uses on this processor, and MKL's matrix products where they are not those for AVX2: as the user chose
    /// them by `MKL_CBWR`, or as MKL took them on a processor that it has no AVX2 branch for.
    pub cpu_capability: String,
}

impl fmt::Display for NumericsClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { device, dtype, batch_size, libtorch, threads, cpu_capability } = self;
        write!(f, "{device}, {dtype}, batches of {batch_size}, libtorch {libtorch}, {threads} threads, {cpu_capability}")
    }
}

/// Everything that a unit's output depends on; its canonical digest is the unit's key.
#[derive(Debug, Serialize)]
pub struct KeyParts<'a, C: Serialize> {
    /// The segment.
    pub segment: SegmentName,
    /// Its stages with the revisions of their code, in order.
    pub stages: &'a [(&'static str, u32)],
    /// Output-changing configuration of these stages.
    pub config: &'a C,
    /// Keys of the inputs, in order.
    pub inputs: &'a [Digest],
    /// Digests of weights and fitted artefacts, in order.
    pub artefacts: &'a [Digest],
    /// The dataset's seed.
    pub seed: u64,
    /// Numerics class, for segments that compute with tensors.
    pub numerics: Option<&'a NumericsClass>,
}

impl<C: Serialize> KeyParts<'_, C> {
    /// The unit's key.
    #[must_use]
    pub fn key(&self) -> Digest {
        canonical::digest_of("unit", self)
    }
}

/// A file of a unit, stored under its own digest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UnitFile {
    /// Digest of its bytes.
    pub digest: Digest,
    /// Its size.
    pub bytes: u64,
    /// Rows that it holds.
    pub rows: u64,
}

/// `unit.json`: makes a unit's files visible. Holds no time, host or attempt, so that every attempt writes the same.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UnitRecord {
    /// Version of this format, 1.
    pub format_version: u32,
    /// Segment that made it.
    pub segment: SegmentName,
    /// The unit's key.
    pub key: Digest,
    /// Files by the names of what they hold.
    pub files: BTreeMap<String, UnitFile>,
    /// Samples, where the segment decides about samples.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub samples: Option<SampleLedger>,
    /// Documents, where the segment decides about documents.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub documents: Option<DocumentLedger>,
    /// Shards, of a pack unit.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub shards: Vec<ShardEntry>,
    /// Counts of a pack unit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub statistics: Option<PackStatistics>,
    /// Licences of the kept samples with their numbers, of a settle unit.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub licenses: BTreeMap<String, u64>,
    /// What the kept samples have that documents can be made of, by the names that templates use, of a settle unit.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub contents: BTreeMap<String, u64>,
}

impl UnitRecord {
    /// An empty record of this format.
    #[must_use]
    pub fn new(segment: SegmentName, key: Digest) -> Self {
        let files = BTreeMap::new();
        Self {
            format_version: 1,
            segment,
            key,
            files,
            samples: None,
            documents: None,
            shards: vec![],
            statistics: None,
            licenses: BTreeMap::new(),
            contents: BTreeMap::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_changes_the_key() {
        let config = serde_json::json!({"side_px": 128});
        let inputs = [Digest::of(b"tar")];
        let base = KeyParts {
            segment: SegmentName::Prepare,
            stages: &[("ingest", 1)],
            config: &config,
            inputs: &inputs,
            artefacts: &[],
            seed: 1,
            numerics: None,
        };
        let other_config = serde_json::json!({"side_px": 256});
        let keys = [
            base.key(),
            KeyParts { segment: SegmentName::Settle, ..base }.key(),
            KeyParts { stages: &[("ingest", 2)], ..base }.key(),
            KeyParts { config: &other_config, ..base }.key(),
            KeyParts { inputs: &[], ..base }.key(),
            KeyParts { artefacts: &inputs, ..base }.key(),
            KeyParts { seed: 2, ..base }.key(),
        ];
        let distinct: std::collections::BTreeSet<_> = keys.iter().collect();
        assert_eq!(distinct.len(), keys.len());
    }
}
