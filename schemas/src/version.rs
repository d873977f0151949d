//! Versions: immutable manifests of a dataset.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::ledger::{DocumentLedger, SampleLedger};
use crate::pack::PackStatistics;
use crate::preparation::Preparation;
use crate::unit::NumericsClass;
use crate::vocabulary::Vocabulary;

/// Number of codes that a change of settings alters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CodeChange {
    /// Number of codes compared.
    pub codes: u64,
    /// Number of codes that differ.
    pub changed: u64,
}

/// Content of `versions/<dataset>/<n>.json`. It has no time and no place, so equal work gives equal bytes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VersionManifest {
    /// Version of this format, 1.
    pub format_version: u32,
    /// Name of the dataset.
    pub dataset: String,
    /// Number of the version, from 1.
    pub version: u32,
    /// Version whose windows this one begins with; `None` for the first one, and for one that was made anew.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base: Option<u32>,
    /// Digest of the keys of all windows.
    pub plan: Digest,
    /// Digests of the window records, in order.
    pub windows: Vec<Digest>,
    /// Digest of the shard table, a Parquet file.
    pub shard_table: Digest,
    /// Digest of the lineage, a Parquet file: the units of each window.
    pub lineage: Digest,
    /// Digest of the blocklist, a Parquet file beside the shard table: withdrawn ids that may not come back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub blocklist: Option<Digest>,
    /// Number of tokens in a pack.
    pub seq_len: u32,
    /// Meaning of the token ids.
    pub vocabulary: Vocabulary,
    /// Preparation of pictures for the image tokenizer; absent in manifests older than this field.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preparation: Option<Preparation>,
    /// Resolved configuration, as far as it changes the output.
    pub config: serde_json::Value,
    /// Seed of every draw.
    pub seed: u64,
    /// Numerics class of the image codes.
    pub numerics: NumericsClass,
    /// Numbers of image codes that change under another batch size or precision, by `batch_size=N` and `precision=NAME`. They were measured
    /// on a few photos of the sources when the tokenizer was first used. Empty for tokenizers without these settings.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub code_changes: BTreeMap<String, CodeChange>,
    /// Digests of weights and fitted artefacts, by name.
    pub artefacts: BTreeMap<String, Digest>,
    /// Digests of the files in `artefacts/` of fitted artefacts, by the names that they are pinned under. Files that the configuration
    /// names lie elsewhere. Empty in manifests older than this field.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub fitted: BTreeMap<String, Digest>,
    /// Counts of samples, over all windows.
    pub samples: SampleLedger,
    /// Counts of documents, over all windows.
    pub documents: DocumentLedger,
    /// Packs of each split, by the split's name.
    pub statistics: BTreeMap<String, PackStatistics>,
    /// Number of kept samples for each licence.
    pub licenses: BTreeMap<String, u64>,
}
