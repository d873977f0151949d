//! Configuration of the condition images that `derive` makes.

use std::ops::{Bound, RangeInclusive};

use cm3flow_schemas::limits::{problem, within};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// No gradient is above 1140.4.
const CANNY: (Bound<f32>, Bound<f32>) = (Bound::Excluded(0.0), Bound::Included(1140.0));
const OBJECT_MASKS: RangeInclusive<u32> = 0..=16;

/// `[derive]`: condition images made from the pixels. Each of them costs as much to encode as a photo.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct DeriveConfig {
    /// `true` to make a Canny edge map of the main image.
    pub edges: bool,
    /// Gradient of levels of grey below which no pixel is an edge, at most `canny_high`.
    #[schemars(transform = within(CANNY))]
    pub canny_low: f32,
    /// Gradient of levels of grey above which every pixel is an edge. Between the two limits, a pixel is an edge if it touches one.
    #[schemars(transform = within(CANNY))]
    pub canny_high: f32,
    /// `true` to make a scribble of the main image: a few thick strokes along its strongest edges.
    #[serde(skip_serializing_if = "is_false")]
    #[schemars(!skip_serializing_if)]
    pub scribbles: bool,
    /// `true` to make the outlines of a segmentation's objects.
    #[serde(skip_serializing_if = "is_false")]
    #[schemars(!skip_serializing_if)]
    pub outlines: bool,
    /// Largest number of masks of single objects made of a segmentation.
    #[serde(skip_serializing_if = "is_one")]
    #[schemars(!skip_serializing_if, transform = within(OBJECT_MASKS))]
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
        let order = (low > high).then(|| format!("derive.canny_low must not exceed derive.canny_high, got {low} and {high}"));
        let limits = [
            problem("derive.canny_low", low, &CANNY),
            problem("derive.canny_high", high, &CANNY),
            problem("derive.object_masks", self.object_masks, &OBJECT_MASKS),
        ];
        limits.into_iter().flatten().chain(order).collect()
    }
}
