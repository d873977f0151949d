//! Documents that go with withdrawn samples.

use std::collections::{BTreeSet, HashMap};
use std::ops::ControlFlow;

use cm3flow_schemas::document::Neighbour;
use cm3flow_schemas::sample::Split;
use cm3flow_schemas::{DocumentId, SampleId, columns};
use serde::Deserialize;

use crate::catalog::units::{Table, UnitPlace, WindowTables};
use crate::error::Result;

/// A withdrawn document, with what statistics count beyond its tokens.
#[derive(Debug, Clone, Copy)]
pub(super) struct WithdrawnDocument {
    /// `true` if it was made of a withdrawn sample, `false` if it retrieved one.
    pub(super) is_own: bool,
    /// Split of the document.
    pub(super) split: Split,
    /// Number of retrieved samples in it.
    pub(super) retrieved: u64,
    /// `true` if it holds fewer retrieved samples than were drawn.
    pub(super) is_lowered: bool,
}

/// Withdrawn documents of a window.
pub(super) type WindowDocuments = HashMap<DocumentId, WithdrawnDocument>;

/// Finds the documents made of `samples` or retrieving them, for each of `windows` windows. Leaves out those that went with the samples
/// of `before`: no pack holds them any more.
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
    tables.visit(Table::Documents, 0..windows, &names, visit).await?;
    Ok(documents)
}
