//! Encoder with weights in bf16, channels last. Biases and shortcuts are added in the pass that computes the moments of the next
//! normalisation.
//!
//! In and out of every step: `[n, h, w, channels]`, bf16.

use tch::{Kind, TchError, Tensor};

use super::kernels::{Kernels, Summed};
use crate::error::ModelError;
use crate::vq::blocks::{AttentionBlock, Conv, Downsample, Level, Norm, ResidualBlock};
use crate::vq::config::VqConfig;
use crate::vq::encoder::folded;
use crate::vq::network::VqNetwork;

/// Encoder from levels of pixels to unquantised latents.
#[derive(Debug)]
pub(in crate::vq) struct CudaEncoder {
    kernels: Kernels,
    patch_px: i64,
    conv_in: Convolution,
    levels: Vec<(Vec<Block>, Option<Convolution>)>,
    middle: Vec<Block>,
    norm_out: Norm,
    conv_out: Convolution,
    quant_conv: Convolution,
}

impl CudaEncoder {
    /// Copies the encoder of `network`, whose parameters lie on a GPU; `None` if its widths do not suit the kernels.
    pub(in crate::vq) fn try_new(network: &VqNetwork, config: &VqConfig) -> Result<Option<Self>, ModelError> {
        if !config.widths().into_iter().chain([i64::from(config.channels)]).all(Kernels::fit) {
            return Ok(None);
        }
        let kernels = Kernels::try_new()?;
        Self::of(network, kernels).map(Some).map_err(ModelError::torch("copy the weights of the encoder"))
    }

    fn of(network: &VqNetwork, kernels: Kernels) -> Result<Self, TchError> {
        let encoder = &network.encoder;
        let level = |(level, downsample): &(Level, Option<Downsample>)| -> Result<_, TchError> {
            Ok((Block::of_level(level)?, downsample.as_ref().map(|downsample| Convolution::of(&downsample.0)).transpose()?))
        };
        let mut middle = vec![Block::residual(&encoder.middle.block_1)?];
        if let Some(attention) = &encoder.middle.attention {
            middle.push(Block::attention(attention)?);
        }
        middle.push(Block::residual(&encoder.middle.block_2)?);
        Ok(Self {
            kernels,
            patch_px: encoder.patch_px,
            conv_in: Convolution::of(&encoder.conv_in)?,
            levels: encoder.levels.iter().map(level).collect::<Result<_, _>>()?,
            middle,
            norm_out: encoder.norm_out.shared()?,
            conv_out: Convolution::of(&encoder.conv_out)?,
            quant_conv: Convolution::of(&network.quant_conv)?,
        })
    }

    /// In: levels, u8 `[n, h, w, 3]`, and the value of each, `[256]` f32. Out: `[n, embedding_dim, h / factor, w / factor]`.
    pub(in crate::vq) fn forward(&self, levels: &Tensor, values: &Tensor) -> Result<Tensor, TchError> {
        let kernels = &self.kernels;
        let pixels = kernels.values(levels, &values.f_to_kind(Kind::BFloat16)?)?;
        let pixels = if self.patch_px == 1 { pixels } else { channels_last(&folded(&channels_first(&pixels)?, self.patch_px)?)? };
        let mut sum = self.conv_in.sum(&pixels, None)?;
        drop(pixels);
        for (blocks, downsample) in &self.levels {
            sum = through(blocks, kernels, sum)?;
            if let Some(downsample) = downsample {
                sum = downsample.sum(&sum.padded(kernels)?, None)?;
            }
        }
        let h = through(&self.middle, kernels, sum)?.taken(kernels)?;
        let h = self.conv_out.forward(&kernels.normalized(&h, None, &self.norm_out, true)?)?;
        channels_first(&self.quant_conv.forward(&h)?)
    }
}

fn through<'a>(blocks: &'a [Block], kernels: &Kernels, sum: Sum<'a>) -> Result<Sum<'a>, TchError> {
    blocks.iter().try_fold(sum, |sum, block| block.forward(kernels, sum.taken(kernels)?))
}

/// A sum that is not computed yet: its consumer chooses the form.
struct Sum<'a> {
    x: Tensor,
    bias: &'a Tensor,
    shortcut: Option<Tensor>,
}

impl Sum<'_> {
    fn taken(self, kernels: &Kernels) -> Result<Summed, TchError> {
        kernels.added(self.x, self.bias, self.shortcut.as_ref())
    }

    fn padded(self, kernels: &Kernels) -> Result<Tensor, TchError> {
        kernels.added_padded(&self.x, self.bias, self.shortcut.as_ref())
    }
}

/// A convolution whose bias may be added elsewhere.
#[derive(Debug)]
struct Convolution {
    /// Weight in bf16, channels last.
    weight: Tensor,
    /// Bias in f32.
    bias: Tensor,
    stride: i64,
    padding: i64,
}

impl Convolution {
    fn of(conv: &Conv) -> Result<Self, TchError> {
        // Dense as `[out, kernel, kernel, in]`, viewed as `[out, in, kernel, kernel]`.
        let weight = channels_first(&channels_last(&conv.weight.f_detach()?.f_to_kind(Kind::BFloat16)?)?)?;
        Ok(Self { weight, bias: conv.bias.f_detach()?, stride: conv.stride, padding: conv.padding })
    }

    fn unbiased(&self, x: &Tensor) -> Result<Tensor, TchError> {
        channels_last(&channels_first(x)?.f_conv2d(&self.weight, None::<&Tensor>, self.stride, self.padding, 1, 1)?)
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor, TchError> {
        self.unbiased(x)?.f_add_(&self.bias)
    }

    fn sum(&self, x: &Tensor, shortcut: Option<Tensor>) -> Result<Sum<'_>, TchError> {
        Ok(Sum { x: self.unbiased(x)?, bias: &self.bias, shortcut })
    }

    /// Applies a convolution of one pixel as a matrix product. In: `[.., channels]`.
    fn linear(&self, x: &Tensor) -> Result<Tensor, TchError> {
        x.f_linear(&self.weight.f_flatten(1, 3)?, Some(&self.bias.f_to_kind(x.kind())?))
    }
}

#[derive(Debug)]
enum Block {
    Residual(Box<Residual>),
    Attention(Box<Attention>),
}

impl Block {
    fn residual(block: &ResidualBlock) -> Result<Self, TchError> {
        let shortcut = block.shortcut.as_ref().map(Convolution::of).transpose()?;
        let mut conv2 = Convolution::of(&block.conv2)?;
        if let Some(shortcut) = &shortcut {
            conv2.bias = conv2.bias.f_add(&shortcut.bias)?;
        }
        let (norm1, norm2) = (block.norm1.shared()?, block.norm2.shared()?);
        Ok(Self::Residual(Box::new(Residual { norm1, conv1: Convolution::of(&block.conv1)?, norm2, conv2, shortcut })))
    }

    fn attention(block: &AttentionBlock) -> Result<Self, TchError> {
        let [q, k, v, proj_out] = [&block.q, &block.k, &block.v, &block.proj_out].map(Convolution::of);
        Ok(Self::Attention(Box::new(Attention { norm: block.norm.shared()?, q: q?, k: k?, v: v?, proj_out: proj_out? })))
    }

    /// Copies residual blocks, each followed by attention if the level has it.
    fn of_level(level: &Level) -> Result<Vec<Self>, TchError> {
        let mut blocks = Vec::new();
        for (index, block) in level.blocks.iter().enumerate() {
            blocks.push(Self::residual(block)?);
            if let Some(attention) = level.attention.get(index) {
                blocks.push(Self::attention(attention)?);
            }
        }
        Ok(blocks)
    }

    fn forward(&self, kernels: &Kernels, x: Summed) -> Result<Sum<'_>, TchError> {
        match self {
            Self::Residual(block) => block.forward(kernels, x),
            Self::Attention(block) => block.forward(kernels, x),
        }
    }
}

/// Counterpart of [`ResidualBlock`]; the bias of `conv2` includes that of the shortcut.
#[derive(Debug)]
struct Residual {
    norm1: Norm,
    conv1: Convolution,
    norm2: Norm,
    conv2: Convolution,
    shortcut: Option<Convolution>,
}

impl Residual {
    fn forward(&self, kernels: &Kernels, x: Summed) -> Result<Sum<'_>, TchError> {
        let h = self.conv1.unbiased(&kernels.normalized(&x, None, &self.norm1, true)?)?;
        let h = kernels.normalized(&kernels.summed(h)?, Some(&self.conv1.bias), &self.norm2, true)?;
        let shortcut = match &self.shortcut {
            None => x.x,
            Some(shortcut) => shortcut.unbiased(&x.x)?,
        };
        self.conv2.sum(&h, Some(shortcut))
    }
}

/// Counterpart of [`AttentionBlock`].
#[derive(Debug)]
struct Attention {
    norm: Norm,
    q: Convolution,
    k: Convolution,
    v: Convolution,
    proj_out: Convolution,
}

impl Attention {
    fn forward(&self, kernels: &Kernels, x: Summed) -> Result<Sum<'_>, TchError> {
        let (n, h, w, channels) = x.x.size4()?;
        // `[n, 1 head, h * w, channels]`.
        let normed = kernels.normalized(&x, None, &self.norm, false)?.f_view([n, 1, h * w, channels])?;
        let (q, k, v) = (self.q.linear(&normed)?, self.k.linear(&normed)?, self.v.linear(&normed)?);
        let mixed = Tensor::f_scaled_dot_product_attention(&q, &k, &v, None::<&Tensor>, 0.0, false, None, false)?;
        self.proj_out.sum(&mixed.f_reshape([n, h, w, channels])?, Some(x.x))
    }
}

/// Views `[n, h, w, channels]` as `[n, channels, h, w]`.
fn channels_first(x: &Tensor) -> Result<Tensor, TchError> {
    x.f_permute([0, 3, 1, 2])
}

/// Returns `[n, channels, h, w]` as dense `[n, h, w, channels]`: a view if libtorch computed channels last.
fn channels_last(x: &Tensor) -> Result<Tensor, TchError> {
    x.f_permute([0, 2, 3, 1])?.f_contiguous()
}
