//! How well image tokenizers bring back photos that they were not fitted on.

use cm3flow_schemas::traits::ImageTokenizer;
use cm3flow_stages::StageError;
use cm3flow_stages::eval::{CodeUsage, psnr, ssim};
use serde::{Deserialize, Serialize};

use crate::error::Result;

/// Photos in the picture of reconstructions.
const GRID_PHOTOS: usize = 8;

/// How well a tokenizer brings photos back.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Quality {
    /// Name of the tokenizer.
    pub tokenizer: String,
    /// Photos that it was measured on.
    pub photos: usize,
    /// Mean peak signal-to-noise ratio of a photo, in dB.
    pub psnr_db: f64,
    /// Mean structural similarity of a photo, -1 to 1; none for photos smaller than its window.
    pub ssim: Option<f64>,
    /// Codes that occur.
    pub codes_used: usize,
    /// Codes of the codebook.
    pub codebook_size: u32,
    /// Number of equally frequent codes that would be as hard to predict.
    pub perplexity: f64,
    /// Codes of a photo.
    pub tokens_per_photo: usize,
}

/// What a tokenizer made of photos.
pub(crate) struct Measured {
    pub(crate) quality: Quality,
    /// The first photos brought back, pixels of each.
    pub(crate) decoded: Vec<Vec<u8>>,
}

/// Measures `tokenizer` on `photos`, fitted squares one after the other, one or more.
pub(crate) fn measure(tokenizer: &mut dyn ImageTokenizer, photos: &[u8]) -> Result<Measured> {
    let failed = |source| StageError::Model { stage: "fit", component: "image tokenizer", source };
    let spec = tokenizer.spec().clone();
    let codes = tokenizer.encode(photos).map_err(failed)?;
    let pixels = tokenizer.decode(&codes).map_err(failed)?;
    let mut counts = vec![0; spec.codebook_size as usize];
    codes.iter().for_each(|&code| counts[code as usize] += 1);
    let usage = CodeUsage::of(counts);
    let pairs: Vec<_> = pixels.chunks_exact(spec.bytes_per_image()).zip(photos.chunks_exact(spec.bytes_per_image())).collect();
    let mean = |values: Vec<f64>| values.iter().sum::<f64>() / values.len() as f64;
    let similarities: Option<Vec<f64>> = pairs.iter().map(|(photo, reference)| ssim(photo, reference, spec.side_px as usize)).collect();
    let quality = Quality {
        tokenizer: spec.name.clone(),
        photos: pairs.len(),
        psnr_db: mean(pairs.iter().map(|(photo, reference)| psnr(photo, reference)).collect()),
        ssim: similarities.map(mean),
        codes_used: usage.used,
        codebook_size: spec.codebook_size,
        perplexity: usage.perplexity,
        tokens_per_photo: spec.codes_per_image(),
    };
    Ok(Measured { quality, decoded: pairs.iter().take(GRID_PHOTOS).map(|(photo, _)| photo.to_vec()).collect() })
}

/// Photos under each other's reconstructions: one row for each of `rows`, all of `side_px` squares; pixels and size of the whole.
pub(crate) fn grid(rows: &[Vec<&[u8]>], side_px: u32) -> (Vec<u8>, u32, u32) {
    let side = side_px as usize;
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let mut out = Vec::with_capacity(rows.len() * columns * side * side * 3);
    for row in rows {
        for line in 0..side {
            row.iter().for_each(|photo| out.extend(&photo[line * side * 3..(line + 1) * side * 3]));
        }
    }
    (out, (columns * side) as u32, (rows.len() * side) as u32)
}
