//! Whole runs for tests: a configuration over some source, a store of its own, and access to the results.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use cm3flow::artefact::decode::tokens_of;
use cm3flow::artefact::{self, Artefacts};
use cm3flow::events::progress::Progress;
use cm3flow::run::{self, RunOptions, RunOutcome};
use cm3flow::{Config, Job, Result, Store};
use cm3flow_schemas::document::Segment;
use cm3flow_schemas::pack::{Pack, PlacedDocument, ShardEntry};
use cm3flow_schemas::{Digest, columns};
use cm3flow_stages::read::{BlockReader, read_packs};
use futures::TryStreamExt;
use object_store::ObjectStoreExt;
use tokio_util::sync::CancellationToken;

/// Returns the folder of the sample corpus.
#[must_use]
pub fn corpus() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus")
}

/// Returns the folder of small text tokenizers, one of each kind that users have.
#[must_use]
pub fn tokenizer_folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../stages/fixtures/tokenizers")
}

/// Returns those tokenizers by name, sorted.
///
/// # Panics
/// If the folder cannot be read.
#[must_use]
pub fn tokenizers() -> BTreeMap<String, Vec<u8>> {
    let files = std::fs::read_dir(tokenizer_folder()).expect("part of the repository").map(|file| file.expect("a file").path());
    let tokenizers = files.filter(|path| path.extension().is_some_and(|extension| extension == "json"));
    let name = |path: &Path| path.file_stem().expect("a name").to_string_lossy().into_owned();
    tokenizers.map(|path| (name(&path), std::fs::read(&path).expect("a file"))).collect()
}

/// Settings of a small run: the patch tokenizer at 64 px, whose fit is short.
pub const SMALL: &str = r#"
[runtime]
workers = 2
threads = 1
[window]
units = 2
[filter]
min_short_side_px = 32
[tokenize.image]
kind = "patches"
side_px = 64
patch_px = 8
codes = 64
[tokenize.text]
vocabulary_size = 400
[split]
held_out = 0.2
[pack]
seq_len = 512
"#;

/// Settings of a run with a VQ network fitted in a few steps, and a few steps of training.
pub const WITH_MODELS: &str = r#"
[runtime]
workers = 2
threads = 1
[window]
units = 2
[tokenize.image]
kind = "vq"
[tokenize.image.network]
resolution = 64
channels = 16
channel_multipliers = [1, 2, 4]
residual_blocks = 1
middle_attention = false
z_channels = 16
embedding_dim = 8
codebook_size = 64
norm_groups = 8
[fit.codebook]
steps = 12
warm_up_steps = 4
batch_size = 4
crop_px = 32
[tokenize.text]
vocabulary_size = 400
[split]
held_out = 0.2
[pack]
seq_len = 640
[model]
layers = 2
width = 64
heads = 2
[train]
steps = 6
batch_packs = 2
warm_up_steps = 1
checkpoint_every = 3
evaluate_every = 3
[eval]
packs = 2
images = 1
captions = 1
max_caption_tokens = 8
"#;

/// Returns the source section of the sample corpus, cut into units of `unit_samples`.
#[must_use]
pub fn corpus_source(unit_samples: u32) -> String {
    source("photos", "webdataset", &corpus().join("photos-*.tar"), unit_samples)
}

/// Returns a source section.
#[must_use]
pub fn source(name: &str, format: &str, url: &Path, unit_samples: u32) -> String {
    format!("[[source]]\nname = \"{name}\"\nformat = \"{format}\"\nurl = \"{}\"\nunit_samples = {unit_samples}\n", url.display())
}

/// A dataset under test.
pub struct Trial {
    /// Configuration of the dataset.
    pub config: Config,
    /// Store in memory.
    pub store: Store,
    /// Options of its runs.
    pub options: RunOptions,
    /// Request to stop its runs.
    pub stop: CancellationToken,
}

impl Trial {
    /// A trial with the sections `settings` and `sources` and an empty store in memory.
    ///
    /// # Errors
    /// Those of the configuration.
    pub fn try_new(settings: &str, sources: &str) -> Result<Self> {
        let text = format!("[dataset]\nname = \"test\"\nseed = 3\nstore = \"memory://\"\n{settings}\n{sources}");
        let config = Config::parse(&text, Path::new("test.toml"))?;
        let store = Store::open("memory://", Path::new(""))?;
        Ok(Self { config, store, options: RunOptions::default(), stop: CancellationToken::new() })
    }

    /// The same trial under other settings and sources, on the same store.
    ///
    /// # Errors
    /// As [`Self::try_new`].
    pub fn changed(&self, settings: &str, sources: &str) -> Result<Self> {
        Ok(Self { store: self.store.clone(), options: self.options.clone(), ..Self::try_new(settings, sources)? })
    }

    /// Returns the trial of its configuration on its store.
    #[must_use]
    pub fn job(&self) -> Job {
        self.job_telling(&Progress::silent())
    }

    /// As [`Self::job`], with a listener to events.
    #[must_use]
    pub fn job_telling(&self, progress: &Progress) -> Job {
        Job { stop: self.stop.clone(), ..Job::new(self.config.clone(), self.store.clone(), progress.clone()) }
    }

    /// Runs the job.
    ///
    /// # Errors
    /// The error that stops the run.
    pub async fn run(&self) -> Result<RunOutcome> {
        run::run(&self.job(), &self.options).await
    }

    /// Returns the artefacts that a run has pinned.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn artefacts(&self) -> Result<Artefacts> {
        artefact::fit(&self.job(), false).await
    }

    /// Returns the digests of all objects by path, except those in `runs/`, `leases/` and `scans/`, which depend on processes and times.
    ///
    /// # Panics
    /// If the store in memory fails.
    pub async fn objects(&self) -> BTreeMap<String, Digest> {
        let objects = self.store.objects();
        let listed: Vec<_> = objects.list(None).try_collect().await.expect("memory");
        let mut digests = BTreeMap::new();
        for object in listed {
            let path = object.location.to_string();
            if !["runs/", "leases/", "scans/"].iter().any(|folder| path.starts_with(folder)) {
                let bytes = objects.get(&object.location).await.expect("memory").bytes().await.expect("memory");
                digests.insert(path, Digest::of(&bytes));
            }
        }
        digests
    }

    /// Returns all packs of a version, windows in order.
    ///
    /// # Errors
    /// Those of the reader.
    pub async fn packs(&self, outcome: &RunOutcome) -> Result<Vec<Pack>> {
        let shards: Vec<ShardEntry> = outcome.windows.iter().flat_map(|window| window.shards.clone()).collect();
        let schema = columns::pack(outcome.manifest.seq_len as usize, outcome.manifest.vocabulary.width());
        Ok(read_packs(&mut BlockReader::new(self.store.objects(), schema), &shards, usize::MAX).await?)
    }
}

/// Iterates over the documents of `packs`, with tokens and segments.
pub fn documents(packs: &[Pack]) -> impl Iterator<Item = (&PlacedDocument, Vec<u32>, Vec<Segment>)> {
    packs.iter().flat_map(|pack| pack.documents.iter().map(move |document| (pack, document))).map(|(pack, document)| {
        let (tokens, segments) = tokens_of(pack, document);
        (document, tokens, segments)
    })
}
