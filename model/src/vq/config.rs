//! Sizes of a VQGAN, as plain data. They determine the network's shapes, and thus the tensors of its weights.

use serde::{Deserialize, Serialize};
use tch::Kind;

use crate::error::{ModelError, Problems};

/// Precision of encoder and decoder. In either case weights are stored in f32, and latents are compared with codes in f32.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// 32-bit floats.
    #[default]
    Float32,
    /// 16-bit floats with the exponent of f32.
    Bfloat16,
}

impl Precision {
    /// Returns libtorch's element type.
    pub(crate) const fn kind(self) -> Kind {
        match self {
            Self::Float32 => Kind::Float,
            Self::Bfloat16 => Kind::BFloat16,
        }
    }
}

/// Sizes of a VQGAN.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VqConfig {
    /// Side of the square to encode, in pixels: 8 to 4096, a multiple of the downsampling factor.
    pub resolution: u32,
    /// Side of the squares of pixels that are folded into channels before the first convolution, and unfolded behind the last one, 1 to 64.
    /// Default: 1, no folding.
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub patch_px: u32,
    /// Number of channels of the first level, 1 to 4096; a multiple of `norm_groups`.
    pub channels: u32,
    /// Channels of each level as a multiple of `channels`, 1 to 64 each; one to eight levels. Each level but the last halves the side.
    pub channel_multipliers: Vec<u32>,
    /// Number of residual blocks in a level of the encoder, 1 to 16; the decoder has one more.
    pub residual_blocks: u32,
    /// Sides of the levels with attention behind their blocks; the first level's is `resolution / patch_px`. Default: none.
    #[serde(default)]
    pub attention_resolutions: Vec<u32>,
    /// `true` for attention between the two middle blocks of the narrowest level. Default: true.
    #[serde(default = "yes")]
    pub middle_attention: bool,
    /// Number of channels between encoder and `quant_conv`, 1 to 4096.
    pub z_channels: u32,
    /// Length of a codebook vector, 1 to 4096.
    pub embedding_dim: u32,
    /// Number of codes, 2 to 1,048,576.
    pub codebook_size: u32,
    /// Number of groups in the group normalisation, 1 to 256. Default: 32.
    #[serde(default = "thirty_two")]
    pub norm_groups: u32,
    /// `true` to normalise latents and codebook vectors to unit length, as in LlamaGen. Default: false.
    #[serde(default)]
    pub l2_normalized_codes: bool,
}

const fn yes() -> bool {
    true
}

const fn one() -> u32 {
    1
}

// Serde passes a reference.
#[allow(clippy::trivially_copy_pass_by_ref)]
const fn is_one(value: &u32) -> bool {
    *value == 1
}

const fn thirty_two() -> u32 {
    32
}

impl VqConfig {
    /// Returns the sizes of Chameleon's tokenizer: 512 pixels to 32 x 32 codes out of 8192.
    ///
    /// # Source
    /// `vqgan.yaml` of <https://github.com/facebookresearch/chameleon>.
    #[must_use]
    pub fn chameleon() -> Self {
        Self {
            resolution: 512,
            patch_px: 1,
            channels: 128,
            channel_multipliers: vec![1, 1, 2, 2, 4],
            residual_blocks: 2,
            attention_resolutions: Vec::new(),
            middle_attention: true,
            z_channels: 256,
            embedding_dim: 256,
            codebook_size: 8192,
            norm_groups: 32,
            l2_normalized_codes: false,
        }
    }

    /// Returns the sizes of the f16 tokenizers of taming-transformers: 256 pixels to 16 x 16 codes out of `codebook_size`, which is 1024 or
    /// 16384.
    ///
    /// # Source
    /// `configs/imagenet_vqgan.yaml` of <https://github.com/CompVis/taming-transformers> and the configurations beside its checkpoints.
    #[must_use]
    pub fn taming_f16(codebook_size: u32) -> Self {
        Self { resolution: 256, attention_resolutions: vec![16], codebook_size, ..Self::chameleon() }
    }

    /// Returns the sizes of LlamaGen's VQ-16: 256 pixels to 16 x 16 codes out of 16384, compared at unit length.
    ///
    /// # Source
    /// `tokenizer/tokenizer_image/vq_model.py` of <https://github.com/FoundationVision/LlamaGen>.
    #[must_use]
    pub fn llamagen_vq16() -> Self {
        Self { embedding_dim: 8, l2_normalized_codes: true, ..Self::taming_f16(16_384) }
    }

    /// Returns the sizes of LlamaGen's VQ-8: 256 pixels to 32 x 32 codes out of 16384, compared at unit length.
    #[must_use]
    pub fn llamagen_vq8() -> Self {
        Self { channel_multipliers: vec![1, 2, 2, 4], attention_resolutions: vec![32], ..Self::llamagen_vq16() }
    }

    /// Returns the sizes of aMUSEd's tokenizer, a `VQModel` of diffusers without attention: 256 pixels to 16 x 16 codes out of 8192.
    ///
    /// # Source
    /// Patil et al. 2024, section 3, <https://arxiv.org/abs/2401.01808>.
    #[must_use]
    pub fn amused() -> Self {
        Self {
            resolution: 256,
            channel_multipliers: vec![1, 2, 2, 4, 6],
            middle_attention: false,
            z_channels: 64,
            embedding_dim: 64,
            ..Self::chameleon()
        }
    }

    /// Names of the presets of [`Self::preset`].
    pub const PRESETS: [&str; 8] =
        ["photos-tiny", "f8-8192", "chameleon", "taming-f16-1024", "taming-f16-16384", "llamagen-vq8", "llamagen-vq16", "amused"];

    /// Returns the preset of that name, one of [`Self::PRESETS`].
    #[must_use]
    pub fn preset(name: &str) -> Option<Self> {
        match name {
            "photos-tiny" => Some(Self::photos_tiny()),
            "f8-8192" => Some(Self::f8_8192()),
            "chameleon" => Some(Self::chameleon()),
            "taming-f16-1024" => Some(Self::taming_f16(1024)),
            "taming-f16-16384" => Some(Self::taming_f16(16_384)),
            "llamagen-vq8" => Some(Self::llamagen_vq8()),
            "llamagen-vq16" => Some(Self::llamagen_vq16()),
            "amused" => Some(Self::amused()),
            _ => None,
        }
    }

    /// Returns the sizes of a tokenizer to fit on a GPU for CM3Leon: 256 pixels to 32 x 32 codes out of 8192, of 8 dimensions and unit
    /// length.
    ///
    /// # Source
    /// Sizes of the codes: CM3Leon paper, section 2.1, <https://arxiv.org/abs/2309.02591>; network and short unit codes: LlamaGen's VQ-8,
    /// <https://arxiv.org/abs/2406.06525>.
    #[must_use]
    pub fn f8_8192() -> Self {
        Self { codebook_size: 8192, attention_resolutions: Vec::new(), ..Self::llamagen_vq8() }
    }

    /// Returns the sizes of a tokenizer that two CPU cores fit on a few photos in a minute: 128 pixels to 16 x 16 codes out of 512. Squares
    /// of 8 pixels are folded, so all convolutions work on 16 x 16 cells.
    ///
    /// Small networks of this family fail at upsampling by nearest neighbours, which cannot tell the pixels of a cell apart; folding avoids it. A
    /// single group of normalisation keeps colours, which groups of a few channels remove from a picture.
    #[must_use]
    pub fn photos_tiny() -> Self {
        Self {
            resolution: 128,
            patch_px: 8,
            channels: 128,
            channel_multipliers: vec![1],
            residual_blocks: 1,
            attention_resolutions: Vec::new(),
            middle_attention: false,
            z_channels: 32,
            embedding_dim: 8,
            codebook_size: 512,
            norm_groups: 1,
            l2_normalized_codes: false,
        }
    }

    /// Returns the side of the square that one code covers, in pixels: the downsampling factor.
    #[must_use]
    pub fn factor(&self) -> u32 {
        self.patch_px << (self.channel_multipliers.len().clamp(1, 8) - 1)
    }

    /// Returns the number of codes in a row and in a column.
    #[must_use]
    pub fn grid(&self) -> u32 {
        self.resolution / self.factor().max(1)
    }

    /// Returns the number of bytes of one picture: RGB, interleaved.
    pub(crate) fn bytes_per_image(&self) -> usize {
        self.resolution as usize * self.resolution as usize * 3
    }

    /// Returns the number of channels of the folded pixels.
    pub(super) fn folded_channels(&self) -> i64 {
        3 * i64::from(self.patch_px).pow(2)
    }

    /// Returns the side of `level` in cells.
    fn side_of(&self, level: usize) -> u32 {
        (self.resolution / self.patch_px.max(1)) >> level
    }

    /// Returns the number of channels of each level.
    pub(super) fn widths(&self) -> Vec<i64> {
        self.channel_multipliers.iter().map(|multiplier| i64::from(self.channels) * i64::from(*multiplier)).collect()
    }

    /// Checks whether attention follows the blocks of `level`.
    pub(super) fn has_attention(&self, level: usize) -> bool {
        self.attention_resolutions.contains(&self.side_of(level))
    }

    /// Checks every field.
    ///
    /// # Errors
    /// [`ModelError::Config`] with all problems.
    pub fn check(&self) -> Result<(), ModelError> {
        let mut problems = Problems::default();
        let levels = self.channel_multipliers.len();
        problems.require((1..=8).contains(&levels), || format!("channel_multipliers must have 1..=8 levels, got {levels}"));
        for (level, multiplier) in self.channel_multipliers.iter().enumerate() {
            problems.range(&format!("channel_multipliers[{level}]"), *multiplier, 1, 64);
        }
        problems.range("resolution", self.resolution, 8, 4096);
        problems.range("patch_px", self.patch_px, 1, 64);
        let (resolution, factor) = (self.resolution, self.factor());
        problems.require(factor > 0 && resolution.is_multiple_of(factor), || {
            format!("resolution must be a multiple of the downsampling factor {factor}, got {resolution}")
        });
        problems.range("channels", self.channels, 1, 4096);
        problems.range("norm_groups", self.norm_groups, 1, 256);
        let (channels, groups) = (self.channels, self.norm_groups);
        problems.require(groups > 0 && channels.is_multiple_of(groups), || {
            format!("channels must be a multiple of norm_groups {groups}, got {channels}")
        });
        problems.range("residual_blocks", self.residual_blocks, 1, 16);
        for (index, side) in self.attention_resolutions.iter().enumerate() {
            let exists = (0..levels.min(8)).any(|level| self.side_of(level) == *side);
            problems.require(exists, || format!("attention_resolutions[{index}] must be the side of a level, got {side}"));
        }
        problems.range("z_channels", self.z_channels, 1, 4096);
        problems.range("embedding_dim", self.embedding_dim, 1, 4096);
        problems.range("codebook_size", self.codebook_size, 2, 1 << 20);
        problems.finish("vq configuration")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn presets_hold_their_rules() {
        let grids = VqConfig::PRESETS.map(|name| {
            let config = VqConfig::preset(name).expect("it is listed");
            config.check().expect("a preset");
            (name, config.resolution, config.grid(), config.codebook_size)
        });
        assert_eq!(
            grids[1..],
            [
                ("f8-8192", 256, 32, 8192),
                ("chameleon", 512, 32, 8192),
                ("taming-f16-1024", 256, 16, 1024),
                ("taming-f16-16384", 256, 16, 16_384),
                ("llamagen-vq8", 256, 32, 16_384),
                ("llamagen-vq16", 256, 16, 16_384),
                ("amused", 256, 16, 8192),
            ]
        );
        assert_eq!(VqConfig::preset("photos"), None);
    }

    #[test]
    fn every_bad_field_is_reported() {
        let config = VqConfig { channels: 20, resolution: 100, attention_resolutions: vec![7], codebook_size: 1, ..VqConfig::chameleon() };
        let Err(ModelError::Config { problems, .. }) = config.check() else { panic!("four fields are bad") };
        assert_eq!(
            problems,
            [
                "resolution must be a multiple of the downsampling factor 16, got 100",
                "channels must be a multiple of norm_groups 32, got 20",
                "attention_resolutions[0] must be the side of a level, got 7",
                "codebook_size must be in 2..=1048576, got 1",
            ]
        );
    }

    #[test]
    fn defaults_fill_in_and_unknown_fields_are_refused() {
        let text = r#"{"resolution":64,"channels":32,"channel_multipliers":[1,2],"residual_blocks":1,"z_channels":8,"embedding_dim":8,"codebook_size":16}"#;
        let config: VqConfig = serde_json::from_str(text).expect("the rest has defaults");
        assert!(config.middle_attention && config.norm_groups == 32 && config.attention_resolutions.is_empty());
        assert!(serde_json::from_str::<VqConfig>(&text.replace("residual_blocks", "blocks")).is_err());
    }
}
