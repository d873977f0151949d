//! Network of the decoder: embeddings, layers, final norm. The output matrix is the embedding.
//!
//! They are tied as in metaseq. With 65,536 ids, a separate output matrix would add 18 % to the 350M model; tied, rare ids learn from both
//! sides.
//!
//! # Source
//! Section 2.3 and appendix of the CM3Leon paper, <https://arxiv.org/abs/2309.02591>; `share_decoder_input_output_embed` in
//! <https://github.com/facebookresearch/metaseq>.

use tch::{Device, TchError, Tensor};

use crate::decoder::config::DecoderConfig;
use crate::decoder::layer::{DEVIATION, Layer, norm};
use crate::error::ModelError;
use crate::parameters::{Init, Parameters};
use crate::weights::NamedTensors;

/// Name of the embedding among the parameters.
pub(super) const EMBEDDING: &str = "embed_tokens.weight";
/// Initial deviation of the learned positions.
const POSITION_DEVIATION: f64 = 0.0002;

/// Function that mixes the values of a layer, given the layer's index, queries, keys and values.
pub(crate) type Attend<'a> = dyn FnMut(usize, &Tensor, &Tensor, &Tensor) -> Result<Tensor, TchError> + 'a;

/// Weights of a decoder on a device.
#[derive(Debug)]
pub(crate) struct Decoder {
    pub(crate) config: DecoderConfig,
    /// Vectors of the ids, `[vocabulary_size, width]`; also the output matrix.
    pub(crate) embedding: Tensor,
    positions: Tensor,
    layers: Vec<Layer>,
    /// All parameters by name; they share storage with the fields above.
    pub(crate) parameters: NamedTensors,
    pub(crate) device: Device,
}

impl Decoder {
    /// Creates a decoder with weights drawn from `seed`.
    pub(crate) fn drawn(config: &DecoderConfig, seed: u64, device: Device) -> Result<Self, ModelError> {
        Self::build(config, Parameters::drawn(seed, device), device)
    }

    /// Creates a decoder with these weights.
    pub(crate) fn loaded(config: &DecoderConfig, tensors: NamedTensors, device: Device) -> Result<Self, ModelError> {
        Self::build(config, Parameters::loaded(tensors, device), device)
    }

    fn build(config: &DecoderConfig, mut parameters: Parameters, device: Device) -> Result<Self, ModelError> {
        config.check()?;
        let (width, ids, seq_len) = (i64::from(config.width), i64::from(config.vocabulary_size), i64::from(config.seq_len));
        let mut root = parameters.root();
        let embedding = root.sub("embed_tokens").tensor("weight", &[ids, width], Init::TruncatedNormal { deviation: DEVIATION })?;
        let init = Init::TruncatedNormal { deviation: POSITION_DEVIATION };
        let positions = root.sub("embed_positions").tensor("weight", &[seq_len, width], init)?;
        let layers: Result<Vec<_>, _> = (0..config.layers).map(|index| Layer::try_new(root.sub("layers").sub(index), config)).collect();
        Ok(Self { config: config.clone(), embedding, positions, layers: layers?, parameters: parameters.finish()?, device })
    }

    /// Computes the input of the output matrix. In: ids and positions, `[rows, tokens]` i64. Out: `[rows, tokens, width]`.
    pub(crate) fn hidden(&self, ids: &Tensor, positions: &Tensor, attend: &mut Attend<'_>) -> Result<Tensor, TchError> {
        let lookup = |table: &Tensor, index: &Tensor| Tensor::f_embedding(table, index, -1, false, false);
        let mut x = lookup(&self.embedding, ids)?.f_add(&lookup(&self.positions, positions)?)?;
        for (number, layer) in self.layers.iter().enumerate() {
            x = layer.forward(&x, |q, k, v| attend(number, q, k, v))?;
        }
        norm(&x)
    }
}
