//! Batches of random crops, half of them mirrored, as input of a fit.
//!
//! A batch depends only on the seed and its number.

use cm3flow_schemas::random::Draws;
use tch::{Device, TchError, Tensor};

use crate::error::ModelError;
use crate::vq::fit::FitJob;
use crate::vq::tokenizer::scaled;

/// Number of batches in [`Crops::sample`].
const SAMPLE_BATCHES: u64 = 32;

/// Source of batches cut from the job's pictures.
pub(super) struct Crops<'a> {
    images: &'a [u8],
    count: usize,
    side: usize,
    crop: usize,
    batch_size: usize,
    seed: u64,
}

impl<'a> Crops<'a> {
    /// Creates the source, and checks the pictures against the configuration.
    pub(super) fn try_new(job: &FitJob<'a>) -> Result<Self, ModelError> {
        let bytes_per_image = job.config.bytes_per_image();
        let bytes = job.images.len();
        if !bytes.is_multiple_of(bytes_per_image) {
            return Err(ModelError::Pixels { bytes, bytes_per_image });
        }
        let count = bytes / bytes_per_image;
        if count == 0 {
            return Err(ModelError::TooFewImages { images: 0, needed: 1 });
        }
        let (side, crop, batch_size) = (job.config.resolution as usize, job.fit.crop_px as usize, job.fit.batch_size as usize);
        Ok(Self { images: job.images, count, side, crop, batch_size, seed: job.seed })
    }

    /// Returns the batch of that number: `[batch_size, 3, crop, crop]` in -1 to 1, channels-last in memory.
    pub(super) fn batch(&self, number: u64, device: Device) -> Result<Tensor, TchError> {
        let mut draws = Draws::new(self.seed, "fit crops", &number.to_le_bytes());
        let mut bytes = Vec::with_capacity(self.batch_size * self.crop * self.crop * 3);
        for _ in 0..self.batch_size {
            self.cut(&mut draws, &mut bytes);
        }
        let side = self.crop as i64;
        Tensor::f_from_slice(&scaled(&bytes))?.f_to_device(device)?.f_reshape([-1, side, side, 3])?.f_permute([0, 3, 1, 2])
    }

    /// Returns crops that represent all pictures, `[32 * batch_size, 3, crop, crop]`. Their batch numbers occur in no step.
    pub(super) fn sample(&self, device: Device) -> Result<Tensor, TchError> {
        let batches: Result<Vec<_>, _> = (0..SAMPLE_BATCHES).map(|number| self.batch(u64::MAX / 2 - number, device)).collect();
        Tensor::f_cat(&batches?, 0)
    }

    fn cut(&self, draws: &mut Draws, out: &mut Vec<u8>) {
        let image = draws.index(self.count);
        let (x, y) = (draws.index(self.side - self.crop + 1), draws.index(self.side - self.crop + 1));
        let mirrored = draws.below(2) == 1;
        for row in y..y + self.crop {
            let start = ((image * self.side + row) * self.side + x) * 3;
            let pixels = &self.images[start..start + self.crop * 3];
            if mirrored {
                pixels.chunks_exact(3).rev().for_each(|pixel| out.extend(pixel));
            } else {
                out.extend(pixels);
            }
        }
    }
}
