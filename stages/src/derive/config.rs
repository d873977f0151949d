//! Which condition images `derive` makes.

use serde::{Deserialize, Serialize};

/// `[derive]`: condition images made from the pixels.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DeriveConfig {
    /// Whether to make a Canny edge map of the main image. Default true.
    pub edges: bool,
    /// Gradient below which no pixel is an edge, above 0. Default 50.
    pub canny_low: f32,
    /// Gradient above which every pixel is one, at least `canny_low`, at most 1140. Default 100.
    pub canny_high: f32,
}

impl Default for DeriveConfig {
    fn default() -> Self {
        Self { edges: true, canny_low: 50.0, canny_high: 100.0 }
    }
}

impl DeriveConfig {
    /// Problems of the fields, each with the field's path.
    #[must_use]
    pub fn problems(&self) -> Vec<String> {
        let (low, high) = (self.canny_low, self.canny_high);
        if low > 0.0 && low <= high && high <= 1140.0 {
            return Vec::new();
        }
        vec![format!("derive.canny_low and derive.canny_high must satisfy 0 < low <= high <= 1140, got {low} and {high}")]
    }
}
