//! The bank in memory, and search over it.

use arrow::array::{AsArray, RecordBatch, StringArray};
use arrow::buffer::{OffsetBuffer, ScalarBuffer};
use arrow::datatypes::{ArrowNativeType, Float32Type, UInt32Type};
use cm3flow_schemas::document::ImageRef;
use cm3flow_schemas::rows::position;
use cm3flow_schemas::{Grid, ImageId, SampleId, SchemaError, columns, rows};
use rayon::prelude::*;
use serde::Deserialize;

use crate::embed::normalize;

/// A row that search found.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Hit {
    /// Index of the row.
    pub row: usize,
    /// Inner product with the query.
    pub similarity: f32,
}

/// Rows that may be retrieved: the columns of their batches as they are, so that each value is held once.
#[derive(Debug, Default)]
pub struct Bank {
    parts: Vec<Part>,
    sample_ids: Vec<SampleId>,
    image_ids: Vec<ImageId>,
    /// Rows by ascending sample id.
    by_id: Vec<u32>,
}

/// Columns of one batch.
#[derive(Debug)]
struct Part {
    /// Row of the bank that its first row is.
    first: usize,
    /// Captions of all rows, one after another, and where those of each row begin.
    captions: StringArray,
    caption_offsets: OffsetBuffer<i32>,
    codes: Lists<u32>,
    /// Grids of all rows, where images have several shapes.
    grids: Vec<Grid>,
    embeddings: Lists<f32>,
}

/// A column of lists of plain values.
#[derive(Debug)]
struct Lists<T: ArrowNativeType> {
    values: ScalarBuffer<T>,
    offsets: OffsetBuffer<i32>,
}

impl<T: ArrowNativeType> Lists<T> {
    fn get(&self, row: usize) -> &[T] {
        &self.values[self.offsets[row] as usize..self.offsets[row + 1] as usize]
    }
}

#[derive(Deserialize)]
struct Ids {
    sample_id: SampleId,
    image_id: ImageId,
}

#[derive(Deserialize)]
struct Gridded {
    grid: Grid,
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

impl Part {
    /// Columns of a [`columns::bank_sample`].
    fn try_new(first: usize, batch: &RecordBatch) -> Result<Self, SchemaError> {
        let list = |name| position(&batch.schema(), name).map(|column| batch.column(column).as_list::<i32>().clone());
        let has_grids = batch.schema().index_of(columns::GRID).is_ok();
        let gridded: Vec<Gridded> = if has_grids { rows::read(batch, &[columns::GRID])? } else { Vec::new() };
        let (captions, codes, embeddings) = (list(columns::CAPTIONS)?, list(columns::CODES)?, list(columns::EMBEDDING)?);
        Ok(Self {
            first,
            captions: captions.values().as_string::<i32>().clone(),
            caption_offsets: captions.offsets().clone(),
            codes: Lists { values: codes.values().as_primitive::<UInt32Type>().values().clone(), offsets: codes.offsets().clone() },
            grids: gridded.into_iter().map(|row| row.grid).collect(),
            embeddings: Lists {
                values: embeddings.values().as_primitive::<Float32Type>().values().clone(),
                offsets: embeddings.offsets().clone(),
            },
        })
    }

    fn rows(&self) -> usize {
        self.caption_offsets.len() - 1
    }
}

impl Bank {
    /// The bank of all rows of `batches`, in their order.
    ///
    /// # Errors
    /// [`SchemaError`] if a batch is no [`columns::bank_sample`].
    pub fn try_new<'b>(batches: impl IntoIterator<Item = &'b RecordBatch>) -> Result<Self, SchemaError> {
        let mut bank = Self::default();
        for batch in batches {
            rows::require(&batch.schema(), columns::bank_sample().fields())?;
            bank.parts.push(Part::try_new(bank.len(), batch)?);
            for Ids { sample_id, image_id } in rows::read(batch, &[columns::SAMPLE_ID, columns::IMAGE_ID])? {
                bank.sample_ids.push(sample_id);
                bank.image_ids.push(image_id);
            }
        }
        bank.by_id = (0..bank.len() as u32).collect();
        let ids = &bank.sample_ids;
        bank.by_id.sort_unstable_by_key(|&row| ids[row as usize]);
        Ok(bank)
    }

    /// Number of rows.
    #[must_use]
    pub fn len(&self) -> usize {
        self.sample_ids.len()
    }

    /// Whether there are no rows.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.sample_ids.is_empty()
    }

    /// The sample of `row`.
    #[must_use]
    pub fn sample_id(&self, row: usize) -> SampleId {
        self.sample_ids[row]
    }

    /// The main image of `row`.
    #[must_use]
    pub fn image_id(&self, row: usize) -> ImageId {
        self.image_ids[row]
    }

    /// The row of `sample`, if it is in the bank.
    #[must_use]
    pub fn row_of(&self, sample: SampleId) -> Option<usize> {
        let found = self.by_id.binary_search_by_key(&sample, |&row| self.sample_ids[row as usize]);
        found.ok().map(|place| self.by_id[place] as usize)
    }

    /// The part that holds `row`, and which of its rows that is.
    fn part_of(&self, row: usize) -> (&Part, usize) {
        let part = &self.parts[self.parts.partition_point(|part| part.first <= row) - 1];
        (part, row - part.first)
    }

    /// Number of captions of `row`.
    #[must_use]
    pub fn caption_count(&self, row: usize) -> usize {
        let (part, row) = self.part_of(row);
        (part.caption_offsets[row + 1] - part.caption_offsets[row]) as usize
    }

    /// Caption `number` of `row`, counted from 0.
    #[must_use]
    pub fn caption(&self, row: usize, number: usize) -> &str {
        let (part, row) = self.part_of(row);
        part.captions.value(part.caption_offsets[row] as usize + number)
    }

    /// Codes of the main image of `row`.
    #[must_use]
    pub fn codes(&self, row: usize) -> &[u32] {
        self.image(row).codes
    }

    /// The main image of `row`, with its grid where images have several shapes.
    #[must_use]
    pub fn image(&self, row: usize) -> ImageRef<'_> {
        let (part, row) = self.part_of(row);
        ImageRef { codes: part.codes.get(row), grid: part.grids.get(row).copied() }
    }

    /// Whether `row` has captions and codes.
    #[must_use]
    pub fn has_both(&self, row: usize) -> bool {
        self.caption_count(row) > 0 && !self.codes(row).is_empty()
    }

    /// Embedding of the pair of `row`, of unit length.
    #[must_use]
    pub fn embedding(&self, row: usize) -> &[f32] {
        let (part, row) = self.part_of(row);
        part.embeddings.get(row)
    }

    /// The `count` rows with the largest inner product with `query`, best first; of equal ones the smaller sample id is first. Exact.
    #[must_use]
    pub fn search(&self, query: &[f32], count: usize) -> Vec<Hit> {
        let of_part = |part: &Part| {
            let scored = (0..part.rows()).map(|row| Hit { row: part.first + row, similarity: dot(part.embeddings.get(row), query) });
            self.best(scored.collect(), count)
        };
        self.best(self.parts.par_iter().flat_map_iter(of_part).collect(), count)
    }

    /// The best `count` of `hits`, best first.
    fn best(&self, mut hits: Vec<Hit>, count: usize) -> Vec<Hit> {
        let better =
            |a: &Hit, b: &Hit| b.similarity.total_cmp(&a.similarity).then_with(|| self.sample_ids[a.row].cmp(&self.sample_ids[b.row]));
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
        dot(self.embedding(a), self.embedding(b))
    }
}
