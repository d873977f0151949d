//! Sections that name models: tokenizers, fitting, the decoder and its evaluation.

use std::ops::{Bound, RangeFrom, RangeInclusive};
use std::path::PathBuf;

use cm3flow_model::decoder::{AttentionScope, DecoderConfig, DecoderPreset};
use cm3flow_model::vq::{Precision, TorchScriptConfig, VqConfig, VqFitConfig};
use cm3flow_schemas::limits::{problem, within};
use cm3flow_schemas::preparation::{Crop, Preparation};
use cm3flow_stages::derive;
use schemars::{JsonSchema, Schema};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::buckets::{BucketsConfig, Switch};

const BATCH_SIZE: RangeInclusive<u32> = 1..=1024;
const CODEBOOK_SIZE: RangeInclusive<u32> = 2..=1 << 20;
const GIVEN_SIDE_PX: RangeInclusive<u32> = 1..=4096;
const PATCHES_SIDE_PX: RangeFrom<u32> = 1..;
const PATCH_PX: RangeFrom<u32> = 1..;
const PATCH_CODES: RangeInclusive<u32> = 2..=65_536;
const TEXT_VOCABULARY_SIZE: RangeInclusive<u32> = 256..=1 << 20;
const MAX_SAMPLES: RangeFrom<u64> = 1..;
const PACKS: RangeFrom<u32> = 1..;
const MAX_CAPTION_TOKENS: RangeInclusive<u32> = 1..=1024;
const GUIDANCE: RangeInclusive<f64> = 1.0..=20.0;
const TEMPERATURE: RangeInclusive<f64> = 0.0..=5.0;
const TOP_P: (Bound<f64>, Bound<f64>) = (Bound::Excluded(0.0), Bound::Included(1.0));

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

/// Problems of a part, whose paths begin at `path`.
fn below(path: &str, problems: Vec<String>) -> impl Iterator<Item = String> {
    problems.into_iter().map(move |problem| format!("{path}.{problem}"))
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

/// `[fit]`: the fit of tokenizers and tables that are not given: image codebook, text tokenizer, idf table.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct FitConfig {
    /// Largest number of samples to fit on: the first ones of the sources that are not held out.
    #[schemars(transform = within(MAX_SAMPLES))]
    pub max_samples: u64,
    /// `[fit.codebook]`.
    pub codebook: VqFitConfig,
    /// `[fit.perceptual]`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub perceptual: Option<PerceptualFiles>,
}

/// `[fit.perceptual]`: files of the perceptual loss, which a `fit.codebook.perceptual_weight` above 0 needs: safetensors or PyTorch checkpoints, of
/// which no code is run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PerceptualFiles {
    /// File of a VGG-16, its tensors named as torchvision does.
    #[schemars(extend("format" = "path"))]
    pub features: PathBuf,
    /// File of the linear layers of LPIPS for it.
    #[schemars(extend("format" = "path"))]
    pub linear: PathBuf,
}

impl Default for FitConfig {
    fn default() -> Self {
        Self { max_samples: 2000, codebook: VqFitConfig::default(), perceptual: None }
    }
}

impl FitConfig {
    pub(super) fn problems(&self, image: &ImageTokenizerConfig) -> Vec<String> {
        let mut problems: Vec<String> = problem("fit.max_samples", self.max_samples, &MAX_SAMPLES).into_iter().collect();
        if self.codebook.perceptual_weight > 0.0 && self.perceptual.is_none() {
            problems.push("fit.codebook.perceptual_weight is above 0, so [fit.perceptual] must name features and linear".into());
        }
        if let ImageTokenizerConfig::Vq(vq) = image
            && vq.weights.is_none()
            && let Some(network) = vq.network()
        {
            problems.extend(below("fit.codebook", self.codebook.problems(&network)));
        }
        problems
    }
}

/// `[model]`: the decoder that is trained.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ModelConfig {
    /// Sizes of the decoder, by name.
    #[schemars(with = "DecoderPreset")]
    pub preset: String,
    /// Number of layers.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(transform = within(DecoderConfig::LAYERS), extend("x-default" = "that of the preset"))]
    pub layers: Option<u32>,
    /// Length of a token's vector, a multiple of `heads`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(transform = within(DecoderConfig::WIDTH), extend("x-default" = "that of the preset"))]
    pub width: Option<u32>,
    /// Heads of the attention.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(transform = within(DecoderConfig::HEADS), extend("x-default" = "that of the preset"))]
    pub heads: Option<u32>,
    /// Earlier tokens of a pack that a token sees.
    pub attention: AttentionScope,
}

impl Default for ModelConfig {
    fn default() -> Self {
        Self { preset: "tiny".into(), layers: None, width: None, heads: None, attention: AttentionScope::Causal }
    }
}

impl ModelConfig {
    /// The decoder over `vocabulary_size` ids and packs of `seq_len` tokens; `None` for an unknown preset.
    #[must_use]
    pub fn decoder(&self, vocabulary_size: u32, seq_len: u32) -> Option<DecoderConfig> {
        let mut config = DecoderPreset::named(&self.preset)?.config(vocabulary_size, seq_len);
        config.layers = self.layers.unwrap_or(config.layers);
        config.width = self.width.unwrap_or(config.width);
        config.heads = self.heads.unwrap_or(config.heads);
        Some(DecoderConfig { attention: self.attention, ..config })
    }

    pub(super) fn problems(&self) -> Vec<String> {
        match self.decoder(64, 128) {
            None => vec![format!("model.preset must be tiny, cm3leon-350m, cm3leon-760m or cm3leon-7b, got {:?}", self.preset)],
            Some(config) => below("model", config.problems()).collect(),
        }
    }
}

/// `[eval]`: the evaluation on held-out packs, every `train.evaluate_every` steps.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct EvalConfig {
    /// Number of held-out packs whose loss is measured.
    #[schemars(transform = within(PACKS))]
    pub packs: u32,
    /// Number of images generated from held-out captions.
    pub images: u32,
    /// Number of captions generated for held-out images.
    pub captions: u32,
    /// Largest number of tokens of a generated caption.
    #[schemars(transform = within(MAX_CAPTION_TOKENS))]
    pub max_caption_tokens: u32,
    /// Strength of classifier-free guidance for images; 1 is none.
    #[schemars(transform = within(GUIDANCE))]
    pub guidance: f64,
    /// Temperature that images are sampled at; 0 takes the likeliest code.
    #[schemars(transform = within(TEMPERATURE))]
    pub temperature: f64,
    /// Probability mass of the likeliest tokens that are sampled from.
    #[schemars(transform = within(TOP_P))]
    pub top_p: f64,
}

impl Default for EvalConfig {
    fn default() -> Self {
        Self { packs: 8, images: 4, captions: 4, max_caption_tokens: 32, guidance: 3.0, temperature: 1.0, top_p: 0.95 }
    }
}

impl EvalConfig {
    pub(super) fn problems(&self) -> Vec<String> {
        let limits = [
            problem("eval.packs", self.packs, &PACKS),
            problem("eval.max_caption_tokens", self.max_caption_tokens, &MAX_CAPTION_TOKENS),
            problem("eval.guidance", self.guidance, &GUIDANCE),
            problem("eval.temperature", self.temperature, &TEMPERATURE),
            problem("eval.top_p", self.top_p, &TOP_P),
        ];
        limits.into_iter().flatten().collect()
    }
}
