//! Single artefacts fitted on request, with their quality: a codebook is measured on photos that it was not fitted on.

use std::sync::Arc;

use bytes::Bytes;
use cm3flow_model::device;
use cm3flow_stages::tokenize::{PatchTokenizer, TextTokenizer};

use super::quality::{self, Quality};
use super::samples::{Samples, Wanted};
use super::{Artefacts, CODEBOOK, Contents, Request, TOKENIZER, contents_for, image_tokenizer, obtain};
use crate::artefact::picture;
use crate::catalog::Published;
use crate::config::{Config, ImageTokenizerConfig, Job};
use crate::error::{PipelineError, Result};
use crate::events::progress::Progress;
use crate::source::scan::{Scan, scan_sources};

/// Held-out photos that measure a fitted codebook, at most.
const HELD_OUT_PHOTOS: u64 = 256;

/// Fits missing artefacts, or all with `refit`, and pins them.
///
/// # Errors
/// [`PipelineError::NothingToFit`], [`PipelineError::Pinned`] if settings changed and `refit` is not asked for, or those of a source, a
/// stage, a model or the store.
pub async fn fit(job: &Job, refit: bool) -> Result<Artefacts> {
    job.until_stopped(async { obtain(job, &scanned(job).await?.units, refit).await }).await
}

/// Scans all units of the sources, even those that a limited run leaves out: later runs use the fitted artefacts too.
async fn scanned(job: &Job) -> Result<Scan> {
    scan_sources(job, Published::latest(&job.catalog()).await?.as_ref(), None).await
}

/// A fitted text tokenizer.
pub struct FittedText {
    /// Bytes of the `tokenizer.json`.
    pub json: Bytes,
    /// Number of token ids.
    pub size: u32,
}

/// Fits the text tokenizer of `config`, unless it is pinned.
///
/// # Errors
/// [`PipelineError::Given`] if the configuration names a file, or as [`fit`].
pub async fn fit_text_tokenizer(job: &Job, refit: bool) -> Result<FittedText> {
    let config = &job.config;
    if let Some(path) = &config.tokenize.text.file {
        return Err(PipelineError::Given { name: TOKENIZER, field: "tokenize.text.file", path: config.resolve(path) });
    }
    let fitting = async { contents_for(job, &scanned(job).await?.units, Request { only: Some(TOKENIZER), refit }).await };
    let contents = job.until_stopped(fitting).await?;
    let json = contents[TOKENIZER].clone();
    Ok(FittedText { size: TextTokenizer::from_json(&json)?.size(), json })
}

/// A fitted codebook with its quality on held-out photos.
pub struct FittedCodebook {
    /// Weights as safetensors, or the patches of a patch tokenizer.
    pub weights: Bytes,
    /// Quality of the tokenizer, and of patches with as many codes and tokens fitted on the same photos; empty without held-out photos.
    pub quality: Vec<Quality>,
    /// PNG of held-out photos above the reconstructions of each tokenizer of `quality`; none without held-out photos.
    pub reconstructions: Option<Vec<u8>>,
}

/// Fits the image tokenizer of `config`, unless it is given or pinned. Measures it and a patch baseline on held-out photos.
///
/// # Errors
/// [`PipelineError::Mismatch`] if codes are given, or as [`fit`].
pub async fn fit_codebook(job: &Job, refit: bool) -> Result<FittedCodebook> {
    job.until_stopped(fit_and_measure(job, refit)).await
}

async fn fit_and_measure(job: &Job, refit: bool) -> Result<FittedCodebook> {
    let config = &job.config;
    if matches!(config.tokenize.image, ImageTokenizerConfig::Given(_)) {
        let problem = "tokenize.image.kind = \"given\" encodes nothing, so there is no codebook to fit; name another kind to fit one";
        return Err(PipelineError::Mismatch { problem: problem.into() });
    }
    let units = scanned(job).await?.units;
    let contents = contents_for(job, &units, Request { only: Some(CODEBOOK), refit }).await?;
    let wanted = Wanted { train: config.fit.max_samples, held_out: HELD_OUT_PHOTOS };
    let samples = Samples::collect(job, &units, wanted).await?;
    let (config, progress) = (Arc::clone(config), job.progress.clone());
    let measuring = move || {
        device::set_threads(config.runtime.threads);
        measured_codebook(&config, &contents, &samples, &progress)
    };
    tokio::task::spawn_blocking(measuring).await.map_err(|_| PipelineError::Lost { what: "measuring the codebook" })?
}

fn measured_codebook(config: &Config, contents: &Contents, samples: &Samples, progress: &Progress) -> Result<FittedCodebook> {
    let mut tokenizer = image_tokenizer(config, contents)?;
    let (photos, spec) = (&samples.held_out_pixels, tokenizer.spec().clone());
    let mut fitted = FittedCodebook { weights: contents[CODEBOOK].clone(), quality: Vec::new(), reconstructions: None };
    if photos.is_empty() {
        progress.say("no photo is held out, so quality is not measured; split.held_out says which share is");
        return Ok(fitted);
    }
    let mut measured = vec![quality::measure(&mut *tokenizer, photos)?];
    if spec.side_px.is_multiple_of(spec.grid) {
        let baseline =
            PatchTokenizer::fit(&samples.pixels, spec.side_px, spec.side_px / spec.grid, spec.codebook_size, config.dataset.seed);
        match baseline {
            Ok(mut baseline) => measured.push(quality::measure(&mut baseline, photos)?),
            Err(error) => progress.say(&format!("patches were not fitted beside it: {error}")),
        }
    }
    let originals: Vec<&[u8]> = photos.chunks_exact(spec.bytes_per_image()).take(measured[0].decoded.len()).collect();
    let rows = measured.iter().map(|measured| measured.decoded.iter().map(Vec::as_slice).collect());
    let rows: Vec<Vec<&[u8]>> = std::iter::once(originals).chain(rows).collect();
    let (pixels, width, height) = quality::grid(&rows, spec.side_px);
    fitted.reconstructions = Some(picture::png(&pixels, width, height)?);
    fitted.quality = measured.into_iter().map(|measured| measured.quality).collect();
    Ok(fitted)
}
