//! Content of the page as plain data for the template.

use std::collections::BTreeMap;

use cm3flow_schemas::pack::TaskStatistics;
use cm3flow_schemas::{DocumentId, SampleId};
use serde::Serialize;

use crate::catalog::refused::RefusedSample;

/// Content of the page.
#[derive(Debug, Serialize)]
pub(super) struct Page {
    pub dataset: String,
    pub version: u32,
    pub base: Option<u32>,
    pub facts: Vec<(&'static str, String)>,
    pub ledger: String,
    pub documents: String,
    pub funnel: Vec<FunnelStep>,
    pub reasons: Vec<Reason>,
    /// Parts that samples lost, a line for each reason.
    pub dropped: Vec<String>,
    /// Files of folders that hold no samples, a line for each source.
    pub left: Vec<String>,
    /// Numbers of records that were not begun, by task and missing part.
    pub lacking: Vec<Reason>,
    /// Number of records with a text that lost its end.
    pub shortened: u64,
    pub refused: Vec<RefusedSample>,
    pub samples: Vec<Sample>,
    pub neighbours: Vec<Query>,
    pub masked: Vec<MaskedDocument>,
    /// SVG of some packs.
    pub packs: String,
    pub fill: Vec<Fill>,
    /// Counts of each task over both splits.
    pub tasks: BTreeMap<String, TaskStatistics>,
    pub stages: Vec<StageTime>,
    pub training: Option<TrainingPart>,
    pub credits: Vec<Credit>,
}

/// A bar of the funnel.
#[derive(Debug, Serialize)]
pub(super) struct FunnelStep {
    pub name: String,
    pub count: u64,
    /// Share of the input, in percent.
    pub percent: f64,
}

/// A reason with its count.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Reason {
    pub reason: String,
    pub count: u64,
}

/// A sample with its pictures, as data URLs.
#[derive(Debug, Serialize)]
pub(super) struct Sample {
    pub sample_id: SampleId,
    pub key: String,
    pub photo: Option<String>,
    pub edges: Option<String>,
    pub reconstruction: String,
    pub psnr: Option<f64>,
    pub caption: String,
}

/// A sample with its retrieved neighbours.
#[derive(Debug, Serialize)]
pub(super) struct Query {
    pub caption: String,
    pub image: String,
    pub found: Vec<RetrievedRow>,
}

/// A retrieved sample.
#[derive(Debug, Serialize)]
pub(super) struct RetrievedRow {
    pub caption: String,
    pub image: String,
    pub similarity: f32,
}

/// A document as the trainer sees it.
#[derive(Debug, Serialize)]
pub(super) struct MaskedDocument {
    pub document_id: DocumentId,
    pub task: String,
    pub tokens: usize,
    pub spans: u16,
    /// SVG of its segments.
    pub drawing: String,
    /// Text in runs, with control tokens by name and images as `[n codes]`.
    pub spelled: Vec<SpelledPart>,
}

/// A run of a spelled document.
#[derive(Debug, Serialize)]
pub(super) struct SpelledPart {
    pub class: &'static str,
    pub text: String,
}

/// Fill of the packs of a split.
#[derive(Debug, Serialize)]
pub(super) struct Fill {
    pub split: String,
    pub packs: u64,
    pub used: u64,
    pub capacity: u64,
    pub percent: f64,
    /// Lower bound on packs for any packing, if computed.
    pub least_packs: Option<u64>,
    /// Cost of attention in the most expensive pack over the mean cost.
    pub imbalance: Option<f64>,
    /// Length in tokens that would fill better, with its fill rate in percent.
    pub better: Option<(u32, f64)>,
}

/// Work of a stage in this run.
#[derive(Debug, Serialize)]
pub(super) struct StageTime {
    pub name: &'static str,
    pub rows: u64,
    pub busy_s: f64,
    pub rate: f64,
}

/// Training and evaluations.
#[derive(Debug, Serialize)]
pub(super) struct TrainingPart {
    pub checkpoint: String,
    pub steps: u64,
    pub first_loss: f64,
    pub last_loss: f64,
    /// SVG of the losses.
    pub curve: String,
    pub evaluations: Vec<EvaluationRow>,
    /// Step of the last evaluation, which made the images and captions.
    pub step: u64,
    pub images: Vec<GeneratedPicture>,
    pub captions: Vec<GeneratedText>,
}

/// Perplexities of an evaluation; `None` without tokens of the modality.
#[derive(Debug, Serialize)]
pub(super) struct EvaluationRow {
    pub step: u64,
    pub packs: u64,
    pub text: Option<f64>,
    pub image: Option<f64>,
    pub all: Option<f64>,
}

/// A generated picture beside the held-out one.
#[derive(Debug, Serialize)]
pub(super) struct GeneratedPicture {
    pub caption: String,
    pub generated: String,
    pub reference: String,
}

/// A generated caption beside the held-out one.
#[derive(Debug, Serialize)]
pub(super) struct GeneratedText {
    pub image: String,
    pub reference: String,
    pub generated: String,
}

/// Credit for a picture.
#[derive(Debug, Serialize)]
pub(super) struct Credit {
    pub key: String,
    pub credit: String,
    pub license: String,
    pub source: String,
}
