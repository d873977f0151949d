//! Image tokenizer of datasets with given codes: it describes the codes, and neither encodes nor decodes.

use cm3flow_schemas::traits::{ImageTokenizer, ImageTokenizerSpec};
use cm3flow_schemas::unit::NumericsClass;
use cm3flow_schemas::{DynError, Grid, canonical};

/// Stand-in for the tokenizer that made the codes, of which only the sizes are known.
#[derive(Debug, Clone)]
pub struct GivenTokenizer {
    spec: ImageTokenizerSpec,
}

impl GivenTokenizer {
    /// Describes codes below `codebook_size`, `grid` in a row and in a column, of squares of `side_px` pixels.
    #[must_use]
    pub fn new(side_px: u32, grid: u32, codebook_size: u32) -> Self {
        let numerics = NumericsClass {
            device: "cpu".into(),
            dtype: "none".into(),
            batch_size: 1,
            libtorch: "none".into(),
            threads: 1,
            cpu_capability: "any".into(),
        };
        let spec = ImageTokenizerSpec {
            name: format!("codes as given, {grid} x {grid} of {codebook_size}"),
            digest: canonical::digest_of("given codes", &(side_px, grid, codebook_size)),
            side_px,
            grid,
            codebook_size,
            codebook_dim: 0,
            numerics,
        };
        Self { spec }
    }
}

impl ImageTokenizer for GivenTokenizer {
    fn spec(&self) -> &ImageTokenizerSpec {
        &self.spec
    }

    fn can_encode(&self) -> bool {
        false
    }

    fn encode_grid(&mut self, _: &[u8], _: Grid) -> Result<Vec<u32>, DynError> {
        Err("pictures are not encoded where codes are given".into())
    }

    fn can_decode(&self) -> bool {
        false
    }

    fn decode_grid(&mut self, _: &[u32], _: Grid) -> Result<Vec<u8>, DynError> {
        Err("codes that are given cannot be decoded".into())
    }

    fn codebook(&self) -> &[f32] {
        &[]
    }
}
