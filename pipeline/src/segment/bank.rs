//! The bank that a window's documents retrieve from: its own samples and a bounded number of earlier windows' samples.

use std::sync::Arc;

use arrow::array::RecordBatch;
use cm3flow_schemas::columns;
use cm3flow_schemas::unit::UnitRecord;
use cm3flow_stages::index::{Bank, BoundedBank, WindowRows};
use futures::TryStreamExt;

use super::task::WindowTask;
use super::worker::{WindowBank, Worker};
use crate::catalog::blocklist::Blocklist;
use crate::catalog::units::{Table, UnitStore};
use crate::error::Result;

const COLUMNS: [&str; 5] = [columns::SAMPLE_ID, columns::IMAGE_ID, columns::CAPTIONS, columns::CODES, columns::EMBEDDING];
/// Columns where images have several shapes.
const WITH_GRID: [&str; 6] = [COLUMNS[0], COLUMNS[1], COLUMNS[2], COLUMNS[3], COLUMNS[4], columns::GRID];

impl Worker {
    /// Returns the bank of `window`, whose settle unit is `settled`. Only one window is composed at a time, so one bank is kept: the
    /// window's units share it, and the next window adds its rows.
    pub(super) async fn bank_of(&self, window: &WindowTask, settled: &UnitRecord) -> Result<Arc<Bank>> {
        if self.config.retrieve.documents == 0 {
            return Ok(Arc::default());
        }
        let mut kept = self.bank.lock().await;
        if let Some(found) = &*kept
            && found.settle == window.keys.settle()
        {
            return Ok(Arc::clone(&found.bank));
        }
        let blocklist = self.blocklist(window).await?;
        let before = kept.take().filter(|kept| window.earlier.last() == Some(&kept.settle) && window.blocklist == kept.blocklist);
        let mut rows = match before {
            Some(before) => before.rows,
            None => self.earlier_bank(window, settled, &blocklist).await?,
        };
        let own = self.bank_rows(settled, &blocklist, rows.newest_window()).await?;
        rows.push(UnitStore::rows_of(settled, Table::Bank.name())?, own)?;
        let bank = Arc::new(rows.bank()?);
        *kept = Some(WindowBank { settle: window.keys.settle(), blocklist: window.blocklist, rows, bank: Arc::clone(&bank) });
        Ok(bank)
    }

    /// Reads the rows that the windows before `window` contribute to its bank.
    async fn earlier_bank(&self, window: &WindowTask, settled: &UnitRecord, blocklist: &Blocklist) -> Result<BoundedBank> {
        let windows = self.earlier(window);
        let mut records = Vec::with_capacity(window.earlier.len());
        for index in 0..window.earlier.len() {
            records.push(windows.record(index).await?);
        }
        let rows: Vec<u64> =
            records.iter().chain([settled]).map(|record| UnitStore::rows_of(record, Table::Bank.name())).collect::<Result<_>>()?;
        let mut bounded = BoundedBank::new(self.config.retrieve.bank_rows, self.config.dataset.seed);
        let earlier = rows.len() - bounded.newest_windows(&rows);
        for (index, record) in records.iter().enumerate() {
            if index < earlier {
                let of_window = self.bank_rows(record, blocklist, bounded.earlier_window()).await?;
                bounded.push_earlier(of_window)?;
            } else {
                let of_window = self.bank_rows(record, blocklist, bounded.newest_window()).await?;
                bounded.push(rows[index], of_window)?;
            }
        }
        Ok(bounded)
    }

    /// Fills `wanted` with a window's rows that are not blocked.
    async fn bank_rows(&self, settled: &UnitRecord, blocklist: &Blocklist, mut wanted: WindowRows) -> Result<WindowRows> {
        let names: &[&str] = if self.artefacts.vocabulary.shapes.is_some() { &WITH_GRID } else { &COLUMNS };
        let mut batches = self.units.columns(settled, Table::Bank, names).await?;
        while wanted.is_wanting()
            && let Some(batch) = batches.try_next().await?
        {
            let batch: RecordBatch = blocklist.without_blocked(batch)?;
            wanted.push(batch)?;
        }
        Ok(wanted)
    }
}
