//! Image tokenizer of two TorchScript modules, the form in which Cosmos and others are published: from pixels to codes, and back.
//!
//! **TorchScript is code.** It is no Python pickle, but it runs as given, with all that libtorch can do: load only modules that you trust.
//! Their output is checked against the configuration, image by image.

use std::ops::RangeInclusive;

use cm3flow_schemas::digest::{Digest, PartHasher};
use cm3flow_schemas::traits::{ImageTokenizer, ImageTokenizerSpec};
use cm3flow_schemas::{DynError, Grid, ImageInputError, canonical};
use serde::{Deserialize, Serialize};
use tch::{CModule, Device, IValue, Kind, TchError, Tensor};

use crate::device::{self, DeviceChoice};
use crate::error::{ModelError, Problems};
use crate::torchscript::{is_whole, kind_of, load, tensors_of};
use crate::vq::tokenizer::{levels, scaled};

/// Interface of a pair of modules.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TorchScriptConfig {
    /// Side of the input square, in pixels: 8 to 4096.
    pub side_px: u32,
    /// Number of codes in a row and in a column, 1 to `side_px`.
    pub grid: u32,
    /// Size of the codebook, 2 to 1,048,576.
    pub codebook_size: u32,
}

impl TorchScriptConfig {
    /// Limits of [`Self::side_px`].
    pub const SIDE_PX: RangeInclusive<u32> = 8..=4096;
    /// Limits of [`Self::codebook_size`].
    pub const CODEBOOK_SIZE: RangeInclusive<u32> = 2..=1 << 20;

    /// Returns the problems of all fields, each with the field's path, the rule and the value.
    #[must_use]
    pub fn problems(&self) -> Vec<String> {
        let mut problems = Problems::default();
        problems.within("side_px", self.side_px, &Self::SIDE_PX);
        problems.within("grid", self.grid, &(1..=self.side_px));
        problems.within("codebook_size", self.codebook_size, &Self::CODEBOOK_SIZE);
        problems.into_list()
    }

    /// Checks every field.
    ///
    /// # Errors
    /// [`ModelError::Config`] with all problems.
    pub fn check(&self) -> Result<(), ModelError> {
        match self.problems() {
            problems if problems.is_empty() => Ok(()),
            problems => Err(ModelError::Config { what: "torchscript configuration", problems }),
        }
    }
}

/// Two TorchScript modules that implement [`ImageTokenizer`].
///
/// The encoder takes `[n, 3, side, side]` in -1 to 1. It returns codes, or a tuple with exactly one tensor of whole numbers: the codes, as
/// `[n, grid, grid]` or in another shape of as many numbers. The decoder takes `[n, grid, grid]` i64 and returns `[n, 3, side, side]`. Both
/// compute in the type of the encoder's first parameter, or f32 if it has none. No codebook is exposed.
#[derive(Debug)]
pub struct TorchScriptTokenizer {
    spec: ImageTokenizerSpec,
    encoder: CModule,
    decoder: CModule,
    kind: Kind,
    device: Device,
    batch_size: usize,
}

impl TorchScriptTokenizer {
    /// Loads both modules from the bytes of their files. `batch_size` images, 1 to 4096, are computed together.
    ///
    /// # Errors
    /// [`ModelError::Config`] for bad settings, [`ModelError::CudaUnavailable`], [`ModelError::Torch`] for bytes that are no module.
    pub fn try_new(
        config: &TorchScriptConfig,
        encoder: &[u8],
        decoder: &[u8],
        batch_size: u32,
        choice: DeviceChoice,
    ) -> Result<Self, ModelError> {
        config.check()?;
        let mut problems = Problems::default();
        problems.within("batch_size", batch_size, &(1..=4096));
        problems.finish("torchscript tokenizer")?;
        let device = device::open(choice)?;
        let mut digest = PartHasher::new("torchscript-tokenizer");
        digest.part(&canonical::digest_of("torchscript-config", config).0).part(&Digest::of(encoder).0).part(&Digest::of(decoder).0);
        let digest = digest.digest();
        let encoder = load(encoder, device).map_err(ModelError::torch("load the TorchScript encoder"))?;
        let decoder = load(decoder, device).map_err(ModelError::torch("load the TorchScript decoder"))?;
        let kind = kind_of(&encoder).map_err(ModelError::torch("list the parameters of the TorchScript encoder"))?;
        let spec = ImageTokenizerSpec {
            name: format!("torchscript-{}-{}", config.grid, config.codebook_size),
            digest,
            side_px: config.side_px,
            grid: config.grid,
            codebook_size: config.codebook_size,
            codebook_dim: 0,
            numerics: device::numerics_class(device, kind, batch_size),
        };
        Ok(Self { spec, encoder, decoder, kind, device, batch_size: batch_size as usize })
    }

    fn encode_batch(&self, pixels: &[u8]) -> Result<Vec<u32>, ModelError> {
        let images = pixels.len() / self.spec.bytes_per_image();
        let (count, side) = (self.batch_size as i64, i64::from(self.spec.side_px));
        let mut values = scaled(pixels);
        values.resize(self.batch_size * self.spec.bytes_per_image(), -1.0);
        let input = || {
            let batch = Tensor::f_from_slice(&values)?.f_to_device(self.device)?;
            batch.f_reshape([count, side, side, 3])?.f_permute([0, 3, 1, 2])?.f_contiguous()?.f_to_kind(self.kind)
        };
        let input = input().map_err(ModelError::torch("load pictures"))?;
        let output = self.encoder.forward_is(&[IValue::Tensor(input)]).map_err(ModelError::torch("encode images by TorchScript"))?;
        let codes = self.codes(output)?;
        Ok(codes[..images * self.spec.codes_per_image()].to_vec())
    }

    /// Returns the codes in the encoder's output, all of them in range.
    fn codes(&self, output: IValue) -> Result<Vec<u32>, ModelError> {
        let (grid, size) = (self.spec.grid, self.spec.codebook_size);
        let refused = |found: String| ModelError::ModuleOutput {
            module: "encoder".into(),
            found,
            expected: format!("codes of {} images, {grid} x {grid} each, in 0..{size}", self.batch_size),
        };
        let mut tensors = Vec::new();
        tensors_of(output, &mut tensors);
        let found = tensors.len();
        let mut whole: Vec<Tensor> = tensors.into_iter().filter(|tensor| is_whole(tensor.kind())).collect();
        let tensor = match (whole.pop(), whole.is_empty()) {
            (Some(tensor), true) => tensor,
            (Some(_), false) => return Err(refused(format!("{} tensors of whole numbers", whole.len() + 1))),
            (None, _) => return Err(refused(format!("{found} tensors, none of whole numbers"))),
        };
        let shape = tensor.size();
        if tensor.numel() != self.batch_size * self.spec.codes_per_image() || (shape.len() > 1 && shape[0] != self.batch_size as i64) {
            return Err(refused(format!("whole numbers of shape {shape:?}")));
        }
        let flat = tensor.f_to_device(Device::Cpu).and_then(|tensor| tensor.f_to_kind(Kind::Int64)?.f_reshape([-1]));
        let codes = flat.and_then(Vec::<i64>::try_from).map_err(ModelError::torch("copy codes"))?;
        match codes.iter().find(|code| !(0..i64::from(size)).contains(*code)) {
            Some(code) => Err(refused(format!("code {code}"))),
            None => Ok(codes.into_iter().map(|code| code as u32).collect()),
        }
    }

    /// Decodes at most `batch_size` images to `[batch_size, 3, side, side]` f32.
    fn decoded(&self, codes: &[u32]) -> Result<Tensor, ModelError> {
        let (count, grid, side) = (self.batch_size as i64, i64::from(self.spec.grid), i64::from(self.spec.side_px));
        let mut padded: Vec<i64> = codes.iter().map(|code| i64::from(*code)).collect();
        padded.resize(self.batch_size * self.spec.codes_per_image(), 0);
        let input = Tensor::f_from_slice(&padded).and_then(|codes| codes.f_to_device(self.device)?.f_reshape([count, grid, grid]));
        let input = input.map_err(ModelError::torch("load codes"))?;
        let output = self.decoder.forward_is(&[IValue::Tensor(input)]).map_err(ModelError::torch("decode images by TorchScript"))?;
        let mut tensors = Vec::new();
        tensors_of(output, &mut tensors);
        let expected = [count, 3, side, side];
        let found = match tensors.first() {
            Some(pixels) if pixels.size() == expected && !is_whole(pixels.kind()) => {
                return pixels.f_to_kind(Kind::Float).map_err(ModelError::torch("decode images"));
            }
            Some(other) => format!("{:?} of shape {:?}", other.kind(), other.size()),
            None => "no tensor".to_owned(),
        };
        Err(ModelError::ModuleOutput { module: "decoder".into(), found, expected: format!("floats of shape {expected:?}") })
    }

    /// Decodes codes to the decoder's values, before clamping and rounding to bytes. Out: for each image `3 * side * side` floats, channel
    /// by channel, about -1 to 1. It is for comparisons; [`ImageTokenizer::decode`] makes pictures.
    ///
    /// # Errors
    /// As for [`ImageTokenizer::decode`].
    pub fn decode_values(&mut self, codes: &[u32]) -> Result<Vec<f32>, ModelError> {
        self.spec.images_of_codes(codes, self.spec.square())?;
        self.decode_batches(codes, |pixels, images| {
            Vec::try_from(pixels.f_narrow(0, 0, images as i64)?.f_to_device(Device::Cpu)?.f_contiguous()?.f_reshape([-1])?)
        })
    }

    /// `values` of all batches of codes, which are whole squares in range.
    fn decode_batches<T>(&self, codes: &[u32], values: impl Fn(&Tensor, usize) -> Result<Vec<T>, TchError>) -> Result<Vec<T>, ModelError> {
        let _no_grad = tch::no_grad_guard();
        let mut all = Vec::new();
        for batch in codes.chunks(self.batch_size * self.spec.codes_per_image()) {
            let decoded = self.decoded(batch)?;
            let images = batch.len() / self.spec.codes_per_image();
            all.extend(values(&decoded, images).map_err(ModelError::torch("copy pixels"))?);
        }
        Ok(all)
    }
}

impl TorchScriptTokenizer {
    /// Refuses grids other than the square, since modules are published for one size.
    fn check_square(&self, grid: Grid) -> Result<(), ImageInputError> {
        if grid == self.spec.square() {
            return Ok(());
        }
        Err(ImageInputError::Grid { model: self.spec.name.clone(), takes: "squares alone", grid })
    }
}

impl ImageTokenizer for TorchScriptTokenizer {
    fn spec(&self) -> &ImageTokenizerSpec {
        &self.spec
    }

    fn encode_grid(&mut self, pixels: &[u8], grid: Grid) -> Result<Vec<u32>, DynError> {
        self.check_square(grid)?;
        self.spec.images_of_pixels(pixels, grid)?;
        let _no_grad = tch::no_grad_guard();
        let mut codes = Vec::new();
        for batch in pixels.chunks(self.batch_size * self.spec.bytes_per_image()) {
            codes.extend(self.encode_batch(batch)?);
        }
        Ok(codes)
    }

    fn decode_grid(&mut self, codes: &[u32], grid: Grid) -> Result<Vec<u8>, DynError> {
        self.check_square(grid)?;
        self.spec.images_of_codes(codes, grid)?;
        Ok(self.decode_batches(codes, levels)?)
    }

    fn codebook(&self) -> &[f32] {
        &[]
    }
}
