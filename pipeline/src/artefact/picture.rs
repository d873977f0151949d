//! Pictures decoded from codes, and PNG encoding.

use std::collections::BTreeMap;
use std::io::Cursor;

use cm3flow_schemas::Grid;
use cm3flow_schemas::document::ImageCodes;
use cm3flow_stages::StageError;

use crate::artefact::Artefacts;
use crate::error::{PipelineError, Result};

/// A picture decoded from its codes.
pub(crate) struct Decoded {
    /// RGB, row-major, interleaved.
    pub(crate) pixels: Vec<u8>,
    /// Width in pixels.
    pub(crate) width: u32,
    /// Height in pixels.
    pub(crate) height: u32,
}

/// Decodes images from their codes, all of one shape in one call; to grey without a decoder. Keeps order.
///
/// # Errors
/// Those of the image tokenizer.
pub(crate) async fn decode(artefacts: &Artefacts, images: Vec<ImageCodes>) -> Result<Vec<Decoded>> {
    let spec = &artefacts.image_spec;
    let mut by_grid: BTreeMap<Grid, (Vec<usize>, Vec<u32>)> = BTreeMap::new();
    for (index, image) in images.iter().enumerate() {
        let (indices, codes) = by_grid.entry(image.grid.unwrap_or(spec.square())).or_default();
        indices.push(index);
        codes.extend(&image.codes);
    }
    let mut decoded = Vec::with_capacity(images.len());
    for (grid, (indices, codes)) in by_grid {
        let pixels = if artefacts.image_decodes {
            let decoded = artefacts.image.call(move |tokenizer| tokenizer.decode_grid(&codes, grid)).await?;
            decoded.map_err(|source| StageError::Model { stage: "decode", component: "image tokenizer", source })?
        } else {
            vec![127; indices.len() * spec.bytes_of(grid)]
        };
        let (width, height) = spec.size_px(grid);
        let pictures = pixels.chunks_exact(spec.bytes_of(grid)).map(|pixels| Decoded { pixels: pixels.to_vec(), width, height });
        decoded.extend(indices.into_iter().zip(pictures));
    }
    decoded.sort_unstable_by_key(|(index, _)| *index);
    Ok(decoded.into_iter().map(|(_, picture)| picture).collect())
}

/// Encodes an RGB image as PNG.
///
/// # Errors
/// [`PipelineError::Picture`] if `pixels` does not hold `width * height * 3` bytes.
pub(crate) fn png(pixels: &[u8], width: u32, height: u32) -> Result<Vec<u8>> {
    let mut bytes = Cursor::new(Vec::new());
    let written =
        image::write_buffer_with_format(&mut bytes, pixels, width, height, image::ExtendedColorType::Rgb8, image::ImageFormat::Png);
    written.map_err(PipelineError::Picture)?;
    Ok(bytes.into_inner())
}
