//! Linear start of a network without resampling: it begins as the best linear code of its patches, which the fit improves.
//!
//! The first convolution computes principal components of a patch, each once with either sign. The normalisation then sees a mean of zero,
//! and `swish(x) - swish(-x) = x` undoes the activation. A pair of large constants keeps the normalisation's gain nearly equal for all
//! pictures. Other weights stay as drawn, so that the fit can use those channels.

use tch::{Kind, TchError, Tensor};

use crate::vq::config::VqConfig;
use crate::vq::encoder::folded;
use crate::vq::network::VqNetwork;

/// Value of the constant pair, in standard deviations of a component.
const ANCHOR: f64 = 10.0;

/// Checks whether a network of these sizes can start linear. It needs one level, a normalisation with one group, and enough channels for
/// every component of a latent twice, beside the constants.
pub(super) fn is_possible(config: &VqConfig) -> bool {
    config.channel_multipliers.len() == 1
        && config.norm_groups == 1
        && config.z_channels >= config.embedding_dim
        && components(config) >= i64::from(config.embedding_dim)
}

/// Returns the number of initial components: they take half of the encoder's channels, in pairs.
fn components(config: &VqConfig) -> i64 {
    (config.widths()[0] / 4).min(config.folded_channels())
}

/// Principal components of patches.
struct Components {
    /// Mean patch, `[3 * patch_px^2]`.
    mean: Tensor,
    /// Directions of unit length, `[components, 3 * patch_px^2]`, those of largest variance first.
    directions: Tensor,
    /// Standard deviations along the directions, `[components]`.
    deviations: Tensor,
}

impl Components {
    /// Computes `count` components of `patches`, `[rows, 3 * patch_px^2]`.
    fn of(patches: &Tensor, count: i64) -> Result<Self, TchError> {
        let mean = patches.f_mean_dim(0, false, Kind::Float)?;
        let centred = patches.f_sub(&mean)?;
        let covariance = centred.f_transpose(0, 1)?.f_matmul(&centred)?.f_div_scalar(centred.size2()?.0 as f64)?;
        let (variances, vectors) = covariance.f_to_kind(Kind::Double)?.f_linalg_eigh("L")?;
        let directions = vectors.f_flip([1])?.f_transpose(0, 1)?.f_narrow(0, 0, count)?.f_to_kind(Kind::Float)?.f_contiguous()?;
        let deviations = variances.f_flip([0])?.f_narrow(0, 0, count)?.f_clamp_min(1e-8)?.f_sqrt()?.f_to_kind(Kind::Float)?;
        Ok(Self { mean, directions, deviations })
    }
}

/// Sets the weights of `network` from `pixels`, `[n, 3, h, w]`, whose patches represent all.
pub(super) fn start(network: &VqNetwork, config: &VqConfig, pixels: &Tensor) -> Result<(), TchError> {
    let _no_grad = tch::no_grad_guard();
    let (patch_px, dim, count) = (i64::from(config.patch_px), i64::from(config.embedding_dim), components(config));
    let patches = folded(pixels, patch_px)?;
    let rows = crate::vq::quantizer::rows_of(&patches)?;
    let Components { mean, directions, deviations } = Components::of(&rows, count)?;
    let weight = |name: &str| network.parameters[name].shallow_clone();

    let whitening = directions.f_div(&deviations.f_unsqueeze(1)?)?;
    let offsets = whitening.f_matmul(&mean)?.f_neg()?;
    set_pairs(&weight("encoder.conv_in.weight"), &weight("encoder.conv_in.bias"), &whitening, &offsets)?;
    clear_rows(&weight("encoder.conv_out.weight"), &weight("encoder.conv_out.bias"), count.min(i64::from(config.z_channels)))?;
    set_differences(&weight("encoder.conv_out.weight"), &deviations.f_narrow(0, 0, dim)?.f_diag(0)?)?;
    let _ = weight("quant_conv.weight").f_zero_()?.f_view([dim, -1])?.f_narrow(1, 0, dim)?.f_fill_diagonal_(1.0, false)?;
    // The gain of the normalisation is measured and compensated.
    let wanted = rows.f_sub(&mean)?.f_matmul(&directions.f_narrow(0, 0, dim)?.f_transpose(0, 1)?)?;
    let found = crate::vq::quantizer::rows_of(&network.encode(pixels)?)?;
    let _ = weight("encoder.conv_out.weight").f_narrow(0, 0, dim)?.f_mul_(&gain(&wanted, &found)?)?;

    let inverse = deviations.f_narrow(0, 0, dim)?.f_reciprocal()?;
    clear_rows(&weight("post_quant_conv.weight"), &weight("post_quant_conv.bias"), dim)?;
    weight("post_quant_conv.weight").f_view([-1, dim])?.f_narrow(0, 0, dim)?.f_copy_(&inverse.f_diag(0)?)?;
    let own = Tensor::f_eye_m(dim, i64::from(config.z_channels), (Kind::Float, mean.device()))?;
    set_pairs(&weight("decoder.conv_in.weight"), &weight("decoder.conv_in.bias"), &own, &inverse.f_zeros_like()?)?;
    let _ = weight("decoder.conv_out.weight").f_zero_()?;
    weight("decoder.conv_out.bias").f_copy_(&mean)?;
    let basis = directions.f_narrow(0, 0, dim)?.f_mul(&deviations.f_narrow(0, 0, dim)?.f_unsqueeze(1)?)?;
    set_differences(&weight("decoder.conv_out.weight"), &basis.f_transpose(0, 1)?)?;
    let (n, _, h, w) = patches.size4()?;
    let latents = wanted.f_reshape([n, h, w, dim])?.f_permute([0, 3, 1, 2])?;
    let found = crate::vq::quantizer::rows_of(&folded(&network.decode(&latents)?, patch_px)?)?.f_sub(&mean)?;
    let wanted = wanted.f_matmul(&directions.f_narrow(0, 0, dim)?)?;
    let _ = weight("decoder.conv_out.weight").f_mul_(&gain(&wanted, &found)?)?;
    Ok(())
}

/// Sets row `2 i` of a 3x3 convolution to `rows[i]` at its centre, and row `2 i + 1` to the opposite. The two rows behind them give the
/// constants.
fn set_pairs(weight: &Tensor, bias: &Tensor, rows: &Tensor, biases: &Tensor) -> Result<(), TchError> {
    let (count, _) = rows.size2()?;
    clear_rows(weight, bias, 2 * count + 2)?;
    let centre = weight.f_select(2, 1)?.f_select(2, 1)?;
    for (first, sign) in [(0, 1.0), (1, -1.0)] {
        let every_second = |tensor: &Tensor, end: i64| tensor.f_slice(0, first, end, 2);
        every_second(&centre, 2 * count)?.f_copy_(&rows.f_mul_scalar(sign)?)?;
        every_second(bias, 2 * count)?.f_copy_(&biases.f_mul_scalar(sign)?)?;
        let _ = bias.f_narrow(0, 2 * count + first, 1)?.f_fill_(sign * ANCHOR)?;
    }
    Ok(())
}

/// Sets a 3x3 convolution: output `o` is the sum over pairs `i` of `factors[o][i]` times the difference of the pair's channels.
fn set_differences(weight: &Tensor, factors: &Tensor) -> Result<(), TchError> {
    let (outputs, pairs) = factors.size2()?;
    let centre = weight.f_select(2, 1)?.f_select(2, 1)?.f_narrow(0, 0, outputs)?;
    for (first, sign) in [(0, 1.0), (1, -1.0)] {
        centre.f_slice(1, first, 2 * pairs, 2)?.f_copy_(&factors.f_mul_scalar(sign)?)?;
    }
    Ok(())
}

/// Zeroes the first `count` outputs of a convolution.
fn clear_rows(weight: &Tensor, bias: &Tensor, count: i64) -> Result<(), TchError> {
    let _ = weight.f_narrow(0, 0, count)?.f_zero_()?;
    let _ = bias.f_narrow(0, 0, count)?.f_zero_()?;
    Ok(())
}

/// Returns the factor that brings `found` nearest to `wanted`, by least squares.
fn gain(wanted: &Tensor, found: &Tensor) -> Result<Tensor, TchError> {
    let product = wanted.f_mul(found)?.f_sum(Kind::Double)?;
    product.f_div(&found.f_square()?.f_sum(Kind::Double)?)?.f_to_kind(Kind::Float)
}
