//! Image annotators made of TorchScript modules, for soft edges, depth, normals, poses and the like; the networks are published elsewhere.
//!
//! Every computation has the same batch size; a short tail is padded with black. The output is checked against the configuration. It is
//! converted to levels on the CPU in f64, so a device affects only the network's values.

use cm3flow_schemas::digest::{Digest, PartHasher};
use cm3flow_schemas::traits::{AnnotatedImage, ImageAnnotator, ImageAnnotatorSpec, NotFinite};
use cm3flow_schemas::{DynError, canonical};
use serde::{Deserialize, Serialize};
use tch::{CModule, Device, IValue, Kind, TchError, Tensor};

use crate::device::{self, DeviceChoice};
use crate::error::{ModelError, Problems};
use crate::torchscript::{kind_of, load, tensors_of};

/// Largest side of a module's output, in values.
const MAX_SIDE: i64 = 4096;

/// Scale of a module's input values.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(untagged, expecting = "it must be \"unit\", \"signed\", or { mean = [red, green, blue], std = [red, green, blue] }")]
pub enum InputValues {
    /// A range.
    Range(InputRange),
    /// Levels as 0 to 1, less the mean of the channel, over its deviation.
    Normalized(Moments),
}

/// A range of input values.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum InputRange {
    /// 0 to 1.
    Unit,
    /// -1 to 1.
    Signed,
}

/// Mean and deviation of each channel, on the scale of 0 to 1.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Moments {
    /// Mean of red, green, blue.
    pub mean: [f64; 3],
    /// Deviation of red, green, blue, each above 0.
    pub std: [f64; 3],
}

impl InputValues {
    /// Returns the value of each level in each channel, computed in f64 and rounded once.
    fn table(self) -> [[f32; 256]; 3] {
        let Moments { mean, std } = match self {
            Self::Range(InputRange::Unit) => Moments { mean: [0.0; 3], std: [1.0; 3] },
            Self::Range(InputRange::Signed) => Moments { mean: [0.5; 3], std: [0.5; 3] },
            Self::Normalized(moments) => moments,
        };
        std::array::from_fn(|channel| std::array::from_fn(|level| ((level as f64 / 255.0 - mean[channel]) / std[channel]) as f32))
    }
}

/// Output values that stand for black and for white.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(untagged, expecting = "it must be \"picture\" or [black, white]")]
pub enum OutputRange {
    /// The same values for all pictures: black and white. Values outside are clamped.
    Fixed([f64; 2]),
    /// A range for each picture.
    Own(OwnRange),
}

/// A range derived from the values.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OwnRange {
    /// Least and largest value of the picture, over all its channels. If they are equal, the picture is black.
    Picture,
}

/// Interface of a module, and conversion of its output to pictures.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AnnotatorConfig {
    /// Side of the input square, in pixels: 8 to 4096.
    pub side_px: u32,
    /// Scale of the input values.
    pub input: InputValues,
    /// Index of the output tensor to use, from 0.
    pub output: u32,
    /// Output values of black and white.
    pub range: OutputRange,
    /// `true` to exchange black and white.
    pub inverted: bool,
}

impl AnnotatorConfig {
    /// Returns the problems of the fields, each with the field's name.
    #[must_use]
    pub fn problems(&self) -> Vec<String> {
        let mut problems = Problems::default();
        problems.range("side_px", self.side_px, 8, 4096);
        problems.range("output", self.output, 0, 255);
        if let InputValues::Normalized(Moments { mean, std }) = self.input {
            let is_usable = mean.iter().all(|mean| mean.is_finite()) && std.iter().all(|std| std.is_normal() && *std > 0.0);
            problems.require(is_usable, || format!("input.mean must be finite and input.std above 0, got {mean:?} and {std:?}"));
        }
        if let OutputRange::Fixed([black, white]) = self.range {
            let is_usable = black.is_finite() && white.is_finite() && black < white;
            let problem = || format!("range must be \"picture\" or two numbers, the first one below the second, got [{black}, {white}]");
            problems.require(is_usable, problem);
        }
        problems.into_list()
    }
}

/// A TorchScript module that implements [`ImageAnnotator`].
///
/// The module takes `[n, 3, side, side]` in the type of its first parameter, or f32 if it has none. It returns a tensor, or tuples, lists
/// and dictionaries of tensors. The tensor in use has the shape `[n, 1, s, s]`, `[n, 3, s, s]` or `[n, s, s]` for any side `s`; one channel
/// becomes grey. The output for a picture must not depend on others in the batch.
#[derive(Debug)]
pub struct TorchScriptAnnotator {
    name: String,
    spec: ImageAnnotatorSpec,
    config: AnnotatorConfig,
    module: CModule,
    kind: Kind,
    device: Device,
    /// Value of each level in each channel.
    values: [[f32; 256]; 3],
}

impl TorchScriptAnnotator {
    /// Loads a module from the bytes of its file. `name` is for errors; `batch_size` pictures, 1 to 1024, are computed together.
    ///
    /// # Errors
    /// [`ModelError::Config`] for bad settings, [`ModelError::CudaUnavailable`], [`ModelError::Annotator`] for bytes that are no module.
    pub fn try_new(
        name: impl Into<String>,
        config: &AnnotatorConfig,
        module: &[u8],
        batch_size: u32,
        choice: DeviceChoice,
    ) -> Result<Self, ModelError> {
        let name = name.into();
        let mut problems = config.problems();
        if !(1..=1024).contains(&batch_size) {
            problems.push(format!("batch_size must be in 1..=1024, got {batch_size}"));
        }
        if !problems.is_empty() {
            return Err(ModelError::Config { what: "annotator", problems });
        }
        let device = device::open(choice)?;
        let mut digest = PartHasher::new("torchscript-annotator");
        digest.part(&canonical::digest_of("annotator-config", config).0).part(&Digest::of(module).0);
        let failed = |doing, source| ModelError::Annotator { annotator: name.clone(), doing, source };
        let module = load(module, device).map_err(|source| failed("load", source))?;
        let kind = kind_of(&module).map_err(|source| failed("list the parameters of", source))?;
        let numerics = device::numerics_class(device, kind, batch_size);
        let spec = ImageAnnotatorSpec { digest: digest.digest(), side_px: config.side_px, numerics };
        Ok(Self { name, spec, config: config.clone(), module, kind, device, values: config.input.table() })
    }

    fn annotate_batch(&self, pixels: &[u8]) -> Result<Vec<Result<AnnotatedImage, NotFinite>>, ModelError> {
        let images = pixels.len() / self.spec.bytes_per_image();
        let failed = |doing| move |source| ModelError::Annotator { annotator: self.name.clone(), doing, source };
        let input = self.input(pixels).map_err(failed("give pictures to"))?;
        let output = self.module.forward_is(&[IValue::Tensor(input)]).map_err(failed("run"))?;
        let (values, channels, side) = self.values_of(output)?;
        let one = |values: &[f32]| self.picture(values, channels, side);
        Ok(values.chunks_exact(channels * side * side).take(images).map(one).collect())
    }

    /// Returns `[batch_size, 3, side, side]`, padded with black pictures.
    fn input(&self, pixels: &[u8]) -> Result<Tensor, TchError> {
        let (count, side) = (i64::from(self.spec.numerics.batch_size), i64::from(self.spec.side_px));
        let mut levels = pixels.to_vec();
        levels.resize(self.spec.numerics.batch_size as usize * self.spec.bytes_per_image(), 0);
        let value = |[red, green, blue]: &[u8; 3]| {
            [(0, red), (1, green), (2, blue)].map(|(channel, level)| self.values[channel][usize::from(*level)])
        };
        let values: Vec<f32> = levels.as_chunks::<3>().0.iter().flat_map(value).collect();
        let batch = Tensor::f_from_slice(&values)?.f_to_device(self.device)?.f_reshape([count, side, side, 3])?;
        batch.f_permute([0, 3, 1, 2])?.f_contiguous()?.f_to_kind(self.kind)
    }

    /// Returns the values of the module's output, with the number of channels and the side of their squares.
    fn values_of(&self, output: IValue) -> Result<(Vec<f32>, usize, usize), ModelError> {
        let count = i64::from(self.spec.numerics.batch_size);
        let refused = |found: String| ModelError::ModuleOutput {
            module: format!("annotator {}", self.name),
            found,
            expected: format!("[{count}, c, s, s] with 1 or 3 channels, or [{count}, s, s]"),
        };
        let mut tensors = Vec::new();
        tensors_of(output, &mut tensors);
        let index = self.config.output as usize;
        let Some(tensor) = tensors.get(index) else {
            return Err(refused(format!("{} tensors, of which output = {index} is none", tensors.len())));
        };
        let (channels, side) = match tensor.size()[..] {
            [n, channels @ (1 | 3), height, width] if n == count && height == width && (1..=MAX_SIDE).contains(&width) => (channels, width),
            [n, height, width] if n == count && height == width && (1..=MAX_SIDE).contains(&width) => (1, width),
            ref shape => return Err(refused(format!("{:?} of shape {shape:?}", tensor.kind()))),
        };
        let flat = tensor.f_to_device(Device::Cpu).and_then(|tensor| tensor.f_to_kind(Kind::Float)?.f_contiguous()?.f_reshape([-1]));
        let copied = |source| ModelError::Annotator { annotator: self.name.clone(), doing: "copy the values of", source };
        Ok((flat.and_then(Vec::<f32>::try_from).map_err(copied)?, channels as usize, side as usize))
    }

    /// Converts values, channel by channel, to a picture.
    fn picture(&self, values: &[f32], channels: usize, side: usize) -> Result<AnnotatedImage, NotFinite> {
        let wrong = values.iter().filter(|value| !value.is_finite()).count();
        if wrong > 0 {
            return Err(NotFinite { values: wrong, of: values.len() });
        }
        let [black, white] = match self.config.range {
            OutputRange::Fixed(range) => range,
            OutputRange::Own(OwnRange::Picture) => {
                let bounds = |[least, largest]: [f32; 2], value: &f32| [least.min(*value), largest.max(*value)];
                values.iter().fold([f32::INFINITY, f32::NEG_INFINITY], bounds).map(f64::from)
            }
        };
        let level = |value: f32| {
            let share = if white > black { ((f64::from(value) - black) / (white - black)).clamp(0.0, 1.0) } else { 0.0 };
            let share = if self.config.inverted { 1.0 - share } else { share };
            (share * 255.0).round() as u8
        };
        let (area, last) = (side * side, channels - 1);
        let pixel = |place: usize| [0, 1, 2].map(|channel: usize| level(values[channel.min(last) * area + place]));
        Ok(AnnotatedImage { side_px: side as u32, pixels: (0..area).flat_map(pixel).collect() })
    }
}

impl ImageAnnotator for TorchScriptAnnotator {
    fn spec(&self) -> &ImageAnnotatorSpec {
        &self.spec
    }

    fn annotate(&mut self, pixels: &[u8]) -> Result<Vec<Result<AnnotatedImage, NotFinite>>, DynError> {
        let bytes_per_image = self.spec.bytes_per_image();
        if !pixels.len().is_multiple_of(bytes_per_image) {
            return Err(ModelError::Pixels { bytes: pixels.len(), bytes_per_image }.into());
        }
        let _no_grad = tch::no_grad_guard();
        // The setting is per thread. Optimized graphs may round differently after the first call, and pictures must not depend on the
        // number of calls.
        tch::jit::f_set_graph_executor_optimize(false).map_err(ModelError::torch("set up TorchScript"))?;
        let mut pictures = Vec::with_capacity(pixels.len() / bytes_per_image);
        for batch in pixels.chunks(self.spec.numerics.batch_size as usize * bytes_per_image) {
            pictures.extend(self.annotate_batch(batch)?);
        }
        Ok(pictures)
    }
}
