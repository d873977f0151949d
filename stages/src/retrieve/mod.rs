//! `retrieve`: neighbours of each sample in the bank, by relevance, modality and diversity; never the sample itself.
//!
//! First stage of `compose`. Row-local: keeps order and number of rows.
//!
//! # Source
//! CM3Leon paper, section 2.1, <https://arxiv.org/abs/2309.02591>: two candidates by image and two by text, of which some are drawn. A
//! candidate too similar to the query or to a chosen one is skipped. A fifth of the query's words is dropped.

use std::ops::{Bound, Range, RangeFrom};
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use cm3flow_schemas::document::Neighbour;
use cm3flow_schemas::limits::{problem, within};
use cm3flow_schemas::random::Draws;
use cm3flow_schemas::rows::{self, ColumnChange};
use cm3flow_schemas::sample::Annotations;
use cm3flow_schemas::{ImageId, SampleId, SchemaError, columns};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::embed::EmbedderOwner;
use crate::error::{Result, StageError};
use crate::index::{Bank, Hit, pair_embedding};
use crate::stage::{Revised, Transform};

/// Revision of this stage's code; raised when the same input gives other rows.
pub const REVISION: u32 = 2;
/// Name of the stage in metrics, refusals and errors.
pub const NAME: &str = "retrieve";
/// Largest number of candidates of each query, whether or not enough of them differ.
const CANDIDATES: usize = 64;

const MAX_SIMILARITY: (Bound<f32>, Bound<f32>) = (Bound::Excluded(-1.0), Bound::Included(1.0));
const QUERY_DROPOUT: Range<f64> = 0.0..1.0;
const BANK_ROWS: RangeFrom<u64> = 2..;

/// `[retrieve]`: neighbours, similar pairs that stand in front of a sample in its documents.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RetrieveConfig {
    /// Number of neighbours of a sample, at most `by_text + by_image`; 0 for none.
    pub documents: u32,
    /// Number of candidates found by text.
    pub by_text: u32,
    /// Number of candidates found by image.
    pub by_image: u32,
    /// Largest inner product of a neighbour with the sample or with another neighbour: closer ones would repeat it.
    #[schemars(transform = within(MAX_SIMILARITY))]
    pub max_similarity: f32,
    /// Share of the words that are dropped from the caption that neighbours are searched by.
    #[schemars(transform = within(QUERY_DROPOUT))]
    pub query_dropout: f64,
    /// Largest number of rows of the bank, in which neighbours are found: half for the newest windows, half for a draw of all earlier ones.
    #[schemars(transform = within(BANK_ROWS))]
    pub bank_rows: u64,
}

impl Default for RetrieveConfig {
    fn default() -> Self {
        Self { documents: 3, by_text: 2, by_image: 2, max_similarity: 0.9, query_dropout: 0.2, bank_rows: 1_000_000 }
    }
}

impl RetrieveConfig {
    /// Returns the problems of the fields, each with the field's path.
    #[must_use]
    pub fn problems(&self) -> Vec<String> {
        let (documents, candidates) = (u64::from(self.documents), u64::from(self.by_text) + u64::from(self.by_image));
        let too_many = documents > candidates;
        let documents = too_many.then(|| format!("retrieve.documents must not exceed by_text + by_image, got {documents} of {candidates}"));
        let limits = [
            documents,
            problem("retrieve.max_similarity", self.max_similarity, &MAX_SIMILARITY),
            problem("retrieve.query_dropout", self.query_dropout, &QUERY_DROPOUT),
            problem("retrieve.bank_rows", self.bank_rows, &BANK_ROWS),
        ];
        limits.into_iter().flatten().collect()
    }
}

/// Transform that adds neighbours.
pub struct Retrieve {
    config: RetrieveConfig,
    bank: Arc<Bank>,
    embedder: EmbedderOwner,
    seed: u64,
    variant: u16,
    change: ColumnChange,
}

impl Retrieve {
    /// Retrieves from `bank`; `embedder` must be the one that computed its embeddings.
    #[must_use]
    pub fn new(config: RetrieveConfig, bank: Arc<Bank>, embedder: EmbedderOwner, seed: u64) -> Self {
        Self { config, bank, embedder, seed, variant: 0, change: ColumnChange::new(&[], vec![columns::neighbours()]) }
    }

    /// Retrieves for variant `variant` of the documents, which has its own draws of candidates and query words.
    #[must_use]
    pub const fn with_variant(mut self, variant: u16) -> Self {
        self.variant = variant;
        self
    }

    /// Returns the draws of `purpose` for a sample.
    fn draws(&self, purpose: &str, sample: SampleId) -> Draws {
        match self.variant {
            0 => Draws::new(self.seed, purpose, &sample.0),
            variant => Draws::new(self.seed, purpose, &[&sample.0[..], &variant.to_le_bytes()].concat()),
        }
    }

    fn neighbours(&self, row: &In, text_query: &[f32]) -> Vec<Neighbour> {
        let pair = pair_embedding(&row.text_embedding, &row.image_embedding);
        let mut chosen: Vec<Hit> = Vec::new();
        for (query, wanted) in [(text_query, self.config.by_text), (row.image_embedding.as_slice(), self.config.by_image)] {
            self.choose(row, &pair, query, wanted as usize, &mut chosen);
        }
        let mut draws = self.draws(NAME, row.sample_id);
        draws.shuffle(&mut chosen);
        chosen.truncate(self.config.documents as usize);
        let neighbour = |hit: Hit| Neighbour { sample_id: self.bank.sample_id(hit.row), similarity: hit.similarity };
        let mut neighbours: Vec<Neighbour> = chosen.into_iter().map(neighbour).collect();
        neighbours.sort_by(|a, b| b.similarity.total_cmp(&a.similarity).then(a.sample_id.cmp(&b.sample_id)));
        neighbours
    }

    /// Adds up to `wanted` candidates for `query`; similarities are those of whole pairs.
    fn choose(&self, row: &In, pair: &[f32], query: &[f32], wanted: usize, chosen: &mut Vec<Hit>) {
        if query.iter().all(|value| *value == 0.0) {
            return;
        }
        let mut candidates = self.bank.search(query, CANDIDATES);
        candidates.sort_by_key(|hit| !self.bank.has_both(hit.row));
        let limit = chosen.len() + wanted;
        for candidate in candidates {
            if chosen.len() == limit {
                return;
            }
            let found = candidate.row;
            let is_itself = self.bank.sample_id(found) == row.sample_id || self.bank.image_id(found) == row.image_id;
            let similarity = crate::index::dot(self.bank.embedding(found), pair);
            let repeats = |other: &Hit| self.bank.similarity(other.row, found) > self.config.max_similarity;
            if !is_itself && similarity <= self.config.max_similarity && !chosen.iter().any(repeats) {
                chosen.push(Hit { row: found, similarity });
            }
        }
    }

    /// Returns the first caption without a drawn share of its words.
    fn query_text(&self, row: &In) -> String {
        let caption = row.annotations.captions.first().map_or("", String::as_str);
        let mut draws = self.draws("query dropout", row.sample_id);
        let kept: Vec<&str> = caption.split_whitespace().filter(|_| draws.unit() >= self.config.query_dropout).collect();
        if kept.is_empty() { caption.to_owned() } else { kept.join(" ") }
    }
}

#[derive(Deserialize)]
struct In {
    sample_id: SampleId,
    image_id: ImageId,
    annotations: Annotations,
    text_embedding: Vec<f32>,
    image_embedding: Vec<f32>,
}

#[derive(Serialize)]
struct Out {
    neighbours: Vec<Neighbour>,
}

impl Revised for Retrieve {
    const NAME: &'static str = NAME;
    const REVISION: u32 = REVISION;
}

impl Transform for Retrieve {
    fn output_schema(&self, input: &SchemaRef) -> Result<SchemaRef, SchemaError> {
        rows::require(input, columns::prepared_sample().fields())?;
        Ok(self.change.output_schema(input))
    }

    fn transform(&mut self, batch: RecordBatch) -> Result<RecordBatch> {
        let schema_error = |source| StageError::Schema { stage: NAME, source };
        let wanted = [columns::SAMPLE_ID, columns::IMAGE_ID, columns::ANNOTATIONS, columns::TEXT_EMBEDDING, columns::IMAGE_EMBEDDING];
        let input: Vec<In> = rows::read(&batch, &wanted).map_err(schema_error)?;
        let found = if self.config.documents == 0 || self.bank.is_empty() {
            input.iter().map(|_| Out { neighbours: Vec::new() }).collect::<Vec<_>>()
        } else {
            let texts: Vec<String> = input.iter().map(|row| self.query_text(row)).collect();
            let embedded = self.embedder.call_blocking(move |embedder| {
                let dimension = embedder.dimension();
                let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
                embedder.embed_texts(&texts).map(|queries| (queries, dimension))
            })?;
            let (queries, dimension) = embedded.map_err(|source| StageError::Model { stage: NAME, component: "pair embedder", source })?;
            input.iter().zip(queries.chunks_exact(dimension)).map(|(row, query)| Out { neighbours: self.neighbours(row, query) }).collect()
        };
        self.change.apply(&batch, &found).map_err(schema_error)
    }
}

#[cfg(test)]
mod tests;
