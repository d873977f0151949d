//! Codebook lookup of the image tokenizer: the nearest code of a latent, and the vector of a code.
//!
//! Squared lengths of the vectors are computed once. `|z|^2` shifts all distances of a latent equally, and is left out.

use tch::{Kind, TchError, Tensor};

/// Number of latents searched together on a CPU. Distances take `CPU_ROWS * codebook_size` floats, which stay in the cache.
const CPU_ROWS: i64 = 256;
/// Number of latents searched together on a GPU, which a small product leaves idle.
const GPU_ROWS: i64 = 4096;

/// Codebook vectors, prepared for the search of the nearest.
#[derive(Debug)]
pub(super) struct Quantizer {
    /// Vectors in the space of comparison, `[codes, dim]`.
    vectors: Tensor,
    /// `-2 * vectors`, transposed, `[dim, codes]`. The factor is a power of two, so it does not round.
    doubled: Tensor,
    /// Squared lengths of the vectors, `[codes]`.
    squares: Tensor,
    normalized: bool,
}

impl Quantizer {
    /// Prepares `embedding`, `[codes, dim]`; `normalized` scales latents and vectors to unit length.
    pub(super) fn try_new(embedding: &Tensor, normalized: bool) -> Result<Self, TchError> {
        let embedding = embedding.f_detach()?;
        let vectors = if normalized { unit_length(&embedding, 1)? } else { embedding };
        let doubled = vectors.f_mul_scalar(-2.0)?.f_transpose(0, 1)?.f_contiguous()?;
        let squares = vectors.f_square()?.f_sum_dim_intlist(1, false, Kind::Float)?;
        Ok(Self { vectors, doubled, squares, normalized })
    }

    /// Projects latents to the space of comparison. In and out: `[rows, dim]`.
    pub(super) fn project(&self, rows: &Tensor) -> Result<Tensor, TchError> {
        if self.normalized { unit_length(rows, 1) } else { Ok(rows.shallow_clone()) }
    }

    /// Returns the nearest codes. In: `[rows, dim]`, projected. Out: `[rows]` i64, each below the number of codes.
    ///
    /// # Source
    /// Nearest code: van den Oord et al. 2017, eq. 1, <https://arxiv.org/abs/1711.00937>.
    pub(super) fn nearest(&self, rows: &Tensor) -> Result<Tensor, TchError> {
        let parts = rows.f_split(if rows.device().is_cuda() { GPU_ROWS } else { CPU_ROWS }, 0)?;
        let codes: Result<Vec<_>, _> = parts.iter().map(|part| self.squares.f_addmm(part, &self.doubled)?.f_argmin(1, false)).collect();
        Tensor::f_cat(&codes?, 0)
    }

    /// Returns the codes of latents. In: `[n, dim, h, w]`. Out: `[n * h * w]` i64. Images are searched one by one, so an image's codes do
    /// not depend on its place in the batch.
    pub(super) fn encode(&self, latents: &Tensor) -> Result<Tensor, TchError> {
        let (n, _, _, _) = latents.size4()?;
        let codes: Result<Vec<_>, _> =
            (0..n).map(|image| self.nearest(&self.project(&rows_of(&latents.f_narrow(0, image, 1)?)?)?)).collect();
        Tensor::f_cat(&codes?, 0)
    }

    /// Returns the vectors of codes. In: `[rows]` i64. Out: `[rows, dim]`.
    pub(super) fn vectors_of(&self, codes: &Tensor) -> Result<Tensor, TchError> {
        self.vectors.f_index_select(0, codes)
    }
}

/// Rearranges `[n, dim, h, w]` to `[n * h * w, dim]`.
pub(super) fn rows_of(latents: &Tensor) -> Result<Tensor, TchError> {
    let (_, dim, _, _) = latents.size4()?;
    latents.f_permute([0, 2, 3, 1])?.f_reshape([-1, dim])
}

/// Rearranges `[n * h * w, dim]` to `[n, dim, h, w]`, for any grid of `h` by `w`.
pub(super) fn grid_of(rows: &Tensor, h: i64, w: i64) -> Result<Tensor, TchError> {
    let (_, dim) = rows.size2()?;
    rows.f_reshape([-1, h, w, dim])?.f_permute([0, 3, 1, 2])
}

/// Divides by the length along `dim`, at least 1e-12, as PyTorch's `normalize` does.
fn unit_length(x: &Tensor, dim: i64) -> Result<Tensor, TchError> {
    let length = x.f_square()?.f_sum_dim_intlist(dim, true, Kind::Float)?.f_sqrt()?.f_clamp_min(1e-12)?;
    x.f_div(&length)
}

#[cfg(test)]
mod tests {
    use super::*;
    use cm3flow_schemas::random::Draws;

    fn drawn(rows: i64, dim: i64, name: &str) -> Tensor {
        let mut draws = Draws::new(1, "test", name.as_bytes());
        let values: Vec<f32> = (0..rows * dim).map(|_| draws.unit() as f32 - 0.5).collect();
        Tensor::from_slice(&values).reshape([rows, dim])
    }

    #[test]
    fn nearest_code_is_the_one_of_least_distance() {
        for normalized in [false, true] {
            let (embedding, latents) = (drawn(40, 6, "codes"), drawn(300, 6, "latents"));
            let quantizer = Quantizer::try_new(&embedding, normalized).expect("small");
            let projected = quantizer.project(&latents).expect("small");
            let codes = quantizer.nearest(&projected).expect("small");
            let distances = (projected.unsqueeze(1) - quantizer.vectors.unsqueeze(0)).square().sum_dim_intlist(2, false, Kind::Float);
            assert!(codes.equal(&distances.argmin(1, false)));
        }
    }

    #[test]
    fn rows_and_grid_are_inverse() {
        let grid = drawn(2 * 3, 4 * 5, "grid").reshape([2, 3, 4, 5]);
        assert!(grid_of(&rows_of(&grid).expect("small"), 4, 5).expect("small").equal(&grid));
    }
}
