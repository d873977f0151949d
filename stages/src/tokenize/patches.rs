//! Baseline image tokenizer: k-means over patches. It needs no libtorch, and gives the same codes and pictures on every machine.
//!
//! A code stands for a patch of pixels, so decoded pictures are mosaics of typical patches. It is the reference for real VQ models.

use cm3flow_schemas::random::Draws;
use cm3flow_schemas::traits::{ImageTokenizer, ImageTokenizerSpec};
use cm3flow_schemas::unit::NumericsClass;
use cm3flow_schemas::{DynError, Grid, canonical};
use rayon::prelude::*;

use crate::error::{Result, StageError};

/// Number of iterations of Lloyd's algorithm.
const ROUNDS: usize = 20;
/// Largest number of patches in a fit.
const MAX_FIT_PATCHES: usize = 20_000;

/// Image tokenizer by k-means over square RGB patches.
#[derive(Debug, Clone)]
pub struct PatchTokenizer {
    spec: ImageTokenizerSpec,
    patch_px: usize,
    /// `codebook_size * codebook_dim` values in 0..=255, row-major.
    codebook: Vec<f32>,
    /// Squared norm of each codebook vector.
    norms: Vec<f32>,
}

impl PatchTokenizer {
    /// Fits `codes` patches of `patch_px` pixels a side on `images`, fitted squares of `side_px` pixels as in [`ImageTokenizer::encode`].
    ///
    /// # Errors
    /// [`StageError::Artefact`] if the side is no multiple of the patch, or if there are fewer patches than codes.
    ///
    /// # Source
    /// k-means++ start (Arthur and Vassilvitskii 2007), Lloyd's iterations.
    pub fn fit(images: &[u8], side_px: u32, patch_px: u32, codes: u32, seed: u64) -> Result<Self> {
        let refused = |problem: String| StageError::Artefact { what: "patch tokenizer", problem };
        if patch_px == 0 || codes == 0 || !side_px.is_multiple_of(patch_px) {
            return Err(refused(format!("side_px {side_px} must be a multiple of patch_px {patch_px}, and codes 1 or more, got {codes}")));
        }
        let dim = (patch_px * patch_px * 3) as usize;
        let mut patches: Vec<Vec<f32>> = images
            .chunks_exact((side_px * side_px * 3) as usize)
            .flat_map(|image| cut(image, Grid::square(side_px / patch_px), patch_px as usize))
            .collect();
        let mut draws = Draws::new(seed, "patch tokenizer", &[]);
        draws.shuffle(&mut patches);
        patches.truncate(MAX_FIT_PATCHES);
        if patches.len() < codes as usize {
            return Err(refused(format!("{} patches cannot give {codes} codes; give more images or fewer codes", patches.len())));
        }
        let mut codebook = spread_start(&patches, codes as usize, &mut draws);
        for _ in 0..ROUNDS {
            lloyd(&patches, dim, &mut codebook);
        }
        Self::from_codebook(codebook, side_px, patch_px)
    }

    /// Builds a tokenizer from its codebook: `patch_px * patch_px * 3` values in 0..=255 for each code.
    ///
    /// # Errors
    /// [`StageError::Artefact`] if the side is no multiple of the patch, or if the codebook is no whole number of patches.
    pub fn from_codebook(codebook: Vec<f32>, side_px: u32, patch_px: u32) -> Result<Self> {
        let refused = |problem: String| StageError::Artefact { what: "patch tokenizer", problem };
        if patch_px == 0 || !side_px.is_multiple_of(patch_px) {
            return Err(refused(format!("side_px {side_px} must be a multiple of patch_px {patch_px}")));
        }
        let dim = patch_px * patch_px * 3;
        if codebook.is_empty() || !codebook.len().is_multiple_of(dim as usize) {
            return Err(refused(format!("{} values are no patches of {dim}", codebook.len())));
        }
        let norms = codebook.chunks_exact(dim as usize).map(|code| code.iter().map(|value| value * value).sum()).collect();
        let bits: Vec<u32> = codebook.iter().map(|value| value.to_bits()).collect();
        let spec = ImageTokenizerSpec {
            name: format!("k-means over {patch_px}x{patch_px} patches"),
            digest: canonical::digest_of("patch tokenizer", &(side_px, patch_px, bits)),
            side_px,
            grid: side_px / patch_px,
            codebook_size: (codebook.len() / dim as usize) as u32,
            codebook_dim: dim,
            numerics: NumericsClass {
                device: "cpu".into(),
                dtype: "float32".into(),
                batch_size: 1,
                libtorch: "none".into(),
                threads: 1,
                cpu_capability: "any".into(),
            },
        };
        Ok(Self { spec, patch_px: patch_px as usize, codebook, norms })
    }

    /// Returns the codebook as little-endian floats, for [`Self::from_bytes`].
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        self.codebook.iter().flat_map(|value| value.to_le_bytes()).collect()
    }

    /// Parses the bytes of [`Self::to_bytes`].
    ///
    /// # Errors
    /// Those of [`Self::from_codebook`], and bytes that are no whole number of floats.
    pub fn from_bytes(bytes: &[u8], side_px: u32, patch_px: u32) -> Result<Self> {
        if !bytes.len().is_multiple_of(4) {
            return Err(StageError::Artefact {
                what: "patch tokenizer",
                problem: format!("{} bytes are no whole number of floats", bytes.len()),
            });
        }
        let value = |bytes: &[u8]| f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
        Self::from_codebook(bytes.chunks_exact(4).map(value).collect(), side_px, patch_px)
    }

    fn encode_image(&self, image: &[u8], grid: Grid) -> Vec<u32> {
        let patches = cut(image, grid, self.patch_px);
        patches.iter().map(|patch| nearest(patch, &self.codebook, &self.norms)).collect()
    }

    fn decode_image(&self, codes: &[u32], grid: Grid) -> Vec<u8> {
        let (patch, columns) = (self.patch_px, grid.columns as usize);
        let width = columns * patch;
        let mut image = vec![0; self.spec.bytes_of(grid)];
        for (index, &code) in codes.iter().enumerate() {
            let vector = &self.codebook[code as usize * self.spec.codebook_dim as usize..][..self.spec.codebook_dim as usize];
            for (line, values) in vector.chunks_exact(patch * 3).enumerate() {
                let start = ((index / columns * patch + line) * width + index % columns * patch) * 3;
                image[start..start + patch * 3].iter_mut().zip(values).for_each(|(to, from)| *to = from.round().clamp(0.0, 255.0) as u8);
            }
        }
        image
    }
}

impl ImageTokenizer for PatchTokenizer {
    fn spec(&self) -> &ImageTokenizerSpec {
        &self.spec
    }

    fn encode_grid(&mut self, pixels: &[u8], grid: Grid) -> Result<Vec<u32>, DynError> {
        self.spec.images_of_pixels(pixels, grid)?;
        Ok(pixels.par_chunks_exact(self.spec.bytes_of(grid)).flat_map_iter(|image| self.encode_image(image, grid)).collect())
    }

    fn decode_grid(&mut self, codes: &[u32], grid: Grid) -> Result<Vec<u8>, DynError> {
        self.spec.images_of_codes(codes, grid)?;
        Ok(codes.par_chunks_exact(grid.codes()).flat_map_iter(|codes| self.decode_image(codes, grid)).collect())
    }

    fn codebook(&self) -> &[f32] {
        &self.codebook
    }
}

/// Returns the patches of an image of `grid`, row-major, each as floats.
fn cut(image: &[u8], grid: Grid, patch: usize) -> Vec<Vec<f32>> {
    let columns = grid.columns as usize;
    let one = |index: usize| {
        let (top, left) = (index / columns * patch, index % columns * patch);
        let line = |line: usize| image[((top + line) * columns * patch + left) * 3..][..patch * 3].iter();
        (0..patch).flat_map(|at| line(at).map(|&value| f32::from(value))).collect()
    };
    (0..grid.codes()).map(one).collect()
}

fn nearest(patch: &[f32], codebook: &[f32], norms: &[f32]) -> u32 {
    let distance = |code: &[f32], norm: f32| norm - 2.0 * code.iter().zip(patch).map(|(a, b)| a * b).sum::<f32>();
    let mut best = (0, f32::INFINITY);
    for (index, (code, &norm)) in codebook.chunks_exact(patch.len()).zip(norms).enumerate() {
        let distance = distance(code, norm);
        if distance < best.1 {
            best = (index as u32, distance);
        }
    }
    best.0
}

/// Chooses starts by k-means++: each further one is drawn with the squared distance to its nearest start as weight.
fn spread_start(patches: &[Vec<f32>], codes: usize, draws: &mut Draws) -> Vec<f32> {
    let mut codebook = patches[draws.index(patches.len())].clone();
    let mut distances = vec![f32::INFINITY; patches.len()];
    for _ in 1..codes {
        let newest = &codebook[codebook.len() - patches[0].len()..];
        let to_newest = |patch: &Vec<f32>| patch.iter().zip(newest).map(|(a, b)| (a - b) * (a - b)).sum::<f32>();
        distances.par_iter_mut().zip(patches).for_each(|(distance, patch)| *distance = distance.min(to_newest(patch)));
        let total: f64 = distances.iter().map(|&distance| f64::from(distance)).sum();
        let mut mark = draws.unit() * total;
        let reached = |distance: &f32| {
            mark -= f64::from(*distance);
            mark < 0.0
        };
        let chosen = distances.iter().position(reached).unwrap_or(patches.len() - 1);
        codebook.extend(&patches[chosen]);
    }
    codebook
}

fn lloyd(patches: &[Vec<f32>], dim: usize, codebook: &mut [f32]) {
    let norms: Vec<f32> = codebook.chunks_exact(dim).map(|code| code.iter().map(|value| value * value).sum()).collect();
    let assigned: Vec<u32> = patches.par_iter().map(|patch| nearest(patch, codebook, &norms)).collect();
    let mut sums = vec![0.0_f64; codebook.len()];
    let mut counts = vec![0_u32; norms.len()];
    for (patch, &code) in patches.iter().zip(&assigned) {
        counts[code as usize] += 1;
        sums[code as usize * dim..][..dim].iter_mut().zip(patch).for_each(|(sum, &value)| *sum += f64::from(value));
    }
    for ((code, sum), &count) in codebook.chunks_exact_mut(dim).zip(sums.chunks_exact(dim)).zip(&counts).filter(|(_, count)| **count > 0) {
        code.iter_mut().zip(sum).for_each(|(value, sum)| *value = (sum / f64::from(count)) as f32);
    }
}
