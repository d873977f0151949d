//! Versions: immutable manifests of what a dataset is.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::ledger::{DocumentLedger, SampleLedger};
use crate::pack::PackStatistics;
use crate::preparation::Preparation;
use crate::unit::NumericsClass;
use crate::vocabulary::Vocabulary;

/// How many codes a change of settings changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CodeChange {
    /// Codes compared.
    pub codes: u64,
    /// Codes that were others.
    pub changed: u64,
}

/// `versions/<dataset>/<n>.json`. Holds no time and no place, so that equal work gives equal bytes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VersionManifest {
    /// Version of this format, 1.
    pub format_version: u32,
    /// Name of the dataset.
    pub dataset: String,
    /// Number of the version, from 1.
    pub version: u32,
    /// Version whose windows this one begins with; none for the first and for one made anew.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base: Option<u32>,
    /// Digest of the keys of all windows.
    pub plan: Digest,
    /// Digests of the window records, in order.
    pub windows: Vec<Digest>,
    /// Digest of the shard table, a Parquet file.
    pub shard_table: Digest,
    /// Digest of the lineage, a Parquet file: which units each window was made of.
    pub lineage: Digest,
    /// Digest of the table of blocked ids (a Parquet file beside the shard table): samples that were withdrawn and may not come back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub blocklist: Option<Digest>,
    /// Tokens of a pack.
    pub seq_len: u32,
    /// What the ids mean.
    pub vocabulary: Vocabulary,
    /// How pictures became what the image tokenizer takes; absent in manifests that were written before it was recorded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preparation: Option<Preparation>,
    /// Output-changing configuration, resolved.
    pub config: serde_json::Value,
    /// Seed of every draw.
    pub seed: u64,
    /// Numerics class of the image codes.
    pub numerics: NumericsClass,
    /// Image codes that would be others under another batch size or precision, by `batch_size=N` and `precision=NAME`, as measured on a few
    /// photos of the sources when the tokenizer was first used. Empty for tokenizers that have neither.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub code_changes: BTreeMap<String, CodeChange>,
    /// Weights and fitted artefacts by name.
    pub artefacts: BTreeMap<String, Digest>,
    /// Digests of the files of fitted artefacts, which lie in `artefacts/`, by the names that they are pinned under. Files that the
    /// configuration names lie elsewhere. Empty in manifests that were written before it was recorded.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub fitted: BTreeMap<String, Digest>,
    /// Samples, over all windows.
    pub samples: SampleLedger,
    /// Documents, over all windows.
    pub documents: DocumentLedger,
    /// Packs of each split, by the split's name.
    pub statistics: BTreeMap<String, PackStatistics>,
    /// Licences of the kept samples with their numbers.
    pub licenses: BTreeMap<String, u64>,
}
