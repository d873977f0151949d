//! `prepare`: one unit from its source to codes and embeddings.

use std::collections::BTreeMap;

use arrow::array::RecordBatch;
use cm3flow_schemas::ledger::SampleLedger;
use cm3flow_schemas::sample::{DroppedPart, Refusal};
use cm3flow_schemas::unit::{SegmentName, UnitRecord};
use cm3flow_schemas::{Digest, SampleId, columns, rows};
use cm3flow_stages::annotate::Annotate;
use cm3flow_stages::embed::Embed;
use cm3flow_stages::ingest::PlannedUnit;
use cm3flow_stages::tokenize::Tokenize;
use serde::{Deserialize, Serialize};

use super::Worker;
use crate::catalog::units::{Table, count_reasons};
use crate::error::Result;
use crate::source::photos::derived;
use crate::store::table;

#[derive(Deserialize)]
struct Refused {
    sample_id: SampleId,
    source: String,
    key: String,
    row: u64,
    refusal: Refusal,
}

/// A row of [`columns::refused_sample`].
#[derive(Serialize)]
struct RefusedRow<'a> {
    sample_id: SampleId,
    source: &'a str,
    key: &'a str,
    row: u64,
    stage: &'a str,
    reason: &'a str,
    detail: &'a str,
}

impl Worker {
    pub(super) async fn prepare(&self, source: &PlannedUnit, key: Digest) -> Result<UnitRecord> {
        let artefacts = &self.artefacts;
        let mut chain = derived(&self.config, source.clone(), &self.limits)?;
        if !artefacts.annotators.is_empty() {
            chain = chain.then(Annotate::new(artefacts.annotators.clone(), artefacts.image_spec.side_px));
        }
        let chain =
            chain.then(Tokenize::new(artefacts.image.clone(), artefacts.image_spec.clone())).map(Embed::new(artefacts.embedder.clone()));
        let mut batches: Vec<RecordBatch> = Vec::new();
        let collect = |batch| {
            batches.push(batch);
            Ok(())
        };
        chain.run(&self.limits, self.progress.meters(), collect).await?;

        let schema = artefacts.prepared_schema();
        let mut kept = Vec::new();
        let mut refused: Vec<Refused> = Vec::new();
        let mut dropped = BTreeMap::new();
        for batch in &batches {
            count_dropped(&mut dropped, batch)?;
            let (wanted, unwanted) = table::split_refused(batch)?;
            kept.push(table::projected(&wanted, &schema)?);
            let names = [columns::SAMPLE_ID, columns::SOURCE, columns::KEY, columns::ROW, columns::REFUSAL];
            refused.extend(rows::read::<Refused>(&unwanted, &names)?);
        }
        let kept = table::concatenated(&schema, &kept)?;
        let mut record = UnitRecord::new(SegmentName::Prepare, key);
        record.samples = Some(SampleLedger {
            input: (kept.num_rows() + refused.len()) as u64,
            kept: kept.num_rows() as u64,
            refused: count_reasons(refused.iter().map(|row| (row.refusal.stage.as_str(), row.refusal.reason.as_str()))),
            dropped,
            ..SampleLedger::default()
        });
        self.units.put(&mut record, Table::Prepared, &kept).await?;
        let refused: Vec<RefusedRow<'_>> = refused.iter().map(refused_row).collect();
        self.units.put(&mut record, Table::Refused, &rows::write(&columns::refused_sample(), &refused)?).await?;
        self.commit(record).await
    }
}

/// Counts the parts that the samples of `batch` lost, those of refused samples too.
fn count_dropped(counts: &mut BTreeMap<String, u64>, batch: &RecordBatch) -> Result<()> {
    #[derive(Deserialize)]
    struct Row {
        dropped: Vec<DroppedPart>,
    }
    for part in rows::read::<Row>(batch, &[columns::DROPPED])?.into_iter().flat_map(|row| row.dropped) {
        *counts.entry(part.reason).or_default() += part.count;
    }
    Ok(())
}

fn refused_row(row: &Refused) -> RefusedRow<'_> {
    let Refused { sample_id, source, key, row, refusal } = row;
    RefusedRow { sample_id: *sample_id, source, key, row: *row, stage: &refusal.stage, reason: &refusal.reason, detail: &refusal.detail }
}
