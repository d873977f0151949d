//! Errors of pixels and codes that are given to a model.

use thiserror::Error;

use crate::grid::Grid;

/// Pixels or codes that a model does not take as images.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ImageInputError {
    /// Images of a grid that the model lacks.
    #[error("{model} takes {takes}, no image of {grid} codes")]
    Grid {
        /// Name of the model.
        model: String,
        /// Images that it takes.
        takes: &'static str,
        /// Grid asked for.
        grid: Grid,
    },
    /// Pixels that are no whole number of images.
    #[error("{bytes} bytes of pixels are no whole number of images of {bytes_per_image} bytes")]
    Pixels {
        /// Bytes given.
        bytes: usize,
        /// Bytes of one image.
        bytes_per_image: usize,
    },
    /// Codes that are no whole number of images.
    #[error("{codes} codes are no whole number of images of {codes_per_image} codes")]
    Codes {
        /// Codes given.
        codes: usize,
        /// Codes of one image.
        codes_per_image: usize,
    },
    /// A code that the codebook does not have.
    #[error("code {code} at {position} is out of range 0..{codebook_size}")]
    CodeOutOfRange {
        /// Index of the code.
        position: usize,
        /// The code.
        code: u32,
        /// Number of codes.
        codebook_size: u32,
    },
}
