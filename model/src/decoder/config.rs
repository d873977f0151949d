//! Sizes of a decoder, as plain data. They determine the network's shapes, and thus the tensors of its weights.

use std::ops::RangeInclusive;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::error::{ModelError, Problems};

/// Earlier tokens of a pack that a token sees.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum AttentionScope {
    /// All earlier tokens. Positions count from the pack's first token. As in metaseq. Then a document may copy from another of its pack, and most
    /// documents stand at positions that no prompt has.
    Causal,
    /// Earlier tokens of the same document. Positions count from the document's first token, so a document's loss depends on nothing else.
    #[default]
    Document,
}

/// Sizes of a decoder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DecoderConfig {
    /// Number of layers, 1 to 256.
    pub layers: u32,
    /// Length of a token's vector, 8 to 65,536; a multiple of `heads`.
    pub width: u32,
    /// Number of attention heads, 1 to 1024.
    pub heads: u32,
    /// Width of a layer's ReLU network as a multiple of `width`, 1 to 16. Default: 4.
    #[serde(default = "four")]
    pub ffn_multiplier: u32,
    /// Number of ids, equal to that of the vocabulary: 2 to 4,194,304.
    pub vocabulary_size: u32,
    /// Number of tokens in a pack, and limit of a prompt with its continuation: 2 to 131,072.
    pub seq_len: u32,
    /// Earlier tokens that a token sees: `causal` or `document`. Default: `document`.
    #[serde(default)]
    pub attention: AttentionScope,
}

const fn four() -> u32 {
    4
}

impl DecoderConfig {
    /// Limits of [`Self::layers`].
    pub const LAYERS: RangeInclusive<u32> = 1..=256;
    /// Limits of [`Self::width`].
    pub const WIDTH: RangeInclusive<u32> = 8..=1 << 16;
    /// Limits of [`Self::heads`].
    pub const HEADS: RangeInclusive<u32> = 1..=1024;

    /// Returns the problems of all fields, each with the field's path, the rule and the value.
    #[must_use]
    pub fn problems(&self) -> Vec<String> {
        let mut problems = Problems::default();
        problems.within("layers", self.layers, &Self::LAYERS);
        problems.within("width", self.width, &Self::WIDTH);
        problems.within("heads", self.heads, &Self::HEADS);
        let (width, heads) = (self.width, self.heads);
        problems.require(heads > 0 && width.is_multiple_of(heads), || format!("width must be a multiple of heads {heads}, got {width}"));
        problems.within("ffn_multiplier", self.ffn_multiplier, &(1..=16));
        problems.within("vocabulary_size", self.vocabulary_size, &(2..=1 << 22));
        problems.within("seq_len", self.seq_len, &(2..=1 << 17));
        problems.into_list()
    }

    /// Checks every field.
    ///
    /// # Errors
    /// [`ModelError::Config`] with all problems.
    pub fn check(&self) -> Result<(), ModelError> {
        match self.problems() {
            problems if problems.is_empty() => Ok(()),
            problems => Err(ModelError::Config { what: "decoder configuration", problems }),
        }
    }

    /// Returns the number of parameters.
    #[must_use]
    pub const fn parameters(&self) -> u64 {
        let (width, ffn) = (self.width as u64, self.ffn_multiplier as u64);
        let layer = (4 + 2 * ffn) * width * width;
        self.layers as u64 * layer + (self.vocabulary_size as u64 + self.seq_len as u64) * width
    }
}

/// Named sizes.
///
/// # Source
/// CM3Leon paper, table 3, <https://arxiv.org/abs/2309.02591>; heads: metaseq's sizes of the same width. `tiny` is for two CPU cores.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum DecoderPreset {
    /// 4 layers of width 128.
    #[serde(rename = "tiny")]
    Tiny,
    /// 24 layers of width 1024.
    #[serde(rename = "cm3leon-350m")]
    Cm3leon350m,
    /// 24 layers of width 1536.
    #[serde(rename = "cm3leon-760m")]
    Cm3leon760m,
    /// 32 layers of width 4096.
    #[serde(rename = "cm3leon-7b")]
    Cm3leon7b,
}

impl DecoderPreset {
    /// All presets, smallest first.
    pub const ALL: [Self; 4] = [Self::Tiny, Self::Cm3leon350m, Self::Cm3leon760m, Self::Cm3leon7b];

    /// Returns the name in configurations.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tiny => "tiny",
            Self::Cm3leon350m => "cm3leon-350m",
            Self::Cm3leon760m => "cm3leon-760m",
            Self::Cm3leon7b => "cm3leon-7b",
        }
    }

    /// Returns the preset with that name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|preset| preset.name() == name)
    }

    /// Returns the sizes for a vocabulary of `vocabulary_size` ids and packs of `seq_len` tokens, with attention within documents.
    #[must_use]
    pub const fn config(self, vocabulary_size: u32, seq_len: u32) -> DecoderConfig {
        let (layers, width, heads) = match self {
            Self::Tiny => (4, 128, 4),
            Self::Cm3leon350m => (24, 1024, 16),
            Self::Cm3leon760m => (24, 1536, 16),
            Self::Cm3leon7b => (32, 4096, 32),
        };
        DecoderConfig { layers, width, heads, ffn_multiplier: 4, vocabulary_size, seq_len, attention: AttentionScope::Document }
    }

    /// Returns the number of warm-up steps for the preset.
    #[must_use]
    pub const fn warm_up_steps(self) -> u64 {
        match self {
            Self::Tiny => 20,
            Self::Cm3leon350m | Self::Cm3leon760m | Self::Cm3leon7b => 1500,
        }
    }

    /// Returns the peak learning rate for the preset.
    #[must_use]
    pub const fn learning_rate(self) -> f64 {
        match self {
            Self::Tiny => 3e-3,
            Self::Cm3leon350m => 6e-4,
            Self::Cm3leon760m => 5e-4,
            Self::Cm3leon7b => 1.2e-4,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn presets_hold_their_rules_and_have_their_sizes() {
        let sizes = DecoderPreset::ALL.map(|preset| {
            let config = preset.config(65_536, 4096);
            config.check().expect("a preset");
            assert_eq!(DecoderPreset::named(preset.name()), Some(preset));
            assert_eq!(serde_json::to_value(preset).expect("plain"), preset.name());
            format!("{} {:.0}M", preset.name(), config.parameters() as f64 / 1e6)
        });
        assert_eq!(sizes, ["tiny 10M", "cm3leon-350m 373M", "cm3leon-760m 786M", "cm3leon-7b 6728M"]);
    }

    #[test]
    fn every_bad_field_is_reported() {
        let config = DecoderConfig { layers: 0, heads: 5, seq_len: 1, ..DecoderPreset::Tiny.config(64, 16) };
        assert_eq!(
            config.problems(),
            ["layers must be in 1..=256, got 0", "width must be a multiple of heads 5, got 128", "seq_len must be in 2..=131072, got 1"]
        );
    }

    #[test]
    fn defaults_fill_in_and_unknown_fields_are_refused() {
        let text = r#"{"layers":1,"width":8,"heads":2,"vocabulary_size":64,"seq_len":16}"#;
        let config: DecoderConfig = serde_json::from_str(text).expect("the rest has defaults");
        assert_eq!((config.ffn_multiplier, config.attention), (4, AttentionScope::Document));
        assert!(serde_json::from_str::<DecoderConfig>(&text.replace("layers", "depth")).is_err());
    }
}
