//! Encoder of a VQGAN, from pixels to latents: the first half of the image tokenizer.
//!
//! # Source
//! `Encoder` in `taming/modules/diffusionmodules/model.py` of <https://github.com/CompVis/taming-transformers>.

use tch::{TchError, Tensor};

use crate::error::ModelError;
use crate::parameters::Scope;
use crate::vq::blocks::{Conv, Downsample, Level, LevelSizes, Middle, Norm};
use crate::vq::config::VqConfig;

/// Network from pixels to latents.
#[derive(Debug)]
pub(super) struct Encoder {
    pub(super) patch_px: i64,
    pub(super) conv_in: Conv,
    pub(super) levels: Vec<(Level, Option<Downsample>)>,
    pub(super) middle: Middle,
    pub(super) norm_out: Norm,
    pub(super) conv_out: Conv,
}

impl Encoder {
    /// Creates the encoder with parameters of `scope`.
    pub(super) fn try_new(mut scope: Scope<'_>, config: &VqConfig) -> Result<Self, ModelError> {
        let (groups, widths) = (i64::from(config.norm_groups), config.widths());
        let conv_in = Conv::try_new(scope.sub("conv_in"), config.folded_channels(), i64::from(config.channels), 3)?;
        let mut channels = i64::from(config.channels);
        let mut levels = Vec::new();
        for (index, width) in widths.iter().enumerate() {
            let attention = config.has_attention(index);
            let sizes = LevelSizes { channels_in: channels, channels_out: *width, blocks: config.residual_blocks, groups, attention };
            let mut down = scope.sub("down");
            let mut down = down.sub(index);
            let level = Level::try_new(&mut down, &sizes)?;
            let last = index + 1 == widths.len();
            let downsample = if last { None } else { Some(Downsample::try_new(down.sub("downsample"), *width)?) };
            levels.push((level, downsample));
            channels = *width;
        }
        Ok(Self {
            patch_px: i64::from(config.patch_px),
            conv_in,
            levels,
            middle: Middle::try_new(scope.sub("mid"), channels, groups, config.middle_attention)?,
            norm_out: Norm::try_new(scope.sub("norm_out"), channels, groups)?,
            conv_out: Conv::try_new(scope.sub("conv_out"), channels, i64::from(config.z_channels), 3)?,
        })
    }

    /// In: `[n, 3, h, w]` in -1 to 1. Out: `[n, z_channels, h / factor, w / factor]`.
    pub(super) fn forward(&self, pixels: &Tensor) -> Result<Tensor, TchError> {
        let mut h = self.conv_in.forward(&folded(pixels, self.patch_px)?)?;
        for (level, downsample) in &self.levels {
            h = level.forward(&h)?;
            if let Some(downsample) = downsample {
                h = downsample.forward(&h)?;
            }
        }
        self.conv_out.forward(&self.norm_out.forward_swish(&self.middle.forward(&h)?)?)
    }
}

/// Folds squares of `patch_px` pixels into channels. In: `[n, 3, h, w]`. Out: `[n, 3 * patch_px^2, h / patch_px, w / patch_px]`.
pub(super) fn folded(pixels: &Tensor, patch_px: i64) -> Result<Tensor, TchError> {
    if patch_px == 1 { Ok(pixels.shallow_clone()) } else { pixels.f_pixel_unshuffle(patch_px) }
}
