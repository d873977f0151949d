//! First samples of the sources, which artefacts are fitted on and measured with; held-out ones are kept apart.

use std::collections::BTreeMap;

use arrow::array::RecordBatch;
use cm3flow_schemas::sample::{Annotations, MAIN_IMAGE, Refusal, RoleImage, Split};
use cm3flow_schemas::{ImageId, columns, rows};
use cm3flow_stages::ingest::PlannedUnit;
use serde::Deserialize;

use crate::config::{Config, Job};
use crate::error::{PipelineError, Result};
use crate::source::photos::derived_batches;

/// Numbers of samples to collect.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wanted {
    /// Train samples, at most.
    pub(super) train: u64,
    /// Held-out samples, at most.
    pub(super) held_out: u64,
}

/// First samples of the sources.
#[derive(Debug, Default)]
pub(super) struct Samples {
    /// All texts of train samples that documents may hold.
    pub(super) texts: Vec<String>,
    /// First caption of each train sample.
    pub(super) captions: Vec<String>,
    /// Fitted main images of train samples as RGB pixels, one after the other.
    pub(super) pixels: Vec<u8>,
    /// Fitted main images of held-out samples as RGB pixels, one after the other.
    pub(super) held_out_pixels: Vec<u8>,
    /// Number of train samples.
    pub(super) train: u64,
    /// Number of held-out samples.
    held_out: u64,
    /// Number of samples read, refused ones included.
    pub(super) seen: u64,
    /// Number of refused samples by `stage.reason`, each with the detail of the first.
    refused: BTreeMap<String, (u64, String)>,
}

#[derive(Deserialize)]
struct Row {
    image_id: ImageId,
    annotations: Annotations,
    pixels: Vec<RoleImage>,
    refusal: Option<Refusal>,
}

impl Samples {
    /// Reads `units` in order until it has enough samples or none are left. Fits pictures to the square, even if the run has other shapes.
    pub(super) async fn collect(job: &Job, units: &[PlannedUnit], wanted: Wanted) -> Result<Self> {
        let mut samples = Self::default();
        let mut config = Config::clone(&job.config);
        config.tokenize.image = config.tokenize.image.without_buckets();
        for unit in units {
            if samples.train >= wanted.train && samples.held_out >= wanted.held_out {
                break;
            }
            job.safe_point()?;
            for batch in derived_batches(&config, unit).await? {
                samples.push(&config, &batch, wanted)?;
            }
        }
        Ok(samples)
    }

    fn push(&mut self, config: &Config, batch: &RecordBatch, wanted: Wanted) -> Result<()> {
        let columns = [columns::IMAGE_ID, columns::ANNOTATIONS, columns::PIXELS, columns::REFUSAL];
        for row in rows::read::<Row>(batch, &columns)? {
            self.seen += 1;
            if let Some(Refusal { stage, reason, detail }) = row.refusal {
                self.refused.entry(format!("{stage}.{reason}")).or_insert((0, detail)).0 += 1;
                continue;
            }
            match Split::of(config.dataset.seed, row.image_id, config.split.held_out) {
                Split::Train if self.train < wanted.train => self.push_train(row),
                Split::HeldOut if self.held_out < wanted.held_out => {
                    self.held_out += 1;
                    row.pixels.iter().filter(|image| image.role == MAIN_IMAGE).for_each(|image| self.held_out_pixels.extend(&image.bytes));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Returns the error for an artefact that has no samples to be fitted on.
    pub(super) fn nothing_to_fit(&self, name: &'static str) -> PipelineError {
        let reason = |(reason, (count, detail)): (&String, &(u64, String))| format!("{reason}: {count} ({detail})");
        let reasons: Vec<String> = self.refused.iter().map(reason).collect();
        let refused = if reasons.is_empty() { "none".to_owned() } else { reasons.join("; ") };
        PipelineError::NothingToFit { name, seen: self.seen, refused }
    }

    fn push_train(&mut self, row: Row) {
        self.train += 1;
        self.captions.extend(row.annotations.captions.first().cloned());
        self.texts.extend(row.annotations.captions);
        self.texts.extend(row.annotations.questions.into_iter().flat_map(|question| [question.question, question.answer]));
        self.texts.extend(row.annotations.edits.into_iter().map(|edit| edit.instruction));
        self.texts.extend(row.annotations.narratives);
        self.texts.extend(row.annotations.translations.into_iter().map(|translation| translation.caption));
        self.texts.extend(row.annotations.items.into_iter().filter_map(|item| item.text));
        self.texts.extend(row.annotations.ocr);
        self.texts.extend(row.annotations.fields.into_iter().map(|field| field.text));
        row.pixels.iter().filter(|image| image.role == MAIN_IMAGE).for_each(|image| self.pixels.extend(&image.bytes));
    }
}
