//! Building blocks of encoder and decoder: convolution, group normalisation with swish, residual and attention blocks, resampling.
//!
//! In and out of every block: `[n, channels, h, w]`. A block computes in the type of its input; weights are cast to it. Parameters have the
//! names of taming-transformers.
//!
//! # Source
//! `taming/modules/diffusionmodules/model.py` of <https://github.com/CompVis/taming-transformers>.

use tch::{TchError, Tensor};

use crate::error::ModelError;
use crate::parameters::{Init, Scope};

/// Convolution with bias; keeps the side unless its stride is 2.
#[derive(Debug)]
pub(super) struct Conv {
    pub(super) weight: Tensor,
    pub(super) bias: Tensor,
    pub(super) stride: i64,
    pub(super) padding: i64,
}

impl Conv {
    /// Creates a convolution whose padding keeps the side; `kernel` is 1 or 3. Drawn weights keep the variance.
    pub(super) fn try_new(scope: Scope<'_>, channels_in: i64, channels_out: i64, kernel: i64) -> Result<Self, ModelError> {
        let init = Init::Uniform { bound: (3.0 / ((channels_in * kernel * kernel) as f64)).sqrt() };
        Self::with_init(scope, [channels_out, channels_in, kernel, kernel], init)
    }

    /// Creates a convolution that gives zero with drawn weights, so a branch that ends in it contributes nothing at first.
    fn closed(scope: Scope<'_>, channels: i64, kernel: i64) -> Result<Self, ModelError> {
        Self::with_init(scope, [channels, channels, kernel, kernel], Init::Zeros)
    }

    fn with_init(mut scope: Scope<'_>, shape: [i64; 4], init: Init) -> Result<Self, ModelError> {
        let weight = scope.tensor("weight", &shape, init)?;
        let bias = scope.tensor("bias", &shape[..1], Init::Zeros)?;
        Ok(Self { weight, bias, stride: 1, padding: shape[2] / 2 })
    }

    pub(super) fn forward(&self, x: &Tensor) -> Result<Tensor, TchError> {
        let kind = x.kind();
        x.f_conv2d(&self.weight.f_to_kind(kind)?, Some(&self.bias.f_to_kind(kind)?), self.stride, self.padding, 1, 1)
    }
}

/// Group normalisation with epsilon 1e-6.
#[derive(Debug)]
pub(super) struct Norm {
    pub(super) weight: Tensor,
    pub(super) bias: Tensor,
    pub(super) groups: i64,
}

impl Norm {
    pub(super) fn try_new(mut scope: Scope<'_>, channels: i64, groups: i64) -> Result<Self, ModelError> {
        let (weight, bias) = (scope.tensor("weight", &[channels], Init::Ones)?, scope.tensor("bias", &[channels], Init::Zeros)?);
        Ok(Self { weight, bias, groups })
    }

    /// Returns a copy that shares the parameters and takes no gradients.
    pub(super) fn shared(&self) -> Result<Self, TchError> {
        Ok(Self { weight: self.weight.f_detach()?, bias: self.bias.f_detach()?, groups: self.groups })
    }

    pub(super) fn forward(&self, x: &Tensor) -> Result<Tensor, TchError> {
        let kind = x.kind();
        x.f_group_norm(self.groups, Some(&self.weight.f_to_kind(kind)?), Some(&self.bias.f_to_kind(kind)?), 1e-6, true)
    }

    /// Normalises, then applies swish: `x * sigmoid(x)`.
    pub(super) fn forward_swish(&self, x: &Tensor) -> Result<Tensor, TchError> {
        let mut h = self.forward(x)?;
        // Only a gradient needs the input of swish.
        if h.requires_grad() { h.f_silu() } else { h.f_silu_() }
    }
}

/// Two normalised 3x3 convolutions with a shortcut.
#[derive(Debug)]
pub(super) struct ResidualBlock {
    pub(super) norm1: Norm,
    pub(super) conv1: Conv,
    pub(super) norm2: Norm,
    pub(super) conv2: Conv,
    pub(super) shortcut: Option<Conv>,
}

impl ResidualBlock {
    pub(super) fn try_new(mut scope: Scope<'_>, channels_in: i64, channels_out: i64, groups: i64) -> Result<Self, ModelError> {
        let shortcut =
            if channels_in == channels_out { None } else { Some(Conv::try_new(scope.sub("nin_shortcut"), channels_in, channels_out, 1)?) };
        Ok(Self {
            norm1: Norm::try_new(scope.sub("norm1"), channels_in, groups)?,
            conv1: Conv::try_new(scope.sub("conv1"), channels_in, channels_out, 3)?,
            norm2: Norm::try_new(scope.sub("norm2"), channels_out, groups)?,
            conv2: Conv::closed(scope.sub("conv2"), channels_out, 3)?,
            shortcut,
        })
    }

    pub(super) fn forward(&self, x: &Tensor) -> Result<Tensor, TchError> {
        let h = self.conv1.forward(&self.norm1.forward_swish(x)?)?;
        let h = self.conv2.forward(&self.norm2.forward_swish(&h)?)?;
        match &self.shortcut {
            None => added(h, x),
            Some(shortcut) => added(h, &shortcut.forward(x)?),
        }
    }
}

/// Returns the sum, in the memory of `h` unless a gradient needs it.
fn added(mut h: Tensor, x: &Tensor) -> Result<Tensor, TchError> {
    if h.requires_grad() { h.f_add(x) } else { h.f_add_(x) }
}

/// Attention with one head over all positions, with a shortcut.
#[derive(Debug)]
pub(super) struct AttentionBlock {
    pub(super) norm: Norm,
    pub(super) q: Conv,
    pub(super) k: Conv,
    pub(super) v: Conv,
    pub(super) proj_out: Conv,
}

impl AttentionBlock {
    pub(super) fn try_new(mut scope: Scope<'_>, channels: i64, groups: i64) -> Result<Self, ModelError> {
        let norm = Norm::try_new(scope.sub("norm"), channels, groups)?;
        let mut conv = |name| Conv::try_new(scope.sub(name), channels, channels, 1);
        let (q, k, v) = (conv("q")?, conv("k")?, conv("v")?);
        Ok(Self { norm, q, k, v, proj_out: Conv::closed(scope.sub("proj_out"), channels, 1)? })
    }

    pub(super) fn forward(&self, x: &Tensor) -> Result<Tensor, TchError> {
        let (n, channels, h, w) = x.size4()?;
        let normed = self.norm.forward(x)?;
        // `[n, channels, h, w]` to `[n, 1 head, h * w, channels]`.
        let heads = |conv: &Conv| conv.forward(&normed)?.f_reshape([n, 1, channels, h * w])?.f_transpose(2, 3);
        let (q, k, v) = (heads(&self.q)?, heads(&self.k)?, heads(&self.v)?);
        let mixed = Tensor::f_scaled_dot_product_attention(&q, &k, &v, None::<&Tensor>, 0.0, false, None, false)?;
        let mixed = mixed.f_transpose(2, 3)?.f_reshape([n, channels, h, w])?;
        added(self.proj_out.forward(&mixed)?, x)
    }
}

/// Downsampling by two: a row and a column of zeros at the far edges, then a 3x3 convolution with stride 2.
#[derive(Debug)]
pub(super) struct Downsample(pub(super) Conv);

impl Downsample {
    pub(super) fn try_new(mut scope: Scope<'_>, channels: i64) -> Result<Self, ModelError> {
        let conv = Conv::try_new(scope.sub("conv"), channels, channels, 3)?;
        Ok(Self(Conv { stride: 2, padding: 0, ..conv }))
    }

    pub(super) fn forward(&self, x: &Tensor) -> Result<Tensor, TchError> {
        self.0.forward(&x.f_constant_pad_nd([0, 1, 0, 1])?)
    }
}

/// Upsampling by two: nearest neighbour, then a 3x3 convolution.
#[derive(Debug)]
pub(super) struct Upsample(Conv);

impl Upsample {
    pub(super) fn try_new(mut scope: Scope<'_>, channels: i64) -> Result<Self, ModelError> {
        Ok(Self(Conv::try_new(scope.sub("conv"), channels, channels, 3)?))
    }

    pub(super) fn forward(&self, x: &Tensor) -> Result<Tensor, TchError> {
        let (_, _, h, w) = x.size4()?;
        self.0.forward(&x.f_upsample_nearest2d([2 * h, 2 * w], 2.0, 2.0)?)
    }
}

/// Two residual blocks at the narrowest level, optionally with attention between them.
#[derive(Debug)]
pub(super) struct Middle {
    pub(super) block_1: ResidualBlock,
    pub(super) attention: Option<AttentionBlock>,
    pub(super) block_2: ResidualBlock,
}

impl Middle {
    pub(super) fn try_new(mut scope: Scope<'_>, channels: i64, groups: i64, attention: bool) -> Result<Self, ModelError> {
        let block_1 = ResidualBlock::try_new(scope.sub("block_1"), channels, channels, groups)?;
        let attention = if attention { Some(AttentionBlock::try_new(scope.sub("attn_1"), channels, groups)?) } else { None };
        Ok(Self { block_1, attention, block_2: ResidualBlock::try_new(scope.sub("block_2"), channels, channels, groups)? })
    }

    pub(super) fn forward(&self, x: &Tensor) -> Result<Tensor, TchError> {
        let mut h = self.block_1.forward(x)?;
        if let Some(attention) = &self.attention {
            h = attention.forward(&h)?;
        }
        self.block_2.forward(&h)
    }
}

/// Residual blocks of one level, each followed by attention if the level has it.
#[derive(Debug)]
pub(super) struct Level {
    pub(super) blocks: Vec<ResidualBlock>,
    pub(super) attention: Vec<AttentionBlock>,
}

/// Sizes of a [`Level`].
pub(super) struct LevelSizes {
    pub(super) channels_in: i64,
    pub(super) channels_out: i64,
    pub(super) blocks: u32,
    pub(super) groups: i64,
    pub(super) attention: bool,
}

impl Level {
    pub(super) fn try_new(scope: &mut Scope<'_>, sizes: &LevelSizes) -> Result<Self, ModelError> {
        let mut level = Self { blocks: Vec::new(), attention: Vec::new() };
        for index in 0..sizes.blocks {
            let channels_in = if index == 0 { sizes.channels_in } else { sizes.channels_out };
            let block = ResidualBlock::try_new(scope.sub("block").sub(index), channels_in, sizes.channels_out, sizes.groups)?;
            level.blocks.push(block);
            if sizes.attention {
                level.attention.push(AttentionBlock::try_new(scope.sub("attn").sub(index), sizes.channels_out, sizes.groups)?);
            }
        }
        Ok(level)
    }

    pub(super) fn forward(&self, x: &Tensor) -> Result<Tensor, TchError> {
        let mut h = x.shallow_clone();
        for (index, block) in self.blocks.iter().enumerate() {
            h = block.forward(&h)?;
            if let Some(attention) = self.attention.get(index) {
                h = attention.forward(&h)?;
            }
        }
        Ok(h)
    }
}
