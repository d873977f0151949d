//! Decoder of a VQGAN, from latents to pixels: the second half of the image tokenizer.
//!
//! # Source
//! `Decoder` in `taming/modules/diffusionmodules/model.py` of <https://github.com/CompVis/taming-transformers>.

use tch::{TchError, Tensor};

use crate::error::ModelError;
use crate::parameters::Scope;
use crate::vq::blocks::{Conv, Level, LevelSizes, Middle, Norm, Upsample};
use crate::vq::config::VqConfig;

/// Network from latents to pixels.
#[derive(Debug)]
pub(super) struct Decoder {
    conv_in: Conv,
    middle: Middle,
    /// Levels in the order of computation, the narrowest first.
    levels: Vec<(Level, Option<Upsample>)>,
    norm_out: Norm,
    conv_out: Conv,
    patch_px: i64,
}

impl Decoder {
    /// Creates the decoder with parameters of `scope`.
    pub(super) fn try_new(mut scope: Scope<'_>, config: &VqConfig) -> Result<Self, ModelError> {
        let (groups, widths) = (i64::from(config.norm_groups), config.widths());
        let mut channels = widths.last().copied().unwrap_or(i64::from(config.channels));
        let conv_in = Conv::try_new(scope.sub("conv_in"), i64::from(config.z_channels), channels, 3)?;
        let middle = Middle::try_new(scope.sub("mid"), channels, groups, config.middle_attention)?;
        let mut levels = Vec::new();
        // taming numbers the levels by side, the widest first, and computes them backwards.
        for (index, width) in widths.iter().enumerate().rev() {
            let attention = config.has_attention(index);
            let sizes = LevelSizes { channels_in: channels, channels_out: *width, blocks: config.residual_blocks + 1, groups, attention };
            let mut up = scope.sub("up");
            let mut up = up.sub(index);
            let level = Level::try_new(&mut up, &sizes)?;
            let upsample = if index == 0 { None } else { Some(Upsample::try_new(up.sub("upsample"), *width)?) };
            levels.push((level, upsample));
            channels = *width;
        }
        let norm_out = Norm::try_new(scope.sub("norm_out"), channels, groups)?;
        let conv_out = Conv::try_new(scope.sub("conv_out"), channels, config.folded_channels(), 3)?;
        Ok(Self { conv_in, middle, levels, norm_out, conv_out, patch_px: i64::from(config.patch_px) })
    }

    /// In: `[n, z_channels, h, w]`. Out: `[n, 3, h * factor, w * factor]`, about -1 to 1, not clamped.
    pub(super) fn forward(&self, latents: &Tensor) -> Result<Tensor, TchError> {
        let mut h = self.middle.forward(&self.conv_in.forward(latents)?)?;
        for (level, upsample) in &self.levels {
            h = level.forward(&h)?;
            if let Some(upsample) = upsample {
                h = upsample.forward(&h)?;
            }
        }
        let folded = self.conv_out.forward(&self.norm_out.forward_swish(&h)?)?;
        if self.patch_px == 1 { Ok(folded) } else { folded.f_pixel_shuffle(self.patch_px) }
    }
}
