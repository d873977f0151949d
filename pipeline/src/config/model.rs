//! Sections that name models: tokenizers, fitting, the decoder and its evaluation.

use std::path::PathBuf;

use cm3flow_model::decoder::{AttentionScope, DecoderConfig, DecoderPreset};
use cm3flow_model::vq::{Precision, TorchScriptConfig, VqConfig, VqFitConfig};
use cm3flow_schemas::preparation::{Crop, Preparation};
use cm3flow_stages::derive;
use serde::{Deserialize, Serialize};

use super::buckets::BucketsConfig;

/// `[tokenize]`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TokenizeConfig {
    /// `[tokenize.image]`.
    pub image: ImageTokenizerConfig,
    /// `[tokenize.text]`.
    pub text: TextConfig,
}

/// `[tokenize.image]`, by `kind`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum ImageTokenizerConfig {
    /// A network of the VQGAN family.
    Vq(VqTokenizerConfig),
    /// k-means over square patches: a baseline without libtorch.
    Patches(PatchesConfig),
    /// A pair of TorchScript modules, such as `encoder.jit` and `decoder.jit` of Cosmos.
    TorchScript(TorchScriptTokenizerConfig),
    /// Nothing: all samples come with their codes.
    Given(GivenConfig),
}

impl Default for ImageTokenizerConfig {
    fn default() -> Self {
        Self::Vq(VqTokenizerConfig::default())
    }
}

/// `kind = "vq"`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct VqTokenizerConfig {
    /// One of [`VqConfig::PRESETS`]. Default `photos-tiny`.
    pub preset: String,
    /// Sizes of the network, instead of a preset.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub network: Option<VqConfig>,
    /// File of its weights: safetensors, or a PyTorch checkpoint, of which no code is run. Layouts of taming-transformers, Chameleon,
    /// transformers, diffusers and LlamaGen are known. Without it weights are fitted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub weights: Option<PathBuf>,
    /// What the network computes in, `float32` or `bfloat16`: part of the numerics class. Default `float32`.
    pub precision: Precision,
    /// Images that are encoded together, 1..=1024: part of the numerics class. Default 16.
    pub batch_size: u32,
    /// How pictures are prepared: `chameleon` or `chameleon-hf`, as Chameleon's own code and as transformers do it; the latter for given
    /// weights only. Default `chameleon`.
    pub preparation: PreparationName,
    /// Which square of a picture is taken: `center` or `random`. Default `center`.
    pub crop: Crop,
    /// Whether pictures are fitted to the nearest of several shapes instead of the square. Default false.
    #[serde(deserialize_with = "super::buckets::switched", skip_serializing_if = "Option::is_none")]
    pub aspect_buckets: Option<BucketsConfig>,
}

/// Preparations to choose from; [`Preparation`] says what each does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PreparationName {
    /// [`Preparation::chameleon`].
    Chameleon,
    /// [`Preparation::chameleon_hf`].
    ChameleonHf,
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
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TorchScriptTokenizerConfig {
    /// Module that turns `[n, 3, side, side]` in -1 to 1 into codes.
    pub encoder: PathBuf,
    /// Module that turns `[n, grid, grid]` codes into `[n, 3, side, side]`.
    pub decoder: PathBuf,
    /// Side of an image in pixels, 8..=4096.
    pub side_px: u32,
    /// Codes in a row and in a column, 1..=`side_px`.
    pub grid: u32,
    /// Number of codes, 2..=1048576.
    pub codebook_size: u32,
    /// Images that are encoded together, 1..=1024: part of the numerics class. Default 16.
    #[serde(default = "sixteen")]
    pub batch_size: u32,
    /// Which square of a picture is taken. Default `center`.
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
    /// What the modules take and return.
    #[must_use]
    pub const fn modules(&self) -> TorchScriptConfig {
        TorchScriptConfig { side_px: self.side_px, grid: self.grid, codebook_size: self.codebook_size }
    }
}

/// `kind = "patches"`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PatchesConfig {
    /// Side of an image in pixels, a multiple of `patch_px`. Default 128.
    pub side_px: u32,
    /// Side of a patch in pixels, 1 or more. Default 8.
    pub patch_px: u32,
    /// Number of codes, 2..=65536. Default 512.
    pub codes: u32,
    /// Which square of a picture is taken. Default `center`.
    pub crop: Crop,
    /// Whether pictures are fitted to the nearest of several shapes instead of the square. Default false.
    #[serde(deserialize_with = "super::buckets::switched", skip_serializing_if = "Option::is_none")]
    pub aspect_buckets: Option<BucketsConfig>,
}

impl Default for PatchesConfig {
    fn default() -> Self {
        Self { side_px: 128, patch_px: 8, codes: 512, crop: Crop::Center, aspect_buckets: None }
    }
}

/// `kind = "given"`: what the codes are that samples come with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GivenConfig {
    /// Side of the square that was encoded, in pixels, 1..=4096: what boxes are counted in.
    pub side_px: u32,
    /// Codes in a row and in a column, 1..=`side_px`.
    pub grid: u32,
    /// Number of codes, 2..=1048576.
    pub codebook_size: u32,
    /// Whether codes may have the grids of several shapes. Default false.
    #[serde(default, deserialize_with = "super::buckets::switched", skip_serializing_if = "Option::is_none")]
    pub aspect_buckets: Option<BucketsConfig>,
}

impl GivenConfig {
    fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        let mut check = |field: &str, value: u32, least: u32, most: u32| {
            if !(least..=most).contains(&value) {
                problems.push(format!("tokenize.image.{field} must be in {least}..={most}, got {value}"));
            }
        };
        check("side_px", self.side_px, 1, 4096);
        check("grid", self.grid, 1, self.side_px.clamp(1, 4096));
        check("codebook_size", self.codebook_size, 2, 1 << 20);
        problems
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
                    Some(network) => {
                        if let Err(error) = network.check() {
                            problems.push(format!("tokenize.image.network: {error}"));
                        }
                    }
                }
                if vq.preparation == PreparationName::ChameleonHf && vq.weights.is_none() {
                    let problem = "tokenize.image.preparation = \"chameleon-hf\" needs tokenize.image.weights; what is fitted here takes \"chameleon\"";
                    problems.push(problem.into());
                }
                problems.extend(batch_size_problem(vq.batch_size));
            }
            Self::TorchScript(script) => {
                if let Err(error) = script.modules().check() {
                    problems.push(format!("tokenize.image: {error}"));
                }
                problems.extend(batch_size_problem(script.batch_size));
            }
            Self::Given(given) => problems.extend(given.problems()),
            Self::Patches(patches) => {
                if patches.patch_px == 0 || patches.side_px == 0 || patches.side_px % patches.patch_px != 0 {
                    let (side, patch) = (patches.side_px, patches.patch_px);
                    problems.push(format!("tokenize.image.side_px must be a multiple of tokenize.image.patch_px, got {side} and {patch}"));
                }
                if !(2..=65_536).contains(&patches.codes) {
                    problems.push(format!("tokenize.image.codes must be in 2..=65536, got {}", patches.codes));
                }
            }
        }
        problems
    }
}

fn batch_size_problem(batch_size: u32) -> Option<String> {
    let fits = (1..=1024).contains(&batch_size);
    (!fits).then(|| format!("tokenize.image.batch_size must be in 1..=1024, got {batch_size}"))
}

/// `[tokenize.text]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TextConfig {
    /// Ids of a fitted tokenizer, 256..=1048576. Default 4096.
    pub vocabulary_size: u32,
    /// A `tokenizer.json`; without it one is fitted.
    #[serde(skip_serializing_if = "Option::is_none")]
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
        let size = self.text.vocabulary_size;
        if !(256..=1 << 20).contains(&size) {
            problems.push(format!("tokenize.text.vocabulary_size must be in 256..=1048576, got {size}"));
        }
        problems
    }
}

/// `[fit]`: what is fitted when no weights are given.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct FitConfig {
    /// First samples of the sources that are fitted on, held-out ones left out; 1 or more. Default 2000.
    pub max_samples: u64,
    /// `[fit.codebook]`. What it leaves out is as the preset of the tokenizer needs it.
    pub codebook: VqFitConfig,
    /// `[fit.perceptual]`: files of the perceptual loss, asked for if `fit.codebook.perceptual_weight` is above 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub perceptual: Option<PerceptualFiles>,
}

/// `[fit.perceptual]`: safetensors files or PyTorch checkpoints, of which no code is run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PerceptualFiles {
    /// A VGG-16 as torchvision names its tensors.
    pub features: PathBuf,
    /// The linear layers of LPIPS for it.
    pub linear: PathBuf,
}

impl Default for FitConfig {
    fn default() -> Self {
        Self { max_samples: 2000, codebook: VqFitConfig::default(), perceptual: None }
    }
}

impl FitConfig {
    pub(super) fn problems(&self, image: &ImageTokenizerConfig) -> Vec<String> {
        let mut problems = Vec::new();
        if self.max_samples == 0 {
            problems.push("fit.max_samples must be 1 or more, got 0".into());
        }
        if self.codebook.perceptual_weight > 0.0 && self.perceptual.is_none() {
            problems.push("fit.codebook.perceptual_weight is above 0, so [fit.perceptual] must name features and linear".into());
        }
        if let ImageTokenizerConfig::Vq(vq) = image
            && vq.weights.is_none()
            && let Some(network) = vq.network()
            && let Err(error) = self.codebook.check(&network)
        {
            problems.push(format!("fit.codebook: {error}"));
        }
        problems
    }
}

/// `[model]`: the decoder that is trained.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ModelConfig {
    /// `tiny`, `cm3leon-350m`, `cm3leon-760m` or `cm3leon-7b`. Default `tiny`.
    pub preset: String,
    /// Instead of the preset's number of layers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub layers: Option<u32>,
    /// Instead of the preset's width.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub width: Option<u32>,
    /// Instead of the preset's number of heads.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub heads: Option<u32>,
    /// What a token sees. Default `causal`.
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
            Some(config) => config.problems().into_iter().map(|problem| format!("model.{problem}")).collect(),
        }
    }
}

/// `[eval]`: what is evaluated every `train.evaluate_every` steps.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct EvalConfig {
    /// Held-out packs whose loss is taken, 1 or more. Default 8.
    pub packs: u32,
    /// Images generated from held-out captions, 0 or more. Default 4.
    pub images: u32,
    /// Captions generated for held-out images, 0 or more. Default 4.
    pub captions: u32,
    /// Longest generated caption in tokens, 1..=1024. Default 32.
    pub max_caption_tokens: u32,
    /// Strength of classifier-free guidance for images, 1 (none) to 20. Default 3.
    pub guidance: f64,
    /// Temperature of images, 0 or more and at most 5. Default 1.
    pub temperature: f64,
    /// Probability mass that is sampled from, above 0 and at most 1. Default 0.95.
    pub top_p: f64,
}

impl Default for EvalConfig {
    fn default() -> Self {
        Self { packs: 8, images: 4, captions: 4, max_caption_tokens: 32, guidance: 3.0, temperature: 1.0, top_p: 0.95 }
    }
}

impl EvalConfig {
    pub(super) fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        let mut check = |holds: bool, field: &str, range: &str, value: String| {
            if !holds {
                problems.push(format!("eval.{field} must be {range}, got {value}"));
            }
        };
        check(self.packs > 0, "packs", "1 or more", self.packs.to_string());
        check((1..=1024).contains(&self.max_caption_tokens), "max_caption_tokens", "in 1..=1024", self.max_caption_tokens.to_string());
        check((1.0..=20.0).contains(&self.guidance), "guidance", "in 1..=20", self.guidance.to_string());
        check((0.0..=5.0).contains(&self.temperature), "temperature", "in 0..=5", self.temperature.to_string());
        check(self.top_p > 0.0 && self.top_p <= 1.0, "top_p", "above 0 and at most 1", self.top_p.to_string());
        problems
    }
}
