//! Whole VQGAN: encoder, both 1x1 convolutions around the codebook, codebook vectors, decoder.

use tch::{Device, TchError, Tensor};

use crate::error::ModelError;
use crate::parameters::{Init, Parameters};
use crate::vq::blocks::Conv;
use crate::vq::config::VqConfig;
use crate::vq::decoder::Decoder;
use crate::vq::encoder::Encoder;
use crate::vq::layout;
use crate::weights::NamedTensors;

/// Name of the codebook among the parameters.
pub(super) const CODEBOOK: &str = "quantize.embedding.weight";

/// A VQGAN without quantisation.
#[derive(Debug)]
pub(super) struct VqNetwork {
    pub(super) encoder: Encoder,
    pub(super) quant_conv: Conv,
    post_quant_conv: Conv,
    /// `None` if the weights have no decoder, as Chameleon's in transformers.
    decoder: Option<Decoder>,
    /// Codebook vectors as stored, `[codebook_size, embedding_dim]`.
    pub(super) embedding: Tensor,
    /// All parameters by name; they share storage with the fields above.
    pub(super) parameters: NamedTensors,
}

impl VqNetwork {
    /// Creates a network with weights drawn from `seed`.
    pub(super) fn drawn(config: &VqConfig, seed: u64, device: Device) -> Result<Self, ModelError> {
        config.check()?;
        Self::build(config, Parameters::drawn(seed, device), true)
    }

    /// Creates a network with the weights of a file, in any known layout.
    pub(super) fn loaded(config: &VqConfig, weights: &[u8], device: Device) -> Result<Self, ModelError> {
        config.check()?;
        let (tensors, layout) = layout::load(config, weights)?;
        let has_decoder = layout.has_decoder();
        Self::build(config, Parameters::renamed(tensors, move |ours| layout.name_in_file(ours), device), has_decoder)
    }

    /// Creates a network with these tensors, by the names of taming-transformers.
    pub(super) fn from_tensors(config: &VqConfig, tensors: NamedTensors, device: Device) -> Result<Self, ModelError> {
        Self::build(config, Parameters::loaded(tensors, device), true)
    }

    fn build(config: &VqConfig, mut parameters: Parameters, has_decoder: bool) -> Result<Self, ModelError> {
        let (z, dim, codes) = (i64::from(config.z_channels), i64::from(config.embedding_dim), i64::from(config.codebook_size));
        let mut root = parameters.root();
        let encoder = Encoder::try_new(root.sub("encoder"), config)?;
        let quant_conv = Conv::try_new(root.sub("quant_conv"), z, dim, 1)?;
        let init = Init::Uniform { bound: 1.0 / codes as f64 };
        let embedding = root.sub("quantize").sub("embedding").tensor("weight", &[codes, dim], init)?;
        let post_quant_conv = Conv::try_new(root.sub("post_quant_conv"), dim, z, 1)?;
        let decoder = if has_decoder { Some(Decoder::try_new(root.sub("decoder"), config)?) } else { None };
        Ok(Self { encoder, quant_conv, post_quant_conv, decoder, embedding, parameters: parameters.finish()? })
    }

    /// Encodes pixels to unquantised latents. In: `[n, 3, h, w]`. Out: `[n, embedding_dim, h / factor, w / factor]`.
    pub(super) fn encode(&self, pixels: &Tensor) -> Result<Tensor, TchError> {
        self.quant_conv.forward(&self.encoder.forward(pixels)?)
    }

    /// Checks whether there is a decoder.
    pub(super) const fn has_decoder(&self) -> bool {
        self.decoder.is_some()
    }

    /// Decodes quantised latents to pixels; in and out are those of [`Self::encode`], exchanged. Fails without a decoder.
    pub(super) fn decode(&self, quantized: &Tensor) -> Result<Tensor, TchError> {
        let Some(decoder) = &self.decoder else { return Err(TchError::FileFormat("the weights hold no decoder".to_owned())) };
        decoder.forward(&self.post_quant_conv.forward(quantized)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chameleon_has_the_parameters_that_its_paper_counts() {
        let network = VqNetwork::drawn(&VqConfig::chameleon(), 1, Device::Cpu).expect("a preset");
        let count = |prefix: &str| -> usize {
            network.parameters.iter().filter(|(name, _)| name.starts_with(prefix)).map(|(_, tensor)| tensor.numel()).sum()
        };
        assert_eq!(format!("{:.2} {:.2}", count("encoder.") as f64 / 1e6, count("decoder.") as f64 / 1e6), "27.19 39.29");
    }

    #[test]
    fn parameters_have_the_names_of_taming_transformers() {
        let config = VqConfig {
            resolution: 32,
            channels: 8,
            channel_multipliers: vec![1, 2],
            residual_blocks: 1,
            norm_groups: 4,
            ..VqConfig::chameleon()
        };
        let config = VqConfig { attention_resolutions: vec![16], z_channels: 6, embedding_dim: 5, codebook_size: 7, ..config };
        let network = VqNetwork::drawn(&config, 1, Device::Cpu).expect("a small network");
        let shape = |name: &str| network.parameters.get(name).unwrap_or_else(|| panic!("{name} is missing")).size();
        for (name, expected) in [
            ("encoder.conv_in.weight", &[8, 3, 3, 3][..]),
            ("encoder.down.0.block.0.norm1.weight", &[8]),
            ("encoder.down.0.downsample.conv.weight", &[8, 8, 3, 3]),
            ("encoder.down.1.block.0.nin_shortcut.weight", &[16, 8, 1, 1]),
            ("encoder.down.1.attn.0.proj_out.bias", &[16]),
            ("encoder.mid.block_1.conv2.weight", &[16, 16, 3, 3]),
            ("encoder.mid.attn_1.q.weight", &[16, 16, 1, 1]),
            ("encoder.norm_out.bias", &[16]),
            ("encoder.conv_out.weight", &[6, 16, 3, 3]),
            ("quant_conv.weight", &[5, 6, 1, 1]),
            ("quantize.embedding.weight", &[7, 5]),
            ("post_quant_conv.weight", &[6, 5, 1, 1]),
            ("decoder.up.0.block.1.conv1.weight", &[8, 8, 3, 3]),
            ("decoder.up.1.upsample.conv.weight", &[16, 16, 3, 3]),
            ("decoder.up.1.attn.1.norm.weight", &[16]),
            ("decoder.conv_out.weight", &[3, 8, 3, 3]),
        ] {
            assert_eq!(shape(name), expected, "{name}");
        }
    }
}
