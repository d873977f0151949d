//! Perceptual loss: distance of pictures in the features of a VGG-16, with weights of the user.
//!
//! # Source
//! LPIPS: Zhang et al. 2018, section 3, <https://arxiv.org/abs/1801.03924>; names of tensors: torchvision's `vgg16` and version 0.1 of
//! the authors' linear layers.

use tch::{Device, Kind, TchError, Tensor};

use crate::error::ModelError;
use crate::parameters::{Init, Parameters};
use crate::weights::NamedTensors;

/// Channels of the convolutions of each block; max pooling separates the blocks.
const BLOCKS: [&[i64]; 5] = [&[64, 64], &[128, 128], &[256, 256, 256], &[512, 512, 512], &[512, 512, 512]];
/// Mean and deviation of each channel that the features expect, for pixels in -1 to 1.
const SHIFT: [f32; 3] = [-0.030, -0.088, -0.188];
const SCALE: [f32; 3] = [0.458, 0.448, 0.450];

/// Loss with its weights, which are constant.
pub(super) struct Perceptual {
    /// Weight and bias of each convolution, by block.
    blocks: Vec<Vec<(Tensor, Tensor)>>,
    /// Weights of the squared differences of each block's channels, `[1, channels, 1, 1]`.
    linear: Vec<Tensor>,
    shift: Tensor,
    scale: Tensor,
}

impl Perceptual {
    /// Takes the tensors of both files: `features.N.{weight,bias}` and `linN.model.1.weight`. Those of the classifier are left out.
    pub(super) fn try_new(mut tensors: NamedTensors, device: Device) -> Result<Self, ModelError> {
        tensors.retain(|name, _| !name.starts_with("classifier."));
        let mut parameters = Parameters::loaded(tensors, device);
        let (mut blocks, mut channels_in, mut layer) = (Vec::new(), 3, 0);
        for widths in BLOCKS {
            let mut block = Vec::new();
            for channels in widths {
                let mut root = parameters.root();
                let mut features = root.sub("features");
                let mut conv = features.sub(layer);
                block.push((
                    conv.tensor("weight", &[*channels, channels_in, 3, 3], Init::Zeros)?,
                    conv.tensor("bias", &[*channels], Init::Zeros)?,
                ));
                channels_in = *channels;
                // A convolution and its activation count as one layer each.
                layer += 2;
            }
            blocks.push(block);
            // The pooling behind the block counts too.
            layer += 1;
        }
        let mut linear = Vec::new();
        for (number, widths) in BLOCKS.iter().enumerate() {
            let name = format!("lin{number}.model.1.weight");
            linear.push(parameters.root().tensor(&name, &[1, widths[0], 1, 1], Init::Zeros)?);
        }
        parameters.finish()?;
        let channels = |values: [f32; 3]| Tensor::f_from_slice(&values)?.f_view([1, 3, 1, 1])?.f_to_device(device);
        let shift = channels(SHIFT).map_err(ModelError::torch("prepare the perceptual loss"))?;
        let scale = channels(SCALE).map_err(ModelError::torch("prepare the perceptual loss"))?;
        Ok(Self { blocks, linear, shift, scale })
    }

    /// Returns the mean distance of pictures, `[n, 3, h, w]` in -1 to 1, as one number.
    pub(super) fn loss(&self, pictures: &Tensor, reference: &Tensor) -> Result<Tensor, TchError> {
        let prepared = |x: &Tensor| x.f_sub(&self.shift)?.f_div(&self.scale);
        let (mut x, mut y) = (prepared(pictures)?, prepared(reference)?);
        let mut sum = x.f_new_zeros([1], (Kind::Float, x.device()))?.f_squeeze()?;
        for (number, (block, linear)) in self.blocks.iter().zip(&self.linear).enumerate() {
            if number > 0 {
                (x, y) = (pooled(&x)?, pooled(&y)?);
            }
            for (weight, bias) in block {
                let layer = |h: &Tensor| h.f_conv2d(weight, Some(bias), 1, 1, 1, 1)?.f_relu();
                (x, y) = (layer(&x)?, layer(&y)?);
            }
            let distance = unit_channels(&x)?.f_sub(&unit_channels(&y)?)?.f_square()?.f_mul(linear)?;
            sum = sum.f_add(&distance.f_sum_dim_intlist(1, false, Kind::Float)?.f_mean(Kind::Float)?)?;
        }
        Ok(sum)
    }
}

fn pooled(x: &Tensor) -> Result<Tensor, TchError> {
    x.f_max_pool2d(2, 2, 0, 1, false)
}

/// Scales the channels at each place to unit length.
fn unit_channels(x: &Tensor) -> Result<Tensor, TchError> {
    let length = x.f_square()?.f_sum_dim_intlist(1, true, Kind::Float)?.f_add_scalar(1e-20)?.f_sqrt()?;
    x.f_div(&length.f_add_scalar(1e-10)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn weights() -> NamedTensors {
        let mut tensors = NamedTensors::new();
        let (mut channels_in, mut layer) = (3, 0);
        for (number, widths) in BLOCKS.iter().enumerate() {
            for channels in *widths {
                let shape = [*channels, channels_in, 3, 3];
                let weight = Tensor::f_ones(shape, (Kind::Float, Device::Cpu)).expect("small") / (9 * channels_in) as f64;
                tensors.insert(format!("features.{layer}.weight"), weight);
                tensors.insert(format!("features.{layer}.bias"), Tensor::zeros([*channels], (Kind::Float, Device::Cpu)));
                channels_in = *channels;
                layer += 2;
            }
            layer += 1;
            tensors.insert(format!("lin{number}.model.1.weight"), Tensor::ones([1, widths[0], 1, 1], (Kind::Float, Device::Cpu)));
        }
        tensors.insert("classifier.0.weight".into(), Tensor::zeros([1], (Kind::Float, Device::Cpu)));
        tensors
    }

    #[test]
    fn equal_pictures_have_no_distance_and_gradients_reach_the_picture() {
        let perceptual = Perceptual::try_new(weights(), Device::Cpu).expect("all tensors are there");
        let reference = Tensor::linspace(-1.0, 1.0, 3 * 32 * 32, (Kind::Float, Device::Cpu)).view([1, 3, 32, 32]);
        let loss = |picture: &Tensor| perceptual.loss(picture, &reference).expect("a picture");
        assert!(loss(&reference).double_value(&[]).abs() < 1e-6);
        let picture = reference.flip([3]).set_requires_grad(true);
        let distance = loss(&picture);
        assert!(distance.double_value(&[]) > 1e-4, "{distance:?}");
        let gradient = Tensor::run_backward(&[&distance], &[&picture], false, false).remove(0);
        assert!(gradient.abs().max().double_value(&[]) > 0.0);
    }

    #[test]
    fn a_missing_layer_is_named() {
        let mut tensors = weights();
        tensors.remove("lin3.model.1.weight");
        let error = Perceptual::try_new(tensors, Device::Cpu).err().expect("lin3 is missing");
        assert_eq!(
            error.to_string(),
            "weights lack tensor lin3.model.1.weight of shape [1, 512, 1, 1]; 1 of their tensors nothing asked for yet: lin4.model.1.weight"
        );
    }
}
