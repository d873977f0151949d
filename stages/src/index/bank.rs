//! Bank of samples in memory, with exact search.

use arrow::array::{AsArray, RecordBatch, StringArray};
use arrow::buffer::{OffsetBuffer, ScalarBuffer};
use arrow::datatypes::{ArrowNativeType, Float32Type, UInt32Type};
use cm3flow_schemas::document::ImageRef;
use cm3flow_schemas::rows::position;
use cm3flow_schemas::{Grid, ImageId, SampleId, SchemaError, columns, rows};
use rayon::prelude::*;
use serde::Deserialize;

use crate::embed::normalize;

/// A search result.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Hit {
    /// Index of the row in the bank.
    pub row: usize,
    /// Inner product with the query.
    pub similarity: f32,
}

/// Bank of samples that may be retrieved. It keeps the columns of its batches, so each value is in memory once.
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
    /// Index in the bank of the part's first row.
    first: usize,
    /// Captions of all rows, one after another, and the offsets where those of each row begin.
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

/// Returns the normalised mean of both embeddings, or the other one if one is empty or zero.
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

/// Returns the inner product, computed in eight lanes and summed in a fixed order: fast, and the same on every machine.
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
    /// Takes the columns of a [`columns::bank_sample`] batch.
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
    /// Builds the bank of all rows of `batches`, in their order.
    ///
    /// # Errors
    /// [`SchemaError`] if a batch lacks the columns of [`columns::bank_sample`].
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

    /// Returns the number of rows.
    #[must_use]
    pub fn len(&self) -> usize {
        self.sample_ids.len()
    }

    /// Checks whether the bank has no rows.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.sample_ids.is_empty()
    }

    /// Returns the sample id of `row`.
    #[must_use]
    pub fn sample_id(&self, row: usize) -> SampleId {
        self.sample_ids[row]
    }

    /// Returns the main image's id of `row`.
    #[must_use]
    pub fn image_id(&self, row: usize) -> ImageId {
        self.image_ids[row]
    }

    /// Returns the row of `sample`, if it is in the bank.
    #[must_use]
    pub fn row_of(&self, sample: SampleId) -> Option<usize> {
        let found = self.by_id.binary_search_by_key(&sample, |&row| self.sample_ids[row as usize]);
        found.ok().map(|place| self.by_id[place] as usize)
    }

    /// Returns the part of `row`, and the index of the row in it.
    fn part_of(&self, row: usize) -> (&Part, usize) {
        let part = &self.parts[self.parts.partition_point(|part| part.first <= row) - 1];
        (part, row - part.first)
    }

    /// Returns the number of captions of `row`.
    #[must_use]
    pub fn caption_count(&self, row: usize) -> usize {
        let (part, row) = self.part_of(row);
        (part.caption_offsets[row + 1] - part.caption_offsets[row]) as usize
    }

    /// Returns caption `number` of `row`, counted from 0.
    #[must_use]
    pub fn caption(&self, row: usize, number: usize) -> &str {
        let (part, row) = self.part_of(row);
        part.captions.value(part.caption_offsets[row] as usize + number)
    }

    /// Returns the codes of the main image of `row`.
    #[must_use]
    pub fn codes(&self, row: usize) -> &[u32] {
        self.image(row).codes
    }

    /// Returns the main image of `row`, with its grid where images have several shapes.
    #[must_use]
    pub fn image(&self, row: usize) -> ImageRef<'_> {
        let (part, row) = self.part_of(row);
        ImageRef { codes: part.codes.get(row), grid: part.grids.get(row).copied() }
    }

    /// Checks whether `row` has captions and codes.
    #[must_use]
    pub fn has_both(&self, row: usize) -> bool {
        self.caption_count(row) > 0 && !self.codes(row).is_empty()
    }

    /// Returns the pair embedding of `row`, of unit length.
    #[must_use]
    pub fn embedding(&self, row: usize) -> &[f32] {
        let (part, row) = self.part_of(row);
        part.embeddings.get(row)
    }

    /// Returns the `count` rows with the largest inner product with `query`, best first. Of equal ones, the smaller sample id comes first.
    /// Exact.
    #[must_use]
    pub fn search(&self, query: &[f32], count: usize) -> Vec<Hit> {
        let of_part = |part: &Part| {
            let scored = (0..part.rows()).map(|row| Hit { row: part.first + row, similarity: dot(part.embeddings.get(row), query) });
            self.best(scored.collect(), count)
        };
        self.best(self.parts.par_iter().flat_map_iter(of_part).collect(), count)
    }

    /// Returns the best `count` of `hits`, best first.
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

    /// Returns the inner product of two rows.
    #[must_use]
    pub fn similarity(&self, a: usize, b: usize) -> f32 {
        dot(self.embedding(a), self.embedding(b))
    }
}
