//! Artefacts: tokenizers, codebook and tables, given by the user or fitted once and pinned.
//!
//! `artefacts/<digest>/<file>` holds the bytes. `artefacts/pins/<dataset>/<k>.json` lists those that a dataset uses: numbered,
//! append-only, the highest wins. A pin remembers the settings of its fit, so that a run notices changed settings.

mod annotators;
mod changes;
pub mod decode;
mod files;
mod fits;
mod fitted;
mod of_version;
pub(crate) mod picture;
mod quality;
mod samples;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use arrow::datatypes::SchemaRef;
use bytes::Bytes;
use cm3flow_model::device;
use cm3flow_model::vq::{TorchScriptTokenizer, VqTokenizer};
use cm3flow_schemas::canonical::digest_of;
use cm3flow_schemas::traits::{ImageTokenizer, ImageTokenizerSpec, PairEmbedder};
use cm3flow_schemas::unit::NumericsClass;
use cm3flow_schemas::version::CodeChange;
use cm3flow_schemas::vocabulary::Vocabulary;
use cm3flow_schemas::{Digest, columns, layout};
use cm3flow_stages::annotate::Annotator;
use cm3flow_stages::embed::{EmbedderOwner, IdfTable, NgramColourEmbedder};
use cm3flow_stages::ingest::PlannedUnit;
use cm3flow_stages::owner::Owner;
use cm3flow_stages::tokenize::{GivenTokenizer, ImageTokenizerOwner, PatchTokenizer, TextTokenizer};
use serde::{Deserialize, Serialize};

pub(crate) use annotators::try_out as try_annotators;
use files::given;
pub use fitted::{FittedCodebook, FittedText, fit, fit_codebook, fit_text_tokenizer};
pub(crate) use of_version::{of_version, pinned_of};
pub use quality::Quality;
use samples::{Samples, Wanted};

use crate::config::{Config, ImageTokenizerConfig, Job};
use crate::error::{Mismatch, PipelineError, Result};
use crate::events::Event;
use crate::store::{Created, Store};

/// Name of the image tokenizer's weights, or of its encoder where that is a separate file.
pub const CODEBOOK: &str = "codebook";
/// Name of the image tokenizer's decoder where that is a separate file.
pub const DECODER: &str = "decoder";
/// Names of the perceptual loss's files, which a codebook fit needs: features and linear layers.
const PERCEPTUAL: [&str; 2] = ["perceptual-features", "perceptual-linear"];
/// Name of the text tokenizer.
pub const TOKENIZER: &str = "tokenizer";
/// Name of the embedder's table.
pub const IDF: &str = "idf";

/// An artefact that a dataset uses.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Pin {
    /// Digest of the settings that decide the fitted result.
    settings: Digest,
    /// Digest of the artefact's bytes.
    digest: Digest,
}

type Pins = BTreeMap<String, Pin>;

/// Models and tables of a run, on the threads that own them.
pub struct Artefacts {
    /// Image tokenizer.
    pub image: ImageTokenizerOwner,
    /// Name, digest, shape and numerics of the image tokenizer.
    pub image_spec: ImageTokenizerSpec,
    /// `true` if the image tokenizer can decode; if not, grey stands for decoded pictures.
    pub image_decodes: bool,
    /// Annotators, by ascending role.
    pub annotators: Vec<Annotator>,
    /// Numerics class of prepared units: the image tokenizer's, or the annotators' where the tokenizer uses no libtorch.
    pub numerics: NumericsClass,
    /// Text tokenizer.
    pub text: TextTokenizer,
    /// Pair embedder.
    pub embedder: EmbedderOwner,
    /// Name of the embedder, as manifests list it.
    pub embedder_name: String,
    /// Digest of the embedder with its table.
    pub embedder_digest: Digest,
    /// Ranges of token ids: control tokens, text, image codes.
    pub vocabulary: Vocabulary,
    /// Image codes that another batch size or precision would change; empty until a run has measured them.
    pub code_changes: BTreeMap<String, CodeChange>,
    /// Digests of all these artefacts by name, as the manifest lists them.
    pub digests: BTreeMap<String, Digest>,
    /// Digests of the files of fitted artefacts, by the names that they are pinned under.
    pub fitted: BTreeMap<String, Digest>,
}

impl Artefacts {
    /// Returns the schema of a prepared unit; with `image_grids` if pictures have several shapes.
    pub(crate) fn prepared_schema(&self) -> SchemaRef {
        let prepared = columns::prepared_sample();
        if self.vocabulary.shapes.is_some() { columns::with(&prepared, &[columns::image_grids()]) } else { prepared }
    }
}

/// One artefact to fit.
#[derive(Debug, Clone, Copy)]
struct Fitting {
    name: &'static str,
    /// Digest of the settings that decide the result.
    settings: Digest,
}

/// Bytes of the artefacts by name.
type Contents = BTreeMap<&'static str, Bytes>;

/// Files of the artefacts of a dataset, for a bundle.
pub(crate) struct ArtefactFiles {
    /// Bytes by name: [`CODEBOOK`], [`DECODER`], [`TOKENIZER`].
    pub contents: BTreeMap<&'static str, Bytes>,
    /// Digest of the image tokenizer: settings and weights.
    pub image_tokenizer: Digest,
    /// Ranges of token ids.
    pub vocabulary: Vocabulary,
}

/// Returns the files of the artefacts of `job` if all are given or pinned; `None` if some are not fitted yet.
///
/// # Errors
/// As [`obtain`].
pub(crate) async fn files(job: &Job) -> Result<Option<ArtefactFiles>> {
    let Some(contents) = pinned_contents(job).await? else { return Ok(None) };
    let Artefacts { image_spec, vocabulary, .. } = load(&job.config, &contents)?;
    Ok(Some(ArtefactFiles { contents, image_tokenizer: image_spec.digest, vocabulary }))
}

/// Artefacts to obtain, and whether to fit pinned ones anew.
#[derive(Debug, Clone, Copy)]
pub struct Request {
    /// Name of the one artefact to obtain; all if none.
    pub only: Option<&'static str>,
    /// `true` to fit pinned artefacts anew, which starts a new line of versions.
    pub refit: bool,
}

impl Request {
    fn includes(self, name: &str) -> bool {
        self.only.is_none_or(|only| only == name)
    }
}

/// Loads the artefacts of `config`. Those that are neither given nor pinned, or all with `refit`, are fitted on `units` and pinned.
///
/// # Errors
/// [`PipelineError::Pinned`] if settings changed and `refit` is not asked for; [`PipelineError::NothingToFit`];
/// [`PipelineError::File`] and [`PipelineError::Unusable`] for given files; those of the store, a stage or a model.
pub(crate) async fn obtain(job: &Job, units: &[PlannedUnit], refit: bool) -> Result<Artefacts> {
    let contents = contents_for(job, units, Request { only: None, refit }).await?;
    load(&job.config, &contents)
}

/// Fits the artefact `name` anew on `units`, as [`obtain`] would, and pins it; returns the digest of its file.
///
/// # Errors
/// As [`obtain`]; [`PipelineError::Mismatch`] if the configuration does not fit it.
pub(crate) async fn fit_again(job: &Job, units: &[PlannedUnit], name: &str) -> Result<Digest> {
    let config = &job.config;
    let not_fitted = || Mismatch::NothingToFit { name: name.to_owned() };
    let given = given(config)?;
    let (only, _) = settings(config, &given).into_iter().find(|(fitted, _)| *fitted == name).ok_or_else(not_fitted)?;
    let contents = contents_for(job, units, Request { only: Some(only), refit: true }).await?;
    Ok(Digest::of(&contents[only]))
}

/// Returns the bytes of the artefacts that `request` asks for, and of others that already exist.
async fn contents_for(job: &Job, units: &[PlannedUnit], request: Request) -> Result<Contents> {
    let Job { config, store, progress, .. } = job;
    let (mut number, mut pins) = latest_pins(job.dataset(), store).await?;
    if request.refit {
        pins.retain(|name, _| !request.includes(name));
    }
    let mut contents = given_or_pinned(job, &pins).await?;
    let settings = settings(config, &contents);
    let missing: Vec<_> = settings.into_iter().filter(|(name, _)| request.includes(name) && !contents.contains_key(name)).collect();
    if missing.is_empty() {
        return Ok(contents);
    }
    let wanted = Wanted { train: config.fit.max_samples, held_out: 0 };
    let samples = Arc::new(Samples::collect(job, units, wanted).await?);
    let names = missing.iter().map(|(name, _)| (*name).to_owned()).collect();
    progress.tell(Event::FitBegun { artefacts: names, samples: samples.train });
    for (name, settings) in missing {
        let begun = Instant::now();
        let bytes = fits::fit(job, Fitting { name, settings }, &samples, &contents).await?;
        let digest = Digest::of(&bytes);
        store.create_content(&path(name, digest), bytes.clone()).await?;
        progress.tell(Event::FitDone { artefact: name.to_owned(), digest, seconds: begun.elapsed().as_secs_f64() });
        pins.insert(name.to_owned(), Pin { settings, digest });
        contents.insert(name, bytes);
    }
    while store.create_record(&layout::numbered(&layout::pins(job.dataset()), number + 1), &pins).await? == Created::Different {
        progress.say("another run fitted and pinned at the same time; its artefacts are used");
        let theirs;
        (number, theirs) = latest_pins(job.dataset(), store).await?;
        // The other run may have fitted fewer artefacts: those that it lacks are pinned in addition.
        pins.extend(theirs);
        contents = given_or_pinned(job, &pins).await?;
    }
    Ok(contents)
}

/// Returns the number of image codes that would change under another batch size or precision than that of `artefacts`.
///
/// # Errors
/// As [`obtain`].
pub(crate) async fn code_changes(job: &Job, artefacts: &Artefacts, units: &[PlannedUnit]) -> Result<BTreeMap<String, CodeChange>> {
    let contents = given_or_pinned(job, &latest_pins(job.dataset(), &job.store).await?.1).await?;
    changes::of(job, contents, &artefacts.image_spec, units).await
}

/// Loads the artefacts of `config` if all are given or pinned; returns `None` if some are not fitted yet.
///
/// # Errors
/// As [`obtain`].
pub(crate) async fn pinned(job: &Job) -> Result<Option<Artefacts>> {
    pinned_contents(job).await?.map(|contents| load(&job.config, &contents)).transpose()
}

/// Returns the bytes of the artefacts of `job` if all are given or pinned.
async fn pinned_contents(job: &Job) -> Result<Option<Contents>> {
    let contents = given_or_pinned(job, &latest_pins(job.dataset(), &job.store).await?.1).await?;
    let is_complete = settings(&job.config, &contents).iter().all(|(name, _)| contents.contains_key(name));
    Ok(is_complete.then_some(contents))
}

/// Returns the bytes of all artefacts that the configuration names or `pins` hold.
async fn given_or_pinned(Job { config, store, .. }: &Job, pins: &Pins) -> Result<Contents> {
    let mut contents = given(config)?;
    for (name, settings) in settings(config, &contents) {
        let Some(pin) = pins.get(name) else { continue };
        if pin.settings != settings {
            return Err(PipelineError::Pinned { name: name.to_owned() });
        }
        contents.insert(name, store.get_checked(&path(name, pin.digest), pin.digest).await?);
    }
    Ok(contents)
}

/// Returns the names of the artefacts to fit, each with the digest of its own settings, the seed and the held-out share.
fn settings(config: &Config, given: &Contents) -> Vec<(&'static str, Digest)> {
    let population = (config.dataset.seed, config.split.held_out);
    let codebook = match &config.tokenize.image.without_buckets() {
        ImageTokenizerConfig::Vq(vq) if vq.weights.is_some() => None,
        ImageTokenizerConfig::Vq(vq) => {
            let perceptual = PERCEPTUAL.map(|name| given.get(name).map(|bytes| Digest::of(bytes)));
            Some(digest_of(CODEBOOK, &(vq.network(), vq.crop, &config.fit.codebook, population, perceptual)))
        }
        ImageTokenizerConfig::Patches(patches) => Some(digest_of(CODEBOOK, &(patches, population))),
        ImageTokenizerConfig::TorchScript(_) | ImageTokenizerConfig::Given(_) => None,
    };
    let text = &config.tokenize.text;
    let tokenizer = text.file.is_none().then(|| digest_of(TOKENIZER, &(text, population)));
    let idf = Some(digest_of(IDF, &(&config.embed, population)));
    let all = [(CODEBOOK, codebook), (TOKENIZER, tokenizer), (IDF, idf)];
    all.into_iter().filter_map(|(name, settings)| Some((name, settings?))).collect()
}

/// Returns the path of a fitted artefact's file in the store.
pub(crate) fn path(name: &str, digest: Digest) -> String {
    let file = match name {
        CODEBOOK => "codebook.safetensors",
        TOKENIZER => "tokenizer.json",
        _ => "idf.json",
    };
    format!("{}/{file}", layout::artefact(digest))
}

/// Returns the highest pins with their number; number 0 and no pins if none exist.
async fn latest_pins(dataset: &str, store: &Store) -> Result<(u32, Pins)> {
    let folder = layout::pins(dataset);
    let Some(number) = layout::highest(&store.names(&folder).await?) else { return Ok((0, Pins::new())) };
    let pins = store.record(&layout::numbered(&folder, number), "list of pinned artefacts").await?;
    Ok((number, pins.unwrap_or_default()))
}

/// Returns the digests of the artefacts that `dataset` pins now.
///
/// # Errors
/// Those of the store.
pub(crate) async fn latest_pinned(store: &Store, dataset: &str) -> Result<Vec<Digest>> {
    Ok(latest_pins(dataset, store).await?.1.into_values().map(|pin| pin.digest).collect())
}

/// Builds the models from the bytes of all artefacts.
fn load(config: &Config, contents: &Contents) -> Result<Artefacts> {
    device::set_threads(config.runtime.threads);
    let image = image_tokenizer(config, contents)?;
    let (image_spec, image_decodes) = (image.spec().clone(), image.can_decode());
    if !image_decodes {
        tracing::warn!(tokenizer = image_spec.name, "it has no decoder: grey squares stand for decoded pictures");
    }
    let grids = config.tokenize.image.preparation().grids();
    let built = config.vocabulary.build(&contents[TOKENIZER], image_spec.codebook_size, &grids);
    let (text, vocabulary) = built.map_err(|error| match &config.tokenize.text.file {
        Some(file) => files::named(config, file, error),
        None => error,
    })?;
    let table = IdfTable::from_bytes(&contents[IDF])?;
    let embedder = NgramColourEmbedder::new(table, image.codebook(), image_spec.codebook_dim as usize, image_spec.side_px as usize);
    let (embedder_name, embedder_digest) = (embedder.name().to_owned(), embedder.digest());
    let fitted = settings(config, contents).into_iter().map(|(name, _)| (name.to_owned(), Digest::of(&contents[name]))).collect();
    let annotators = annotators::load(config)?;
    let numerics = annotators::numerics_with(&image_spec.numerics, &annotators);
    let digests = [("image_tokenizer", image_spec.digest), ("text_tokenizer", text.digest()), ("pair_embedder", embedder_digest)];
    Ok(Artefacts {
        image: Owner::spawn("image tokenizer", image)?,
        image_spec,
        image_decodes,
        numerics,
        text,
        embedder: Owner::spawn("pair embedder", Box::new(embedder) as Box<dyn PairEmbedder>)?,
        embedder_name,
        embedder_digest,
        vocabulary,
        code_changes: BTreeMap::new(),
        digests: digests.into_iter().map(|(name, digest)| (name.to_owned(), digest)).chain(annotators::digests(&annotators)).collect(),
        annotators,
        fitted,
    })
}

fn image_tokenizer(config: &Config, contents: &Contents) -> Result<Box<dyn ImageTokenizer>> {
    match &config.tokenize.image {
        ImageTokenizerConfig::Vq(vq) => {
            let network = vq.network().expect("presets are checked with the configuration");
            let tokenizer = VqTokenizer::try_new(&network, &contents[CODEBOOK], vq.batch_size, config.runtime.device);
            let tokenizer = tokenizer.map_err(|error| match &vq.weights {
                Some(weights) => files::named(config, weights, error.into()),
                None => error.into(),
            })?;
            Ok(Box::new(tokenizer.with_precision(vq.precision)?.with_values(config.tokenize.image.preparation().values)?))
        }
        ImageTokenizerConfig::Patches(patches) => {
            Ok(Box::new(PatchTokenizer::from_bytes(&contents[CODEBOOK], patches.side_px, patches.patch_px)?))
        }
        ImageTokenizerConfig::Given(given) => Ok(Box::new(GivenTokenizer::new(given.side_px, given.grid, given.codebook_size))),
        ImageTokenizerConfig::TorchScript(script) => {
            let (modules, encoder, decoder) = (script.modules(), &contents[CODEBOOK], &contents[DECODER]);
            Ok(Box::new(TorchScriptTokenizer::try_new(&modules, encoder, decoder, script.batch_size, config.runtime.device)?))
        }
    }
}
