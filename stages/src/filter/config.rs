//! Configuration of `filter`: its limits.

use std::ops::RangeFrom;

use cm3flow_schemas::limits::{problem, within};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

const MAX_IMAGE_BYTES: RangeFrom<u64> = 1..;
const MAX_PIXELS: RangeFrom<u64> = 1..;
const MIN_SHORT_SIDE_PX: RangeFrom<u32> = 1..;
const MAX_ASPECT: RangeFrom<f64> = 1.0..;

/// `[filter]`: limits of samples and their parts, checked before a picture is decoded. A sample beyond them is refused with the reason.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct FilterConfig {
    /// Largest size of an encoded image in bytes.
    #[schemars(transform = within(MAX_IMAGE_BYTES))]
    pub max_image_bytes: u64,
    /// Largest number of pixels of an image, by its header.
    #[schemars(transform = within(MAX_PIXELS))]
    pub max_pixels: u64,
    /// Smallest short side of the main image in pixels.
    #[schemars(transform = within(MIN_SHORT_SIDE_PX))]
    pub min_short_side_px: u32,
    /// Largest ratio of the long side to the short one, for every image.
    #[schemars(transform = within(MAX_ASPECT))]
    pub max_aspect: f64,
    /// Smallest number of visible characters of a caption, at most `max_caption_chars`; shorter captions are dropped. One is enough in scripts
    /// where it can be a word, as in Chinese, Korean or Thai.
    pub min_caption_chars: u32,
    /// Largest number of visible characters of a caption; longer captions are dropped.
    pub max_caption_chars: u32,
    /// `true` to refuse samples without captions, or whose captions are all dropped, unless they have other content for documents, such as
    /// questions.
    pub require_caption: bool,
}

impl Default for FilterConfig {
    fn default() -> Self {
        Self {
            max_image_bytes: 32 << 20,
            max_pixels: 64_000_000,
            min_short_side_px: 64,
            max_aspect: 4.0,
            min_caption_chars: 3,
            max_caption_chars: 1000,
            require_caption: true,
        }
    }
}

impl FilterConfig {
    /// Returns the problems of the fields, each with the field's path.
    #[must_use]
    pub fn problems(&self) -> Vec<String> {
        let limits = [
            problem("filter.max_image_bytes", self.max_image_bytes, &MAX_IMAGE_BYTES),
            problem("filter.max_pixels", self.max_pixels, &MAX_PIXELS),
            problem("filter.min_short_side_px", self.min_short_side_px, &MIN_SHORT_SIDE_PX),
            problem("filter.max_aspect", self.max_aspect, &MAX_ASPECT),
        ];
        let mut problems: Vec<String> = limits.into_iter().flatten().collect();
        if self.min_caption_chars > self.max_caption_chars {
            let (min, max) = (self.min_caption_chars, self.max_caption_chars);
            problems.push(format!("filter.min_caption_chars must not exceed filter.max_caption_chars, got {min} and {max}"));
        }
        problems
    }
}
