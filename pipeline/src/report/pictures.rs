//! Pictures as data URLs.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use cm3flow_stages::StageError;
use image::ExtendedColorType;
use image::codecs::jpeg::JpegEncoder;

use crate::artefact::Artefacts;
use crate::error::{PipelineError, Result};

/// Quality of the embedded photos, 1 to 100.
const JPEG_QUALITY: u8 = 88;

/// A square RGB image as a data URL.
pub(super) fn photo(pixels: &[u8], side_px: u32) -> Result<String> {
    let mut bytes = Vec::new();
    let encoder = JpegEncoder::new_with_quality(&mut bytes, JPEG_QUALITY);
    let written = image::ImageEncoder::write_image(encoder, pixels, side_px, side_px, ExtendedColorType::Rgb8);
    written.map_err(|error| PipelineError::Report(error.into()))?;
    Ok(format!("data:image/jpeg;base64,{}", STANDARD.encode(bytes)))
}

/// The bytes of a PNG file as a data URL.
pub(super) fn png(bytes: &[u8]) -> String {
    format!("data:image/png;base64,{}", STANDARD.encode(bytes))
}

/// Decodes images from their codes, to grey squares without a decoder; pixels of each as in
/// [`cm3flow_schemas::traits::ImageTokenizer::decode`].
pub(super) async fn decode(artefacts: &Artefacts, images: Vec<Vec<u32>>) -> Result<Vec<Vec<u8>>> {
    if images.is_empty() {
        return Ok(Vec::new());
    }
    let codes = images.concat();
    let pixels = match artefacts.grey(codes.len()) {
        Some(grey) => grey,
        None => {
            let decoded = artefacts.image.call(move |tokenizer| tokenizer.decode(&codes)).await?;
            decoded.map_err(|source| StageError::Model { stage: "report", component: "image tokenizer", source })?
        }
    };
    Ok(pixels.chunks_exact(artefacts.image_spec.bytes_per_image()).map(<[u8]>::to_vec).collect())
}
