//! Bank of bounded size: rows of the newest windows, and a keyed draw of all windows before.
//!
//! Every sample has a **place**, a hash keyed by the seed. The bank of a window is stored in the order of places ([`by_place`]). Of earlier
//! windows, the rows with the smallest places stay, so every row has the same chance. A row that leaves the draw of some windows is not in
//! the draw of more windows either, so it is never needed again.

use std::collections::VecDeque;

use arrow::array::{RecordBatch, UInt32Array};
use arrow::compute::{interleave_record_batch, take_record_batch};
use cm3flow_schemas::digest::PartHasher;
use cm3flow_schemas::{SampleId, SchemaError, columns, rows};
use serde::Deserialize;

use super::Bank;

/// Place of a sample in the draw: the smallest places stay.
type Place = [u8; 16];

/// Returns the places of the rows of a [`columns::bank_sample`] batch.
fn places(batch: &RecordBatch, seed: u64) -> Result<Vec<Place>, SchemaError> {
    #[derive(Deserialize)]
    struct Id {
        sample_id: SampleId,
    }
    let ids: Vec<Id> = rows::read(batch, &[columns::SAMPLE_ID])?;
    Ok(ids.iter().map(|row| PartHasher::new("bank").part(&seed.to_le_bytes()).part(&row.sample_id.0).id()).collect())
}

/// Returns the rows of a window, batches of [`columns::bank_sample`], in the order of their places by `seed`.
///
/// # Errors
/// [`SchemaError`] if a batch has other columns.
pub fn by_place(batches: &[RecordBatch], seed: u64) -> Result<RecordBatch, SchemaError> {
    let mut order = Vec::new();
    for (number, batch) in batches.iter().enumerate() {
        order.extend(places(batch, seed)?.into_iter().enumerate().map(|(row, place)| (place, (number, row))));
    }
    if order.is_empty() {
        return Ok(RecordBatch::new_empty(batches.first().map_or_else(columns::bank_sample, RecordBatch::schema)));
    }
    order.sort_unstable();
    let order: Vec<(usize, usize)> = order.into_iter().map(|(_, row)| row).collect();
    Ok(interleave_record_batch(&batches.iter().collect::<Vec<_>>(), &order)?)
}

/// Rows of one window in the order of their places, as far as a bank may need them.
#[derive(Debug)]
pub struct WindowRows {
    seed: u64,
    max_rows: usize,
    /// Place from which on rows are not needed.
    cutoff: Option<Place>,
    places: Vec<Place>,
    batches: Vec<RecordBatch>,
}

impl WindowRows {
    /// Checks whether further rows are needed.
    #[must_use]
    pub fn is_wanting(&self) -> bool {
        let is_past = |cutoff| self.places.last().is_some_and(|last| *last >= cutoff);
        self.places.len() < self.max_rows && !self.cutoff.is_some_and(is_past)
    }

    /// Adds the next rows.
    ///
    /// # Errors
    /// [`SchemaError`] if `batch` lacks the columns of [`columns::bank_sample`].
    pub fn push(&mut self, batch: RecordBatch) -> Result<(), SchemaError> {
        self.places.extend(places(&batch, self.seed)?);
        self.batches.push(batch);
        self.truncate(self.max_rows)
    }

    /// Keeps the first `rows` rows and frees the others. It copies the batch that it cuts.
    fn truncate(&mut self, rows: usize) -> Result<(), SchemaError> {
        if rows >= self.places.len() {
            return Ok(());
        }
        self.places.truncate(rows);
        let mut room = rows;
        let mut kept = Vec::new();
        for batch in std::mem::take(&mut self.batches) {
            let wanted = room.min(batch.num_rows());
            room -= wanted;
            if wanted == batch.num_rows() {
                kept.push(batch);
            } else if wanted > 0 {
                kept.push(take_record_batch(&batch, &UInt32Array::from_iter_values(0..wanted as u32))?);
            }
        }
        self.batches = kept;
        Ok(())
    }
}

/// Rows of a bank of bounded size, updated window by window.
///
/// Half of the bank is for the newest windows: as many as fit whole, and at least the last one. If that alone is larger, its first rows
/// enter. The other half is for the rows of all earlier windows with the smallest places.
#[derive(Debug)]
pub struct BoundedBank {
    seed: u64,
    max_newest: usize,
    max_earlier: usize,
    /// Newest windows with their numbers of rows, the newest last.
    newest: VecDeque<(u64, WindowRows)>,
    /// Earlier windows that still have rows.
    earlier: Vec<WindowRows>,
    /// Place from which on no earlier row stays; `None` while all fit.
    cutoff: Option<Place>,
}

impl BoundedBank {
    /// Returns an empty bank of at most `max_rows` rows.
    #[must_use]
    pub fn new(max_rows: u64, seed: u64) -> Self {
        let max_rows = usize::try_from(max_rows).unwrap_or(usize::MAX);
        let max_earlier = max_rows / 2;
        Self { seed, max_newest: max_rows - max_earlier, max_earlier, newest: VecDeque::new(), earlier: Vec::new(), cutoff: None }
    }

    /// Returns how many of the last windows count as newest; `rows` are the numbers of rows of all windows in order.
    #[must_use]
    pub fn newest_windows(&self, rows: &[u64]) -> usize {
        let mut total = 0_u64;
        let fits = |rows: &&u64| {
            total = total.saturating_add(**rows);
            total <= self.max_newest as u64
        };
        rows.iter().rev().take_while(fits).count().max(1).min(rows.len())
    }

    /// Returns an empty collector of the rows of a window, for [`Self::push`].
    #[must_use]
    pub fn newest_window(&self) -> WindowRows {
        WindowRows { seed: self.seed, max_rows: self.max_newest, cutoff: None, places: Vec::new(), batches: Vec::new() }
    }

    /// Returns an empty collector of the rows of a window, for [`Self::push_earlier`].
    #[must_use]
    pub fn earlier_window(&self) -> WindowRows {
        WindowRows { max_rows: self.max_earlier, cutoff: self.cutoff, ..self.newest_window() }
    }

    /// Adds a window that is older than the newest ones.
    ///
    /// # Errors
    /// [`SchemaError::Arrow`] if rows cannot be copied.
    pub fn push_earlier(&mut self, window: WindowRows) -> Result<(), SchemaError> {
        self.earlier.push(window);
        self.cut()
    }

    /// Adds the next window, which has `rows` rows in all.
    ///
    /// # Errors
    /// [`SchemaError::Arrow`] if rows cannot be copied.
    pub fn push(&mut self, rows: u64, window: WindowRows) -> Result<(), SchemaError> {
        self.newest.push_back((rows, window));
        let counts: Vec<u64> = self.newest.iter().map(|(rows, _)| *rows).collect();
        let leaving = counts.len() - self.newest_windows(&counts);
        self.earlier.extend(self.newest.drain(..leaving).map(|(_, window)| window));
        if leaving == 0 { Ok(()) } else { self.cut() }
    }

    /// Frees earlier rows beyond the limit.
    fn cut(&mut self) -> Result<(), SchemaError> {
        let mut places: Vec<Place> = self.earlier.iter().flat_map(|window| &window.places).copied().collect();
        if places.len() <= self.max_earlier {
            return Ok(());
        }
        let (_, cutoff, _) = places.select_nth_unstable(self.max_earlier);
        self.cutoff = Some(*cutoff);
        for window in &mut self.earlier {
            window.truncate(window.places.partition_point(|place| place < cutoff))?;
        }
        self.earlier.retain(|window| !window.places.is_empty());
        Ok(())
    }

    /// Returns the bank of the present rows, which it shares.
    ///
    /// # Errors
    /// [`SchemaError`] if the rows lack the columns of [`columns::bank_sample`].
    pub fn bank(&self) -> Result<Bank, SchemaError> {
        let newest = self.newest.iter().map(|(_, window)| window);
        Bank::try_new(self.earlier.iter().chain(newest).flat_map(|window| &window.batches))
    }
}
