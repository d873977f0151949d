//! The encoder in bf16 on an NVIDIA GPU.
//!
//! libtorch computes the convolutions. What lies between them (group normalisation, swish, biases, shortcuts, padding) is bound by memory, and
//! its own kernels pass over memory several times, in another layout. Those of `kernels.cu` pass once each, channels last.

mod encoder;
mod kernels;

pub(super) use encoder::CudaEncoder;

#[cfg(test)]
mod tests;
