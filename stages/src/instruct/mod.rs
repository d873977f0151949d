//! `instruct`: makes documents of samples, by the templates of the tasks.
//!
//! Stage of `compose`. Each sample row gives a document row for every record of a task, in the order of the tasks' names. A record whose
//! parts the sample lacks (no boxes, no edges) is not begun, and is counted under the missing part. Length policy: retrieved pairs are
//! dropped, the least similar first, until the document fits into `seq_len` with its masks. Then texts that may be cut lose their end, the
//! longest first. A document that is still too long is refused. Images are never cut; interleaved texts and images are split between
//! documents. A record is also refused if the text tokenizer cannot represent one of its texts. A neighbour with such a caption is not
//! drawn.

mod config;
mod holes;
mod item;
mod natural;
mod record;
mod tally;
mod template;

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use cm3flow_schemas::document::{ImageRef, Neighbour};
use cm3flow_schemas::sample::{Annotations, Refusal, RoleCodes, Split};
use cm3flow_schemas::vocabulary::Vocabulary;
use cm3flow_schemas::{DocumentId, RoleGrid, SampleId, SchemaError, columns, rows};
use serde::{Deserialize, Serialize};

pub use config::{InstructConfig, LongText, TaskConfig};
pub use natural::{Contents, count_contents};
pub use tally::{InstructCounts, InstructTally};
pub use template::{Each, Form, Loss, Order, Part, Task, Templates};

use crate::error::{Result, StageError};
use crate::index::Bank;
use crate::mask::MaskConfig;
use crate::stage::{Revised, Transform};
use crate::tokenize::TextTokenizer;

/// Revision of this stage's code and templates; raised when the same input gives other rows.
pub const REVISION: u32 = 5;
/// Name of the stage in metrics, refusals and errors.
pub const NAME: &str = "instruct";

/// Settings and tokenizer of `instruct`, shared by all units.
#[derive(Debug)]
pub struct InstructContext {
    /// Mixture of tasks.
    pub config: InstructConfig,
    /// Compiled tasks of `config`: [`InstructConfig::templates`].
    pub templates: Templates,
    /// Masking, because the number of spans adds to the length of a document.
    pub mask: MaskConfig,
    /// Number of tokens in a pack.
    pub seq_len: usize,
    /// Meaning of the token ids.
    pub vocabulary: Vocabulary,
    /// Text tokenizer of the dataset.
    pub tokenizer: TextTokenizer,
    /// Seed of the draws.
    pub seed: u64,
}

/// Transform from samples to documents.
pub struct Instruct {
    context: Arc<InstructContext>,
    bank: Arc<Bank>,
    multipliers: BTreeMap<String, f64>,
    variant: u16,
    /// Tokens of a line end, if the text tokenizer has them.
    newline: Option<Vec<u32>>,
    tally: InstructTally,
}

#[derive(Debug, Deserialize)]
struct In {
    sample_id: SampleId,
    annotations: Annotations,
    image_codes: Vec<RoleCodes>,
    #[serde(default)]
    image_grids: Vec<RoleGrid>,
    neighbours: Vec<Neighbour>,
    split: Split,
}

/// A row of [`columns::document`].
#[derive(Debug, Serialize)]
struct Out {
    document_id: DocumentId,
    sample_id: SampleId,
    task: String,
    split: Split,
    tokens: Vec<u32>,
    segments: Vec<cm3flow_schemas::document::Segment>,
    retrieved: Vec<Neighbour>,
    retrieved_wanted: u16,
    spans: u16,
    refusal: Option<Refusal>,
}

impl In {
    /// Returns the image `role`, with its grid where images have several shapes.
    fn image(&self, role: &str) -> Option<ImageRef<'_>> {
        let found = self.image_codes.iter().find(|image| image.role == role)?;
        Some(ImageRef { codes: &found.codes, grid: RoleGrid::of(&self.image_grids, role) })
    }
}

impl Instruct {
    /// Makes documents of samples in a window whose kept samples have `contents`; tasks with a share depend on these counts. Neighbours are
    /// found in `bank`.
    #[must_use]
    pub fn new(context: Arc<InstructContext>, bank: Arc<Bank>, contents: &Contents) -> Self {
        let multipliers = context.config.multipliers(&context.templates.natural(contents));
        let newline = context.tokenizer.encode("\n").ok();
        Self { context, bank, multipliers, variant: 0, newline, tally: InstructTally::default() }
    }

    /// Makes documents of variant `variant`, with ids of their own, which every draw depends on.
    #[must_use]
    pub fn with_variant(mut self, variant: u16) -> Self {
        self.variant = variant;
        self
    }

    /// Counts in `tally`, which can be read while a chain holds the transform.
    #[must_use]
    pub fn with_tally(mut self, tally: InstructTally) -> Self {
        self.tally = tally;
        self
    }
}

impl Revised for Instruct {
    const NAME: &'static str = NAME;
    const REVISION: u32 = REVISION;
}

impl Transform for Instruct {
    fn output_schema(&self, input: &SchemaRef) -> Result<SchemaRef, SchemaError> {
        rows::require(input, columns::prepared_sample().fields())?;
        rows::require(input, &[columns::neighbours(), columns::split()])?;
        Ok(columns::document())
    }

    fn transform(&mut self, batch: RecordBatch) -> Result<RecordBatch> {
        let schema_error = |source| StageError::Schema { stage: NAME, source };
        let wanted = [columns::SAMPLE_ID, columns::ANNOTATIONS, columns::IMAGE_CODES, columns::NEIGHBOURS, columns::SPLIT];
        let input: Vec<In> = rows::read_with(&batch, &wanted, &[columns::IMAGE_GRIDS]).map_err(schema_error)?;
        let mut documents = Vec::new();
        for sample in &input {
            self.documents_of(sample, &mut documents)?;
        }
        rows::write(&columns::document(), &documents).map_err(schema_error)
    }
}

#[cfg(test)]
mod tests;
