//! Runs an image tokenizer on given pixels and codes, and writes the results, for comparison with other implementations.
//!
//! `vq_values JOB OUT`: `JOB` is JSON (see [`Job`]). `OUT` becomes a safetensors file with `codes` (i32, of the pixels) and `seconds` (f64,
//! of each encoding except the first). If the job has codes, it also has `decoded` (f32, `[n, 3, side, side]`).

use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use cm3flow_model::device::{self, DeviceChoice};
use cm3flow_model::vq::{Precision, TorchScriptConfig, TorchScriptTokenizer, VqConfig, VqTokenizer};
use cm3flow_schemas::traits::ImageTokenizer;
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use serde::Deserialize;

/// Model, inputs and settings of a run.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Job {
    /// Sizes of a network with `weights`; or else `modules`.
    network: Option<VqConfig>,
    /// File of the network's weights.
    weights: Option<PathBuf>,
    /// Interface of a pair of TorchScript modules, with the files of encoder and decoder.
    modules: Option<(TorchScriptConfig, PathBuf, PathBuf)>,
    /// Safetensors file with `pixels` (u8, `[n, side, side, 3]`) and optionally `codes` (i32, `[n, grid, grid]`).
    inputs: PathBuf,
    /// Number of images that are computed together.
    batch_size: u32,
    /// Number of threads of one operation.
    threads: u32,
    /// Device: `auto`, `cpu` or `cuda`. Default `cpu`.
    #[serde(default = "cpu")]
    device: DeviceChoice,
    /// Precision of a network. Default `float32`.
    #[serde(default)]
    precision: Precision,
    /// Number of timed encodings of the pixels; 0 encodes them once, without time.
    #[serde(default)]
    timed: u32,
}

const fn cpu() -> DeviceChoice {
    DeviceChoice::Cpu
}

enum Tokenizer {
    Network(Box<VqTokenizer>),
    Modules(Box<TorchScriptTokenizer>),
}

impl Tokenizer {
    fn load(job: &Job) -> Result<Self> {
        let read = |path: &PathBuf| std::fs::read(path).with_context(|| format!("cannot read {}", path.display()));
        match (&job.network, &job.weights, &job.modules) {
            (Some(network), Some(weights), None) => {
                let tokenizer = VqTokenizer::try_new(network, &read(weights)?, job.batch_size, job.device)?;
                Ok(Self::Network(Box::new(tokenizer.with_precision(job.precision)?)))
            }
            (None, None, Some((config, encoder, decoder))) => {
                let (encoder, decoder) = (read(encoder)?, read(decoder)?);
                Ok(Self::Modules(Box::new(TorchScriptTokenizer::try_new(config, &encoder, &decoder, job.batch_size, job.device)?)))
            }
            _ => bail!("a job has either network and weights, or modules"),
        }
    }

    fn encode(&mut self, pixels: &[u8]) -> Result<Vec<u32>> {
        let codes = match self {
            Self::Network(tokenizer) => tokenizer.encode(pixels),
            Self::Modules(tokenizer) => tokenizer.encode(pixels),
        };
        codes.map_err(|error| anyhow::anyhow!(error))
    }

    fn decode_values(&mut self, codes: &[u32]) -> Result<Vec<f32>> {
        Ok(match self {
            Self::Network(tokenizer) => tokenizer.decode_values(codes)?,
            Self::Modules(tokenizer) => tokenizer.decode_values(codes)?,
        })
    }
}

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let (Some(job), Some(out), None) = (arguments.next(), arguments.next(), arguments.next()) else { bail!("usage: vq_values JOB OUT") };
    let job: Job = serde_json::from_slice(&std::fs::read(&job).with_context(|| format!("cannot read {job}"))?)?;
    device::set_threads(job.threads);
    let inputs = std::fs::read(&job.inputs).with_context(|| format!("cannot read {}", job.inputs.display()))?;
    let inputs = SafeTensors::deserialize(&inputs)?;
    let mut tokenizer = Tokenizer::load(&job)?;

    let pixels = inputs.tensor("pixels")?;
    ensure!(pixels.dtype() == Dtype::U8, "pixels are {:?}, expected U8", pixels.dtype());
    let codes = tokenizer.encode(pixels.data())?;
    let mut seconds = Vec::new();
    for _ in 0..job.timed {
        let began = Instant::now();
        tokenizer.encode(pixels.data())?;
        seconds.extend(began.elapsed().as_secs_f64().to_le_bytes());
    }
    let codes: Vec<u8> = codes.iter().flat_map(|code| code.to_le_bytes()).collect();
    let mut outputs = vec![("codes", Dtype::I32, vec![codes.len() / 4], codes), ("seconds", Dtype::F64, vec![job.timed as usize], seconds)];
    if let Ok(given) = inputs.tensor("codes") {
        ensure!(given.dtype() == Dtype::I32, "codes are {:?}, expected I32", given.dtype());
        let given: Vec<u32> = given.data().as_chunks::<4>().0.iter().map(|code| u32::from_le_bytes(*code)).collect();
        let decoded = tokenizer.decode_values(&given)?;
        let [n, height, width, 3] = pixels.shape()[..] else { bail!("pixels have shape {:?}", pixels.shape()) };
        let bytes = decoded.iter().flat_map(|value| value.to_le_bytes()).collect();
        outputs.push(("decoded", Dtype::F32, vec![n, 3, height, width], bytes));
    }
    let views: Result<Vec<_>, _> =
        outputs.iter().map(|(name, dtype, shape, bytes)| Ok((*name, TensorView::new(*dtype, shape.clone(), bytes)?))).collect();
    safetensors::serialize_to_file(views.map_err(|error: safetensors::SafeTensorError| error)?, None, out.as_ref())?;
    Ok(())
}
