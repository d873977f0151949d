//! One layer: attention and a ReLU network, each on normalised input and with a shortcut.

use tch::{TchError, Tensor};

use crate::decoder::config::DecoderConfig;
use crate::error::ModelError;
use crate::parameters::{Init, Scope};

/// Initial deviation of matrices that are not zero.
pub(crate) const DEVIATION: f64 = 0.006;

/// Weights of a layer, in PyTorch's layout `[out, in]`.
#[derive(Debug)]
pub(super) struct Layer {
    /// Queries, keys and values, stacked: `[3 * width, width]`.
    qkv: Tensor,
    out: Tensor,
    ffn_in: Tensor,
    ffn_out: Tensor,
    heads: i64,
}

impl Layer {
    /// Creates a layer. Both matrices before a shortcut are zero at the start, so a fresh layer passes its input on.
    pub(super) fn try_new(mut scope: Scope<'_>, config: &DecoderConfig) -> Result<Self, ModelError> {
        let width = i64::from(config.width);
        let ffn = width * i64::from(config.ffn_multiplier);
        let drawn = Init::TruncatedNormal { deviation: DEVIATION };
        Ok(Self {
            qkv: scope.sub("attention").sub("qkv").tensor("weight", &[3 * width, width], drawn)?,
            out: scope.sub("attention").sub("out").tensor("weight", &[width, width], Init::Zeros)?,
            ffn_in: scope.sub("ffn").sub("in").tensor("weight", &[ffn, width], drawn)?,
            ffn_out: scope.sub("ffn").sub("out").tensor("weight", &[width, ffn], Init::Zeros)?,
            heads: i64::from(config.heads),
        })
    }

    /// In and out: `[rows, tokens, width]`. `attend` mixes values by queries and keys, each `[rows, heads, tokens, width / heads]`.
    pub(super) fn forward(
        &self,
        x: &Tensor,
        attend: impl FnOnce(&Tensor, &Tensor, &Tensor) -> Result<Tensor, TchError>,
    ) -> Result<Tensor, TchError> {
        let (rows, tokens, width) = x.size3()?;
        let qkv = norm(x)?.f_linear(&self.qkv, None::<&Tensor>)?;
        let qkv = qkv.f_reshape([rows, tokens, 3, self.heads, width / self.heads])?.f_permute([2, 0, 3, 1, 4])?;
        let mixed = attend(&qkv.f_select(0, 0)?, &qkv.f_select(0, 1)?, &qkv.f_select(0, 2)?)?;
        let mixed = mixed.f_transpose(1, 2)?.f_reshape([rows, tokens, width])?;
        let x = x.f_add(&mixed.f_linear(&self.out, None::<&Tensor>)?)?;
        let hidden = norm(&x)?.f_linear(&self.ffn_in, None::<&Tensor>)?.f_relu()?;
        x.f_add(&hidden.f_linear(&self.ffn_out, None::<&Tensor>)?)
    }
}

/// Normalises over the last dimension, without learned parameters; epsilon 1e-5.
pub(super) fn norm(x: &Tensor) -> Result<Tensor, TchError> {
    let width = x.size().last().copied().unwrap_or(1);
    x.f_layer_norm([width], None::<&Tensor>, None::<&Tensor>, 1e-5, false)
}
