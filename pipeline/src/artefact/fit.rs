//! Fits what is not given, on the first train samples of the sources.

use arrow::array::RecordBatch;
use bytes::Bytes;
use cm3flow_model::vq::{FitJob, VqTokenizer, fit as fit_vq};
use cm3flow_schemas::sample::{Annotations, MAIN_IMAGE, Refusal, RoleImage, Split};
use cm3flow_schemas::traits::ImageTokenizer;
use cm3flow_schemas::{ImageId, columns, rows};
use cm3flow_stages::embed::IdfTable;
use cm3flow_stages::ingest::PlannedUnit;
use cm3flow_stages::tokenize::{PatchTokenizer, fit_text};
use serde::Deserialize;

use super::{CODEBOOK, Contents, IDF, TOKENIZER};
use crate::config::{Config, ImageTokenizerConfig};
use crate::error::{PipelineError, Result};
use crate::execute::derived_batches;
use crate::progress::Progress;

/// What is fitted on.
#[derive(Default)]
struct FitSamples {
    /// Every caption, question, answer and instruction.
    texts: Vec<String>,
    /// First captions, one for each sample.
    captions: Vec<String>,
    /// Fitted main images, one after the other.
    pixels: Vec<u8>,
    /// Number of samples taken, and of those looked at.
    taken: u64,
    seen: u64,
}

#[derive(Deserialize)]
struct Row {
    image_id: ImageId,
    annotations: Annotations,
    pixels: Vec<RoleImage>,
    refusal: Option<Refusal>,
}

impl FitSamples {
    fn push(&mut self, config: &Config, batch: &RecordBatch) -> Result<()> {
        let wanted = [columns::IMAGE_ID, columns::ANNOTATIONS, columns::PIXELS, columns::REFUSAL];
        for row in rows::read::<Row>(batch, &wanted)? {
            self.seen += 1;
            let is_train = Split::of(config.dataset.seed, row.image_id, config.split.held_out) == Split::Train;
            if row.refusal.is_some() || !is_train || self.taken == config.fit.max_samples {
                continue;
            }
            self.taken += 1;
            self.captions.extend(row.annotations.captions.first().cloned());
            self.texts.extend(row.annotations.captions);
            self.texts.extend(row.annotations.questions.into_iter().flat_map(|question| [question.question, question.answer]));
            self.texts.extend(row.annotations.edits.into_iter().map(|edit| edit.instruction));
            row.pixels.iter().filter(|image| image.role == MAIN_IMAGE).for_each(|image| self.pixels.extend(&image.bytes));
        }
        Ok(())
    }
}

/// Adds to `contents` what is missing.
pub(super) async fn fit(config: &Config, units: &[PlannedUnit], mut contents: Contents, progress: &Progress) -> Result<Contents> {
    let samples = collect(config, units).await?;
    progress.say(&format!("fitting on {} train samples", samples.taken));
    if !contents.contains_key(TOKENIZER) {
        require(TOKENIZER, !samples.texts.is_empty(), samples.seen)?;
        contents.insert(TOKENIZER, fit_text(&samples.texts, config.tokenize.text.vocabulary_size)?.into());
    }
    if !contents.contains_key(IDF) {
        contents.insert(IDF, IdfTable::fit(&config.embed, samples.captions.iter().map(String::as_str)).to_bytes().into());
    }
    if !contents.contains_key(CODEBOOK) {
        require(CODEBOOK, !samples.pixels.is_empty(), samples.seen)?;
        let (config, progress) = (config.clone(), progress.clone());
        let fitting = tokio::task::spawn_blocking(move || fit_codebook(&config, &samples.pixels, &progress));
        contents.insert(CODEBOOK, fitting.await.map_err(|_| PipelineError::Lost { what: "fitting the codebook" })??);
    }
    Ok(contents)
}

fn require(name: &'static str, there: bool, seen: u64) -> Result<()> {
    if there { Ok(()) } else { Err(PipelineError::NothingToFit { name, seen }) }
}

async fn collect(config: &Config, units: &[PlannedUnit]) -> Result<FitSamples> {
    let mut samples = FitSamples::default();
    for unit in units {
        if samples.taken == config.fit.max_samples {
            break;
        }
        for batch in derived_batches(config, unit).await? {
            samples.push(config, &batch)?;
        }
    }
    Ok(samples)
}

fn fit_codebook(config: &Config, pixels: &[u8], progress: &Progress) -> Result<Bytes> {
    match &config.tokenize.image {
        ImageTokenizerConfig::Vq(vq) => {
            let network = vq.network().expect("presets are checked with the configuration");
            cm3flow_model::device::set_threads(config.runtime.threads);
            let job = FitJob {
                config: &network,
                fit: &config.fit.codebook,
                images: pixels,
                seed: config.dataset.seed,
                device: config.runtime.device,
            };
            let mut activity = progress.activity("fit", config.fit.codebook.steps);
            let weights = fit_vq(&job, &mut |step| {
                let message = format!("reconstruction loss {:.4}, {} codes used", step.reconstruction_loss, step.codes_used);
                activity.set(step.step, &message);
            })?;
            drop(activity);
            let mut tokenizer = VqTokenizer::try_new(&network, &weights, vq.batch_size, config.runtime.device)?;
            progress.say(&summary(&mut tokenizer, pixels)?);
            Ok(weights.into())
        }
        ImageTokenizerConfig::Patches(patches) => {
            let (side, patch, codes) = (patches.side_px, patches.patch_px, patches.codes);
            let mut tokenizer = PatchTokenizer::fit(pixels, side, patch, codes, config.dataset.seed)?;
            progress.say(&summary(&mut tokenizer, pixels)?);
            Ok(tokenizer.to_bytes().into())
        }
        ImageTokenizerConfig::TorchScript(_) => unreachable!("both modules are given"),
    }
}

/// One line on how well the fitted pictures come back, of at most 256 of them.
fn summary(tokenizer: &mut dyn ImageTokenizer, pixels: &[u8]) -> Result<String> {
    let failed = |source| cm3flow_stages::StageError::Model { stage: "fit", component: "image tokenizer", source };
    let size = tokenizer.spec().bytes_per_image();
    let pixels = &pixels[..pixels.len().min(256 * size)];
    let codes = tokenizer.encode(pixels).map_err(failed)?;
    let decoded = tokenizer.decode(&codes).map_err(failed)?;
    let distinct: std::collections::HashSet<u32> = codes.iter().copied().collect();
    let (used, size) = (distinct.len(), tokenizer.spec().codebook_size);
    Ok(format!(
        "codebook: {used} of {size} codes used, PSNR {:.2} dB on pictures that it was fitted on",
        cm3flow_stages::eval::psnr(&decoded, pixels)
    ))
}
