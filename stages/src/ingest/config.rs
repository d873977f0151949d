//! Where samples come from.

use serde::{Deserialize, Serialize};

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
}

const fn default_unit_samples() -> u32 {
    256
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
        if self.unit_samples == 0 {
            problems.push(format!("{at}.unit_samples must be 1 or more, got 0"));
        }
        problems
    }
}
