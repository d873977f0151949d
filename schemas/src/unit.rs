//! Units of work, resume and distribution; each has a key derived from all its inputs.

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

    /// Returns the name in paths, events and errors.
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

/// Everything that decides floating-point results to the bit. Machines that agree on all of it compute the same codes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NumericsClass {
    /// `cpu`, or `cuda` with the name of the GPU.
    pub device: String,
    /// Element type of the computation, as PyTorch names it.
    pub dtype: String,
    /// Number of images that are encoded together.
    pub batch_size: u32,
    /// Version of libtorch.
    pub libtorch: String,
    /// Number of threads of one operation.
    pub threads: u32,
    /// Widest instruction set that libtorch uses on this processor. MKL's matrix products are appended where they are not those for AVX2:
    /// because the user set `MKL_CBWR`, or because MKL has no AVX2 branch for the processor.
    pub cpu_capability: String,
}

impl fmt::Display for NumericsClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { device, dtype, batch_size, libtorch, threads, cpu_capability } = self;
        write!(f, "{device}, {dtype}, batches of {batch_size}, libtorch {libtorch}, {threads} threads, {cpu_capability}")
    }
}

/// Everything that a unit's output depends on; the canonical digest of it is the unit's key.
#[derive(Debug, Serialize)]
pub struct KeyParts<'a, C: Serialize> {
    /// Segment that makes the unit.
    pub segment: SegmentName,
    /// Stages of the segment with the revisions of their code, in order.
    pub stages: &'a [(&'static str, u32)],
    /// Configuration of these stages, as far as it changes the output.
    pub config: &'a C,
    /// Keys of the inputs, in order.
    pub inputs: &'a [Digest],
    /// Digests of weights and fitted artefacts, in order.
    pub artefacts: &'a [Digest],
    /// Seed of the dataset.
    pub seed: u64,
    /// Numerics class; `None` for segments without tensor computations.
    pub numerics: Option<&'a NumericsClass>,
}

impl<C: Serialize> KeyParts<'_, C> {
    /// Returns the key.
    #[must_use]
    pub fn key(&self) -> Digest {
        canonical::digest_of("unit", self)
    }
}

/// A file of a unit, stored under its own digest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UnitFile {
    /// Digest of the content.
    pub digest: Digest,
    /// Size of the file.
    pub bytes: u64,
    /// Number of rows.
    pub rows: u64,
}

/// Content of `unit.json`, which makes a unit's files visible. It has no time, host or attempt, so every attempt writes the same bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UnitRecord {
    /// Version of this format, 1.
    pub format_version: u32,
    /// Segment that made the unit.
    pub segment: SegmentName,
    /// Key of the unit.
    pub key: Digest,
    /// Files, by the names of their contents.
    pub files: BTreeMap<String, UnitFile>,
    /// Counts of samples, where the segment decides about samples.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub samples: Option<SampleLedger>,
    /// Counts of documents, where the segment decides about documents.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub documents: Option<DocumentLedger>,
    /// Shards; only for a pack unit.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub shards: Vec<ShardEntry>,
    /// Counts of packs; only for a pack unit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub statistics: Option<PackStatistics>,
    /// Number of kept samples for each licence; only for a settle unit.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub licenses: BTreeMap<String, u64>,
    /// Number of kept samples for each content, by the names that templates use; only for a settle unit.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub contents: BTreeMap<String, u64>,
}

impl UnitRecord {
    /// Returns an empty record of this format.
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
