//! `tokenize.image.aspect_buckets`: shapes beside the square that pictures are fitted to.

use std::ops::{RangeFrom, RangeInclusive};

use cm3flow_schemas::limits::{problem, within};
use cm3flow_schemas::preparation::AspectBuckets;
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize};

/// Most steps of the grid along the side of the square.
const MOST_STEPS: u32 = 64;
const MAX_ASPECT: RangeInclusive<u32> = 1..=16;
const GRID_PX: RangeFrom<u32> = 1..;

/// Shapes beside the square: `aspect_buckets = true`, or a table with these fields.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct BucketsConfig {
    /// Largest ratio of the long side to the short one; longer pictures are cut.
    #[schemars(transform = within(MAX_ASPECT))]
    pub max_aspect: u32,
    /// Step of the sides, in pixels: a multiple of the pixels of a code that divides the side of the square, at least a 64th of it.
    #[schemars(transform = within(GRID_PX))]
    pub grid_px: u32,
}

impl Default for BucketsConfig {
    fn default() -> Self {
        Self { max_aspect: 4, grid_px: 32 }
    }
}

impl BucketsConfig {
    /// The shapes for a tokenizer of whose codes each stands for a square of `code_px` pixels.
    #[must_use]
    pub const fn shapes(self, code_px: u32) -> AspectBuckets {
        AspectBuckets { max_aspect: self.max_aspect, grid_px: self.grid_px, code_px }
    }

    /// Problems of the fields for a square of `grid` codes a side, each of `code_px` pixels.
    pub(super) fn problems(self, grid: u32, code_px: u32) -> Vec<String> {
        let Self { max_aspect, grid_px } = self;
        let mut problems: Vec<String> = problem("tokenize.image.aspect_buckets.max_aspect", max_aspect, &MAX_ASPECT).into_iter().collect();
        let side = u64::from(grid) * u64::from(code_px);
        let is_multiple = code_px > 0 && grid_px > 0 && grid_px.is_multiple_of(code_px);
        if !is_multiple || !side.is_multiple_of(u64::from(grid_px)) || side / u64::from(grid_px) > u64::from(MOST_STEPS) {
            problems.push(format!(
                "tokenize.image.aspect_buckets.grid_px must be a multiple of the {code_px} pixels of a code and divide the side of the square, \
                 {side} pixels, into {MOST_STEPS} parts at most, got {grid_px}"
            ));
        }
        problems
    }
}

/// As the file holds it.
#[derive(Deserialize, JsonSchema)]
#[serde(untagged, expecting = "aspect_buckets must be true, false, or a table of max_aspect and grid_px")]
pub(super) enum Switch {
    /// `true` for the shapes of the table's defaults, `false` for the square alone.
    Flag(bool),
    /// Sizes of the shapes.
    Sizes(BucketsConfig),
}

/// Reads `true`, `false` or a table.
pub(super) fn switched<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<BucketsConfig>, D::Error> {
    Ok(match Switch::deserialize(deserializer)? {
        Switch::Flag(is_on) => is_on.then(BucketsConfig::default),
        Switch::Sizes(sizes) => Some(sizes),
    })
}
