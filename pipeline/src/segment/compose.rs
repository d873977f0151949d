//! `compose`: the documents of one unit.

use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, UInt16Array};
use cm3flow_schemas::canonical::digest_of;
use cm3flow_schemas::document::Neighbour;
use cm3flow_schemas::ledger::DocumentLedger;
use cm3flow_schemas::rows::ColumnChange;
use cm3flow_schemas::sample::{Refusal, Split};
use cm3flow_schemas::unit::{KeyParts, SegmentName, UnitRecord};
use cm3flow_schemas::{Digest, DocumentId, SampleId, columns, layout, rows};
use cm3flow_stages::Steps;
use cm3flow_stages::index::Bank;
use cm3flow_stages::instruct::{Instruct, InstructCounts, InstructTally};
use cm3flow_stages::mask::Mask;
use cm3flow_stages::retrieve::Retrieve;
use cm3flow_stages::stage::{Chain, Head};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::task::WindowTask;
use super::{KeyMaker, Worker};
use crate::catalog::units::{Table, count_reasons};
use crate::config::Config;
use crate::error::{PipelineError, Result};
use crate::store::table;

#[derive(Deserialize)]
struct Settled {
    sample_id: SampleId,
    unit: u32,
    split: Split,
    duplicate_of: Option<SampleId>,
}

#[derive(Deserialize)]
struct Refused {
    document_id: DocumentId,
    sample_id: SampleId,
    task: String,
    refusal: Refusal,
}

/// A row of [`columns::refused_document`].
#[derive(Serialize)]
struct RefusedRow<'a> {
    document_id: DocumentId,
    sample_id: SampleId,
    task: &'a str,
    stage: &'a str,
    reason: &'a str,
    detail: &'a str,
}

/// Neighbours of a document, for the statistics of `pack`.
#[derive(Deserialize)]
pub(super) struct Retrieved {
    pub(super) task: String,
    pub(super) retrieved: Vec<Neighbour>,
    pub(super) retrieved_wanted: u16,
}

/// Inputs of the stages for one variant of a unit's documents.
struct Composition<'a> {
    worker: &'a Worker,
    bank: &'a Arc<Bank>,
    settled: &'a UnitRecord,
    variant: u16,
    tally: InstructTally,
}

impl Composition<'_> {
    fn retrieve(&self) -> Retrieve {
        let (config, embedder) = (&self.worker.config, self.worker.artefacts.embedder.clone());
        Retrieve::new(config.retrieve.clone(), Arc::clone(self.bank), embedder, config.dataset.seed).with_variant(self.variant)
    }

    fn instruct(&self) -> Instruct {
        let instruct = Instruct::new(Arc::clone(&self.worker.instruct), Arc::clone(self.bank), &self.settled.contents);
        instruct.with_variant(self.variant).with_tally(self.tally.clone())
    }

    fn mask(&self) -> Mask {
        let Worker { config, artefacts, .. } = self.worker;
        Mask::new(&config.mask, artefacts.vocabulary.clone(), config.dataset.seed)
    }
}

fn steps<'a>() -> Steps<'a, Composition<'a>> {
    Steps::default().map(Composition::retrieve).map(Composition::instruct).map(Composition::mask)
}

impl KeyMaker<'_> {
    /// Returns the key of the documents of the unit `prepared` at `place` in the window with the settle key `settled`.
    pub(super) fn compose(&self, settled: Digest, prepared: Digest, place: usize) -> Digest {
        let Config { retrieve, instruct, mask, pack, dataset, .. } = self.config;
        let stages: Vec<_> = steps().codes().collect();
        let vocabulary = &self.artefacts.vocabulary;
        let config = json!({"retrieve": retrieve, "instruct": instruct, "mask": mask, "seq_len": pack.seq_len, "vocabulary": vocabulary});
        // Two units with equal content differ in their place: one is kept, the other holds duplicates.
        let inputs = &[settled, prepared, digest_of("place in the window", &place)];
        let artefacts = &[self.artefacts.text.digest(), self.artefacts.embedder_digest];
        let stages = &stages;
        KeyParts { segment: SegmentName::Compose, stages, config: &config, inputs, artefacts, seed: dataset.seed, numerics: None }.key()
    }
}

impl Worker {
    /// Composes the documents of the unit at `place` in `window`.
    pub(super) async fn compose(&self, window: &WindowTask, place: usize) -> Result<UnitRecord> {
        let settled = self.input(SegmentName::Settle, window.keys.settle()).await?;
        let unit = self.input(SegmentName::Prepare, window.keys.prepare[place]).await?;
        let bank = self.bank_of(window, &settled).await?;
        let samples = self.kept_samples(window, place as u32, &unit, &settled).await?;
        let variants = self.config.mask.variants;
        let schema = if variants > 1 { columns::document_of_variant() } else { columns::document() };

        let mut documents = Vec::new();
        let mut refused: Vec<Refused> = Vec::new();
        let mut counts = InstructCounts::default();
        for variant in 0..variants {
            // Held-out documents have no further variants: evaluation data stays the same.
            let samples = if variant == 0 { samples.clone() } else { table::of_split(&samples, Split::Train)? };
            let (batches, counted) = self.documents_of(variant, &samples, &bank, &settled).await?;
            counts.shortened += counted.shortened;
            if variant == 0 {
                counts.lacking = counted.lacking;
            }
            for batch in &batches {
                let (wanted, unwanted) = table::split_refused(batch)?;
                documents.push(if variants > 1 { with_variant(&wanted, variant)? } else { wanted });
                let names = [columns::DOCUMENT_ID, columns::SAMPLE_ID, columns::TASK, columns::REFUSAL];
                refused.extend(rows::read::<Refused>(&unwanted, &names)?);
            }
        }
        let documents = table::concatenated(&schema, &documents)?;
        let mut record = UnitRecord::new(SegmentName::Compose, window.keys.compose[place]);
        let InstructCounts { lacking, shortened } = counts;
        record.documents = Some(DocumentLedger {
            shortened,
            lacking,
            built: (documents.num_rows() + refused.len()) as u64,
            packed: documents.num_rows() as u64,
            refused: count_reasons(refused.iter().map(|row| (row.refusal.stage.as_str(), row.refusal.reason.as_str()))),
            ..DocumentLedger::default()
        });
        self.units.put(&mut record, Table::Documents, &documents).await?;
        let refused: Vec<RefusedRow<'_>> = refused.iter().map(refused_row).collect();
        self.units.put(&mut record, Table::RefusedDocuments, &rows::write(&columns::refused_document(), &refused)?).await?;
        self.commit(record).await
    }

    /// Makes the documents of one variant of `samples`, refused ones included.
    async fn documents_of(
        &self,
        variant: u16,
        samples: &RecordBatch,
        bank: &Arc<Bank>,
        settled: &UnitRecord,
    ) -> Result<(Vec<RecordBatch>, InstructCounts)> {
        let composition = Composition { worker: self, bank, settled, variant, tally: InstructTally::default() };
        let chain = steps().append_to(Chain::new(Head::Batches(samples.schema(), batches_of(samples))), &composition);
        let (_, batches) = self.collect(chain).await?;
        Ok((batches, composition.tally.counts()))
    }

    /// Reads a unit's prepared samples that are neither blocked nor duplicates, and adds their split.
    async fn kept_samples(&self, window: &WindowTask, index: u32, unit: &UnitRecord, settled: &UnitRecord) -> Result<RecordBatch> {
        #[derive(Serialize)]
        struct WithSplit {
            split: Split,
        }
        #[derive(Deserialize)]
        struct Id {
            sample_id: SampleId,
        }
        let prepared = table::concatenated(&self.artefacts.prepared_schema(), &self.units.read(unit, Table::Prepared).await?)?;
        let prepared = self.blocklist(window).await?.without_blocked(prepared)?;
        let mut decided: Vec<Settled> = Vec::new();
        for batch in self.units.read(settled, Table::Settled).await? {
            let names = [columns::SAMPLE_ID, columns::UNIT, columns::SPLIT, columns::DUPLICATE_OF];
            decided.extend(rows::read::<Settled>(&batch, &names)?.into_iter().filter(|row| row.unit == index));
        }
        let ids: Vec<Id> = rows::read(&prepared, &[columns::SAMPLE_ID])?;
        if !ids.iter().map(|row| row.sample_id).eq(decided.iter().map(|row| row.sample_id)) {
            let location = layout::unit(SegmentName::Settle, settled.key);
            return Err(PipelineError::Damaged { location, problem: format!("it does not decide about the samples of unit {index}") });
        }
        let splits: Vec<WithSplit> = decided.iter().map(|row| WithSplit { split: row.split }).collect();
        let with_split = ColumnChange::new(&[], vec![columns::split()]).apply(&prepared, &splits)?;
        table::filtered(&with_split, &decided.iter().map(|row| Some(row.duplicate_of.is_none())).collect())
    }
}

fn with_variant(documents: &RecordBatch, variant: u16) -> Result<RecordBatch> {
    let column: ArrayRef = Arc::new(UInt16Array::from_value(variant, documents.num_rows()));
    let columns = documents.columns().iter().cloned().chain([column]).collect();
    RecordBatch::try_new(columns::document_of_variant(), columns)
        .map_err(|source| PipelineError::Arrow { what: "a table's batches", source })
}

/// Cuts a table into batches small enough to keep several stages busy.
pub(super) fn batches_of(table: &RecordBatch) -> Vec<RecordBatch> {
    const ROWS: usize = 64;
    (0..table.num_rows()).step_by(ROWS).map(|start| table.slice(start, ROWS.min(table.num_rows() - start))).collect()
}

fn refused_row(row: &Refused) -> RefusedRow<'_> {
    let Refused { document_id, sample_id, task, refusal } = row;
    RefusedRow {
        document_id: *document_id,
        sample_id: *sample_id,
        task,
        stage: &refusal.stage,
        reason: &refusal.reason,
        detail: &refusal.detail,
    }
}
