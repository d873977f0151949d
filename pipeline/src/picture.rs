//! Pictures from codes, and as PNG files.

use std::io::Cursor;

use cm3flow_stages::StageError;

use crate::artefact::Artefacts;
use crate::error::{PipelineError, Result};

/// Decodes images from their codes, to grey squares without a decoder, each `codes_per_image` long; pixels of each as in
/// [`cm3flow_schemas::traits::ImageTokenizer::decode`].
///
/// # Errors
/// What the image tokenizer says.
pub(crate) async fn decode(artefacts: &Artefacts, images: Vec<Vec<u32>>) -> Result<Vec<Vec<u8>>> {
    if images.is_empty() {
        return Ok(Vec::new());
    }
    let codes = images.concat();
    let pixels = match artefacts.grey(codes.len()) {
        Some(grey) => grey,
        None => {
            let decoded = artefacts.image.call(move |tokenizer| tokenizer.decode(&codes)).await?;
            decoded.map_err(|source| StageError::Model { stage: "decode", component: "image tokenizer", source })?
        }
    };
    Ok(pixels.chunks_exact(artefacts.image_spec.bytes_per_image()).map(<[u8]>::to_vec).collect())
}

/// An RGB image as PNG.
///
/// # Errors
/// [`PipelineError::Picture`] if `pixels` are not `width * height * 3`.
pub(crate) fn png(pixels: &[u8], width: u32, height: u32) -> Result<Vec<u8>> {
    let mut bytes = Cursor::new(Vec::new());
    let written =
        image::write_buffer_with_format(&mut bytes, pixels, width, height, image::ExtendedColorType::Rgb8, image::ImageFormat::Png);
    written.map_err(PipelineError::Picture)?;
    Ok(bytes.into_inner())
}
