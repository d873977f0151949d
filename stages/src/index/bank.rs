//! The bank in memory, and search over it.

use arrow::array::RecordBatch;
use cm3flow_schemas::digest::PartHasher;
use cm3flow_schemas::rows;
use cm3flow_schemas::{ImageId, SampleId, SchemaError, columns};
use rayon::prelude::*;
use serde::Deserialize;

use crate::embed::normalize;

/// A sample that may be retrieved.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct BankRow {
    /// The sample.
    pub sample_id: SampleId,
    /// Its main image.
    pub image_id: ImageId,
    /// Its captions.
    pub captions: Vec<String>,
    /// Codes of its main image.
    pub codes: Vec<u32>,
    /// Embedding of the pair, of unit length.
    pub embedding: Vec<f32>,
}

/// A row that search found.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Hit {
    /// Index of the row.
    pub row: usize,
    /// Inner product with the query.
    pub similarity: f32,
}

/// Rows that may be retrieved.
#[derive(Debug, Default)]
pub struct Bank {
    rows: Vec<BankRow>,
}

/// Normalised average of both embeddings; one alone if the other is empty or zero.
///
/// # Source
/// CM3Leon paper, section 2.1, <https://arxiv.org/abs/2309.02591>.
#[must_use]
pub fn pair_embedding(text: &[f32], image: &[f32]) -> Vec<f32> {
    let mut pair = vec![0.0; text.len().max(image.len())];
    for part in [text, image] {
        pair.iter_mut().zip(part).for_each(|(sum, value)| *sum += value);
    }
    normalize(&mut pair);
    pair
}

/// Inner product in eight lanes, summed in a fixed order, so that it is fast and the same on every machine.
#[must_use]
pub(crate) fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut lanes = [0.0_f32; 8];
    let (a_chunks, b_chunks) = (a.chunks_exact(8), b.chunks_exact(8));
    let tail: f32 = a_chunks.remainder().iter().zip(b_chunks.remainder()).map(|(a, b)| a * b).sum();
    for (a, b) in a_chunks.zip(b_chunks) {
        lanes.iter_mut().zip(a).zip(b).for_each(|((lane, a), b)| *lane += a * b);
    }
    lanes.iter().sum::<f32>() + tail
}

impl Bank {
    /// A bank of at most `max_rows` rows from the rows of windows, oldest window first: the newest windows whole, and of the first one
    /// that does not fit whole those rows whose keyed hash is smallest.
    ///
    /// # Errors
    /// [`SchemaError`] if a batch is no [`columns::bank_sample`].
    pub fn from_windows(windows: &[Vec<RecordBatch>], max_rows: usize, seed: u64) -> Result<Self, SchemaError> {
        let wanted: Vec<&str> = vec![columns::SAMPLE_ID, columns::IMAGE_ID, "captions", "codes", columns::EMBEDDING];
        let mut bank = Self::default();
        for batches in windows.iter().rev() {
            let room = max_rows - bank.rows.len();
            if room == 0 {
                break;
            }
            let mut rows: Vec<BankRow> = Vec::new();
            for batch in batches {
                rows.extend(rows::read::<BankRow>(batch, &wanted)?);
            }
            if rows.len() > room {
                rows.sort_by_key(|row| PartHasher::new("bank").part(&seed.to_le_bytes()).part(&row.sample_id.0).id());
                rows.truncate(room);
            }
            bank.rows.extend(rows);
        }
        Ok(bank)
    }

    /// Its rows.
    #[must_use]
    pub fn rows(&self) -> &[BankRow] {
        &self.rows
    }

    /// The `count` rows with the largest inner product with `query`, best first; of equal ones the smaller sample id is first. Exact.
    #[must_use]
    pub fn search(&self, query: &[f32], count: usize) -> Vec<Hit> {
        let score = |(row, found): (usize, &BankRow)| Hit { row, similarity: dot(&found.embedding, query) };
        let mut hits: Vec<Hit> = self.rows.par_iter().enumerate().map(score).collect();
        let better = |a: &Hit, b: &Hit| {
            b.similarity.total_cmp(&a.similarity).then_with(|| self.rows[a.row].sample_id.cmp(&self.rows[b.row].sample_id))
        };
        if hits.len() > count && count > 0 {
            hits.select_nth_unstable_by(count - 1, better);
        }
        hits.truncate(count);
        hits.sort_unstable_by(better);
        hits
    }

    /// Inner product of two rows.
    #[must_use]
    pub fn similarity(&self, a: usize, b: usize) -> f32 {
        dot(&self.rows[a].embedding, &self.rows[b].embedding)
    }
}
