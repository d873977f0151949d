//! Finds the documents that go with withdrawn samples.

use std::collections::{BTreeSet, HashMap};
use std::ops::ControlFlow;

use cm3flow_schemas::document::Neighbour;
use cm3flow_schemas::sample::Split;
use cm3flow_schemas::unit::SegmentName;
use cm3flow_schemas::{DocumentId, SampleId, columns};
use serde::Deserialize;

use crate::catalog::units::{Table, UnitPlace, WindowTables};
use crate::error::Result;

/// A document that goes, with what statistics count of it beyond its tokens.
#[derive(Debug, Clone, Copy)]
pub(super) struct WithdrawnDocument {
    /// Whether it was made of a withdrawn sample; else one was retrieved for it.
    pub(super) is_own: bool,
    /// Its split.
    pub(super) split: Split,
    /// Samples that stand in it as retrieved ones.
    pub(super) retrieved: u64,
    /// Whether fewer were kept than drawn.
    pub(super) is_lowered: bool,
}

/// Documents of a window that go.
pub(super) type WindowDocuments = HashMap<DocumentId, WithdrawnDocument>;

/// Documents that were made of one of `samples` or retrieved one, for each of `windows` windows. Those that went with the samples of
/// `before` are in no pack any more.
pub(super) async fn withdrawn(
    tables: &WindowTables<'_>,
    windows: usize,
    samples: &BTreeSet<SampleId>,
    before: &BTreeSet<SampleId>,
) -> Result<Vec<WindowDocuments>> {
    #[derive(Deserialize)]
    struct Row {
        document_id: DocumentId,
        sample_id: SampleId,
        split: Split,
        retrieved: Vec<Neighbour>,
        retrieved_wanted: u16,
    }
    let mut documents = vec![WindowDocuments::new(); windows];
    if samples.is_empty() {
        return Ok(documents);
    }
    let visit = |place: UnitPlace, row: Row| {
        let shows = |of: &BTreeSet<SampleId>| {
            of.contains(&row.sample_id) || row.retrieved.iter().any(|neighbour| of.contains(&neighbour.sample_id))
        };
        if shows(samples) && !shows(before) {
            let document = WithdrawnDocument {
                is_own: samples.contains(&row.sample_id),
                split: row.split,
                retrieved: row.retrieved.len() as u64,
                is_lowered: row.retrieved.len() < usize::from(row.retrieved_wanted),
            };
            documents[place.window].insert(row.document_id, document);
        }
        ControlFlow::Continue(())
    };
    let names = [columns::DOCUMENT_ID, columns::SAMPLE_ID, columns::SPLIT, columns::RETRIEVED, columns::RETRIEVED_WANTED];
    tables.visit((SegmentName::Compose, Table::Documents), 0..windows, &names, visit).await?;
    Ok(documents)
}
