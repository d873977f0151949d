//! What a window may look back on: samples that earlier windows kept, and their bank. Loaded only when a unit has to be made.

use arrow::array::RecordBatch;
use arrow::datatypes::Schema;
use cm3flow_schemas::unit::{SegmentName, UnitRecord};
use cm3flow_schemas::{Digest, columns};
use cm3flow_stages::index::Bank;
use std::sync::Arc;

use super::settle::kept_rows;
use super::{Table, UnitStore, unit_path};
use crate::config::Config;
use crate::error::{PipelineError, Result};
use crate::table;

/// Windows up to the present one.
pub(super) struct History {
    units: UnitStore,
    /// Settle keys of all earlier windows.
    keys: Vec<Digest>,
    /// Ids that the first windows kept, for as many windows as have been asked for.
    kept: Vec<RecordBatch>,
    /// Banks of the first windows, likewise.
    banks: Vec<Vec<RecordBatch>>,
}

impl History {
    pub(super) const fn new(units: UnitStore) -> Self {
        Self { units, keys: Vec::new(), kept: Vec::new(), banks: Vec::new() }
    }

    /// Appends the window that has just been committed.
    pub(super) fn push(&mut self, settle: Digest) {
        self.keys.push(settle);
    }

    async fn record(&self, window: usize) -> Result<UnitRecord> {
        let key = self.keys[window];
        let missing = || PipelineError::Damaged {
            location: unit_path(SegmentName::Settle, key),
            problem: "an earlier window's unit is missing".into(),
        };
        self.units.find(SegmentName::Settle, key).await?.ok_or_else(missing)
    }

    /// Columns `sample_id` and `image_id` of all samples that earlier windows kept.
    pub(super) async fn kept(&mut self) -> Result<RecordBatch> {
        let settled = columns::settled_sample();
        let field = |name| settled.field_with_name(name).cloned().expect("a column of settled samples");
        let ids = Arc::new(Schema::new([columns::SAMPLE_ID, columns::IMAGE_ID].map(field).to_vec()));
        for window in self.kept.len()..self.keys.len() {
            let mut batches = Vec::new();
            for batch in self.units.read(&self.record(window).await?, Table::Settled).await? {
                batches.push(table::projected(&table::filtered(&batch, &kept_rows(&batch)?)?, &ids)?);
            }
            self.kept.push(table::concatenated(&ids, &batches)?);
        }
        table::concatenated(&ids, &self.kept)
    }

    /// The bank of the present window, whose settle unit is `settled`, and all earlier ones.
    pub(super) async fn bank(&mut self, settled: &UnitRecord, config: &Config) -> Result<Bank> {
        for window in self.banks.len()..self.keys.len() {
            self.banks.push(self.units.read(&self.record(window).await?, Table::Bank).await?);
        }
        let present = self.units.read(settled, Table::Bank).await?;
        let max_rows = usize::try_from(config.retrieve.bank_rows).unwrap_or(usize::MAX);
        let rows_of = |batches: &[RecordBatch]| batches.iter().map(RecordBatch::num_rows).sum::<usize>();
        let mut newer = rows_of(&present);
        for bank in self.banks.iter_mut().rev() {
            if newer >= max_rows {
                // No later window looks at it either.
                bank.clear();
            }
            newer += rows_of(bank);
        }
        let windows: Vec<Vec<RecordBatch>> = self.banks.iter().cloned().chain([present]).collect();
        Ok(Bank::from_windows(&windows, max_rows, config.dataset.seed)?)
    }
}
