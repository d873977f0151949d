//! Quality of image tokenizers: how close photos that they were not fitted on are to their reconstructions.

use cm3flow_schemas::traits::ImageTokenizer;
use cm3flow_stages::StageError;
use cm3flow_stages::eval::{CodeUsage, psnr, ssim};
use serde::{Deserialize, Serialize};

use crate::error::Result;

/// Photos in the picture of reconstructions.
const GRID_PHOTOS: usize = 8;

/// Reconstruction quality and codebook usage of a tokenizer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Quality {
    /// Name of the tokenizer.
    pub tokenizer: String,
    /// Number of measured photos.
    pub photos: usize,
    /// Peak signal-to-noise ratio in dB, mean over photos.
    pub psnr_db: f64,
    /// Structural similarity in -1..=1, mean over photos; none for photos smaller than its window.
    pub ssim: Option<f64>,
    /// Number of different codes that occur.
    pub codes_used: usize,
    /// Number of codes in the codebook.
    pub codebook_size: u32,
    /// Number of equally frequent codes with the same entropy as the counted ones.
    pub perplexity: f64,
    /// Number of codes that encode one photo.
    pub tokens_per_photo: usize,
}

/// Quality of a tokenizer, with examples of its reconstructions.
pub(crate) struct Measured {
    pub(crate) quality: Quality,
    /// Reconstructions of the first photos, one buffer of RGB pixels each.
    pub(crate) decoded: Vec<Vec<u8>>,
}

/// Measures `tokenizer` on `photos`: at least one fitted square, one after the other.
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

/// Draws `rows` of square RGB photos of `side_px` one below the other; returns pixels, width and height of the whole.
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
