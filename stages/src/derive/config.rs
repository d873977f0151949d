//! Configuration of the condition images that `derive` makes.

use serde::{Deserialize, Serialize};

/// `[derive]`: condition images made of the pixels.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DeriveConfig {
    /// `true` to make a Canny edge map of the main image. Default true.
    pub edges: bool,
    /// Gradient below which no pixel is an edge, above 0. Default 50.
    pub canny_low: f32,
    /// Gradient above which every pixel is an edge, at least `canny_low`, at most 1140. Default 100.
    pub canny_high: f32,
    /// `true` to make a scribble of the main image: a few thick strokes along its strongest edges. Default false.
    #[serde(skip_serializing_if = "is_false")]
    pub scribbles: bool,
    /// `true` to make the outlines of a segmentation's objects. Default false.
    #[serde(skip_serializing_if = "is_false")]
    pub outlines: bool,
    /// Largest number of masks of single objects made of a segmentation, 0..=16. Default 1.
    #[serde(skip_serializing_if = "is_one")]
    pub object_masks: u32,
}

const fn is_false(flag: &bool) -> bool {
    !*flag
}

const fn is_one(count: &u32) -> bool {
    *count == 1
}

impl Default for DeriveConfig {
    fn default() -> Self {
        Self { edges: true, canny_low: 50.0, canny_high: 100.0, scribbles: false, outlines: false, object_masks: 1 }
    }
}

impl DeriveConfig {
    /// Returns the problems of the fields, each with the field's path.
    #[must_use]
    pub fn problems(&self) -> Vec<String> {
        let (low, high) = (self.canny_low, self.canny_high);
        let mut problems = Vec::new();
        if !(low > 0.0 && low <= high && high <= 1140.0) {
            problems.push(format!("derive.canny_low and derive.canny_high must satisfy 0 < low <= high <= 1140, got {low} and {high}"));
        }
        if self.object_masks > 16 {
            problems.push(format!("derive.object_masks must be in 0..=16, got {}", self.object_masks));
        }
        problems
    }
}
