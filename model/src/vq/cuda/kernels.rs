//! Kernels of `kernels.cu`: their compilation and launch.
//!
//! NVRTC, which comes with PyTorch, compiles them for the machine's driver. They run on libtorch's stream, the default one, and thus in
//! order with its own kernels. Memory that libtorch frees meanwhile is reused only in that order.
//!
//! Tensors here are `[n, h, w, channels]`, bf16, dense, on the device; `channels` is a multiple of 8.

use std::sync::Arc;

use cudarc::driver::{CudaContext, CudaFunction, CudaStream, DriverError, LaunchConfig, PushKernelArg};
use cudarc::nvrtc::{self, CompileError};
use tch::{Kind, TchError, Tensor};

use crate::device;
use crate::error::ModelError;
use crate::vq::blocks::Norm;

const SOURCE: &str = include_str!("kernels.cu");
/// Number of channels of a thread.
const CHANNELS_PER_LANE: i64 = 8;
/// Shared memory in bytes that a thread needs to add its moments to those of others.
const SHARED_BYTES_PER_THREAD: i64 = CHANNELS_PER_LANE * 8;
/// Approximate number of threads in a block.
const THREADS: i64 = 256;
/// Number of threads in a block that settles a group; `kernels.cu` has room for so many.
const SETTLING_THREADS: i64 = 128;
/// Number of spans of a large picture.
const SPANS: i64 = 256;
/// Smallest number of pixels in a span.
const PIXELS_PER_SPAN: i64 = 64;

/// Kernels loaded on the device.
#[derive(Debug)]
pub(super) struct Kernels {
    stream: Arc<CudaStream>,
    value: CudaFunction,
    sum: CudaFunction,
    add: CudaFunction,
    settle: CudaFunction,
    normalize: CudaFunction,
}

/// A tensor with the moments of its channels.
#[derive(Debug)]
pub(super) struct Summed {
    pub(super) x: Tensor,
    /// Sum and sum of squares: `[n, spans, channels, 2]` f32.
    sums: Tensor,
}

impl Kernels {
    /// Checks whether the kernels support that many channels.
    pub(super) const fn fit(channels: i64) -> bool {
        channels % CHANNELS_PER_LANE == 0 && channels <= THREADS * CHANNELS_PER_LANE
    }

    /// Compiles and loads the kernels for the first CUDA device.
    pub(super) fn try_new() -> Result<Self, ModelError> {
        device::open_compiler()?;
        // SAFETY: it loads the library that was just loaded, under one of its names, and releases it.
        if !unsafe { nvrtc::sys::is_culib_present() } {
            return Err(ModelError::Kernels { reason: "NVRTC was loaded but is not found under its name".into() });
        }
        let program = nvrtc::compile_ptx(SOURCE).map_err(|error| ModelError::Kernels { reason: reason(error) })?;
        Self::load(program).map_err(|error| ModelError::Kernels { reason: error.to_string() })
    }

    fn load(program: nvrtc::Ptx) -> Result<Self, DriverError> {
        let context = CudaContext::new(0)?;
        let module = context.load_module(program)?;
        let function = |name| module.load_function(name);
        let (value, sum, add, settle) = (function("value")?, function("sum")?, function("add")?, function("settle")?);
        Ok(Self { stream: context.default_stream(), value, sum, add, settle, normalize: function("normalize")? })
    }

    /// Looks up the values of levels. In: u8, `table`: `[256]` bf16. Out: the shape of `levels`.
    pub(super) fn values(&self, levels: &Tensor, table: &Tensor) -> Result<Tensor, TchError> {
        let out = Tensor::f_empty(levels.size(), (Kind::BFloat16, levels.device()))?;
        let (n, count) = (levels.size()[0], levels.numel() as i64 / levels.size()[0].max(1));
        let grid = LaunchConfig { grid_dim: (word(SPANS), word(n), 1), block_dim: (word(THREADS), 1, 1), shared_mem_bytes: 0 };
        self.launch(&self.value, grid, &[Some(levels), Some(table), Some(&out)], &[count])?;
        Ok(out)
    }

    /// Computes the moments of `x`.
    pub(super) fn summed(&self, x: Tensor) -> Result<Summed, TchError> {
        let spans = Spans::of(&x)?;
        let sums = spans.sums(&x)?;
        self.launch(&self.sum, spans.config(true), &[Some(&x), Some(&sums)], &spans.sizes())?;
        Ok(Summed { x, sums })
    }

    /// Computes `x + bias + shortcut`, in the memory of `x`, with the moments. `bias`: `[channels]` f32.
    pub(super) fn added(&self, x: Tensor, bias: &Tensor, shortcut: Option<&Tensor>) -> Result<Summed, TchError> {
        let spans = Spans::of(&x)?;
        let sums = spans.sums(&x)?;
        check_shortcut(&x, shortcut)?;
        let [pixels, lanes, per_span] = spans.sizes();
        let tensors = [Some(&x), Some(bias), shortcut, Some(&x), Some(&sums)];
        self.launch(&self.add, spans.config(true), &tensors, &[pixels, lanes, per_span, x.size()[2], 0])?;
        Ok(Summed { x, sums })
    }

    /// Computes as [`Self::added`], without moments, and with a column and a row of zeros at the far edges. Out:
    /// `[n, h + 1, w + 1, channels]`.
    pub(super) fn added_padded(&self, x: &Tensor, bias: &Tensor, shortcut: Option<&Tensor>) -> Result<Tensor, TchError> {
        let (n, h, w, channels) = x.size4()?;
        let out = Tensor::f_empty([n, h + 1, w + 1, channels], (x.kind(), x.device()))?;
        for (edge, length) in [(1, h), (2, w)] {
            let _ = out.f_narrow(edge, length, 1)?.f_zero_()?;
        }
        let spans = Spans::of(x)?;
        check_shortcut(x, shortcut)?;
        let [pixels, lanes, per_span] = spans.sizes();
        let tensors = [Some(x), Some(bias), shortcut, Some(&out), None];
        self.launch(&self.add, spans.config(false), &tensors, &[pixels, lanes, per_span, w, 1])?;
        Ok(out)
    }

    /// Normalises `x + bias` by groups, and applies swish if requested; the moments are those of `x`. `bias` and the parameters of `by`:
    /// `[channels]` f32.
    pub(super) fn normalized(&self, of: &Summed, bias: Option<&Tensor>, by: &Norm, swish: bool) -> Result<Tensor, TchError> {
        let Summed { x, sums } = of;
        let (n, _, _, channels) = x.size4()?;
        let scales = Tensor::f_empty([n, channels, 2], (Kind::Float, x.device()))?;
        let out = Tensor::f_empty(x.size(), (x.kind(), x.device()))?;
        let spans = Spans::of(x)?;
        let [pixels, lanes, per_span] = spans.sizes();
        let groups =
            LaunchConfig { grid_dim: (word(by.groups), word(n), 1), block_dim: (word(SETTLING_THREADS), 1, 1), shared_mem_bytes: 0 };
        let tensors = [Some(sums), bias, Some(&by.weight), Some(&by.bias), Some(&scales)];
        self.launch(&self.settle, groups, &tensors, &[pixels, channels, spans.count])?;
        self.launch(
            &self.normalize,
            spans.config(false),
            &[Some(x), Some(&scales), Some(&out)],
            &[pixels, lanes, per_span, i64::from(swish)],
        )?;
        Ok(out)
    }

    /// Launches `kernel` with the addresses of `tensors`, null for `None`, then `numbers`, in the order of its signature in `kernels.cu`.
    fn launch(&self, kernel: &CudaFunction, config: LaunchConfig, tensors: &[Option<&Tensor>], numbers: &[i64]) -> Result<(), TchError> {
        if let Some(tensor) = tensors.iter().flatten().find(|tensor| !tensor.device().is_cuda() || !tensor.is_contiguous()) {
            return Err(TchError::Shape(format!("the encoder's kernels take dense tensors on the GPU, got {tensor:?}")));
        }
        let addresses: Vec<u64> = tensors.iter().map(|tensor| tensor.map_or(0, |tensor| tensor.data_ptr() as u64)).collect();
        let numbers: Vec<i32> = numbers.iter().map(|number| i32::try_from(*number).expect("a picture has less than 2^31 values")).collect();
        let mut launch = self.stream.launch_builder(kernel);
        for address in &addresses {
            launch.arg(address);
        }
        for number in &numbers {
            launch.arg(number);
        }
        // SAFETY: the tensors are dense and on this device. The functions above pass the tensors of each kernel's signature, with their
        // sizes. libtorch reuses the memory of a dropped tensor only in the order of this stream.
        unsafe { launch.launch(config) }
            .map(drop)
            .map_err(|error| TchError::Torch(format!("a kernel of the encoder could not start: {error}")))
    }
}

fn check_shortcut(x: &Tensor, shortcut: Option<&Tensor>) -> Result<(), TchError> {
    match shortcut.filter(|shortcut| shortcut.size() != x.size() || shortcut.kind() != x.kind()) {
        Some(other) => Err(TchError::Shape(format!("a shortcut of {other:?} beside {x:?}"))),
        None => Ok(()),
    }
}

/// Partition of a tensor's pixels. It depends on the size of a picture, never on the number of pictures.
struct Spans {
    n: i64,
    pixels: i64,
    lanes: i64,
    per_span: i64,
    count: i64,
}

impl Spans {
    fn of(x: &Tensor) -> Result<Self, TchError> {
        let (n, h, w, channels) = x.size4()?;
        if x.kind() != Kind::BFloat16 || !Kernels::fit(channels) {
            return Err(TchError::Shape(format!("the encoder's kernels take bf16 and a multiple of 8 channels, got {x:?}")));
        }
        let pixels = h * w;
        let per_span = (pixels + SPANS - 1) / SPANS;
        let per_span = per_span.max(PIXELS_PER_SPAN);
        Ok(Self { n, pixels, lanes: channels / CHANNELS_PER_LANE, per_span, count: (pixels + per_span - 1) / per_span })
    }

    /// Allocates room for moments.
    fn sums(&self, x: &Tensor) -> Result<Tensor, TchError> {
        Tensor::f_empty([self.n, self.count, self.lanes * CHANNELS_PER_LANE, 2], (Kind::Float, x.device()))
    }

    /// Returns a configuration with a block for each span; `moments` are added up in shared memory.
    fn config(&self, moments: bool) -> LaunchConfig {
        let threads = THREADS / self.lanes * self.lanes;
        let shared_mem_bytes = if moments { word(threads * SHARED_BYTES_PER_THREAD) } else { 0 };
        LaunchConfig { grid_dim: (word(self.count), word(self.n), 1), block_dim: (word(threads), 1, 1), shared_mem_bytes }
    }

    const fn sizes(&self) -> [i64; 3] {
        [self.pixels, self.lanes, self.per_span]
    }
}

fn word(number: i64) -> u32 {
    u32::try_from(number).expect("counts of blocks and threads are small")
}

/// Returns the message of the compiler, without its input.
fn reason(error: CompileError) -> String {
    match error {
        CompileError::CompileError { log, .. } => log.to_string_lossy().trim().to_owned(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn widths_that_kernels_cannot_work_on_are_left_to_libtorch() {
        assert!(Kernels::fit(8) && Kernels::fit(2048));
        assert!(!Kernels::fit(12) && !Kernels::fit(4096));
    }
}
