//! Listing of some ids of a version, to begin with.

use std::collections::BTreeSet;
use std::ops::ControlFlow;

use cm3flow_schemas::document::Neighbour;
use cm3flow_schemas::sample::{Annotations, Split};
use cm3flow_schemas::{DocumentId, ImageId, SampleId, columns};
use serde::{Deserialize, Serialize};

use super::Inspector;
use super::document::DOCUMENTS;
use super::pack::pack_name;
use super::withdrawn::is_document_withdrawn;
use crate::catalog::refused;
use crate::catalog::refused::RefusedSample;
use crate::catalog::units::Table;
use crate::error::Result;

/// Documents that are searched for one of each task, at most.
const DOCUMENTS_SEEN: usize = 200_000;

/// Some samples, documents and packs of a version.
#[derive(Debug, Clone, Serialize)]
pub struct Listing {
    /// Number of the version.
    pub version: u32,
    /// First samples.
    pub samples: Vec<ListedSample>,
    /// First document of each task.
    pub documents: Vec<ListedDocument>,
    /// Packs of each split.
    pub packs: Vec<ListedPacks>,
    /// First refused samples.
    pub refused: Vec<RefusedSample>,
}

/// A sample in a listing.
#[derive(Debug, Clone, Serialize)]
pub struct ListedSample {
    /// Id of the sample.
    pub sample_id: SampleId,
    /// Key in its source.
    pub key: String,
    /// First caption; empty without captions.
    pub caption: String,
}

/// A document in a listing.
#[derive(Debug, Clone, Serialize)]
pub struct ListedDocument {
    /// Id of the document.
    pub document_id: DocumentId,
    /// Sample that it was made of.
    pub sample_id: SampleId,
    /// Task that made it.
    pub task: String,
}

/// Packs of a split in a listing.
#[derive(Debug, Clone, Serialize)]
pub struct ListedPacks {
    /// Split of the packs.
    pub split: Split,
    /// Number of packs.
    pub packs: u64,
    /// Name of the first pack; none without packs.
    pub first: Option<String>,
    /// Name of the last pack; none without packs.
    pub last: Option<String>,
}

impl Inspector {
    /// Lists the first ids of the version: at most `count` samples, and a document of each task.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn listing(&self, count: usize) -> Result<Listing> {
        let packs = |split: Split| {
            let packs: u64 = self.shards(split).map(|(_, shard)| shard.packs).sum();
            let name = |index| pack_name(split, index);
            ListedPacks { split, packs, first: (packs > 0).then(|| name(0)), last: packs.checked_sub(1).map(name) }
        };
        Ok(Listing {
            version: self.manifest.version,
            samples: self.first_samples(count).await?,
            documents: self.first_documents().await?,
            packs: Split::ALL.map(packs).into(),
            refused: refused::list(&self.job.store, &self.windows, count).await?,
        })
    }

    async fn first_samples(&self, count: usize) -> Result<Vec<ListedSample>> {
        #[derive(Deserialize)]
        struct Row {
            sample_id: SampleId,
            image_id: ImageId,
            key: String,
            annotations: Annotations,
        }
        let mut samples = Vec::new();
        let visit = |_, Row { sample_id, image_id, key, annotations }| {
            if samples.len() == count {
                return ControlFlow::Break(());
            }
            if self.blocked.contains(sample_id, image_id) {
                return ControlFlow::Continue(());
            }
            let caption = annotations.captions.into_iter().next().unwrap_or_default();
            samples.push(ListedSample { sample_id, key, caption });
            ControlFlow::Continue(())
        };
        let names = [columns::SAMPLE_ID, columns::IMAGE_ID, columns::KEY, columns::ANNOTATIONS];
        self.tables().visit(Table::Prepared, self.all(), &names, visit).await?;
        Ok(samples)
    }

    async fn first_documents(&self) -> Result<Vec<ListedDocument>> {
        #[derive(Deserialize)]
        struct Row {
            document_id: DocumentId,
            sample_id: SampleId,
            task: String,
            retrieved: Vec<Neighbour>,
        }
        let tasks: BTreeSet<&String> = self.manifest.statistics.values().flat_map(|split| split.tasks.keys()).collect();
        let mut documents: Vec<ListedDocument> = Vec::new();
        let mut seen = 0;
        let visit = |_, Row { document_id, sample_id, task, retrieved }: Row| {
            let is_there = !is_document_withdrawn(&self.blocked, sample_id, &retrieved);
            if is_there && !documents.iter().any(|listed| listed.task == task) {
                documents.push(ListedDocument { document_id, sample_id, task });
            }
            seen += 1;
            let is_enough = documents.len() == tasks.len() || seen == DOCUMENTS_SEEN;
            if is_enough { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        };
        let names = [columns::DOCUMENT_ID, columns::SAMPLE_ID, columns::TASK, columns::RETRIEVED];
        self.tables().visit(DOCUMENTS, self.all(), &names, visit).await?;
        Ok(documents)
    }
}
