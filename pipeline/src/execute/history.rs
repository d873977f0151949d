//! What a window may look back on: samples that earlier windows kept, and their bank. Loaded only when a unit has to be made.

use arrow::array::RecordBatch;
use arrow::datatypes::Schema;
use cm3flow_schemas::unit::{SegmentName, UnitRecord};
use cm3flow_schemas::{Digest, columns};
use cm3flow_stages::index::Bank;
use std::sync::Arc;

use super::settle::kept_rows;
use super::task::WindowTask;
use super::{Table, UnitStore, Worker, unit_path};
use crate::blocklist::Blocklist;
use crate::config::Config;
use crate::error::{PipelineError, Result};
use crate::table;

/// Windows before one.
pub(super) struct History<'a> {
    units: &'a UnitStore,
    /// Settle keys of all earlier windows.
    keys: &'a [Digest],
}

impl Worker {
    /// What `window` may look back on.
    pub(super) fn history<'a>(&'a self, window: &'a WindowTask) -> History<'a> {
        History { units: &self.units, keys: &window.earlier }
    }
}

impl History<'_> {
    async fn record(&self, window: usize) -> Result<UnitRecord> {
        let key = self.keys[window];
        let missing = || PipelineError::Damaged {
            location: unit_path(SegmentName::Settle, key),
            problem: "an earlier window's unit is missing".into(),
        };
        self.units.find(SegmentName::Settle, key).await?.ok_or_else(missing)
    }

    /// Columns `sample_id` and `image_id` of all samples that earlier windows kept and that are not blocked.
    pub(super) async fn kept(&self, blocklist: &Blocklist) -> Result<RecordBatch> {
        let settled = columns::settled_sample();
        let field = |name| settled.field_with_name(name).cloned().expect("a column of settled samples");
        let ids = Arc::new(Schema::new([columns::SAMPLE_ID, columns::IMAGE_ID].map(field).to_vec()));
        let mut kept = Vec::new();
        for window in 0..self.keys.len() {
            for batch in self.units.read(&self.record(window).await?, Table::Settled).await? {
                let of_window = table::projected(&table::filtered(&batch, &kept_rows(&batch)?)?, &ids)?;
                kept.push(blocklist.without_blocked(of_window)?);
            }
        }
        table::concatenated(&ids, &kept)
    }

    /// The bank of the present window, whose settle unit is `settled`, and all earlier ones.
    pub(super) async fn bank(&self, settled: &UnitRecord, blocklist: &Blocklist, config: &Config) -> Result<Bank> {
        let max_rows = usize::try_from(config.retrieve.bank_rows).unwrap_or(usize::MAX);
        let mut windows = vec![self.units.read(settled, Table::Bank).await?];
        for window in (0..self.keys.len()).rev() {
            if windows.iter().flatten().map(RecordBatch::num_rows).sum::<usize>() >= max_rows {
                break;
            }
            let bank = self.units.read(&self.record(window).await?, Table::Bank).await?;
            // What was withdrawn since is not retrieved any more.
            windows.push(bank.into_iter().map(|batch| blocklist.without_blocked(batch)).collect::<Result<_>>()?);
        }
        windows.reverse();
        Ok(Bank::from_windows(&windows, max_rows, config.dataset.seed)?)
    }
}
