//! Image tokenizer of the `tokenize` stage: a VQGAN with given weights on one device.
//!
//! Every computation has the same batch size; a short tail is padded with black. So codes do not depend on the rest of the batch.

use cm3flow_schemas::digest::{Digest, PartHasher};
use cm3flow_schemas::preparation::Values;
use cm3flow_schemas::traits::{ImageTokenizer, ImageTokenizerSpec};
use cm3flow_schemas::{DynError, Grid, canonical};
use tch::{Device, Kind, TchError, Tensor};

use crate::device::{self, DeviceChoice};
use crate::error::{ModelError, Problems};
use crate::vq::config::{Precision, VqConfig};
use crate::vq::cuda::CudaEncoder;
use crate::vq::network::VqNetwork;
use crate::vq::quantizer::{Quantizer, grid_of};
use crate::vq::upload::Upload;

/// A VQGAN that implements [`ImageTokenizer`].
#[derive(Debug)]
pub struct VqTokenizer {
    spec: ImageTokenizerSpec,
    config: VqConfig,
    network: VqNetwork,
    /// Encoder in bf16 on a GPU, in place of the network's.
    cuda: Option<CudaEncoder>,
    upload: Upload,
    quantizer: Quantizer,
    codebook: Vec<f32>,
    device: Device,
    kind: Kind,
    batch_size: usize,
    /// Value of each level, `[256]` on the device.
    values: Tensor,
}

impl VqTokenizer {
    /// Builds the network of `config` with `weights`, and moves it to the device. Weights are the bytes of a safetensors file or of a
    /// PyTorch checkpoint, in f32, f16 or bf16, in the layout of taming-transformers (also Chameleon's), transformers, diffusers or
    /// LlamaGen. `batch_size` images, 1 to 4096, are computed together.
    ///
    /// # Errors
    /// [`ModelError::Config`] for bad settings; [`ModelError::CudaUnavailable`]; [`ModelError::Safetensors`] and the errors about
    /// checkpoints and tensors for weights that are damaged or of another network.
    pub fn try_new(config: &VqConfig, weights: &[u8], batch_size: u32, choice: DeviceChoice) -> Result<Self, ModelError> {
        let mut problems = Problems::default();
        problems.range("batch_size", batch_size, 1, 4096);
        problems.finish("vq tokenizer")?;
        let device = device::open(choice)?;
        let network = VqNetwork::loaded(config, weights, device)?;
        let quantizer =
            Quantizer::try_new(&network.embedding, config.l2_normalized_codes).map_err(ModelError::torch("prepare the codebook"))?;
        let codebook = floats(&network.embedding).map_err(ModelError::torch("copy the codebook"))?;
        let digest =
            PartHasher::new("vq-tokenizer").part(&canonical::digest_of("vq-config", config).0).part(&Digest::of(weights).0).digest();
        let spec = ImageTokenizerSpec {
            name: format!("vq-f{}-{}", config.factor(), config.codebook_size),
            digest,
            side_px: config.resolution,
            grid: config.grid(),
            codebook_size: config.codebook_size,
            codebook_dim: config.embedding_dim,
            numerics: device::numerics_class(device, Kind::Float, batch_size),
        };
        let values = value_table(Values::TwoOver255, device)?;
        Ok(Self {
            spec,
            config: config.clone(),
            network,
            cuda: None,
            upload: Upload::new(device),
            quantizer,
            codebook,
            device,
            kind: Kind::Float,
            batch_size: batch_size as usize,
            values,
        })
    }

    /// Computes in `precision` instead of f32.
    ///
    /// # Errors
    /// [`ModelError::Kernels`] if the bf16 kernels cannot be prepared on a GPU; [`ModelError::Torch`] if the device fails.
    pub fn with_precision(mut self, precision: Precision) -> Result<Self, ModelError> {
        self.kind = precision.kind();
        let is_faster = self.device.is_cuda() && precision == Precision::Bfloat16;
        self.cuda = if is_faster { CudaEncoder::try_new(&self.network, &self.config)? } else { None };
        self.spec.numerics = device::numerics_class(self.device, self.kind, self.spec.numerics.batch_size);
        Ok(self)
    }

    /// Uses `values` for the input levels, as the weights require, instead of [`Values::TwoOver255`]. The output of
    /// [`ImageTokenizer::decode`] is not affected.
    ///
    /// # Errors
    /// [`ModelError::Torch`] if the device fails.
    pub fn with_values(mut self, values: Values) -> Result<Self, ModelError> {
        if values != Values::TwoOver255 {
            let values = canonical::digest_of("values", &values);
            self.spec.digest = PartHasher::new("vq-tokenizer with values").part(&self.spec.digest.0).part(&values.0).digest();
        }
        self.values = value_table(values, self.device)?;
        Ok(self)
    }

    /// Encodes images by batches. On a GPU, one batch is computed while the next one is sent.
    fn encode_batches(&mut self, pixels: &[u8], grid: Grid) -> Result<Vec<u32>, TchError> {
        let size = self.spec.bytes_of(grid);
        let mut codes = Vec::with_capacity(pixels.len() / size * grid.codes());
        let mut under_way: Option<(Tensor, usize)> = None;
        let mut take = |(batch, images): (Tensor, usize)| -> Result<(), TchError> {
            let batch = Vec::<i64>::try_from(batch.f_to_device(Device::Cpu)?)?;
            codes.extend(batch[..images * grid.codes()].iter().map(|code| *code as u32));
            Ok(())
        };
        for batch in pixels.chunks(self.batch_size * size) {
            let next = (self.codes_of(batch, grid)?, batch.len() / size);
            under_way.replace(next).map_or(Ok(()), &mut take)?;
        }
        under_way.map_or(Ok(()), take)?;
        Ok(codes)
    }

    /// Encodes a batch, padded with black to the fixed size: `[batch_size * codes]` i64, on the device.
    fn codes_of(&mut self, pixels: &[u8], grid: Grid) -> Result<Tensor, TchError> {
        let (width, height) = self.spec.size_px(grid);
        // Bytes are sent, which take a quarter of the floats' size.
        let levels = self.upload.send(pixels, self.batch_size * self.spec.bytes_of(grid))?;
        let levels = levels.f_view([-1, i64::from(height), i64::from(width), 3])?;
        let latents = if let Some(encoder) = &self.cuda {
            encoder.forward(&levels, &self.values)?
        } else {
            // A table gives the same values on every device, unlike a division.
            let batch = self.values.f_index_select(0, &levels.f_reshape([-1])?.f_to_kind(Kind::Int)?)?.f_reshape(levels.size())?;
            // Interleaved bytes are NHWC already. Viewed as NCHW they are channels-last, which the convolutions keep.
            self.network.encode(&batch.f_permute([0, 3, 1, 2])?.f_to_kind(self.kind)?)?
        };
        self.quantizer.encode(&latents.f_to_kind(Kind::Float)?)
    }

    /// Decodes at most `batch_size` images: `[batch_size, 3, height, width]`, about -1 to 1; images behind the given ones are padding.
    fn decoded(&self, codes: &[u32], grid: Grid) -> Result<Tensor, TchError> {
        let mut padded: Vec<i64> = codes.iter().map(|code| i64::from(*code)).collect();
        padded.resize(self.batch_size * grid.codes(), 0);
        let codes = Tensor::f_from_slice(&padded)?.f_to_device(self.device)?;
        let vectors = grid_of(&self.quantizer.vectors_of(&codes)?, i64::from(grid.rows), i64::from(grid.columns))?.f_to_kind(self.kind)?;
        self.network.decode(&vectors)?.f_to_kind(Kind::Float)
    }

    /// Decodes codes of squares to the network's values, before clamping and rounding to bytes. Out: for each image `3 * side * side`
    /// floats, channel by channel, about -1 to 1. It is for comparisons; [`ImageTokenizer::decode`] makes pictures.
    ///
    /// # Errors
    /// As for [`ImageTokenizer::decode`].
    pub fn decode_values(&mut self, codes: &[u32]) -> Result<Vec<f32>, ModelError> {
        let square = self.spec.square();
        self.check_codes(codes, square)?;
        let _no_grad = tch::no_grad_guard();
        let mut values = Vec::new();
        for batch in codes.chunks(self.batch_size * self.spec.codes_per_image()) {
            let images = (batch.len() / self.spec.codes_per_image()) as i64;
            let pixels = self.decoded(batch, square).and_then(|pixels| floats(&pixels.f_narrow(0, 0, images)?.f_contiguous()?));
            values.extend(pixels.map_err(ModelError::torch("decode images"))?);
        }
        Ok(values)
    }

    fn check_codes(&self, codes: &[u32], grid: Grid) -> Result<(), ModelError> {
        if !self.network.has_decoder() {
            return Err(ModelError::NoDecoder { tokenizer: self.spec.name.clone() });
        }
        check_codes(&self.spec, codes, grid)
    }
}

impl ImageTokenizer for VqTokenizer {
    fn spec(&self) -> &ImageTokenizerSpec {
        &self.spec
    }

    fn encode_grid(&mut self, pixels: &[u8], grid: Grid) -> Result<Vec<u32>, DynError> {
        let bytes_per_image = self.spec.bytes_of(grid);
        if bytes_per_image == 0 || !pixels.len().is_multiple_of(bytes_per_image) {
            return Err(ModelError::Pixels { bytes: pixels.len(), bytes_per_image }.into());
        }
        let _no_grad = tch::no_grad_guard();
        Ok(self.encode_batches(pixels, grid).map_err(ModelError::torch("encode images"))?)
    }

    fn can_decode(&self) -> bool {
        self.network.has_decoder()
    }

    fn decode_grid(&mut self, codes: &[u32], grid: Grid) -> Result<Vec<u8>, DynError> {
        self.check_codes(codes, grid)?;
        let _no_grad = tch::no_grad_guard();
        let mut pixels = Vec::with_capacity(codes.len() / grid.codes() * self.spec.bytes_of(grid));
        for batch in codes.chunks(self.batch_size * grid.codes()) {
            let decoded = self.decoded(batch, grid).and_then(|pixels| levels(&pixels, batch.len() / grid.codes()));
            pixels.extend(decoded.map_err(ModelError::torch("decode images"))?);
        }
        Ok(pixels)
    }

    fn codebook(&self) -> &[f32] {
        &self.codebook
    }
}

/// Converts bytes to -1..=1 by one formula, `x * 2 / 255 - 1`, rounded once, on the CPU: GPUs divide by multiplying with an inverse.
pub(super) fn scaled(pixels: &[u8]) -> Vec<f32> {
    let levels = Values::TwoOver255.table();
    pixels.iter().map(|level| levels[usize::from(*level)]).collect()
}

/// Converts values of about -1 to 1, `[n, 3, height, width]`, to bytes of the first `images`: RGB, interleaved.
pub(super) fn levels(pixels: &Tensor, images: usize) -> Result<Vec<u8>, TchError> {
    let pixels = pixels.f_narrow(0, 0, images as i64)?;
    // Rounds to the nearest level; the conversion alone would truncate.
    let levels = pixels.f_clamp(-1.0, 1.0)?.f_add_scalar(1.0)?.f_mul_scalar(127.5)?.f_round()?.f_to_kind(Kind::Uint8)?;
    let levels = levels.f_permute([0, 2, 3, 1])?.f_contiguous()?.f_to_device(Device::Cpu)?;
    let mut bytes = vec![0; levels.numel()];
    levels.f_copy_data_u8(&mut bytes, levels.numel())?;
    Ok(bytes)
}

/// Checks that `codes` are whole images of `grid`, with all codes in range.
pub(super) fn check_codes(spec: &ImageTokenizerSpec, codes: &[u32], grid: Grid) -> Result<(), ModelError> {
    let (codes_per_image, codebook_size) = (grid.codes(), spec.codebook_size);
    if codes_per_image == 0 || !codes.len().is_multiple_of(codes_per_image) {
        return Err(ModelError::Codes { codes: codes.len(), codes_per_image });
    }
    match codes.iter().position(|code| *code >= codebook_size) {
        Some(position) => Err(ModelError::CodeOutOfRange { position, code: codes[position], codebook_size }),
        None => Ok(()),
    }
}

fn value_table(values: Values, device: Device) -> Result<Tensor, ModelError> {
    Tensor::f_from_slice(&values.table()).and_then(|table| table.f_to_device(device)).map_err(ModelError::torch("copy the value table"))
}

fn floats(tensor: &Tensor) -> Result<Vec<f32>, TchError> {
    Vec::try_from(tensor.f_detach()?.f_to_device(Device::Cpu)?.f_reshape([-1])?)
}

#[cfg(test)]
mod tests;
