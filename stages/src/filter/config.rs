//! Configuration of `filter`: its limits.

use serde::{Deserialize, Serialize};

/// `[filter]`: limits of samples and their parts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct FilterConfig {
    /// Largest size of an encoded image in bytes; 1 or more. Default 32 MiB.
    pub max_image_bytes: u64,
    /// Largest number of pixels of an image, checked before decoding; 1 or more. Default 64 million.
    pub max_pixels: u64,
    /// Smallest short side of the main image in pixels; 1 or more. Default 64.
    pub min_short_side_px: u32,
    /// Largest ratio of the long side to the short one, for every image; 1 or more. Default 4.
    pub max_aspect: f64,
    /// Smallest number of visible characters of a caption. One is enough in scripts where it can be a word, as in Chinese, Korean or Thai.
    /// Default 3.
    pub min_caption_chars: u32,
    /// Largest number of visible characters of a caption. Default 1000.
    pub max_caption_chars: u32,
    /// `true` to refuse samples without captions, or whose captions are all dropped, unless they have other content for documents, such as
    /// questions. Default true.
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
        let mut problems = Vec::new();
        let mut positive = |name: &str, value: u64| {
            if value == 0 {
                problems.push(format!("filter.{name} must be 1 or more, got 0"));
            }
        };
        positive("max_image_bytes", self.max_image_bytes);
        positive("max_pixels", self.max_pixels);
        positive("min_short_side_px", self.min_short_side_px.into());
        if self.max_aspect < 1.0 || self.max_aspect.is_nan() {
            problems.push(format!("filter.max_aspect must be 1 or more, got {}", self.max_aspect));
        }
        if self.min_caption_chars > self.max_caption_chars {
            let (min, max) = (self.min_caption_chars, self.max_caption_chars);
            problems.push(format!("filter.min_caption_chars must not exceed filter.max_caption_chars, got {min} and {max}"));
        }
        problems
    }
}
