//! Inspection of a sample by its id: its origin, its state, and the documents that hold it.

use std::collections::{BTreeSet, HashSet};
use std::ops::ControlFlow;

use cm3flow_schemas::document::{ImageCodes, Neighbour, Segment};
use cm3flow_schemas::sample::{Annotations, Refusal, RoleCodes, Split};
use cm3flow_schemas::{DocumentId, ImageId, RoleGrid, SampleId, columns};
use serde::{Deserialize, Serialize};

use super::document::{DOCUMENTS, REFUSED_DOCUMENTS, RefusedDocument};
use super::find::Prefix;
use super::withdrawn::is_document_withdrawn;
use super::{Inspector, PackPlace, Picture, pictures};
use crate::catalog::refused::RefusedRow;
use crate::catalog::units::{Table, UnitPlace};
use crate::error::Result;

const PREPARED: Table = Table::Prepared;
const REFUSED: Table = Table::RefusedSamples;
const SETTLED: Table = Table::Settled;

/// A sample with its origin, images and documents.
#[derive(Debug, Clone, Serialize)]
pub struct SampleView {
    /// Number of the version.
    pub version: u32,
    /// Id of the sample.
    pub sample_id: SampleId,
    /// Id of its main image; none for a refused sample.
    pub image_id: Option<ImageId>,
    /// Split of the sample; none for a refused one.
    pub split: Option<Split>,
    /// Places in the sources; several if they hold it several times.
    pub places: Vec<SamplePlace>,
    /// Captions and other annotations; not stored for a refused sample.
    pub annotations: Option<Annotations>,
    /// Width of the main image before fitting, in pixels.
    pub width: Option<u32>,
    /// Height of the main image before fitting, in pixels.
    pub height: Option<u32>,
    /// Decoded images.
    pub images: Vec<Picture>,
    /// Documents made of the sample.
    pub documents: Vec<DocumentSummary>,
    /// Documents that retrieved the sample.
    pub retrieved_by: Vec<DocumentId>,
}

/// A place of a sample in the sources.
#[derive(Debug, Clone, Serialize)]
pub struct SamplePlace {
    /// Source by its name in the configuration.
    pub source: String,
    /// File of the source.
    pub file: String,
    /// Row in the file, from 0.
    pub row: u64,
    /// Key in the source.
    pub key: String,
    /// Window that read it.
    pub window: usize,
    /// Index of its unit in the window.
    pub unit: usize,
    /// State of this row.
    #[serde(flatten)]
    pub state: SampleState,
}

/// State of a sample in a version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum SampleState {
    /// Documents were made of it.
    Kept,
    /// Another sample stands for it.
    Duplicate {
        /// The kept sample; the same id if the sources hold the sample twice.
        duplicate_of: SampleId,
    },
    /// A stage refused it.
    Refused(Refusal),
    /// It was withdrawn; its content is not shown.
    Withdrawn {
        /// First version without it.
        withdrawn_in: u32,
    },
}

/// A document of a sample, in short.
#[derive(Debug, Clone, Serialize)]
pub struct DocumentSummary {
    /// Id of the document.
    pub document_id: DocumentId,
    /// Task that made it.
    pub task: String,
    /// Number of tokens.
    pub tokens: u32,
    /// Number of masked spans.
    pub spans: u16,
    /// Samples that it retrieved.
    pub retrieved: Vec<Neighbour>,
    /// Place in a pack; none for a refused document.
    #[serde(flatten)]
    pub place: Option<PackPlace>,
    /// Reason of refusal; none for a packed document.
    pub refusal: Option<Refusal>,
}

#[derive(Debug, Clone, Deserialize)]
struct SettledRow {
    sample_id: SampleId,
    image_id: ImageId,
    unit: u32,
    split: Split,
    duplicate_of: Option<SampleId>,
}

#[derive(Debug, Deserialize)]
struct PreparedRow {
    sample_id: SampleId,
    image_id: ImageId,
    source: String,
    key: String,
    row: u64,
    annotations: Annotations,
    width: u32,
    height: u32,
    image_codes: Vec<RoleCodes>,
    #[serde(default)]
    image_grids: Vec<RoleGrid>,
}

impl PreparedRow {
    /// Returns file names, roles and codes of its images.
    fn images(&self) -> Vec<(String, String, ImageCodes)> {
        let image = |image: &RoleCodes| {
            let grid = RoleGrid::of(&self.image_grids, &image.role);
            (image.role.clone(), image.role.clone(), ImageCodes { codes: image.codes.clone(), grid })
        };
        self.image_codes.iter().map(image).collect()
    }

    const COLUMNS: [&str; 9] = [
        columns::SAMPLE_ID,
        columns::IMAGE_ID,
        columns::SOURCE,
        columns::KEY,
        columns::ROW,
        columns::ANNOTATIONS,
        columns::WIDTH,
        columns::HEIGHT,
        columns::IMAGE_CODES,
    ];
}

/// Matches of a search so far.
#[derive(Default)]
struct Matches {
    ids: BTreeSet<SampleId>,
    settled: Vec<(UnitPlace, SettledRow)>,
    refused: Vec<(UnitPlace, RefusedRow)>,
}

impl Inspector {
    /// Shows the sample whose id is or begins with `id`.
    ///
    /// # Errors
    /// [`crate::PipelineError::NoId`], [`crate::PipelineError::UnknownId`], [`crate::PipelineError::AmbiguousId`], or those of the
    /// store and the models.
    pub async fn sample(&self, id: &str) -> Result<SampleView> {
        let prefix = Prefix::try_new("sample", id)?;
        let Matches { ids, settled, refused } = self.matches(&prefix).await?;
        let sample_id = prefix.one(&ids, self.manifest.version, "")?;
        let mut view = SampleView {
            version: self.manifest.version,
            sample_id,
            image_id: None,
            split: settled.first().map(|(_, row)| row.split),
            places: Vec::new(),
            annotations: None,
            width: None,
            height: None,
            images: Vec::new(),
            documents: Vec::new(),
            retrieved_by: Vec::new(),
        };
        for (place, row) in refused {
            let refusal = Refusal { stage: row.stage, reason: row.reason, detail: row.detail };
            view.places.push(self.place(place, row.source, row.key, row.row, SampleState::Refused(refusal)));
        }
        if let Some(withdrawn_in) = self.withdrawn_in(sample_id, settled.first().map(|(_, row)| row.image_id)).await? {
            view.split = None;
            drop(self.prepared(sample_id, &settled, &mut view.places).await?);
            for place in view.places.iter_mut().filter(|place| !matches!(place.state, SampleState::Refused(_))) {
                place.state = SampleState::Withdrawn { withdrawn_in };
            }
            return Ok(view);
        }
        let mut images = Vec::new();
        for (place, is_kept, row) in self.prepared(sample_id, &settled, &mut view.places).await? {
            if is_kept || view.annotations.is_none() {
                images = row.images();
                view.image_id = Some(row.image_id);
                view.annotations = Some(row.annotations);
                (view.width, view.height) = (Some(row.width), Some(row.height));
            }
            if is_kept {
                view.documents = self.documents_of(sample_id, place).await?;
                view.retrieved_by = self.retrieved_by(sample_id, place.window).await?;
            }
        }
        if !images.is_empty() {
            view.images = pictures(&self.artefacts().await?, images).await?;
        }
        Ok(view)
    }

    async fn matches(&self, prefix: &Prefix) -> Result<Matches> {
        let mut matches = Matches::default();
        let go_on = |ids: &BTreeSet<SampleId>| if prefix.is_hopeless(ids) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) };
        let names = [columns::SAMPLE_ID, columns::IMAGE_ID, columns::UNIT, columns::SPLIT, columns::DUPLICATE_OF];
        let visit = |place, row: SettledRow| {
            if prefix.begins(&row.sample_id.0) {
                matches.ids.insert(row.sample_id);
                // A window is settled as a whole; the row names the unit that holds the sample.
                matches.settled.push((UnitPlace { unit: row.unit as usize, ..place }, row));
            }
            go_on(&matches.ids)
        };
        self.tables().visit(SETTLED, self.all(), &names, visit).await?;
        let names = [columns::SAMPLE_ID, columns::SOURCE, columns::KEY, columns::ROW, "stage", "reason", "detail"];
        let visit = |place, row: RefusedRow| {
            if prefix.begins(&row.sample_id.0) {
                matches.ids.insert(row.sample_id);
                matches.refused.push((place, row));
            }
            go_on(&matches.ids)
        };
        self.tables().visit(REFUSED, self.all(), &names, visit).await?;
        Ok(matches)
    }

    /// Reads the prepared rows of a sample with their places; the flag marks the kept one. Adds to `places`.
    async fn prepared(
        &self,
        sample: SampleId,
        settled: &[(UnitPlace, SettledRow)],
        places: &mut Vec<SamplePlace>,
    ) -> Result<Vec<(UnitPlace, bool, PreparedRow)>> {
        let mut found = Vec::new();
        let mut decisions = settled.iter().peekable();
        while let Some(&&(place, _)) = decisions.peek() {
            // Prepared and settled rows of a unit stand in the same order.
            let names = columns::with_image_grids(&PreparedRow::COLUMNS, self.manifest.vocabulary.shapes.is_some());
            let rows = self.tables().wanted(PREPARED, place, &names, |row: &PreparedRow| row.sample_id == sample).await?;
            for row in rows {
                let Some((_, decided)) = decisions.next_if(|(of, _)| *of == place) else { break };
                let state = decided.duplicate_of.map_or(SampleState::Kept, |duplicate_of| SampleState::Duplicate { duplicate_of });
                let is_kept = state == SampleState::Kept;
                places.push(self.place(place, row.source.clone(), row.key.clone(), row.row, state));
                found.push((place, is_kept, row));
            }
            while decisions.next_if(|(of, _)| *of == place).is_some() {}
        }
        Ok(found)
    }

    fn place(&self, UnitPlace { window, unit }: UnitPlace, source: String, key: String, row: u64, state: SampleState) -> SamplePlace {
        let read = self.windows[window].units.get(unit);
        let file = read.map_or_else(String::new, |read| read.file.clone());
        // In a unit of single rows, the file's own row numbers apply.
        let row = read.map_or(row, |read| read.only.get(row as usize).copied().unwrap_or(read.first_row + row));
        SamplePlace { source, file, row, key, window, unit, state }
    }

    async fn documents_of(&self, sample: SampleId, place: UnitPlace) -> Result<Vec<DocumentSummary>> {
        #[derive(Deserialize)]
        struct Row {
            document_id: DocumentId,
            sample_id: SampleId,
            task: String,
            segments: Vec<Segment>,
            retrieved: Vec<Neighbour>,
            spans: u16,
        }
        let names = [columns::DOCUMENT_ID, columns::SAMPLE_ID, columns::TASK, columns::SEGMENTS, columns::RETRIEVED, columns::SPANS];
        let mut documents = Vec::new();
        let visit = |row: Row| {
            if row.sample_id == sample && !is_document_withdrawn(&self.blocked, sample, &row.retrieved) {
                let Row { document_id, task, retrieved, spans, .. } = row;
                let tokens = row.segments.iter().map(|segment| segment.len).sum();
                documents.push(DocumentSummary { document_id, task, tokens, spans, retrieved, place: None, refusal: None });
            }
            ControlFlow::Continue(())
        };
        let _ = self.tables().visit_unit(DOCUMENTS, place, &names, visit).await?;
        let ids: HashSet<DocumentId> = documents.iter().map(|document| document.document_id).collect();
        let mut packs = self.packs_of(place.window, &ids).await?;
        documents.iter_mut().for_each(|document| document.place = packs.remove(&document.document_id));
        let visit = |row: RefusedDocument| {
            if row.sample_id == sample {
                let (document_id, task) = (row.document_id, row.task.clone());
                let refusal = Some(row.refusal());
                documents.push(DocumentSummary { document_id, task, tokens: 0, spans: 0, retrieved: Vec::new(), place: None, refusal });
            }
            ControlFlow::Continue(())
        };
        let _ = self.tables().visit_unit(REFUSED_DOCUMENTS, place, &RefusedDocument::COLUMNS, visit).await?;
        Ok(documents)
    }

    /// Finds the documents that retrieved a sample of `window`: only its own and later windows can hold some.
    async fn retrieved_by(&self, sample: SampleId, window: usize) -> Result<Vec<DocumentId>> {
        #[derive(Deserialize)]
        struct Row {
            document_id: DocumentId,
            sample_id: SampleId,
            retrieved: Vec<Neighbour>,
        }
        let mut documents = Vec::new();
        let visit = |_, row: Row| {
            let is_there = !is_document_withdrawn(&self.blocked, row.sample_id, &row.retrieved);
            if is_there && row.retrieved.iter().any(|neighbour| neighbour.sample_id == sample) {
                documents.push(row.document_id);
            }
            ControlFlow::Continue(())
        };
        let names = [columns::DOCUMENT_ID, columns::SAMPLE_ID, columns::RETRIEVED];
        self.tables().visit(DOCUMENTS, window..self.windows.len(), &names, visit).await?;
        Ok(documents)
    }
}
