//! Blocked ids of a dataset: withdrawn samples that may not come back. They lie in a table beside the manifests, named by its digest.
//!
//! `withdraw` writes a table with all ids of the version before, and more. Windows that are settled later leave these samples out.

use std::collections::BTreeSet;

use arrow::array::{BooleanArray, RecordBatch};
use cm3flow_schemas::{Digest, ImageId, SampleId, columns, layout, rows};
use serde::{Deserialize, Serialize};

use crate::error::{PipelineError, Result};
use crate::store::{Store, table};

/// Withdrawn ids.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Blocklist {
    /// Blocked samples.
    pub samples: BTreeSet<SampleId>,
    /// Blocked main images: every sample with one of them is blocked.
    pub images: BTreeSet<ImageId>,
}

/// A row of [`columns::blocklist`].
#[derive(Debug, Serialize, Deserialize)]
struct Row {
    kind: String,
    id: String,
}

const SAMPLE: &str = "sample";
const IMAGE: &str = "image";

impl Blocklist {
    /// Checks whether nothing is blocked.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.samples.is_empty() && self.images.is_empty()
    }

    /// Checks whether a sample is blocked by its own id or by its image's.
    #[must_use]
    pub fn contains(&self, sample: SampleId, image: ImageId) -> bool {
        self.samples.contains(&sample) || self.images.contains(&image)
    }

    /// Marks the rows of `batch` that are not blocked. In: columns `sample_id` and `image_id`. Out: one value for each row.
    ///
    /// # Errors
    /// [`PipelineError::Schema`] if a column is missing.
    pub(crate) fn allowed(&self, batch: &RecordBatch) -> Result<BooleanArray> {
        #[derive(Deserialize)]
        struct Ids {
            sample_id: SampleId,
            image_id: ImageId,
        }
        let ids: Vec<Ids> = rows::read(batch, &[columns::SAMPLE_ID, columns::IMAGE_ID])?;
        Ok(ids.iter().map(|row| Some(!self.contains(row.sample_id, row.image_id))).collect())
    }

    /// Returns the rows of `batch` that are not blocked, in order.
    ///
    /// # Errors
    /// As [`Self::allowed`].
    pub(crate) fn without_blocked(&self, batch: RecordBatch) -> Result<RecordBatch> {
        if self.is_empty() { Ok(batch) } else { table::filtered(&batch, &self.allowed(&batch)?) }
    }

    /// Adds all ids of `other`.
    pub fn extend(&mut self, other: &Self) {
        self.samples.extend(&other.samples);
        self.images.extend(&other.images);
    }

    /// Reads the table `digest` of `dataset`; returns an empty list without a digest.
    ///
    /// # Errors
    /// [`PipelineError::Damaged`] if the table is missing or holds another content, or those of the store.
    pub async fn read(store: &Store, dataset: &str, digest: Option<Digest>) -> Result<Self> {
        let Some(digest) = digest else { return Ok(Self::default()) };
        let path = layout::table(dataset, digest);
        let mut blocklist = Self::default();
        for batch in table::read(store.get_checked(&path, digest).await?, &path)? {
            for row in rows::read::<Row>(&batch, &["kind", "id"])? {
                blocklist.insert(&row).map_err(|problem| PipelineError::Damaged { location: path.clone(), problem })?;
            }
        }
        Ok(blocklist)
    }

    /// Writes the ids as a table of `dataset`, each once, sorted; returns the table's digest, `None` if nothing is blocked.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn write(&self, store: &Store, dataset: &str) -> Result<Option<Digest>> {
        if self.is_empty() {
            return Ok(None);
        }
        let images = self.images.iter().map(|id| Row { kind: IMAGE.into(), id: id.to_string() });
        let samples = self.samples.iter().map(|id| Row { kind: SAMPLE.into(), id: id.to_string() });
        let all: Vec<Row> = images.chain(samples).collect();
        let bytes = table::write(&rows::write(&columns::blocklist(), &all)?, "the blocked ids")?;
        let digest = Digest::of(&bytes);
        store.create_content(&layout::table(dataset, digest), bytes).await?;
        Ok(Some(digest))
    }

    fn insert(&mut self, row: &Row) -> std::result::Result<(), String> {
        let is_new = match row.kind.as_str() {
            SAMPLE => self.samples.insert(row.id.parse().map_err(|error| format!("{error}"))?),
            IMAGE => self.images.insert(row.id.parse().map_err(|error| format!("{error}"))?),
            kind => return Err(format!("it blocks a {kind:?}, which is neither a sample nor an image")),
        };
        if is_new { Ok(()) } else { Err(format!("it names {} {} twice", row.kind, row.id)) }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn blocked() -> Blocklist {
        let samples = [3, 1, 2].map(|id| SampleId([id; 16])).into();
        Blocklist { samples, images: [ImageId([9; 16])].into() }
    }

    #[tokio::test]
    async fn a_blocklist_is_read_as_it_was_written() {
        let store = Store::open("memory://", Path::new("")).expect("memory");
        let digest = blocked().write(&store, "d").await.expect("memory");
        assert!(digest.is_some());
        let read = Blocklist::read(&store, "d", digest).await.expect("just written");
        assert_eq!(read, blocked());
        assert_eq!(read.write(&store, "d").await.expect("memory"), digest, "equal lists are one table");
        assert!(read.contains(SampleId([1; 16]), ImageId([1; 16])) && read.contains(SampleId([7; 16]), ImageId([9; 16])));
        assert!(!read.contains(SampleId([9; 16]), ImageId([1; 16])));
    }

    #[tokio::test]
    async fn without_a_table_nothing_is_blocked() {
        let store = Store::open("memory://", Path::new("")).expect("memory");
        assert!(Blocklist::read(&store, "d", None).await.expect("nothing to read").is_empty());
        assert_eq!(Blocklist::default().write(&store, "d").await.expect("nothing to write"), None);
        let missing = Blocklist::read(&store, "d", Some(Digest([7; 32]))).await;
        assert!(matches!(missing, Err(PipelineError::Damaged { .. })), "{missing:?}");
    }

    #[tokio::test]
    async fn a_row_of_another_kind_is_named() {
        let store = Store::open("memory://", Path::new("")).expect("memory");
        let rows = rows::write(&columns::blocklist(), &[Row { kind: "key".into(), id: "00".repeat(16) }]).expect("one row");
        let bytes = table::write(&rows, "test").expect("memory");
        let digest = Digest::of(&bytes);
        store.create_content(&layout::table("d", digest), bytes).await.expect("memory");
        let error = Blocklist::read(&store, "d", Some(digest)).await.expect_err("no such kind");
        assert!(error.to_string().contains("blocks a \"key\""), "{error}");
    }
}
