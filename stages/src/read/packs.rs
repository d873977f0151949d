//! Packs inside decoded blocks: views that copy nothing until the caller does.

use std::ops::Range;
use std::sync::Arc;

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::buffer::{OffsetBuffer, ScalarBuffer};
use arrow::datatypes::{DataType, Float32Type, UInt8Type, UInt16Type, UInt32Type};
use cm3flow_schemas::document::{Modality, Role, Segment};
use cm3flow_schemas::pack::PackBatch;

/// Token ids of a block, `packs * seq_len`, row-major.
#[derive(Debug, Clone)]
enum Tokens {
    U16(ScalarBuffer<u16>),
    U32(ScalarBuffer<u32>),
}

/// Token ids of a pack, as stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenIds<'a> {
    /// Ids of a vocabulary of at most 65,536 ids.
    U16(&'a [u16]),
    /// Ids of a larger vocabulary.
    U32(&'a [u32]),
}

/// Segments of a pack, by column, all of one length.
#[derive(Debug, Clone, Copy)]
pub struct SegmentTable<'a> {
    /// First token of each segment, counted from the pack's first.
    pub start: &'a [u32],
    /// Number of tokens of each segment.
    pub len: &'a [u32],
    /// [`Modality`] of each segment, by number.
    pub modality: &'a [u8],
    /// [`Role`] of each segment, by number.
    pub role: &'a [u8],
    /// Loss weight of each segment.
    pub loss_weight: &'a [f32],
}

/// A decoded block.
#[derive(Debug)]
pub struct PackBlock {
    seq_len: usize,
    packs: usize,
    tokens: Tokens,
    segments: OffsetBuffer<i32>,
    start: ScalarBuffer<u32>,
    len: ScalarBuffer<u32>,
    modality: ScalarBuffer<u8>,
    role: ScalarBuffer<u8>,
    loss_weight: ScalarBuffer<f32>,
    documents: OffsetBuffer<i32>,
    document_start: ScalarBuffer<u32>,
}

impl PackBlock {
    /// Takes the columns of a [`cm3flow_schemas::columns::pack`] batch.
    pub(super) fn new(batch: &RecordBatch) -> Self {
        let tokens = batch.column(0).as_fixed_size_list();
        let seq_len = tokens.value_length().unsigned_abs() as usize;
        let tokens = match tokens.values().data_type() {
            DataType::UInt16 => Tokens::U16(tokens.values().as_primitive::<UInt16Type>().values().clone()),
            _ => Tokens::U32(tokens.values().as_primitive::<UInt32Type>().values().clone()),
        };
        let segments = batch.column(1).as_list::<i32>();
        let documents = batch.column(2).as_list::<i32>();
        let fields = segments.values().as_struct();
        let offsets = |column: usize| fields.column(column).as_primitive::<UInt32Type>().values().clone();
        let kinds = |column: usize| fields.column(column).as_primitive::<UInt8Type>().values().clone();
        Self {
            seq_len,
            packs: batch.num_rows(),
            tokens,
            segments: segments.offsets().clone(),
            start: offsets(0),
            len: offsets(1),
            modality: kinds(2),
            role: kinds(3),
            loss_weight: fields.column(4).as_primitive::<Float32Type>().values().clone(),
            documents: documents.offsets().clone(),
            document_start: documents.values().as_struct().column(3).as_primitive::<UInt32Type>().values().clone(),
        }
    }

    /// Returns the number of packs.
    #[must_use]
    pub const fn packs(&self) -> usize {
        self.packs
    }
}

/// A pack in a block, which it keeps in memory.
#[derive(Debug, Clone)]
pub struct PackRow {
    pub(super) block: Arc<PackBlock>,
    pub(super) row: usize,
}

impl PackRow {
    /// Returns the number of tokens.
    #[must_use]
    pub fn seq_len(&self) -> usize {
        self.block.seq_len
    }

    /// Returns the token ids without a copy.
    #[must_use]
    pub fn tokens(&self) -> TokenIds<'_> {
        let places = self.row * self.block.seq_len..(self.row + 1) * self.block.seq_len;
        match &self.block.tokens {
            Tokens::U16(ids) => TokenIds::U16(&ids[places]),
            Tokens::U32(ids) => TokenIds::U32(&ids[places]),
        }
    }

    /// Writes the token ids into `out`, which has [`Self::seq_len`] places.
    ///
    /// # Panics
    /// If `out` has another number of places.
    pub fn widen_into(&self, out: &mut [i64]) {
        assert_eq!(out.len(), self.block.seq_len, "a pack is written as a whole");
        match self.tokens() {
            TokenIds::U16(ids) => out.iter_mut().zip(ids).for_each(|(to, id)| *to = i64::from(*id)),
            TokenIds::U32(ids) => out.iter_mut().zip(ids).for_each(|(to, id)| *to = i64::from(*id)),
        }
    }

    /// Returns the segments, in order, with positions counted from the pack's first token.
    #[must_use]
    pub fn segments(&self) -> SegmentTable<'_> {
        let block = &*self.block;
        let rows = range(&block.segments, self.row);
        SegmentTable {
            start: &block.start[rows.clone()],
            len: &block.len[rows.clone()],
            modality: &block.modality[rows.clone()],
            role: &block.role[rows.clone()],
            loss_weight: &block.loss_weight[rows],
        }
    }

    /// Returns the first token of each document, in order.
    #[must_use]
    pub fn document_starts(&self) -> &[u32] {
        &self.block.document_start[range(&self.block.documents, self.row)]
    }

    /// Appends the pack to `batch`.
    pub(super) fn append_to(&self, batch: &mut PackBatch) {
        match self.tokens() {
            TokenIds::U16(ids) => batch.tokens.extend(ids.iter().map(|id| u32::from(*id))),
            TokenIds::U32(ids) => batch.tokens.extend(ids),
        }
        batch.segments.push(self.segments().to_segments());
        batch.document_starts.push(self.document_starts().to_vec());
    }
}

impl SegmentTable<'_> {
    /// Returns the segments as structs.
    #[must_use]
    pub fn to_segments(&self) -> Vec<Segment> {
        let segment = |index: usize| Segment {
            start: self.start[index],
            len: self.len[index],
            // Only a later format can have unknown kinds, and its version number is refused before.
            modality: Modality::try_from(self.modality[index]).unwrap_or(Modality::Control),
            role: Role::try_from(self.role[index]).unwrap_or(Role::Target),
            loss_weight: self.loss_weight[index],
        };
        (0..self.start.len()).map(segment).collect()
    }
}

fn range(offsets: &OffsetBuffer<i32>, row: usize) -> Range<usize> {
    offsets[row] as usize..offsets[row + 1] as usize
}
