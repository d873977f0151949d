//! `[tokenize]`: the tokenizers of images and of text.

use std::ops::{RangeFrom, RangeInclusive};
use std::path::PathBuf;

use cm3flow_model::vq::{Precision, TorchScriptConfig, VqConfig};
use cm3flow_schemas::limits::{problem, within};
use cm3flow_schemas::preparation::{Crop, Preparation};
use cm3flow_stages::derive;
use schemars::{JsonSchema, Schema};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::below;
use super::buckets::{BucketsConfig, Switch};

const BATCH_SIZE: RangeInclusive<u32> = 1..=1024;
const CODEBOOK_SIZE: RangeInclusive<u32> = 2..=1 << 20;
const GIVEN_SIDE_PX: RangeInclusive<u32> = 1..=4096;
const PATCHES_SIDE_PX: RangeFrom<u32> = 1..;
const PATCH_PX: RangeFrom<u32> = 1..;
const PATCH_CODES: RangeInclusive<u32> = 2..=65_536;
const TEXT_VOCABULARY_SIZE: RangeInclusive<u32> = 256..=1 << 20;

/// `[tokenize]`: the tokenizers of images and of text.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct TokenizeConfig {
    /// `[tokenize.image]`.
    pub image: ImageTokenizerConfig,
    /// `[tokenize.text]`.
    pub text: TextConfig,
}

/// `[tokenize.image]`: the tokenizer that turns pictures into codes. Its `kind` decides about the other fields.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum ImageTokenizerConfig {
    /// A network of the VQGAN family, with the weights of others or fitted here.
    Vq(VqTokenizerConfig),
    /// k-means over square patches: a baseline without libtorch.
    Patches(PatchesConfig),
    /// A pair of TorchScript modules, such as `encoder.jit` and `decoder.jit` of Cosmos. TorchScript is code and runs as given: name only what you
    /// trust.
    TorchScript(TorchScriptTokenizerConfig),
    /// No tokenizer: all samples come with their codes.
    Given(GivenConfig),
}

impl Default for ImageTokenizerConfig {
    fn default() -> Self {
        Self::Vq(VqTokenizerConfig::default())
    }
}

/// `kind = "vq"`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct VqTokenizerConfig {
    /// Sizes of the network, by name.
    #[schemars(transform = vq_presets)]
    pub preset: String,
    /// `[tokenize.image.network]`: sizes of the network, instead of a preset.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-default" = "those of the preset"))]
    pub network: Option<VqConfig>,
    /// File of the network's weights: safetensors, or a PyTorch checkpoint, of which no code is run. Layouts of taming-transformers, Chameleon,
    /// transformers, diffusers and LlamaGen are known.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "path", "x-default" = "weights are fitted, as `[fit.codebook]` says"))]
    pub weights: Option<PathBuf>,
    /// Precision of the network: part of the numerics class.
    pub precision: Precision,
    /// Number of images encoded together: part of the numerics class.
    #[schemars(transform = within(BATCH_SIZE))]
    pub batch_size: u32,
    /// Preparation of pictures for the network.
    pub preparation: PreparationName,
    /// Place of the square in a picture.
    pub crop: Crop,
    /// Shapes beside the square, to the nearest of which pictures are fitted. `true` for the shapes of the table's defaults.
    #[serde(deserialize_with = "super::buckets::switched", skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<Switch>", extend("default" = false))]
    pub aspect_buckets: Option<BucketsConfig>,
}

/// Preparations to choose from; [`Preparation`] says what each does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum PreparationName {
    /// As Chameleon's own code prepares them.
    Chameleon,
    /// As transformers prepares them for Chameleon; for given weights only.
    ChameleonHf,
}

/// Lists the presets with their sizes.
fn vq_presets(schema: &mut Schema) {
    let listed = VqConfig::PRESETS.iter().filter_map(|name| Some((name, VqConfig::preset(name)?)));
    let listed = listed.map(|(name, network)| {
        let (side, grid, codes) = (network.resolution, network.grid(), network.codebook_size);
        json!({ "const": name, "type": "string", "description": format!("{side} pixels to {grid} x {grid} codes out of {codes}.") })
    });
    let listed: Vec<Value> = listed.collect();
    schema.remove("type");
    schema.insert("oneOf".into(), listed.into());
}

impl Default for VqTokenizerConfig {
    fn default() -> Self {
        Self {
            preset: "photos-tiny".into(),
            network: None,
            weights: None,
            precision: Precision::Float32,
            batch_size: 16,
            preparation: PreparationName::Chameleon,
            crop: Crop::Center,
            aspect_buckets: None,
        }
    }
}

impl VqTokenizerConfig {
    /// Sizes of the network; `None` for an unknown preset.
    #[must_use]
    pub fn network(&self) -> Option<VqConfig> {
        self.network.clone().or_else(|| VqConfig::preset(&self.preset))
    }
}

/// `kind = "torchscript"`. TorchScript is code and runs as given: name modules that you trust.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TorchScriptTokenizerConfig {
    /// File of the module that turns `[n, 3, side, side]` in -1 to 1 into codes.
    #[schemars(extend("format" = "path"))]
    pub encoder: PathBuf,
    /// File of the module that turns `[n, grid, grid]` codes into `[n, 3, side, side]`.
    #[schemars(extend("format" = "path"))]
    pub decoder: PathBuf,
    /// Side of the square to encode, in pixels.
    #[schemars(transform = within(TorchScriptConfig::SIDE_PX))]
    pub side_px: u32,
    /// Number of codes in a row and in a column of the square, at most `side_px`.
    #[schemars(transform = within(1..=*TorchScriptConfig::SIDE_PX.end()))]
    pub grid: u32,
    /// Number of codes.
    #[schemars(transform = within(TorchScriptConfig::CODEBOOK_SIZE))]
    pub codebook_size: u32,
    /// Number of images encoded together: part of the numerics class.
    #[serde(default = "sixteen")]
    #[schemars(transform = within(BATCH_SIZE))]
    pub batch_size: u32,
    /// Place of the square in a picture.
    #[serde(default = "center")]
    pub crop: Crop,
}

const fn sixteen() -> u32 {
    16
}

const fn center() -> Crop {
    Crop::Center
}

impl TorchScriptTokenizerConfig {
    /// Input and output of the modules.
    #[must_use]
    pub const fn modules(&self) -> TorchScriptConfig {
        TorchScriptConfig { side_px: self.side_px, grid: self.grid, codebook_size: self.codebook_size }
    }
}

/// `kind = "patches"`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct PatchesConfig {
    /// Side of the square to encode, in pixels: a multiple of `patch_px`.
    #[schemars(transform = within(PATCHES_SIDE_PX))]
    pub side_px: u32,
    /// Side of a patch, which becomes one code, in pixels.
    #[schemars(transform = within(PATCH_PX))]
    pub patch_px: u32,
    /// Number of codes.
    #[schemars(transform = within(PATCH_CODES))]
    pub codes: u32,
    /// Place of the square in a picture.
    pub crop: Crop,
    /// Shapes beside the square, to the nearest of which pictures are fitted. `true` for the shapes of the table's defaults.
    #[serde(deserialize_with = "super::buckets::switched", skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<Switch>", extend("default" = false))]
    pub aspect_buckets: Option<BucketsConfig>,
}

impl Default for PatchesConfig {
    fn default() -> Self {
        Self { side_px: 128, patch_px: 8, codes: 512, crop: Crop::Center, aspect_buckets: None }
    }
}

/// `kind = "given"`: the codes that samples come with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct GivenConfig {
    /// Side of the square that was encoded, in pixels, which boxes are counted in.
    #[schemars(transform = within(GIVEN_SIDE_PX))]
    pub side_px: u32,
    /// Number of codes in a row and in a column of the square, at most `side_px`.
    #[schemars(transform = within(GIVEN_SIDE_PX))]
    pub grid: u32,
    /// Number of codes.
    #[schemars(transform = within(CODEBOOK_SIZE))]
    pub codebook_size: u32,
    /// Shapes beside the square, whose grids codes may have. `true` for the shapes of the table's defaults.
    #[serde(default, deserialize_with = "super::buckets::switched", skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<Switch>", extend("default" = false))]
    pub aspect_buckets: Option<BucketsConfig>,
}

impl GivenConfig {
    fn problems(&self) -> Vec<String> {
        let limits = [
            problem("tokenize.image.side_px", self.side_px, &GIVEN_SIDE_PX),
            problem("tokenize.image.grid", self.grid, &(1..=self.side_px.clamp(1, *GIVEN_SIDE_PX.end()))),
            problem("tokenize.image.codebook_size", self.codebook_size, &CODEBOOK_SIZE),
        ];
        limits.into_iter().flatten().collect()
    }
}

impl ImageTokenizerConfig {
    /// How pictures become squares for it.
    #[must_use]
    pub fn preparation(&self) -> Preparation {
        let preparation = match self {
            Self::Vq(vq) => {
                let side = vq.network().map_or(0, |network| network.resolution);
                match vq.preparation {
                    PreparationName::Chameleon => Preparation::chameleon(side, vq.crop),
                    PreparationName::ChameleonHf => Preparation::chameleon_hf(side, vq.crop),
                }
            }
            Self::Patches(patches) => Preparation::levels(patches.side_px, patches.crop),
            Self::Given(given) => Preparation::levels(given.side_px, Crop::Center),
            Self::TorchScript(script) => Preparation::chameleon(script.side_px, script.crop),
        };
        let buckets = self.buckets().map(|buckets| buckets.shapes(self.code_px()));
        preparation.with_decoder(derive::decoder()).with_buckets(buckets)
    }

    /// Codes of one square.
    #[must_use]
    pub fn codes_per_image(&self) -> usize {
        let grid = self.grid();
        (grid * grid) as usize
    }

    /// Codes in a row and in a column of a square.
    fn grid(&self) -> u32 {
        match self {
            Self::Vq(vq) => vq.network().map_or(0, |network| network.grid()),
            Self::Patches(patches) => patches.side_px / patches.patch_px.max(1),
            Self::TorchScript(script) => script.grid,
            Self::Given(given) => given.grid,
        }
    }

    /// Shapes beside the square, if they are switched on.
    #[must_use]
    pub const fn buckets(&self) -> Option<BucketsConfig> {
        match self {
            Self::Vq(vq) => vq.aspect_buckets,
            Self::Patches(patches) => patches.aspect_buckets,
            Self::Given(given) => given.aspect_buckets,
            Self::TorchScript(_) => None,
        }
    }

    /// The same for squares alone: what is fitted is fitted on squares.
    #[must_use]
    pub fn without_buckets(&self) -> Self {
        let mut image = self.clone();
        match &mut image {
            Self::Vq(vq) => vq.aspect_buckets = None,
            Self::Patches(patches) => patches.aspect_buckets = None,
            Self::Given(given) => given.aspect_buckets = None,
            Self::TorchScript(_) => {}
        }
        image
    }

    /// Side of the square that one code stands for, in pixels.
    fn code_px(&self) -> u32 {
        let side = match self {
            Self::Vq(vq) => vq.network().map_or(0, |network| network.resolution),
            Self::Patches(patches) => patches.side_px,
            Self::TorchScript(script) => script.side_px,
            Self::Given(given) => given.side_px,
        };
        side / self.grid().max(1)
    }

    fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        if let Some(buckets) = self.buckets() {
            problems.extend(buckets.problems(self.grid(), self.code_px()));
        }
        match self {
            Self::Vq(vq) => {
                match vq.network() {
                    None => {
                        let known = VqConfig::PRESETS.join(", ");
                        problems.push(format!("tokenize.image.preset must be one of {known}, got {:?}", vq.preset));
                    }
                    Some(network) => problems.extend(below("tokenize.image.network", network.problems())),
                }
                if vq.preparation == PreparationName::ChameleonHf && vq.weights.is_none() {
                    let problem = "tokenize.image.preparation = \"chameleon-hf\" needs tokenize.image.weights; what is fitted here takes \"chameleon\"";
                    problems.push(problem.into());
                }
                problems.extend(batch_size_problem(vq.batch_size));
            }
            Self::TorchScript(script) => {
                problems.extend(below("tokenize.image", script.modules().problems()));
                problems.extend(batch_size_problem(script.batch_size));
            }
            Self::Given(given) => problems.extend(given.problems()),
            Self::Patches(patches) => {
                if patches.patch_px == 0 || patches.side_px == 0 || patches.side_px % patches.patch_px != 0 {
                    let (side, patch) = (patches.side_px, patches.patch_px);
                    problems.push(format!("tokenize.image.side_px must be a multiple of tokenize.image.patch_px, got {side} and {patch}"));
                }
                problems.extend(problem("tokenize.image.codes", patches.codes, &PATCH_CODES));
            }
        }
        problems
    }
}

fn batch_size_problem(batch_size: u32) -> Option<String> {
    problem("tokenize.image.batch_size", batch_size, &BATCH_SIZE)
}

/// `[tokenize.text]`: the text tokenizer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct TextConfig {
    /// Largest number of ids of a fitted tokenizer.
    #[schemars(transform = within(TEXT_VOCABULARY_SIZE))]
    pub vocabulary_size: u32,
    /// File of a tokenizer, a `tokenizer.json` as Hugging Face's tokenizers writes it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "path", "x-default" = "a tokenizer is fitted"))]
    pub file: Option<PathBuf>,
}

impl Default for TextConfig {
    fn default() -> Self {
        Self { vocabulary_size: 4096, file: None }
    }
}

impl TokenizeConfig {
    pub(super) fn problems(&self) -> Vec<String> {
        let mut problems = self.image.problems();
        problems.extend(problem("tokenize.text.vocabulary_size", self.text.vocabulary_size, &TEXT_VOCABULARY_SIZE));
        problems
    }
}
