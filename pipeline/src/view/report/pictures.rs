//! Pictures as data URLs.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use image::ExtendedColorType;
use image::codecs::jpeg::JpegEncoder;

use crate::error::{PipelineError, Result};

/// Quality of the embedded photos, 1 to 100.
const JPEG_QUALITY: u8 = 88;

/// Encodes an RGB image as a data URL.
pub(super) fn photo(pixels: &[u8], width: u32, height: u32) -> Result<String> {
    let mut bytes = Vec::new();
    let encoder = JpegEncoder::new_with_quality(&mut bytes, JPEG_QUALITY);
    let written = image::ImageEncoder::write_image(encoder, pixels, width, height, ExtendedColorType::Rgb8);
    written.map_err(|error| PipelineError::Report(error.into()))?;
    Ok(format!("data:image/jpeg;base64,{}", STANDARD.encode(bytes)))
}

/// Encodes the bytes of a PNG file as a data URL.
pub(super) fn png(bytes: &[u8]) -> String {
    format!("data:image/png;base64,{}", STANDARD.encode(bytes))
}
