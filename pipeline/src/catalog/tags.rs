//! Tags: names for versions. `tags/<dataset>/<tag>/<k>.json` are numbered, append-only, and the highest wins; a tag that was removed
//! ends in a record without version.

use cm3flow_schemas::layout;
use serde::{Deserialize, Serialize};

use super::{Catalog, TagName};
use crate::error::{PipelineError, Result};
use crate::store::Created;

/// A record of a tag.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct TagRecord {
    /// Version that the tag names from now on; `None` if it is removed.
    version: Option<u32>,
}

/// A tag with the version that it names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Tag {
    /// Its name.
    pub tag: String,
    /// The version.
    pub version: u32,
}

impl Catalog {
    /// All tags, sorted by name.
    ///
    /// # Errors
    /// What the store says.
    pub async fn tags(&self) -> Result<Vec<Tag>> {
        let mut tags = Vec::new();
        for name in self.store.names(&layout::tags(&self.dataset)).await? {
            // What is no name of ours lies there by accident.
            let Ok(tag) = name.parse::<TagName>() else { continue };
            if let (_, Some(version)) = self.latest_tag(&tag).await? {
                tags.push(Tag { tag: name, version });
            }
        }
        Ok(tags)
    }

    /// Version that `tag` names; `None` if there is no such tag.
    ///
    /// # Errors
    /// What the store says.
    pub async fn tagged(&self, tag: &TagName) -> Result<Option<u32>> {
        Ok(self.latest_tag(tag).await?.1)
    }

    /// Lets `tag` name `version` from now on. The version must be there.
    ///
    /// # Errors
    /// [`PipelineError::NoVersion`], or what the store says.
    pub async fn tag(&self, tag: &TagName, version: u32) -> Result<()> {
        self.version(version).await?;
        self.append(tag, Some(version)).await
    }

    /// Removes `tag`; returns the version that it named.
    ///
    /// # Errors
    /// [`PipelineError::NoVersion`] if there is no such tag, or what the store says.
    pub async fn remove_tag(&self, tag: &TagName) -> Result<u32> {
        let missing = || PipelineError::NoVersion { dataset: self.dataset.clone(), version: tag.to_string() };
        let version = self.tagged(tag).await?.ok_or_else(missing)?;
        self.append(tag, None).await?;
        Ok(version)
    }

    /// Writes the next record, also when another command writes at the same time: the later one wins.
    async fn append(&self, tag: &TagName, version: Option<u32>) -> Result<()> {
        loop {
            let (number, names) = self.latest_tag(tag).await?;
            if names == version && number > 0 {
                return Ok(());
            }
            let path = layout::numbered(&layout::tag(&self.dataset, tag), number + 1);
            if self.store.create_record(&path, &TagRecord { version }).await? != Created::Different {
                return Ok(());
            }
        }
    }

    /// Number of the highest record, 0 without any, and the version that it names.
    async fn latest_tag(&self, tag: &TagName) -> Result<(u32, Option<u32>)> {
        let folder = layout::tag(&self.dataset, tag);
        let Some(number) = layout::highest(&self.store.names(&folder).await?) else { return Ok((0, None)) };
        let record: Option<TagRecord> = self.store.record(&layout::numbered(&folder, number), "tag").await?;
        Ok((number, record.and_then(|record| record.version)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Store;

    async fn two_datasets() -> (Catalog, Catalog) {
        let store = Store::open("memory://", std::path::Path::new("")).expect("memory");
        let catalogs = (Catalog::new(store.clone(), "a"), Catalog::new(store, "b"));
        (catalogs.0, catalogs.1)
    }

    #[tokio::test]
    async fn the_last_record_of_a_tag_wins_and_a_removed_tag_names_nothing() {
        let (catalog, other) = two_datasets().await;
        let good: TagName = "good".parse().expect("a good name");
        for version in [Some(1), Some(2), Some(2)] {
            catalog.append(&good, version).await.expect("memory");
        }
        assert_eq!(catalog.tags().await.expect("memory"), [Tag { tag: "good".into(), version: 2 }]);
        assert_eq!(catalog.store.names("tags/a/good").await.expect("memory"), ["1.json", "2.json"], "nothing is written twice");
        assert_eq!(other.tagged(&good).await.expect("memory"), None, "tags of datasets do not meet");
        assert_eq!(catalog.remove_tag(&good).await.expect("it is there"), 2);
        assert!(catalog.tags().await.expect("memory").is_empty());
        assert!(matches!(catalog.remove_tag(&good).await, Err(PipelineError::NoVersion { .. })));
    }

    #[tokio::test]
    async fn a_version_that_is_not_there_is_not_tagged() {
        let (catalog, _) = two_datasets().await;
        let error = catalog.tag(&"good".parse().expect("a good name"), 3).await.expect_err("nothing is published");
        assert!(matches!(&error, PipelineError::NoVersion { version, .. } if version == "3"), "{error}");
    }
}
