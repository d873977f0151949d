//! Fits of artefacts that the configuration does not give, on the first train samples of the sources.

use std::ops::ControlFlow;
use std::sync::Arc;

use bytes::Bytes;
use cm3flow_model::vq::{FitJob, fit as fit_vq};
use cm3flow_model::{ModelError, device};
use cm3flow_schemas::Digest;
use cm3flow_schemas::canonical::digest_of;
use cm3flow_schemas::traits::CheckpointStore;
use cm3flow_stages::embed::IdfTable;
use cm3flow_stages::tokenize::{PatchTokenizer, fit_text};
use tokio::runtime::Handle;

use super::files::named;
use super::samples::Samples;
use super::{Contents, Fitting, IDF, PERCEPTUAL, TOKENIZER};
use crate::catalog::checkpoints::Checkpoints;
use crate::config::{Config, ImageTokenizerConfig, Job};
use crate::error::{PipelineError, Result};

/// Folder of fits' checkpoints. Trainings use the dataset's name instead, which never holds a dot.
const CHECKPOINTS: &str = "fit.codebook";

/// Fits the artefact `name`, whose settings have the digest `settings`, on `samples`. `contents` holds given files that the fit needs.
pub(super) async fn fit(job: &Job, Fitting { name, settings }: Fitting, samples: &Arc<Samples>, contents: &Contents) -> Result<Bytes> {
    let (job, samples) = (job.clone(), Arc::clone(samples));
    let fitting: Box<dyn FnOnce() -> Result<Bytes> + Send> = match name {
        TOKENIZER => {
            require(name, !samples.texts.is_empty(), &samples)?;
            Box::new(move || Ok(fit_text(&samples.texts, job.config.tokenize.text.vocabulary_size)?.into()))
        }
        IDF => Box::new(move || Ok(IdfTable::fit(&job.config.embed, samples.captions.iter().map(String::as_str)).to_bytes().into())),
        _ => {
            require(name, !samples.pixels.is_empty(), &samples)?;
            // The photos are part of the key: sources may have grown since an earlier fit was interrupted.
            let key = digest_of("fit", &(settings, Digest::of(&samples.pixels)));
            let checkpoints = Checkpoints::new(job.store.clone(), CHECKPOINTS, key, Handle::current());
            let perceptual = PERCEPTUAL.map(|name| contents.get(name).cloned());
            Box::new(move || fit_codebook(&job, &samples.pixels, perceptual, &checkpoints))
        }
    };
    tokio::task::spawn_blocking(fitting).await.map_err(|_| PipelineError::Lost { what: "fitting" })?
}

fn require(name: &'static str, there: bool, samples: &Samples) -> Result<()> {
    if there { Ok(()) } else { Err(samples.nothing_to_fit(name)) }
}

/// Adds the path of the perceptual loss's file to an error about one of its tensors.
fn of_perceptual(config: &Config, error: ModelError) -> PipelineError {
    use ModelError::{TensorExtra, TensorMissing, TensorShape};
    match (&config.fit.perceptual, &error) {
        (Some(files), TensorMissing { name, .. } | TensorShape { name, .. } | TensorExtra { name, .. }) => {
            let file = if name.starts_with("lin") { &files.linear } else { &files.features };
            named(config, file, error.into())
        }
        _ => error.into(),
    }
}

fn fit_codebook(job: &Job, pixels: &[u8], perceptual: [Option<Bytes>; 2], checkpoints: &dyn CheckpointStore) -> Result<Bytes> {
    let Job { config, progress, .. } = job;
    match &config.tokenize.image {
        ImageTokenizerConfig::Vq(vq) => {
            let network = vq.network().expect("presets are checked with the configuration");
            device::set_threads(config.runtime.threads);
            let fit = FitJob {
                config: &network,
                fit: &config.fit.codebook,
                images: pixels,
                perceptual: match &perceptual {
                    [Some(features), Some(linear)] => Some([features, linear]),
                    _ => None,
                },
                seed: config.dataset.seed,
                device: config.runtime.device,
            };
            let mut activity = progress.activity("fit", config.fit.codebook.steps);
            let weights = fit_vq(&fit, Some(checkpoints), &mut |step| {
                let message = format!("reconstruction loss {:.4}, {} codes used", step.reconstruction_loss, step.codes_used);
                activity.set(step.step, &message);
                if job.stop.is_cancelled() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            });
            match weights {
                Err(ModelError::Stopped { .. }) => Err(PipelineError::Interrupted),
                weights => weights.map(Bytes::from).map_err(|error| of_perceptual(config, error)),
            }
        }
        ImageTokenizerConfig::Patches(patches) => {
            let (side, patch, codes) = (patches.side_px, patches.patch_px, patches.codes);
            Ok(PatchTokenizer::fit(pixels, side, patch, codes, config.dataset.seed)?.to_bytes().into())
        }
        ImageTokenizerConfig::TorchScript(_) => unreachable!("both modules are given"),
        ImageTokenizerConfig::Given(_) => unreachable!("it has no codebook"),
    }
}
