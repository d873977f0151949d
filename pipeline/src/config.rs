//! The configuration: one TOML file, checked as a whole before anything runs.
//!
//! Every section belongs to a stage and lies beside it; here they are put together, with what only the runtime needs.

mod annotate;
mod buckets;
mod facts;
mod job;
mod model;
mod reference;
mod runtime;
mod schema;
mod tokenize;
mod vocabulary;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use cm3flow_model::decoder::DecoderPreset;
use cm3flow_model::train::TrainConfig;
use cm3flow_model::vq::VqFitConfig;
use cm3flow_schemas::vocabulary::ImageShapes;
use cm3flow_stages::dedup::DedupConfig;
use cm3flow_stages::derive::DeriveConfig;
use cm3flow_stages::embed::EmbedConfig;
use cm3flow_stages::filter::FilterConfig;
use cm3flow_stages::ingest::{ReadOptions, RowSettings, SourceConfig, SourceFormat};
use cm3flow_stages::instruct::InstructConfig;
use cm3flow_stages::mask::MaskConfig;
use cm3flow_stages::pack::PackConfig;
use cm3flow_stages::retrieve::RetrieveConfig;
use cm3flow_stages::shard::ShardConfig;
use cm3flow_stages::split::SplitConfig;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Value, json};

pub use annotate::{AnnotateConfig, RoleConfig};
pub use buckets::BucketsConfig;
pub use job::Job;
pub use model::{EvalConfig, FitConfig, ModelConfig, PerceptualFiles};
pub use reference::reference;
pub use runtime::{DatasetConfig, RuntimeConfig, WindowConfig};
pub use schema::schema;
pub use tokenize::{GivenConfig, ImageTokenizerConfig, PatchesConfig, TextConfig, TokenizeConfig, VqTokenizerConfig};
pub use vocabulary::{RangeConfig, SentinelsConfig, TokenRef, VocabularyConfig, VocabularyPreset};

use crate::error::{PipelineError, Result};
use crate::store::config::{StoreConfig, address_problem, masked};

/// The whole configuration.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Folder that relative paths start from: that of the file.
    #[serde(skip)]
    pub folder: PathBuf,
    /// `[dataset]`.
    pub dataset: DatasetConfig,
    /// `[store]`.
    #[serde(default)]
    pub store: StoreConfig,
    /// `[runtime]`.
    #[serde(default)]
    pub runtime: RuntimeConfig,
    /// `[[source]]`: places that samples come from, one section for each.
    #[serde(default)]
    #[schemars(!default, extend("minItems" = 1))]
    pub source: Vec<SourceConfig>,
    /// `[window]`.
    #[serde(default)]
    pub window: WindowConfig,
    /// `[filter]`.
    #[serde(default)]
    pub filter: FilterConfig,
    /// `[derive]`.
    #[serde(default)]
    pub derive: DeriveConfig,
    /// `[annotate]`.
    #[serde(default)]
    pub annotate: AnnotateConfig,
    /// `[tokenize]`.
    #[serde(default)]
    pub tokenize: TokenizeConfig,
    /// `[vocabulary]`.
    #[serde(default)]
    pub vocabulary: VocabularyConfig,
    /// `[embed]`.
    #[serde(default)]
    pub embed: EmbedConfig,
    /// `[split]`.
    #[serde(default)]
    pub split: SplitConfig,
    /// `[dedup]`.
    #[serde(default)]
    pub dedup: DedupConfig,
    /// `[retrieve]`.
    #[serde(default)]
    pub retrieve: RetrieveConfig,
    /// `[instruct]`.
    #[serde(default)]
    pub instruct: InstructConfig,
    /// `[mask]`.
    #[serde(default)]
    pub mask: MaskConfig,
    /// `[pack]`.
    #[serde(default)]
    pub pack: PackConfig,
    /// `[shard]`.
    #[serde(default)]
    pub shard: ShardConfig,
    /// `[fit]`.
    #[serde(default)]
    pub fit: FitConfig,
    /// `[model]`.
    #[serde(default)]
    pub model: ModelConfig,
    /// `[train]`.
    #[serde(default)]
    pub train: Option<TrainConfig>,
    /// `[eval]`.
    #[serde(default)]
    pub eval: EvalConfig,
}

/// Lists the sections that change outputs: manifests record them as they are.
macro_rules! recorded_sections {
    ($($section:ident),*) => {
        impl Config {
            /// Returns the recorded sections by name.
            pub(crate) fn recorded(&self) -> Value {
                [$((stringify!($section), json!(self.$section))),*].into_iter().collect()
            }

            /// Takes over the sections of `recorded`. Keeps sections that this release cannot read.
            pub(crate) fn take_recorded(&mut self, recorded: &Value) {
                $(if let Ok(section) = serde_json::from_value(recorded[stringify!($section)].clone()) {
                    self.$section = section;
                })*
            }
        }
    };
}

recorded_sections!(window, filter, derive, embed, split, dedup, retrieve, instruct, mask, pack, shard);

impl Config {
    /// Reads and checks the file at `path`.
    ///
    /// # Errors
    /// [`PipelineError::File`], [`PipelineError::Syntax`], or [`PipelineError::Config`] with every bad field.
    pub fn load(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).map_err(|source| PipelineError::File { path: path.to_owned(), source })?;
        Self::parse(&text, path)
    }

    /// Checks the `text` of the file at `path`.
    ///
    /// # Errors
    /// [`PipelineError::Syntax`], or [`PipelineError::Config`] with every bad field.
    pub fn parse(text: &str, path: &Path) -> Result<Self> {
        let syntax = |mut source: toml::de::Error| {
            source.set_input(Some(&masked(text)));
            PipelineError::Syntax { path: path.to_owned(), source }
        };
        let mut config: Self = toml::from_str(text).map_err(syntax)?;
        config.fit.codebook = config.codebook_fit(text).map_err(syntax)?;
        // The parent of a bare file name is empty, which no system call takes for the present folder.
        config.folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new(".")).to_path_buf();
        let problems = config.problems();
        if problems.is_empty() { Ok(config) } else { Err(PipelineError::Config { path: path.to_owned(), problems }) }
    }

    /// `[fit.codebook]` of the file's `text`, over what the tokenizer's preset needs.
    fn codebook_fit(&self, text: &str) -> std::result::Result<VqFitConfig, toml::de::Error> {
        let mut fields = match &self.tokenize.image {
            ImageTokenizerConfig::Vq(vq) => VqFitConfig::preset(&vq.preset),
            _ => VqFitConfig::default(),
        };
        let given: toml::Table = toml::from_str(text)?;
        if let Some(toml::Value::Table(given)) = given.get("fit").and_then(|fit| fit.get("codebook")) {
            let mut all = toml::Table::try_from(&fields).expect("plain fields make a table");
            all.extend(given.clone());
            fields = all.try_into()?;
        }
        Ok(fields)
    }

    fn problems(&self) -> Vec<String> {
        let mut problems = self.dataset.problems();
        problems.extend(address_problem("dataset.store", &self.dataset.store));
        problems.extend(self.store.problems());
        problems.extend(self.runtime.problems());
        if self.source.is_empty() {
            problems.push("source: at least one [[source]] must be given".into());
        }
        for (index, source) in self.source.iter().enumerate() {
            problems.extend(source.problems(&format!("source[{index}]")));
            problems.extend(address_problem(&format!("source[{index}].url"), &source.url));
            if self.source[..index].iter().any(|other| other.name == source.name) {
                problems.push(format!("source[{index}].name must be unique, {:?} is there twice", source.name));
            }
        }
        problems.extend(self.window.problems());
        problems.extend(self.filter.problems());
        problems.extend(self.derive.problems());
        problems.extend(self.annotate.problems(&self.tokenize.image, &self.instruct));
        let of_tokenizers = self.tokenize.problems();
        // Shapes of bad sizes are not to be looked at.
        let grids = if of_tokenizers.is_empty() { self.tokenize.image.preparation().grids() } else { Vec::new() };
        problems.extend(of_tokenizers);
        let sides = self.tokenize.image.buckets().map(|_| ImageShapes::sides(&grids).len());
        problems.extend(self.vocabulary.problems(&self.tokenize.text, &self.mask, sides));
        problems.extend(self.embed.problems());
        problems.extend(self.split.problems());
        problems.extend(self.retrieve.problems());
        problems.extend(self.instruct.problems());
        problems.extend(self.mask.problems());
        problems.extend(self.pack.problems());
        problems.extend(self.shard.problems());
        problems.extend(self.fit.problems(&self.tokenize.image));
        problems.extend(self.model.problems());
        if let Some(train) = &self.train {
            problems.extend(train.problems().into_iter().map(|problem| format!("train.{problem}")));
        }
        problems.extend(self.eval.problems());
        let image_tokens = if grids.is_empty() { self.tokenize.image.codes_per_image() } else { ImageShapes::most_tokens(&grids) };
        let image_tokens = image_tokens + self.vocabulary.tokens_around_an_image();
        if self.pack.seq_len as usize <= image_tokens + 2 {
            problems.push(format!(
                "pack.seq_len must exceed the {image_tokens} codes of an image with its boundaries, got {}",
                self.pack.seq_len
            ));
        }
        problems
    }

    /// How the rows of a source are read.
    #[must_use]
    pub fn read_options(&self, source: &SourceConfig) -> ReadOptions {
        let mut roles = self.instruct.image_roles().unwrap_or_default();
        roles.extend(self.annotate.0.keys().cloned());
        ReadOptions::new(source, self.filter.max_image_bytes, roles)
    }

    /// Roles of images that a tar may bring beyond those that the built-in tasks name: they belong into the keys of what is read of tars.
    pub(crate) fn further_roles(&self, source: &str) -> BTreeSet<String> {
        let built_in = InstructConfig::default().image_roles().unwrap_or_default();
        let is_tar = |found: &&SourceConfig| found.name == source && found.format == SourceFormat::WebDataset;
        let roles = self.source.iter().find(is_tar).map(|source| self.read_options(source).roles).unwrap_or_default();
        roles.difference(&built_in).cloned().collect()
    }

    /// Settings that change the rows of the source `name`; the defaults for one that the configuration does not have.
    #[must_use]
    pub fn row_settings(&self, name: &str) -> RowSettings {
        self.source.iter().find(|source| source.name == name).map(SourceConfig::row_settings).unwrap_or_default()
    }

    /// A path of the configuration as the file system knows it: relative ones start from the file's folder.
    #[must_use]
    pub fn resolve(&self, path: &Path) -> PathBuf {
        self.folder.join(path)
    }
}

impl Config {
    /// The training, with the recipe of the preset where the configuration leaves something out; `None` without `[train]`.
    #[must_use]
    pub fn training(&self) -> Option<TrainConfig> {
        let preset = DecoderPreset::named(&self.model.preset).unwrap_or(DecoderPreset::Tiny);
        self.train.as_ref().map(|train| train.with_recipe(preset))
    }
}

/// Problems of a part, whose paths begin at `path`.
fn below(path: &str, problems: Vec<String>) -> impl Iterator<Item = String> {
    problems.into_iter().map(move |problem| format!("{path}.{problem}"))
}

#[cfg(test)]
mod tests;
