//! Encoder in bf16 on an NVIDIA GPU.
//!
//! libtorch computes the convolutions. The steps between them (group normalisation, swish, biases, shortcuts, padding) are bound by memory.
//! libtorch's own kernels pass over memory several times, in another layout, and take longer than the convolutions; those of
//! `kernels.cu` pass once each, channels last.

mod encoder;
mod kernels;

pub(super) use encoder::CudaEncoder;

#[cfg(test)]
mod tests;
