//! Inspection of a document by its id.

use std::collections::{BTreeSet, HashSet};
use std::ops::ControlFlow;

use cm3flow_schemas::document::{Document, Neighbour, unmasked};
use cm3flow_schemas::sample::{Refusal, Split};
use cm3flow_schemas::{DocumentId, SampleId, columns};
use serde::{Deserialize, Serialize};

use super::find::Prefix;
use super::withdrawn::is_document_withdrawn;
use super::{Inspector, PackPlace, Picture, SegmentView, images_of, line, pictures};
use crate::artefact::decode::{parts, spelled};
use crate::catalog::units::{DOCUMENT_COLUMNS, Table, UnitPlace};
use crate::error::{PipelineError, Result};

pub(super) const DOCUMENTS: Table = Table::Documents;
pub(super) const REFUSED_DOCUMENTS: Table = Table::RefusedDocuments;

/// A document with its text, images and origin.
#[derive(Debug, Clone, Serialize)]
pub struct DocumentView {
    /// Number of the version.
    pub version: u32,
    /// Id of the document.
    pub document_id: DocumentId,
    /// Sample that it was made of.
    pub sample_id: SampleId,
    /// Source of the sample.
    pub source: Option<String>,
    /// Key of the sample in its source.
    pub key: Option<String>,
    /// Task that made it.
    pub task: String,
    /// Split; none for a refused document.
    pub split: Option<Split>,
    /// Window that it belongs to.
    pub window: usize,
    /// Index of its unit in the window.
    pub unit: usize,
    /// Place in a pack; none for a refused document.
    pub place: Option<PackPlace>,
    /// Reason of refusal; none for a packed document.
    pub refusal: Option<Refusal>,
    /// Number of tokens.
    pub tokens: usize,
    /// Number of masked spans.
    pub spans: u16,
    /// Retrieved samples, in the order of the document.
    pub retrieved: Vec<Neighbour>,
    /// Number of retrieved documents drawn before the length policy.
    pub retrieved_wanted: u16,
    /// Text as the trainer sees it: control tokens by name, images as `[n codes]`.
    pub masked: String,
    /// Text before masking.
    pub unmasked: String,
    /// Segments with their texts.
    pub segments: Vec<SegmentView>,
    /// Decoded images.
    pub images: Vec<Picture>,
    /// Token ids as the trainer sees them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token_ids: Option<Vec<u32>>,
}

/// A row of the table of refused documents.
#[derive(Debug, Deserialize)]
pub(super) struct RefusedDocument {
    pub(super) document_id: DocumentId,
    pub(super) sample_id: SampleId,
    pub(super) task: String,
    stage: String,
    reason: String,
    detail: String,
}

impl RefusedDocument {
    pub(super) const COLUMNS: [&str; 6] = [columns::DOCUMENT_ID, columns::SAMPLE_ID, columns::TASK, "stage", "reason", "detail"];

    pub(super) fn refusal(self) -> Refusal {
        Refusal { stage: self.stage, reason: self.reason, detail: self.detail }
    }
}

impl Inspector {
    /// Shows the document whose id is or begins with `id`.
    ///
    /// # Errors
    /// [`PipelineError::NoId`], [`PipelineError::UnknownId`], [`PipelineError::AmbiguousId`], or those of the store and models.
    pub async fn document(&self, id: &str) -> Result<DocumentView> {
        #[derive(Deserialize)]
        struct Row {
            document_id: DocumentId,
        }
        let prefix = Prefix::try_new("document", id)?;
        let mut ids = BTreeSet::new();
        let mut found = None;
        for table in [DOCUMENTS, REFUSED_DOCUMENTS] {
            let visit = |place, Row { document_id }| {
                if prefix.begins(&document_id.0) {
                    ids.insert(document_id);
                    found = Some((table, place));
                }
                if prefix.is_hopeless(&ids) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            };
            self.tables().visit(table, self.all(), &[columns::DOCUMENT_ID], visit).await?;
        }
        let document_id = prefix.one(&ids, self.manifest.version, "")?;
        let (table, place) = found.ok_or(PipelineError::Lost { what: "the search" })?;
        if table == DOCUMENTS { self.packed(document_id, place).await } else { self.refused(document_id, place).await }
    }

    async fn packed(&self, document_id: DocumentId, place: UnitPlace) -> Result<DocumentView> {
        let rows = self.tables().wanted(DOCUMENTS, place, &DOCUMENT_COLUMNS, |row: &Document| row.document_id == document_id).await?;
        let document = rows.into_iter().next().ok_or(PipelineError::Lost { what: "the search" })?;
        self.check_document(document_id, document.sample_id, &document.retrieved)?;
        let artefacts = self.artefacts().await?;
        let vocabulary = &self.manifest.vocabulary;
        let masked = spelled(&document.tokens, &document.segments, vocabulary, &artefacts.text)?;
        let (whole, whole_segments) = unmasked(&document.tokens, &document.segments, vocabulary);
        let images = images_of(&parts(&document.tokens, &document.segments, vocabulary, &artefacts.text)?, "");
        let (source, key) = self.origin(document.sample_id, place).await?;
        Ok(DocumentView {
            version: self.manifest.version,
            document_id,
            sample_id: document.sample_id,
            source,
            key,
            split: Some(document.split),
            window: place.window,
            unit: place.unit,
            place: self.packs_of(place.window, &HashSet::from([document_id])).await?.remove(&document_id),
            refusal: None,
            tokens: document.tokens.len(),
            spans: document.spans,
            retrieved: document.retrieved,
            retrieved_wanted: document.retrieved_wanted,
            masked: line(&masked),
            unmasked: line(&spelled(&whole, &whole_segments, vocabulary, &artefacts.text)?),
            segments: masked.into_iter().map(|run| SegmentView::new(run, &document.task)).collect(),
            task: document.task,
            images: pictures(&artefacts, images).await?,
            token_ids: Some(document.tokens),
        })
    }

    /// Shows a refused document: only its origin and the reason are stored.
    async fn refused(&self, document_id: DocumentId, place: UnitPlace) -> Result<DocumentView> {
        let is_it = |row: &RefusedDocument| row.document_id == document_id;
        let rows = self.tables().wanted(REFUSED_DOCUMENTS, place, &RefusedDocument::COLUMNS, is_it).await?;
        let row = rows.into_iter().next().ok_or(PipelineError::Lost { what: "the search" })?;
        self.check_document(document_id, row.sample_id, &[])?;
        let (source, key) = self.origin(row.sample_id, place).await?;
        Ok(DocumentView {
            version: self.manifest.version,
            document_id,
            sample_id: row.sample_id,
            source,
            key,
            task: row.task.clone(),
            split: None,
            window: place.window,
            unit: place.unit,
            place: None,
            refusal: Some(row.refusal()),
            tokens: 0,
            spans: 0,
            retrieved: Vec::new(),
            retrieved_wanted: 0,
            masked: String::new(),
            unmasked: String::new(),
            segments: Vec::new(),
            images: Vec::new(),
            token_ids: None,
        })
    }

    /// Checks that a document was not withdrawn.
    fn check_document(&self, document: DocumentId, sample: SampleId, retrieved: &[Neighbour]) -> Result<()> {
        if !is_document_withdrawn(&self.blocked, sample, retrieved) {
            return Ok(());
        }
        let hint = " any more: it was withdrawn".to_owned();
        Err(PipelineError::UnknownId { kind: "document", id: document.to_string(), version: self.manifest.version, hint })
    }

    /// Returns source and key of a sample in a unit.
    async fn origin(&self, sample: SampleId, place: UnitPlace) -> Result<(Option<String>, Option<String>)> {
        #[derive(Deserialize)]
        struct Row {
            sample_id: SampleId,
            source: String,
            key: String,
        }
        let mut found = (None, None);
        let visit = |row: Row| {
            if row.sample_id != sample {
                return ControlFlow::Continue(());
            }
            found = (Some(row.source), Some(row.key));
            ControlFlow::Break(())
        };
        let names = [columns::SAMPLE_ID, columns::SOURCE, columns::KEY];
        let _ = self.tables().visit_unit(Table::Prepared, place, &names, visit).await?;
        Ok(found)
    }
}
