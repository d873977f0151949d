//! `settle`: what of a window is held out, what is a duplicate, and what goes into the bank.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{Array, BooleanArray, RecordBatch, UInt32Array};
use arrow::datatypes::{DataType, Field, Schema};
use cm3flow_schemas::ledger::SampleLedger;
use cm3flow_schemas::sample::Annotations;
use cm3flow_schemas::unit::{SegmentName, UnitRecord};
use cm3flow_schemas::{columns, rows};
use cm3flow_stages::dedup::Dedup;
use cm3flow_stages::index::Index;
use cm3flow_stages::split::Split;
use cm3flow_stages::stage::{Chain, Head};
use serde::Deserialize;

use super::task::WindowTask;
use super::{Table, Worker};
use crate::error::{PipelineError, Result};
use crate::table;

impl Worker {
    pub(super) async fn settle(&self, window: &WindowTask) -> Result<UnitRecord> {
        let blocklist = self.blocklist(window).await?;
        let (mut batches, mut input) = (Vec::new(), 0);
        for (index, key) in window.keys.prepare.iter().enumerate() {
            let unit = self.input(SegmentName::Prepare, *key).await?;
            for batch in self.units.read(&unit, Table::Prepared).await? {
                input += batch.num_rows() as u64;
                // Nothing is decided about what is blocked: it stands for nobody, and is in no table from here on.
                batches.push(with_unit(&blocklist.without_blocked(batch)?, index as u32)?);
            }
        }
        let config = &self.config;
        let schema = batches.first().map_or_else(columns::prepared_sample, RecordBatch::schema);
        let chain = Chain::new(Head::Batches(schema, batches))
            .map(Split::new(config.split.clone(), config.dataset.seed))
            .then(Dedup::new(config.dedup.clone(), self.history(window).kept(&blocklist).await?));
        let (settled, elected) = self.collect(chain).await?;
        let (bank_schema, bank) = self.collect(Chain::new(Head::Batches(settled.clone(), elected.clone())).map(Index)).await?;
        let elected = table::concatenated(&settled, &elected)?;

        let mut record = UnitRecord::new(SegmentName::Settle, window.keys.settle);
        let is_kept = kept_rows(&elected)?;
        let kept = is_kept.true_count() as u64;
        let decided = elected.num_rows() as u64;
        let (duplicate, withdrawn) = (decided - kept, input - decided);
        record.samples = Some(SampleLedger { input, kept, duplicate, withdrawn, ..SampleLedger::default() });
        record.licenses = licenses(&table::filtered(&elected, &is_kept)?)?;
        let settled = if elected.num_rows() == 0 {
            RecordBatch::new_empty(columns::settled_sample())
        } else {
            table::projected(&elected, &columns::settled_sample())?
        };
        self.units.put(&mut record, Table::Settled, &settled).await?;
        self.units.put(&mut record, Table::Bank, &table::concatenated(&bank_schema, &bank)?).await?;
        self.commit(record).await
    }

    /// Runs a chain over batches that are there already; returns what it sends with its schema.
    pub(super) async fn collect(&self, chain: Chain) -> Result<(arrow::datatypes::SchemaRef, Vec<RecordBatch>)> {
        let schema = chain.output_schema()?;
        let mut batches = Vec::new();
        let collect = |batch| {
            batches.push(batch);
            Ok(())
        };
        chain.run(self.limits, self.progress.meters(), collect).await?;
        Ok((schema, batches))
    }
}

fn with_unit(batch: &RecordBatch, unit: u32) -> Result<RecordBatch> {
    let mut fields = batch.schema().fields().to_vec();
    fields.push(Arc::new(Field::new(columns::UNIT, DataType::UInt32, false)));
    let mut arrays = batch.columns().to_vec();
    arrays.push(Arc::new(UInt32Array::from_value(unit, batch.num_rows())));
    RecordBatch::try_new(Arc::new(Schema::new(fields)), arrays).map_err(|source| PipelineError::Arrow { what: "a prepared batch", source })
}

/// Which rows are no duplicates.
pub(super) fn kept_rows(settled: &RecordBatch) -> Result<BooleanArray> {
    let duplicate_of = settled.column(rows::position(&settled.schema(), columns::DUPLICATE_OF)?);
    Ok((0..settled.num_rows()).map(|row| Some(duplicate_of.is_null(row))).collect())
}

fn licenses(kept: &RecordBatch) -> Result<BTreeMap<String, u64>> {
    #[derive(Deserialize)]
    struct Row {
        annotations: Annotations,
    }
    let mut counts = BTreeMap::new();
    if kept.num_rows() == 0 {
        return Ok(counts);
    }
    for row in rows::read::<Row>(kept, &[columns::ANNOTATIONS])? {
        *counts.entry(row.annotations.license.unwrap_or_else(|| "unknown".into())).or_default() += 1;
    }
    Ok(counts)
}
