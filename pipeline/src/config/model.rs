//! Sections of what is fitted and trained: tokenizers and tables, the decoder and its evaluation.

use std::ops::{Bound, RangeFrom, RangeInclusive};
use std::path::PathBuf;

use cm3flow_model::decoder::{AttentionScope, DecoderConfig, DecoderPreset};
use cm3flow_model::vq::VqFitConfig;
use cm3flow_schemas::limits::{problem, within};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::below;
use super::tokenize::ImageTokenizerConfig;

const MAX_SAMPLES: RangeFrom<u64> = 1..;
const PACKS: RangeFrom<u32> = 1..;
const MAX_CAPTION_TOKENS: RangeInclusive<u32> = 1..=1024;
const GUIDANCE: RangeInclusive<f64> = 1.0..=20.0;
const TEMPERATURE: RangeInclusive<f64> = 0.0..=5.0;
const TOP_P: (Bound<f64>, Bound<f64>) = (Bound::Excluded(0.0), Bound::Included(1.0));

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
        Self { preset: "tiny".into(), layers: None, width: None, heads: None, attention: AttentionScope::default() }
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
