//! Preparation: the steps from a picture to the input of an image tokenizer, recorded as far as codes depend on them.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::grid::Grid;

/// Steps from a picture to the square that an image tokenizer takes. They have a name because codes depend on them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Preparation {
    /// Name for people and configurations.
    pub name: String,
    /// Side of the square, in pixels.
    pub side_px: u32,
    /// Place of the square that is cut out.
    pub crop: Crop,
    /// Filter that resizes the picture, its short side to `side_px`.
    pub filter: ResizeFilter,
    /// Rounding of the long side.
    pub long_side: LongSide,
    /// Treatment of transparency.
    pub transparency: Transparency,
    /// Values that stand for the levels 0 to 255.
    pub values: Values,
    /// Shapes beside the square; a picture is fitted to the nearest. `None` for the square alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub buckets: Option<AspectBuckets>,
    /// Decoding crates with their versions: two decoders may differ by a level at some pixels of a JPEG.
    pub decoder: BTreeMap<String, String>,
}

impl Preparation {
    /// Returns the preparation of Chameleon's own image tokenizer.
    ///
    /// # Source
    /// `chameleon/inference/image_tokenizer.py` of <https://github.com/facebookresearch/chameleon>. That code ignores the EXIF orientation;
    /// this project turns pictures by it.
    #[must_use]
    pub fn chameleon(side_px: u32, crop: Crop) -> Self {
        Self {
            name: "chameleon".into(),
            side_px,
            crop,
            filter: ResizeFilter::Lanczos3,
            long_side: LongSide::Nearest,
            transparency: Transparency::WhiteDown,
            values: Values::TwoOver255,
            buckets: None,
            decoder: BTreeMap::new(),
        }
    }

    /// Returns the preparation of the transformers processor for the same networks.
    ///
    /// # Source
    /// `ChameleonImageProcessorPil` of transformers 5.23. The class without `Pil` resizes with torchvision, which lacks this filter before
    /// 0.27 and uses a bicubic one; it is not the model here.
    #[must_use]
    pub fn chameleon_hf(side_px: u32, crop: Crop) -> Self {
        Self {
            name: "chameleon-hf".into(),
            long_side: LongSide::Down,
            transparency: Transparency::WhiteNearest,
            values: Values::Huggingface,
            ..Self::chameleon(side_px, crop)
        }
    }

    /// Returns the preparation for tokenizers that take levels as they are.
    #[must_use]
    pub fn levels(side_px: u32, crop: Crop) -> Self {
        Self { name: "levels".into(), values: Values::Levels, ..Self::chameleon(side_px, crop) }
    }

    /// Sets the shapes beside the square.
    #[must_use]
    pub fn with_buckets(mut self, buckets: Option<AspectBuckets>) -> Self {
        self.buckets = buckets;
        self
    }

    /// Returns the grids that pictures may be fitted to, ascending; empty if all are fitted to the square.
    #[must_use]
    pub fn grids(&self) -> Vec<Grid> {
        self.buckets.map(|buckets| buckets.grids(self.side_px)).unwrap_or_default()
    }

    /// Returns the grid whose aspect is nearest to that of a picture of `width` x `height`, in any unit; `None` if all are fitted to the
    /// square.
    #[must_use]
    pub fn grid_for(&self, width: u32, height: u32) -> Option<Grid> {
        self.grids().into_iter().min_by(|one, other| {
            // Quotients of aspects, the larger one above, are compared as whole numbers, so every machine finds the same nearest grid.
            let [one, other] = [one, other].map(|grid| {
                let (a, b) = (u128::from(width.max(1)) * u128::from(grid.rows), u128::from(height.max(1)) * u128::from(grid.columns));
                (a.max(b), a.min(b))
            });
            (one.0 * other.1).cmp(&(other.0 * one.1))
        })
    }

    /// Returns width and height in pixels of the fitted picture: of `grid`, or of the square.
    #[must_use]
    pub fn size_px(&self, grid: Option<Grid>) -> (u32, u32) {
        match (self.buckets, grid) {
            (Some(buckets), Some(grid)) => (grid.columns * buckets.code_px, grid.rows * buckets.code_px),
            _ => (self.side_px, self.side_px),
        }
    }

    /// Sets the decoding crates.
    #[must_use]
    pub fn with_decoder(mut self, decoder: BTreeMap<String, String>) -> Self {
        self.decoder = decoder;
        self
    }
}

/// Shapes of about the area of the square, with sides on a pixel grid.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AspectBuckets {
    /// Largest ratio of the longer side to the shorter one.
    pub max_aspect: u32,
    /// Step of the sides, in pixels: a multiple of `code_px` that divides the square's side.
    pub grid_px: u32,
    /// Side of the square that one code covers, in pixels.
    pub code_px: u32,
}

impl AspectBuckets {
    /// Returns the grids of all shapes whose area is at most that of the square of `side_px` and whose sides cannot grow within it.
    /// Ascending; the square is among them.
    #[must_use]
    pub fn grids(&self, side_px: u32) -> Vec<Grid> {
        let (side, step) = (side_px / self.grid_px.max(1), self.grid_px / self.code_px.max(1));
        let area = side * side;
        let grid = |rows: u32| {
            let columns = area / rows;
            let is_within = rows <= self.max_aspect * columns && columns <= self.max_aspect * rows;
            (area / columns == rows && is_within).then_some(Grid { rows: rows * step, columns: columns * step })
        };
        (1..=area).filter_map(grid).collect()
    }
}

/// Place of the square in a picture whose short side has been resized to the target.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "json-schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Crop {
    /// The middle; of an odd rest, the smaller part is cut off before the square.
    Center,
    /// A place drawn from the seed and the image's id.
    Random,
}

/// Filter of resizing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ResizeFilter {
    /// Lanczos with three lobes, widened for shrinking. Rows come first, then columns; each pass rounds to whole levels, as in Pillow.
    Lanczos3,
}

/// Rounding of the long side, after scaling by the factor of the short one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LongSide {
    /// The nearest pixel; halves to even.
    Nearest,
    /// The pixel below, by truncation.
    Down,
}

/// Treatment of transparency.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Transparency {
    /// White background; levels are truncated.
    WhiteDown,
    /// White background; levels are rounded to the nearest.
    WhiteNearest,
}

/// Values that stand for the levels 0 to 255.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Values {
    /// `x * 2 / 255 - 1`, rounded once to f32: -1 to 1.
    #[serde(rename = "two_over_255")]
    TwoOver255,
    /// `x * 0.0078` rounded to f32, then 1 subtracted in f32: -1 to 0.989.
    Huggingface,
    /// Levels as they are: 0 to 255.
    Levels,
}

impl Values {
    /// Returns the value of each level.
    ///
    /// # Source
    /// `Huggingface`: rescaling and normalising by mean 1 and deviation 1, `preprocessor_config.json` of Chameleon's processor.
    #[must_use]
    pub fn table(self) -> [f32; 256] {
        std::array::from_fn(|level| {
            let level = level as f64;
            match self {
                Self::TwoOver255 => (level * 2.0 / 255.0 - 1.0) as f32,
                Self::Huggingface => (level * 0.0078) as f32 - 1.0,
                Self::Levels => level as f32,
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_those_of_the_reference_to_the_bit() {
        let levels: BTreeMap<String, Vec<f32>> =
            serde_json::from_str(include_str!("../../stages/fixtures/levels.json")).expect("a fixture");
        for preparation in [Preparation::chameleon(512, Crop::Center), Preparation::chameleon_hf(512, Crop::Center)] {
            assert_eq!(preparation.values.table()[..], levels[&preparation.name][..], "{}", preparation.name);
        }
    }

    fn buckets(side_px: u32, grid_px: u32, code_px: u32) -> Preparation {
        Preparation::levels(side_px, Crop::Center).with_buckets(Some(AspectBuckets { max_aspect: 4, grid_px, code_px }))
    }

    #[test]
    fn shapes_are_as_large_as_the_square_allows() {
        let grids = |preparation: Preparation| preparation.grids().iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
        assert_eq!(grids(buckets(128, 32, 8)), "8x32 12x20 16x16 20x12 32x8");
        assert_eq!(grids(buckets(64, 32, 8)), "4x16 8x8 16x4");
        assert_eq!(grids(Preparation::levels(64, Crop::Center)), "");
        let chameleon = buckets(512, 32, 16);
        assert_eq!(chameleon.grids().len(), 17);
        for grid in chameleon.grids() {
            let (width, height) = chameleon.size_px(Some(grid));
            assert!(width % 32 == 0 && height % 32 == 0 && width.max(height) <= 4 * width.min(height), "{grid}");
            assert!((880..=1024).contains(&grid.codes()), "{grid} has {} codes, the square 1024", grid.codes());
        }
    }

    #[test]
    fn pictures_are_fitted_to_the_nearest_aspect() {
        let preparation = buckets(512, 32, 16);
        let size = |width, height| preparation.size_px(preparation.grid_for(width, height));
        assert_eq!([size(100, 100), size(900, 600), size(600, 900)], [(512, 512), (608, 416), (416, 608)]);
        assert_eq!([size(400, 100), size(1000, 100), size(1, 4000)], [(1024, 256), (1024, 256), (256, 1024)]);
        let square = Preparation::levels(512, Crop::Center);
        assert_eq!((square.grid_for(900, 600), square.size_px(None)), (None, (512, 512)));
    }

    #[test]
    fn a_preparation_says_all_that_codes_depend_on() {
        let preparation = Preparation::chameleon(256, Crop::Random).with_decoder(BTreeMap::from([("png".into(), "1".into())]));
        let expected = serde_json::json!({
            "name": "chameleon", "side_px": 256, "crop": "random", "filter": "lanczos3", "long_side": "nearest",
            "transparency": "white_down", "values": "two_over_255", "decoder": {"png": "1"},
        });
        assert_eq!(serde_json::to_value(preparation).expect("plain"), expected);
        let hf = serde_json::to_value(Preparation::chameleon_hf(512, Crop::Center)).expect("plain");
        assert_eq!(
            (&hf["long_side"], &hf["transparency"], &hf["values"]),
            (&"down".into(), &"white_nearest".into(), &"huggingface".into())
        );
    }
}
