//! Tags: names for versions. Records `tags/<dataset>/<tag>/<k>.json` are numbered and append-only; the highest wins. A removed tag ends
//! in a record without version.

use cm3flow_schemas::layout;
use serde::{Deserialize, Serialize};

use super::{Catalog, TagName};
use crate::error::{PipelineError, Result};
use crate::store::Created;

/// One record in the history of a tag.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct TagRecord {
    /// Version that the tag names from now on; `None` if the record removes the tag.
    version: Option<u32>,
}

/// A tag with the version that it names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Tag {
    /// Name of the tag.
    pub tag: String,
    /// Version that it names.
    pub version: u32,
}

impl Catalog {
    /// Lists all tags, sorted by name.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn tags(&self) -> Result<Vec<Tag>> {
        let mut tags = Vec::new();
        for name in self.store.names(&layout::tags(&self.dataset)).await? {
            // Other names lie there by accident.
            let Ok(tag) = name.parse::<TagName>() else { continue };
            if let (_, Some(version)) = self.latest_tag(&tag).await? {
                tags.push(Tag { tag: name, version });
            }
        }
        Ok(tags)
    }

    /// Returns the version that `tag` names; `None` without such a tag.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn tagged(&self, tag: &TagName) -> Result<Option<u32>> {
        Ok(self.latest_tag(tag).await?.1)
    }

    /// Makes `tag` name `version` from now on. The version must exist.
    ///
    /// # Errors
    /// [`PipelineError::NoVersion`], or those of the store.
    pub async fn tag(&self, tag: &TagName, version: u32) -> Result<()> {
        self.version(version).await?;
        self.append(tag, Some(version)).await
    }

    /// Removes `tag`; returns the version that it named.
    ///
    /// # Errors
    /// [`PipelineError::NoVersion`] without such a tag, or those of the store.
    pub async fn remove_tag(&self, tag: &TagName) -> Result<u32> {
        let missing = || PipelineError::NoVersion { dataset: self.dataset.clone(), version: tag.to_string() };
        let version = self.tagged(tag).await?.ok_or_else(missing)?;
        self.append(tag, None).await?;
        Ok(version)
    }

    /// Writes the next record, even while another command writes one: the later one wins.
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

    /// Returns the number of the highest record, 0 without any, and the version that it names.
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
