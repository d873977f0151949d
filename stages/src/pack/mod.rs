//! `pack`: puts whole documents side by side in `seq_len` tokens, in as few packs of a bucket as [`fit`] finds.
//!
//! Stage of the segment of the same name. Buffers its bucket. Neighbours share their boundary token; other tokens stay as they are. No
//! document is cut or lost. The rest of a pack is padding, which no segment covers. A row with a refusal is already in the ledger, and
//! enters no pack.

mod bins;
mod withdraw;

use std::ops::RangeInclusive;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use cm3flow_schemas::document::Segment;
use cm3flow_schemas::limits::{problem, within};
use cm3flow_schemas::pack::{Pack as PackRow, PackStatistics, PlacedDocument};
use cm3flow_schemas::random::Draws;
use cm3flow_schemas::sample::Refusal;
use cm3flow_schemas::vocabulary::Vocabulary;
use cm3flow_schemas::{DocumentId, SampleId, SchemaError, columns, rows};
use futures::FutureExt;
use futures::future::BoxFuture;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use bins::{Bins, fit, least_bins, packs_at_other_lengths};
pub use withdraw::withdraw;

use crate::channel::{BatchSender, BatchStream};
use crate::error::{Result, StageError};
use crate::stage::{Revised, Stage};

/// Revision of this stage's code; raised when the same input gives other rows.
pub const REVISION: u32 = 3;
/// Name of the stage in metrics, refusals and errors.
pub const NAME: &str = "pack";
/// Number of packs in a batch sent.
const BATCH_ROWS: usize = 256;

const SEQ_LEN: RangeInclusive<u32> = 128..=131_072;

/// `[pack]`: packs, rows of equal length that whole documents stand in side by side.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct PackConfig {
    /// Number of tokens in a pack: the length of the sequences that a model is trained on, and of the longest document. An image with its
    /// boundaries must fit.
    #[schemars(transform = within(SEQ_LEN))]
    pub seq_len: u32,
}

impl Default for PackConfig {
    fn default() -> Self {
        Self { seq_len: 4096 }
    }
}

impl PackConfig {
    /// Returns the problems of the fields, each with the field's path.
    #[must_use]
    pub fn problems(&self) -> Vec<String> {
        problem("pack.seq_len", self.seq_len, &SEQ_LEN).into_iter().collect()
    }
}

/// Stage that packs documents.
#[derive(Debug)]
pub struct Pack {
    seq_len: usize,
    vocabulary: Vocabulary,
    seed: u64,
}

impl Pack {
    /// Packs by `config`, which has been checked, in ids of `vocabulary`.
    #[must_use]
    pub fn new(config: &PackConfig, vocabulary: Vocabulary, seed: u64) -> Self {
        Self { seq_len: config.seq_len as usize, vocabulary, seed }
    }

    fn pack(&self, documents: &[In]) -> Result<Vec<PackRow>> {
        if let Some(long) = documents.iter().find(|document| document.tokens.len() > self.seq_len) {
            let (document, len, seq_len) = (long.document_id, long.tokens.len(), self.seq_len);
            return Err(StageError::DocumentTooLong { document, len, seq_len });
        }
        // The code below relies on two boundaries.
        if let Some(broken) = documents.iter().find(|document| document.tokens.len() < 2 || document.segments.len() < 2) {
            return Err(StageError::BrokenDocument {
                document: broken.document_id,
                tokens: broken.tokens.len(),
                segments: broken.segments.len(),
            });
        }
        // A pack has one opening boundary; each document then costs the tokens behind its own.
        let costs: Vec<usize> = documents.iter().map(|document| document.tokens.len() - 1).collect();
        let mut packs: Vec<(u64, PackRow)> = Vec::new();
        for bin in fit(&costs, self.seq_len - 1).iter() {
            let mut members: Vec<&In> = bin.iter().map(|&member| &documents[member as usize]).collect();
            let mut draws = Draws::new(self.seed, NAME, &members[0].document_id.0);
            let place = draws.next_u64();
            draws.shuffle(&mut members);
            packs.push((place, self.assemble(members.into_iter())));
        }
        packs.sort_by_key(|(place, _)| *place);
        Ok(packs.into_iter().map(|(_, pack)| pack).collect())
    }

    fn assemble<'d>(&self, members: impl Iterator<Item = &'d In>) -> PackRow {
        let mut pack = PackRow { tokens: Vec::with_capacity(self.seq_len), segments: Vec::new(), documents: Vec::new() };
        for document in members {
            let shared = usize::from(!pack.tokens.is_empty());
            let start = (pack.tokens.len() - shared) as u32;
            pack.tokens.extend(&document.tokens[shared..]);
            let moved = document.segments[shared..].iter().map(|segment| Segment { start: segment.start + start, ..*segment });
            pack.segments.extend(moved);
            pack.documents.push(PlacedDocument {
                document_id: document.document_id,
                sample_id: document.sample_id,
                task: document.task.clone(),
                start,
                len: document.tokens.len() as u32,
            });
        }
        pack.tokens.resize(self.seq_len, self.vocabulary.pad);
        pack
    }
}

#[derive(Debug, Deserialize)]
struct In {
    document_id: DocumentId,
    sample_id: SampleId,
    task: String,
    tokens: Vec<u32>,
    segments: Vec<Segment>,
    refusal: Option<Refusal>,
}

impl Revised for Pack {
    const NAME: &'static str = NAME;
    const REVISION: u32 = REVISION;
}

impl Stage for Pack {
    fn name(&self) -> &'static str {
        NAME
    }

    fn output_schema(&self, input: &SchemaRef) -> Result<SchemaRef, SchemaError> {
        rows::require(input, columns::document().fields())?;
        Ok(columns::pack(self.seq_len, self.vocabulary.width()))
    }

    fn run(self: Box<Self>, input: BatchStream, out: BatchSender) -> BoxFuture<'static, Result<()>> {
        async move {
            let schema_error = |source| StageError::Schema { stage: NAME, source };
            let wanted = [columns::DOCUMENT_ID, columns::SAMPLE_ID, columns::TASK, columns::TOKENS, columns::SEGMENTS, columns::REFUSAL];
            let mut documents: Vec<In> = Vec::new();
            while let Some(batch) = input.next().await {
                let rows = rows::read::<In>(&batch, &wanted).map_err(schema_error)?;
                documents.extend(rows.into_iter().filter(|row| row.refusal.is_none()));
            }
            let schema = columns::pack(self.seq_len, self.vocabulary.width());
            let packed = tokio::task::spawn_blocking(move || self.pack(&documents)).await;
            let packs = packed.map_err(|source| StageError::Task { stage: NAME, source })??;
            for rows in packs.chunks(BATCH_ROWS) {
                let batch: RecordBatch = rows::write(&schema, rows).map_err(schema_error)?;
                out.send(batch).await?;
            }
            Ok(())
        }
        .boxed()
    }
}

/// Counts documents and tokens in packs. Counts of retrieval come from the documents: see [`PackStatistics`].
#[must_use]
pub fn statistics(packs: &[PackRow], seq_len: usize) -> PackStatistics {
    use cm3flow_schemas::document::{Modality, Role};
    let mut statistics =
        PackStatistics { packs: packs.len() as u64, capacity: (packs.len() * seq_len) as u64, ..PackStatistics::default() };
    for pack in packs {
        // The end of the last segment would not do, since there may be holes before it.
        statistics.used += pack.segments.iter().map(|segment| u64::from(segment.len)).sum::<u64>();
        let squares = pack.documents.iter().map(|document| u64::from(document.len).pow(2)).sum::<u64>();
        statistics.squares += squares;
        statistics.most_squares = statistics.most_squares.max(squares);
        for document in &pack.documents {
            let task = statistics.tasks.entry(document.task.clone()).or_default();
            task.documents += 1;
            let range = document.start as usize..(document.start + document.len) as usize;
            for segment in pack.segments.iter().filter(|segment| range.contains(&segment.range().start)) {
                let tokens = u64::from(segment.len);
                match segment.modality {
                    Modality::Text => task.text_tokens += tokens,
                    Modality::Image => task.image_tokens += tokens,
                    Modality::Control => task.control_tokens += tokens,
                }
                task.spans += u64::from(segment.role == Role::SpanEnd);
            }
        }
    }
    statistics
}

#[cfg(test)]
mod tests;
