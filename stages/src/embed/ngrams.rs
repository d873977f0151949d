//! Embedder without weights: hashed character n-grams for text, codes and colours for images.
//!
//! Texts are similar when they share letters, images when they share codes and colours. Text and image have separate coordinates, so the
//! inner product of two pairs is the mean of both similarities.
//!
//! An image with given codes has no pixels. If the tokenizer exposes its codebook, the vectors of the codes alone are compared. Otherwise
//! signed counts of the hashed codes take the place of the colours. They are not comparable with colours, so a dataset of such a tokenizer
//! should not mix images with and without pixels where retrieval matters.

use std::ops::RangeInclusive;

use cm3flow_schemas::limits::{problem, within};
use cm3flow_schemas::traits::{ImageView, PairEmbedder};
use cm3flow_schemas::{Digest, DynError, canonical};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::error::{Result, StageError};

/// Number of cells of the colour layout along one side.
const LAYOUT_CELLS: usize = 4;

const TEXT_BUCKETS: RangeInclusive<u32> = 16..=65_536;
const NGRAM: RangeInclusive<u32> = 1..=8;

/// `[embed]`: the embedder that retrieval compares samples by. Texts are alike when they share letters, images when they share codes and
/// colours.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct EmbedConfig {
    /// Number of buckets that character n-grams are hashed into: the length of a text's embedding.
    #[schemars(transform = within(TEXT_BUCKETS))]
    pub text_buckets: u32,
    /// Shortest n-gram in characters, at most `max_ngram`.
    #[schemars(transform = within(NGRAM))]
    pub min_ngram: u32,
    /// Longest n-gram in characters.
    #[schemars(transform = within(NGRAM))]
    pub max_ngram: u32,
}

impl Default for EmbedConfig {
    fn default() -> Self {
        Self { text_buckets: 256, min_ngram: 3, max_ngram: 5 }
    }
}

impl EmbedConfig {
    /// Returns the problems of the fields, each with the field's path.
    #[must_use]
    pub fn problems(&self) -> Vec<String> {
        let Self { text_buckets, min_ngram, max_ngram } = *self;
        let order =
            (min_ngram > max_ngram).then(|| format!("embed.min_ngram must not exceed embed.max_ngram, got {min_ngram} and {max_ngram}"));
        let limits = [
            problem("embed.text_buckets", text_buckets, &TEXT_BUCKETS),
            problem("embed.min_ngram", min_ngram, &NGRAM),
            problem("embed.max_ngram", max_ngram, &NGRAM),
        ];
        limits.into_iter().flatten().chain(order).collect()
    }

    /// Returns the buckets of the n-grams of `text`, with repetitions. A space pads the text on both sides.
    fn buckets(&self, text: &str) -> Vec<usize> {
        let chars: Vec<char> = std::iter::once(' ').chain(text.to_lowercase().chars()).chain(std::iter::once(' ')).collect();
        let mut buckets = Vec::new();
        for length in self.min_ngram as usize..=self.max_ngram as usize {
            for ngram in chars.windows(length) {
                let spelled: String = ngram.iter().collect();
                let hash = blake3::hash(spelled.as_bytes());
                let number = u32::from_le_bytes([hash.as_bytes()[0], hash.as_bytes()[1], hash.as_bytes()[2], hash.as_bytes()[3]]);
                buckets.push(number as usize % self.text_buckets as usize);
            }
        }
        buckets
    }
}

/// Inverse document frequencies of the buckets, fitted on captions.
///
/// # Source
/// Smoothed: `ln((1 + n) / (1 + df)) + 1`, as in scikit-learn's `TfidfTransformer`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IdfTable {
    config: EmbedConfig,
    idf: Vec<f32>,
}

impl IdfTable {
    /// Fits the table on the buckets of `texts`.
    #[must_use]
    pub fn fit<'a>(config: &EmbedConfig, texts: impl IntoIterator<Item = &'a str>) -> Self {
        let mut frequency = vec![0_u32; config.text_buckets as usize];
        let mut count = 0_u32;
        for text in texts {
            let mut buckets = config.buckets(text);
            buckets.sort_unstable();
            buckets.dedup();
            buckets.into_iter().for_each(|bucket| frequency[bucket] += 1);
            count += 1;
        }
        let idf = frequency.iter().map(|&df| ((f64::from(1 + count) / f64::from(1 + df)).ln() + 1.0) as f32).collect();
        Self { config: config.clone(), idf }
    }

    /// Returns the table as JSON.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("a table of numbers serializes to JSON")
    }

    /// Parses the bytes of [`Self::to_bytes`].
    ///
    /// # Errors
    /// [`StageError::Artefact`] for other bytes.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self> {
        let refused = |problem: String| StageError::Artefact { what: "idf table", problem };
        let table: Self = serde_json::from_slice(bytes).map_err(|error| refused(error.to_string()))?;
        if table.idf.len() != table.config.text_buckets as usize {
            return Err(refused(format!("{} values for {} buckets", table.idf.len(), table.config.text_buckets)));
        }
        Ok(table)
    }
}

/// Embedder by hashed character n-grams with fitted weights, mean codebook vector and colour layout.
#[derive(Debug, Clone)]
pub struct NgramColourEmbedder {
    table: IdfTable,
    codebook: Vec<f32>,
    codebook_dim: usize,
    codebook_mean: Vec<f32>,
    side_px: usize,
    digest: Digest,
}

impl NgramColourEmbedder {
    /// Builds an embedder with a fitted table and the codebook of the image tokenizer: `codebook_dim` floats a code, for squares of
    /// `side_px`. Without a codebook, images have only their colour layout, or hashed codes if they have no pixels.
    #[must_use]
    pub fn new(table: IdfTable, codebook: &[f32], codebook_dim: usize, side_px: usize) -> Self {
        let codebook_dim = if codebook.is_empty() { 0 } else { codebook_dim };
        let mut mean = vec![0.0; codebook_dim];
        let codes = (codebook.len() / codebook_dim.max(1)).max(1) as f32;
        for vector in codebook.chunks_exact(codebook_dim.max(1)) {
            mean.iter_mut().zip(vector).for_each(|(sum, value)| *sum += value / codes);
        }
        let bits: Vec<u32> = codebook.iter().map(|value| value.to_bits()).collect();
        let digest = canonical::digest_of("n-gram and colour embedder", &(&table, bits, codebook_dim, side_px));
        Self { table, codebook: codebook.to_vec(), codebook_dim, codebook_mean: mean, side_px, digest }
    }

    fn text_dim(&self) -> usize {
        self.table.idf.len()
    }

    fn embed_text(&self, text: &str, out: &mut [f32]) {
        if text.trim().is_empty() {
            return;
        }
        for bucket in self.table.config.buckets(text) {
            out[bucket] += 1.0;
        }
        for (value, idf) in out.iter_mut().zip(&self.table.idf).filter(|(value, _)| **value > 0.0) {
            *value = (1.0 + value.ln()) * idf;
        }
        normalize(out);
    }

    fn embed_image(&self, image: &ImageView<'_>, out: &mut [f32]) {
        let (codes, layout) = out.split_at_mut(self.codebook_dim);
        for &code in image.codes.iter().filter(|_| self.codebook_dim > 0) {
            let vector = &self.codebook[code as usize * self.codebook_dim..][..self.codebook_dim];
            codes.iter_mut().zip(vector).zip(&self.codebook_mean).for_each(|((sum, value), mean)| *sum += value - mean);
        }
        normalize(codes);
        // Cells are measured from mid-grey; otherwise all daylight photos would look alike.
        let square = (self.side_px as u32, self.side_px as u32);
        let (width, height) = image.grid.map_or(square, |grid| grid.size_px(image.pixels.len() / 3));
        let (width, height) = (width.max(1) as usize, height as usize);
        let (cell_width, cell_height) = ((width / LAYOUT_CELLS).max(1), (height / LAYOUT_CELLS).max(1));
        for (y, line) in image.pixels.chunks(width * 3).enumerate() {
            let row = (y / cell_height).min(LAYOUT_CELLS - 1);
            let cells = layout[row * LAYOUT_CELLS * 3..][..LAYOUT_CELLS * 3].chunks_exact_mut(3);
            // The last cell takes the rest of the width.
            let ends = (1..LAYOUT_CELLS).map(|column| column * cell_width * 3).chain([usize::MAX]);
            let mut begin = 0;
            for (cell, end) in cells.zip(ends) {
                let end = end.min(line.len());
                for pixel in line[begin.min(end)..end].chunks(3) {
                    cell.iter_mut().zip(pixel).for_each(|(sum, value)| *sum += f32::from(*value) - 127.5);
                }
                begin = end;
            }
        }
        if image.pixels.is_empty() && self.codebook_dim == 0 {
            count_hashed(image.codes, layout);
        }
        normalize(layout);
        normalize(out);
    }
}

impl PairEmbedder for NgramColourEmbedder {
    fn name(&self) -> &str {
        if self.codebook_dim == 0 {
            return "hashed character n-grams, and colour layout or hashed codes";
        }
        "hashed character n-grams, mean codebook vector and colour layout"
    }

    fn digest(&self) -> Digest {
        self.digest
    }

    fn dimension(&self) -> usize {
        self.text_dim() + self.codebook_dim + LAYOUT_CELLS * LAYOUT_CELLS * 3
    }

    fn embed_texts(&mut self, texts: &[&str]) -> Result<Vec<f32>, DynError> {
        let mut out = vec![0.0; texts.len() * self.dimension()];
        for (text, row) in texts.iter().zip(out.chunks_exact_mut(self.dimension())) {
            self.embed_text(text, &mut row[..self.table.idf.len()]);
        }
        Ok(out)
    }

    fn embed_images(&mut self, images: &[ImageView<'_>]) -> Result<Vec<f32>, DynError> {
        let codes = self.codebook.len() / self.codebook_dim.max(1);
        let mut all = images.iter().flat_map(|image| image.codes);
        if self.codebook_dim > 0
            && let Some(code) = all.find(|code| **code as usize >= codes)
        {
            return Err(format!("code {code} is out of range 0..{codes}").into());
        }
        let mut out = vec![0.0; images.len() * self.dimension()];
        let text_dim = self.text_dim();
        for (image, row) in images.iter().zip(out.chunks_exact_mut(self.dimension())) {
            self.embed_image(image, &mut row[text_dim..]);
        }
        Ok(out)
    }
}

/// Adds 1 or -1 at the hashed place of each code. With signs, codes that share a place do not make all images alike.
///
/// # Source
/// Weinberger et al. 2009, <https://arxiv.org/abs/0902.2206>, section 2.
fn count_hashed(codes: &[u32], counts: &mut [f32]) {
    for code in codes {
        let hash = blake3::hash(&code.to_le_bytes());
        let [a, b, c, d, sign, ..] = *hash.as_bytes();
        counts[u32::from_le_bytes([a, b, c, d]) as usize % counts.len()] += if sign & 1 == 0 { 1.0 } else { -1.0 };
    }
}

/// Scales `vector` to unit length; leaves a zero vector as it is.
pub(crate) fn normalize(vector: &mut [f32]) {
    let norm = vector.iter().map(|value| f64::from(*value) * f64::from(*value)).sum::<f64>().sqrt();
    if norm > 0.0 {
        vector.iter_mut().for_each(|value| *value = (f64::from(*value) / norm) as f32);
    }
}
