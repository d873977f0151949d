//! Configuration of sources.

use std::collections::BTreeSet;
use std::ops::RangeFrom;

use cm3flow_schemas::limits::{problem, within};
use cm3flow_schemas::sample::Orientation;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::location::Location;
use super::rows::RowReading;

const UNIT_SAMPLES: RangeFrom<u32> = 1..;
const MAX_MEMBER_BYTES: RangeFrom<u64> = 1..;

/// `[[source]]`: a place that samples come from, one section for each.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SourceConfig {
    /// Name of the source in tables and reports: letters, digits, `-` and `_`. No two sources have the same.
    pub name: String,
    /// Layout of the samples.
    pub format: SourceFormat,
    /// Address of the file or folder: a path from the configuration's folder, or a URL (`s3://`, `gs://`, `az://`, `https://`, `file://`). The
    /// last part may contain `*` and `?`.
    pub url: String,
    /// Number of samples in a unit, the unit of work and resume. Units that a version already has keep their size.
    #[serde(default = "default_unit_samples")]
    #[schemars(transform = within(UNIT_SAMPLES))]
    pub unit_samples: u32,
    /// Rows that make a sample, in a list.
    #[serde(default)]
    pub group_by: GroupBy,
    /// Largest size in bytes of a tar's member or of a file that a row names. Larger ones are not read, and are refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(transform = within(MAX_MEMBER_BYTES), extend("x-default" = "`filter.max_image_bytes`"))]
    pub max_member_bytes: Option<u64>,
    /// Frame of coordinates for pictures whose EXIF orientation is not upright.
    #[serde(default)]
    pub orientation: Orientation,
}

const fn default_unit_samples() -> u32 {
    256
}

/// Rows of a list that make a sample.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum GroupBy {
    /// All consecutive rows that name the same image.
    #[default]
    Image,
    /// Every row by itself.
    Row,
}

/// Settings for reading a source's rows: its own, and those derived from the rest of the configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReadOptions {
    /// `true` if consecutive rows of a list that name one image are one sample.
    pub by_image: bool,
    /// Largest size in bytes of a tar's member or of a file that a row names.
    pub max_member_bytes: u64,
    /// Roles of images that are needed, beside the main one and those that annotations name. Other pictures of a tar are left out.
    pub roles: BTreeSet<String>,
}

impl ReadOptions {
    /// Returns the settings for `source`, with the needed `roles` and a limit of `max_image_bytes`.
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
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum SourceFormat {
    /// Tars with members `KEY.jpg`, `KEY.json`, `KEY.txt`, … side by side.
    WebDataset,
    /// A file of one JSON object a line, with annotations and `image`: a path relative to the file's folder, or one that begins with `/`.
    Jsonl,
    /// A folder of images, each with `NAME.txt` (one caption a line) or `NAME.json` (annotations) beside it.
    Folder,
}

/// Settings of a source that change its rows, and so belong to the keys of everything made of them. Defaults are not serialized, so a new
/// setting changes no key.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RowSettings {
    /// Rows that make a sample, as [`SourceConfig::group_by`].
    #[serde(skip_serializing_if = "is_default")]
    pub group_by: GroupBy,
    /// Size limit, as [`SourceConfig::max_member_bytes`].
    #[serde(skip_serializing_if = "is_default")]
    pub max_member_bytes: Option<u64>,
    /// Frame of coordinates, as [`SourceConfig::orientation`].
    #[serde(skip_serializing_if = "is_default")]
    pub orientation: Orientation,
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

impl RowSettings {
    /// Checks whether every setting has its default.
    #[must_use]
    pub fn is_default(&self) -> bool {
        is_default(self)
    }
}

impl SourceConfig {
    /// Returns the settings that change the source's rows.
    #[must_use]
    pub const fn row_settings(&self) -> RowSettings {
        RowSettings { group_by: self.group_by, max_member_bytes: self.max_member_bytes, orientation: self.orientation }
    }

    /// Replaces the settings that change the source's rows.
    #[must_use]
    pub fn with_row_settings(self, RowSettings { group_by, max_member_bytes, orientation }: RowSettings) -> Self {
        Self { group_by, max_member_bytes, orientation, ..self }
    }

    /// Returns the problems of the fields, each with the field's path below `at`.
    #[must_use]
    pub fn problems(&self, at: &str) -> Vec<String> {
        let mut problems = Vec::new();
        if self.name.is_empty() || !self.name.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_') {
            problems.push(format!("{at}.name must consist of letters, digits, - and _, got {:?}", self.name));
        }
        if self.url.is_empty() {
            problems.push(format!("{at}.url must not be empty"));
        }
        problems.extend(self.max_member_bytes.and_then(|bytes| problem(&format!("{at}.max_member_bytes"), bytes, &MAX_MEMBER_BYTES)));
        problems.extend(problem(&format!("{at}.unit_samples"), self.unit_samples, &UNIT_SAMPLES));
        problems
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_of_rows_are_written_without_their_defaults() {
        assert!(RowSettings::default().is_default());
        assert_eq!(serde_json::to_string(&RowSettings::default()).expect("plain data"), "{}");
        let upright = RowSettings { orientation: Orientation::Upright, ..RowSettings::default() };
        assert!(!upright.is_default());
        assert_eq!(serde_json::to_string(&upright).expect("plain data"), r#"{"orientation":"upright"}"#);
        assert_eq!(serde_json::from_str::<RowSettings>(r#"{"orientation":"upright"}"#).expect("its own"), upright);
        assert!(serde_json::from_str::<RowSettings>(r#"{"orientation":"sideways"}"#).is_err());
    }

    #[test]
    fn a_source_gives_its_row_settings_and_takes_them_back() {
        let source: SourceConfig =
            serde_json::from_str(r#"{"name": "a", "format": "folder", "url": "a", "orientation": "upright"}"#).expect("a source");
        assert_eq!(source.row_settings(), RowSettings { orientation: Orientation::Upright, ..RowSettings::default() });
        let plain = source.clone().with_row_settings(RowSettings::default());
        assert_eq!((plain.row_settings().is_default(), plain.with_row_settings(source.row_settings())), (true, source));
    }
}
