//! Record of a bundle: a trained model with all that its use takes, in a folder of its own.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::digest::Digest;
use crate::vocabulary::Vocabulary;

/// Name of the record in a bundle.
pub const BUNDLE_FILE: &str = "cm3flow.json";
/// Format of [`Bundle`].
pub const BUNDLE_FORMAT_VERSION: u32 = 1;

/// A bundle, as its `cm3flow.json` says.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Bundle {
    /// Format of the record: 1.
    pub format_version: u32,
    /// Dataset that the model was trained on.
    pub dataset: String,
    /// Key of the training.
    pub training: Digest,
    /// Number of steps.
    pub step: u64,
    /// Meaning of the token ids.
    pub vocabulary: Vocabulary,
    /// Text tokenizer: its file, byte for byte, in its own ids.
    pub text_tokenizer: BundleFile,
    /// Image tokenizer.
    pub image_tokenizer: BundledImageTokenizer,
    /// `[instruct]` of the configuration, every task spelled out under `templates`.
    pub instruct: Value,
    /// `[eval]` of the configuration: defaults of sampling.
    pub sampling: Value,
}

/// An image tokenizer in a bundle.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BundledImageTokenizer {
    /// Digest of the tokenizer: settings and weights.
    pub digest: Digest,
    /// `[tokenize.image]` of the configuration, with paths within the bundle.
    pub config: Value,
    /// Files by their purpose: `codebook` for weights or an encoder, `decoder`; none for codes that sources give.
    pub files: BTreeMap<String, BundleFile>,
}

/// A file of a bundle.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BundleFile {
    /// Path from the folder of the bundle.
    pub path: String,
    /// Digest of its bytes.
    pub digest: Digest,
}
