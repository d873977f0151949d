//! Where samples come from.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::location::Location;
use super::rows::RowReading;

/// One `[[source]]` of the configuration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SourceConfig {
    /// Name of the source in tables and reports; unique.
    pub name: String,
    /// How the samples are laid out.
    pub format: SourceFormat,
    /// Address of the file or folder: a path relative to the configuration file, or a URL that `object_store` knows (`s3://`,
    /// `gs://`, `az://`, `https://`, `file://`). The last part may hold `*` and `?`.
    pub url: String,
    /// Samples of a unit, the unit of work and resume; 1 or more. Default 256.
    #[serde(default = "default_unit_samples")]
    pub unit_samples: u32,
    /// What a sample of a list is. Default `image`.
    #[serde(default)]
    pub group_by: GroupBy,
    /// Most bytes of a tar's member or of a file that a row names, 1 or more: larger ones are not read and refused. Default
    /// `filter.max_image_bytes`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_member_bytes: Option<u64>,
}

const fn default_unit_samples() -> u32 {
    256
}

/// What a sample of a list is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum GroupBy {
    /// All rows that follow each other and name one image.
    #[default]
    Image,
    /// Every row.
    Row,
}

/// How the rows of a source are read: its settings, and what the rest of the configuration makes of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReadOptions {
    /// Whether rows of a list that follow each other and name one image are one sample.
    pub by_image: bool,
    /// Most bytes of a tar's member, or of a file that a row names.
    pub max_member_bytes: u64,
    /// Roles of images that something asks for, beside the main one and those that annotations name: other pictures of a tar are left out.
    pub roles: BTreeSet<String>,
}

impl ReadOptions {
    /// How the rows of `source` are read, of which images of these `roles` are wanted and `max_image_bytes` are allowed.
    #[must_use]
    pub fn new(source: &SourceConfig, max_image_bytes: u64, roles: BTreeSet<String>) -> Self {
        let max_member_bytes = source.max_member_bytes.unwrap_or(max_image_bytes);
        Self { by_image: source.group_by == GroupBy::Image, max_member_bytes, roles }
    }

    pub(super) fn row_reading(&self, location: &Location) -> RowReading {
        RowReading { folder: location.folder(), is_disk: location.is_disk, by_image: self.by_image }
    }
}

/// Layout of a source.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SourceFormat {
    /// Tars whose members `KEY.jpg`, `KEY.json`, `KEY.txt`, … stand side by side.
    WebDataset,
    /// A file of one JSON object a line, with `image` (a path from the file's folder, or one that begins with `/`) and annotations.
    Jsonl,
    /// A folder of images, each with `NAME.txt` (a caption a line) or `NAME.json` (annotations) beside it.
    Folder,
}

impl SourceConfig {
    /// Problems of the fields, each with the field's path below `at`.
    #[must_use]
    pub fn problems(&self, at: &str) -> Vec<String> {
        let mut problems = Vec::new();
        if self.name.is_empty() || !self.name.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_') {
            problems.push(format!("{at}.name must consist of letters, digits, - and _, got {:?}", self.name));
        }
        if self.url.is_empty() {
            problems.push(format!("{at}.url must not be empty"));
        }
        if self.max_member_bytes == Some(0) {
            problems.push(format!("{at}.max_member_bytes must be 1 or more, got 0"));
        }
        if self.unit_samples == 0 {
            problems.push(format!("{at}.unit_samples must be 1 or more, got 0"));
        }
        problems
    }
}
