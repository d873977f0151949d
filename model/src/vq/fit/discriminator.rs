//! Discriminator of patches: rates how real each patch of a picture looks. The decoder is fitted to raise its ratings.
//!
//! # Source
//! Isola et al. 2017, section 3.2, <https://arxiv.org/abs/1611.07004>; hinge loss and the weight by gradients: Esser et al. 2021, section
//! 3.1, <https://arxiv.org/abs/2012.09841>. Normalisation is by groups instead of batches, so that pictures do not mix.

use tch::{Device, Kind, TchError, Tensor};

use crate::error::ModelError;
use crate::parameters::{Init, Parameters};
use crate::vq::blocks::Norm;
use crate::weights::NamedTensors;

/// Number of channels of the first layer; each further one doubles it.
const CHANNELS: i64 = 64;
/// Number of layers that halve the side.
const HALVINGS: i64 = 3;
/// Number of groups in the normalisation.
const GROUPS: i64 = 32;

struct Layer {
    weight: Tensor,
    bias: Tensor,
    stride: i64,
    norm: Option<Norm>,
}

/// Network with its parameters.
pub(super) struct Discriminator {
    layers: Vec<Layer>,
    /// All parameters by name, `discriminator.…`.
    pub(super) parameters: NamedTensors,
}

impl Discriminator {
    /// Creates the network with weights of `parameters`.
    pub(super) fn try_new(mut parameters: Parameters) -> Result<Self, ModelError> {
        let mut layers = Vec::new();
        let mut channels_in = 3;
        for number in 0..HALVINGS + 2 {
            let (first, last) = (number == 0, number == HALVINGS + 1);
            let channels = if last { 1 } else { CHANNELS << number.min(3) };
            let mut root = parameters.root();
            let mut all = root.sub("discriminator");
            let mut scope = all.sub(number);
            let init = Init::Uniform { bound: (3.0 / (channels_in * 16) as f64).sqrt() };
            let (weight, bias) =
                (scope.tensor("weight", &[channels, channels_in, 4, 4], init)?, scope.tensor("bias", &[channels], Init::Zeros)?);
            let norm = if first || last { None } else { Some(Norm::try_new(scope.sub("norm"), channels, GROUPS)?) };
            layers.push(Layer { weight, bias, stride: if number < HALVINGS { 2 } else { 1 }, norm });
            channels_in = channels;
        }
        Ok(Self { layers, parameters: parameters.finish()? })
    }

    /// Creates the network with weights drawn from `seed`.
    pub(super) fn drawn(seed: u64, device: Device) -> Result<Self, ModelError> {
        Self::try_new(Parameters::drawn(seed, device))
    }

    /// In: `[n, 3, h, w]`. Out: `[n, 1, about h / 8, about w / 8]`, higher for real-looking patches.
    fn forward(&self, pictures: &Tensor) -> Result<Tensor, TchError> {
        let mut h = pictures.shallow_clone();
        for (index, layer) in self.layers.iter().enumerate() {
            h = h.f_conv2d(&layer.weight, Some(&layer.bias), layer.stride, 1, 1, 1)?;
            if let Some(norm) = &layer.norm {
                h = norm.forward(&h)?;
            }
            if index + 1 < self.layers.len() {
                h = h.f_maximum(&h.f_mul_scalar(0.2)?)?;
            }
        }
        Ok(h)
    }

    /// Returns the decoder's loss: minus the mean rating of `decoded`.
    pub(super) fn generator_loss(&self, decoded: &Tensor) -> Result<Tensor, TchError> {
        self.forward(decoded)?.f_mean(Kind::Float)?.f_neg()
    }

    /// Returns the discriminator's loss: the hinge loss of both ratings.
    pub(super) fn own_loss(&self, pictures: &Tensor, decoded: &Tensor) -> Result<Tensor, TchError> {
        let hinge = |verdict: Tensor, sign: f64| verdict.f_mul_scalar(sign)?.f_add_scalar(1.0)?.f_relu()?.f_mean(Kind::Float);
        let (real, fake) = (self.forward(pictures)?, self.forward(&decoded.f_detach()?)?);
        hinge(real, -1.0)?.f_add(&hinge(fake, 1.0)?)?.f_mul_scalar(0.5)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hinge_losses_are_those_of_their_formula() {
        let discriminator = Discriminator::drawn(1, Device::Cpu).expect("small");
        let noise = |from: i64| (Tensor::arange(2 * 3 * 64 * 64, (Kind::Float, Device::Cpu)) * from).sin().view([2, 3, 64, 64]);
        let (pictures, decoded) = (noise(1), noise(7));
        let verdicts = |x: &Tensor| discriminator.forward(x).expect("pictures");
        assert_eq!(verdicts(&pictures).size(), [2, 1, 6, 6]);
        let hinge = |verdicts: &Tensor, sign: f64| (verdicts * sign + 1.0).relu().mean(Kind::Float);
        let expected = (hinge(&verdicts(&pictures), -1.0) + hinge(&verdicts(&decoded), 1.0)) * 0.5;
        let own = discriminator.own_loss(&pictures, &decoded).expect("pictures");
        assert!((own - expected).abs().double_value(&[]) < 1e-6);
        let generator = discriminator.generator_loss(&decoded).expect("pictures").double_value(&[]);
        assert!((generator + verdicts(&decoded).mean(Kind::Float).double_value(&[])).abs() < 1e-6);
    }
}
