//! One artefact fitted by itself, with what a person wants to know of it: the codebook measured on photos that it was not fitted on.

use bytes::Bytes;
use cm3flow_model::device;
use cm3flow_stages::ingest::PlannedUnit;
use cm3flow_stages::tokenize::{PatchTokenizer, TextTokenizer};

use super::quality::{self, Quality};
use super::samples::{Samples, Wanted};
use super::{CODEBOOK, Contents, Request, TOKENIZER, contents_for, image_tokenizer};
use crate::artefact::picture;
use crate::config::{Config, ImageTokenizerConfig};
use crate::error::{PipelineError, Result};
use crate::events::progress::Progress;
use crate::store::Store;

/// Held-out photos that a fitted codebook is measured on, at most.
const HELD_OUT_PHOTOS: u64 = 256;

/// A fitted text tokenizer.
pub struct FittedText {
    /// Bytes of the `tokenizer.json`.
    pub json: Bytes,
    /// Number of ids.
    pub size: u32,
}

/// Fits the text tokenizer of `config`, unless it is pinned.
///
/// # Errors
/// [`PipelineError::Given`] if the configuration names a file, or as [`obtain`].
pub(crate) async fn fit_text_tokenizer(
    config: &Config,
    store: &Store,
    units: &[PlannedUnit],
    refit: bool,
    progress: &Progress,
) -> Result<FittedText> {
    if let Some(path) = &config.tokenize.text.file {
        return Err(PipelineError::Given { name: TOKENIZER, field: "tokenize.text.file", path: config.resolve(path) });
    }
    let contents = contents_for(config, store, units, Request { only: Some(TOKENIZER), refit }, progress).await?;
    let json = contents[TOKENIZER].clone();
    Ok(FittedText { size: TextTokenizer::from_json(&json)?.size(), json })
}

/// A fitted codebook with what it makes of held-out photos.
pub struct FittedCodebook {
    /// Weights as safetensors, or the patches of a patch tokenizer.
    pub weights: Bytes,
    /// The tokenizer, and patches with as many codes and tokens, fitted on the same photos; none without held-out photos.
    pub quality: Vec<Quality>,
    /// Held-out photos over what each tokenizer of `quality` makes of them, as PNG; none without held-out photos.
    pub reconstructions: Option<Vec<u8>>,
}

/// Fits the image tokenizer of `config`, unless it is given or pinned, and measures it on held-out photos beside the baseline.
///
/// # Errors
/// [`PipelineError::Mismatch`] if codes are given, or as [`obtain`].
pub(crate) async fn fit_codebook(
    config: &Config,
    store: &Store,
    units: &[PlannedUnit],
    refit: bool,
    progress: &Progress,
) -> Result<FittedCodebook> {
    if matches!(config.tokenize.image, ImageTokenizerConfig::Given(_)) {
        let problem = "tokenize.image.kind = \"given\" encodes nothing, so there is no codebook to fit; name another kind to fit one";
        return Err(PipelineError::Mismatch { problem: problem.into() });
    }
    let contents = contents_for(config, store, units, Request { only: Some(CODEBOOK), refit }, progress).await?;
    let wanted = Wanted { train: config.fit.max_samples, held_out: HELD_OUT_PHOTOS };
    let samples = Samples::collect(config, units, wanted).await?;
    let (config, progress) = (config.clone(), progress.clone());
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
